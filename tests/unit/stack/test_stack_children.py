"""A child's lines, its group, its end; the embedded Valkey as such a child."""

import asyncio
import os
import signal

import pytest
from redis.asyncio import Redis
from stack_cases import all_end, gone, in_loop

from aqaa.errors import SettingsError
from aqaa.stack import valkey
from aqaa.stack.children import Child, how_it_ended
from aqaa.stack.plan import Command
from aqaa.stack.ports import free_port


async def shell(script, hears=lambda line: line):
    lines = []
    command = Command("toy", ("/bin/sh", "-c", script), {**os.environ, "TOY": "1"})
    child = await Child.start(command, hears=hears, on_line=lambda part, line: lines.append((part, line)))
    return child, lines


@in_loop
async def test_lines_of_both_outputs_are_handed_on_whole():
    child, lines = await shell("printf 'a\\r\\nb'; printf 'c\\n\\n\\377last' >&2; exit 3")
    assert await child.ended == 3
    assert lines == [("toy", text) for text in ("a", "bc", "", "\N{REPLACEMENT CHARACTER}last")]
    assert list(child.tail) == [text for _, text in lines]
    assert child.said.result() == "a"
    assert not child.alive


@in_loop
async def test_only_the_last_lines_are_kept():
    child, lines = await shell("for n in $(seq 100); do echo $n; done")
    await child.ended
    assert len(lines) == 100
    assert child.tail[-1] == "100"
    assert len(child.tail) < 20


@in_loop
async def test_what_a_child_started_ends_with_it():
    child, _ = await shell("sleep 1000 & echo $!; kill -KILL $$", hears=int)
    helper = await child.said
    watched = os.pidfd_open(helper)
    assert await child.ended == -signal.SIGKILL
    assert await asyncio.to_thread(all_end, [watched])
    os.close(watched)


@in_loop
async def test_a_child_that_ignores_sigterm_is_killed():
    child, _ = await shell("trap '' TERM; echo deaf; while :; do sleep 1000; done")
    await child.said
    assert not await child.stop(0.05)
    assert child.ended.result() == -signal.SIGKILL
    assert gone(child.pid)


@in_loop
async def test_a_child_that_ends_when_asked():
    child, _ = await shell("trap 'echo bye; exit 0' TERM; echo here; sleep 1000 & wait")
    await child.said
    assert await child.stop(60)
    assert (child.ended.result(), child.tail[-1]) == (0, "bye")


@in_loop
async def test_a_program_that_cannot_be_started_says_so():
    command = Command("toy", ("/nowhere/toy",), {})
    child = await Child.start(command, hears=str, on_line=lambda part, line: None)
    assert await child.ended == 127
    assert list(child.tail) == ["/nowhere/toy: cannot be started: No such file or directory"]


def test_how_a_child_ended_in_words():
    assert how_it_ended(2) == "ended with status 2"
    assert how_it_ended(-signal.SIGSEGV) == "was killed by SIGSEGV"
    assert how_it_ended(-250) == "was killed by signal 250"


async def serve(folder, port):
    command = valkey.command(valkey.program(), port, folder, os.environ, keep=True)
    child = await Child.start(command, hears=valkey.ready_in, on_line=lambda part, line: None)
    await child.said
    return child


@in_loop
async def test_a_kept_turn_log_outlives_its_server(tmp_path):
    with valkey.data_folder(tmp_path / "kept") as folder:
        for expected in (None, b"1"):
            port = free_port()
            child = await serve(folder, port)
            async with Redis(host="127.0.0.1", port=port) as redis:
                assert await redis.get("turn") == expected
                await redis.set("turn", 1)
            assert await child.stop(60)
            assert child.ended.result() == 0
        with pytest.raises(SettingsError, match="another stack uses it"), valkey.data_folder(folder):
            pass


@in_loop
async def test_a_server_whose_port_is_taken_says_so_in_words_that_are_understood(tmp_path):
    port = free_port()
    first = await serve(tmp_path, port)
    command = valkey.command(valkey.program(), port, tmp_path, os.environ, keep=False)
    second = await Child.start(command, hears=valkey.ready_in, on_line=lambda part, line: None)
    assert await second.ended != 0
    assert valkey.port_taken(second.tail)
    assert not valkey.port_taken(first.tail)
    await first.stop(60)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
        ("redis://me:secret@host:1/2?password=secret", "redis://me:***@host:1/2"),
        ("rediss://:secret@host", "rediss://:***@host"),
        ("redis://[::1", "***"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url, shown):
    assert valkey.masked(url) == shown

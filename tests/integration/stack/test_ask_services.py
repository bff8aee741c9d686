"""``aqaa ask`` with a stack of its own: the real four services, of which nothing is left whatever happens."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from aqaa.stack.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
NANO = ROOT / "models" / "nano"
QUESTION = ROOT / "examples" / "question.wav"
MARK = "AQAA_TEST_MARK"
HANG_GUARD = 600
"""Seconds until a test that hangs counts as failed; a start takes minutes on busy cores."""

pytestmark = [
    pytest.mark.skipif(not NANO.is_dir(), reason=f"{NANO} is not there"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


class Asking:
    """An ``aqaa ask`` in a process of its own, which looks for a running stack where there is none."""

    def __init__(self, folder, *flags):
        self.mark = uuid.uuid4().hex
        self.temporary = folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        dropped = ("AQAA_", "OMP_", "MKL_", "OPENBLAS_")  # nothing says how many threads compute
        environ = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        environ |= {MARK: self.mark, "TMPDIR": str(self.temporary)}
        environ["AQAA_ORCHESTRATOR_PORT"] = str(free_port())
        command = [str(Path(sys.executable).with_name("aqaa")), "ask", str(QUESTION), *flags]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def processes(self):
        """pid → command line of everything that carries our mark, the command itself left out; Valkey, which
        writes its title over its environment, is known by the folder it stands in."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.process.pid:
                continue
            try:
                marked = f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes().split(b"\0")
                if marked or Path(os.readlink(entry / "cwd")).is_relative_to(self.temporary):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (PermissionError, FileNotFoundError, ProcessLookupError):
                continue
        return found

    def until_started(self, *names):
        """The pids of these parts, once all of them have begun."""
        ends = time.monotonic() + HANG_GUARD
        while self.process.poll() is None and time.monotonic() < ends:
            found = {name: pid for name in names for pid, line in self.processes().items() if name in line}
            if found.keys() == set(names):
                return [found[name] for name in names]
            time.sleep(0.05)
        raise AssertionError(f"{names} have not begun: {self.ended()}")

    def ended(self):
        """Exit status, output, error output. Nothing may be left."""
        try:
            out, err = self.process.communicate(timeout=HANG_GUARD)
        finally:
            self.process.kill()
        assert self.processes() == {}
        return self.process.returncode, out, err


STAGES = ("services.tokenizer", "services.llm", "services.vocoder")


def test_the_services_give_the_answer_of_one_process_bit_for_bit(tmp_path):
    flags = ("--json", "--seed", "5")
    served = Asking(tmp_path, *flags, "--out", "served.wav")
    status, out, err = served.ended()
    assert (status, err) == (0, "")
    assert list(served.temporary.iterdir()) == []
    local = Asking(tmp_path, *flags, "--out", "local.wav", "--local").ended()
    assert (local[0], local[2]) == (0, "")
    assert (tmp_path / "served.wav").read_bytes() == (tmp_path / "local.wav").read_bytes()
    found, expected = json.loads(out), json.loads(local[1])
    assert list(found) == list(expected)
    measured = ("ttfa_seconds", "rtf")
    assert all(found.pop(name) > 0 and expected.pop(name) > 0 for name in measured)
    assert found == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_all_it_has_started(tmp_path, number):
    asking = Asking(tmp_path, "--out", "answer.wav")
    asking.until_started("valkey-server", *STAGES)
    asking.process.send_signal(number)
    assert asking.ended() == (128 + number, "", "")
    assert list(asking.temporary.iterdir()) == []
    assert not (tmp_path / "answer.wav").exists()


def test_a_part_that_dies_is_named_and_the_logs_stay(tmp_path):
    asking = Asking(tmp_path, "--out", "answer.wav")
    (llm,) = asking.until_started("services.llm")
    os.kill(llm, signal.SIGKILL)
    status, out, err = asking.ended()
    assert (status, out) == (1, "")
    assert "error: llm was killed by SIGKILL while it started; the services' logs are in" in err
    (log,) = asking.temporary.glob("aqaa-ask-*.log")
    assert str(log) in err


def test_a_bundle_that_cannot_be_used_ends_in_one_line_before_anything_starts(tmp_path):
    bundle = Path(shutil.copytree(NANO, tmp_path / "nano"))
    weights = bytearray((bundle / "flow.safetensors").read_bytes())
    weights[5000] ^= 1
    (bundle / "flow.safetensors").write_bytes(weights)
    (bundle / "wave.safetensors").unlink()
    asking = Asking(tmp_path, "--out", "answer.wav", "--bundle", str(bundle))
    status, out, err = asking.ended()
    assert (status, out) == (3, "")
    [line] = err.splitlines()
    assert line.startswith(f"error: bundle {bundle}: flow.safetensors: SHA-256 is ")
    assert "; wave.safetensors: not found, expected " in line
    assert list(asking.temporary.iterdir()) == []


def test_killed_itself_it_leaves_nothing_running(tmp_path):
    asking = Asking(tmp_path, "--out", "answer.wav")
    watched = [os.pidfd_open(pid) for pid in asking.until_started("valkey-server", *STAGES)]
    asking.process.kill()
    waiting = select.poll()
    for descriptor in watched:
        waiting.register(descriptor, select.POLLIN)
    left = set(watched)
    while left:
        events = waiting.poll(HANG_GUARD * 1000)
        assert events, "a part has outlived the command"
        for descriptor, _ in events:
            waiting.unregister(descriptor)
            left.discard(descriptor)
            os.close(descriptor)
    assert asking.ended()[0] == -signal.SIGKILL

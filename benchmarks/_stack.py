"""A stack beneath a benchmark: a process that starts all of it, its ready line, its clean end."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aqaa.stack.children import LAUNCHER
from aqaa.stack.plan import ORCHESTRATOR

READY_SECONDS: Final = 300
"""Given to a stack on a busy machine. Nothing waits for it if all goes well."""
DRAIN_SECONDS: Final = 5
STOP_SECONDS: Final = 60
TAIL_LINES: Final = 20


@dataclass(frozen=True)
class Stack:
    """A stack that serves: where each service listens, all its processes, the URL of its turn log."""

    addresses: Mapping[str, str]
    pids: Mapping[str, int]
    redis: str

    @property
    def address(self) -> str:
        """Where callers go."""
        return self.addresses[ORCHESTRATOR]


def aqaa_up(bundle: Path) -> list[str]:
    """The command of the embedded stack, on any free ports."""
    flags = {"--bundle": bundle, "--port": 0, "--ready-seconds": READY_SECONDS, "--drain-seconds": DRAIN_SECONDS}
    words = [str(word) for flag in flags.items() for word in flag]
    return [str(Path(sys.executable).with_name("aqaa")), "up", "--json-logs", *words]


def threads(number: int) -> dict[str, str]:
    """Environment that gives each service that computes so many threads."""
    return {f"AQAA_{stage}_THREADS": str(number) for stage in ("TOKENIZER", "LLM", "VOCODER")}


@contextmanager
def running(command: Sequence[str], environ: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """A stack that ``command`` starts, which says as ``aqaa up --json-logs`` does that it is ready.

    ``environ``: on top of this process's. The stack ends with the block, and on Linux with this process however
    that ends.

    Raises:
        RuntimeError: it did not get ready, or did not end well; with its last lines.
    """
    with tempfile.TemporaryFile("w+", prefix="aqaa-bench-") as lines:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=lines,
            text=True,
            env={**os.environ, **(environ or {})},
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the stack did not get ready:\n{_tail(lines)}")
            ready = json.loads(line)
            yield Stack(ready["addresses"], ready["pids"], ready["redis"])
            process.send_signal(signal.SIGTERM)
            if status := process.wait(STOP_SECONDS):
                raise RuntimeError(f"the stack ended with status {status}, expected 0:\n{_tail(lines)}")
        finally:
            process.stdout.close()
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()  # and the kernel kills its parts
                    process.wait()


def _tail(lines: "tempfile._TemporaryFileWrapper[str]") -> str:
    lines.seek(0)
    return "".join(lines.readlines()[-TAIL_LINES:])


def processor_seconds(pid: int) -> float:
    """Of a process and all its threads, so far; as Linux counts them."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

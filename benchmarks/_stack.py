"""What runs beneath a benchmark: processes, the line that says that they are ready, their clean end."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from aqaa.stack.children import LAUNCHER
from aqaa.stack.plan import ORCHESTRATOR

READY_SECONDS: Final = 300
"""Given to a stack on a busy machine. Nothing waits for it if all goes well."""
DRAIN_SECONDS: Final = 5
STOP_SECONDS: Final = 60
LOOK_SECONDS: Final = 0.02
TAIL_LINES: Final = 20

Heard = TypeVar("Heard")


@dataclass(frozen=True)
class Stack:
    """A stack that serves: where each service listens, where it shows its metrics, all its processes, the URL
    of its turn log."""

    addresses: Mapping[str, str]
    metrics: Mapping[str, str]
    pids: Mapping[str, int]
    redis: str

    @property
    def address(self) -> str:
        """Where callers go."""
        return self.addresses[ORCHESTRATOR]


def aqaa_up(bundle: Path) -> list[str]:
    """The command of the embedded stack, on any free ports."""
    flags = {
        "--bundle": bundle,
        "--port": 0,
        "--ready-seconds": READY_SECONDS,
        "--drain-seconds": DRAIN_SECONDS,
    }
    words = [str(word) for flag in flags.items() for word in flag]
    return [str(Path(sys.executable).with_name("aqaa")), "up", "--json-logs", *words]


def threads(number: int) -> dict[str, str]:
    """Environment that gives each service that computes so many threads."""
    return {f"AQAA_{stage}_THREADS": str(number) for stage in ("TOKENIZER", "LLM", "VOCODER")}


def ready_in(line: str) -> Stack | None:
    """The stack that a ready line of ``aqaa up --json-logs`` tells of; None for any other line."""
    record = json.loads(line) if line.startswith("{") else {}
    if record.get("event") != "ready":
        return None
    return Stack(record["addresses"], record["metrics"], record["pids"], record["redis"])


@contextmanager
def running(
    command: Sequence[str], hears: Callable[[str], Heard | None], environ: Mapping[str, str] | None = None
) -> Iterator[Heard]:
    """A process, as soon as ``hears`` has understood one of its lines: what it understood.

    ``environ``: on top of this process's. It ends with the block, and on Linux with this process however that
    ends. A bad end is a note on standard error: a stack that was asked too much may have to be killed.

    Raises:
        RuntimeError: it ended before it was understood; with its last lines.
        Exception: what the block raises; what the process had logged of faults is a note of it.
    """
    with tempfile.TemporaryDirectory(prefix="aqaa-bench-") as folder:
        said = Path(folder) / "lines"
        with said.open("wb") as lines:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=lines,
                stderr=lines,
                env={**os.environ, **(environ or {})},
            )
        try:
            heard = _understood(process, said, hears)
            try:
                yield heard
            except Exception as error:
                faults = [line for line in _lines(said) if '"level": "error"' in line]
                error.add_note(
                    "\n".join(["what it ran on had said:", *(faults or _lines(said))[-TAIL_LINES:]])
                )
                raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()  # and the kernel kills its parts
                status = process.wait()
            if status not in (0, -signal.SIGTERM):
                print(f"note: {command[0]} ended with status {status}: {_lines(said)[-1:]}", file=sys.stderr)


def _understood(
    process: "subprocess.Popen[bytes]", said: Path, hears: Callable[[str], Heard | None]
) -> Heard:
    with said.open(encoding="utf-8", errors="replace") as lines:
        line = ""
        while True:
            alive = process.poll() is None
            while piece := lines.readline():
                line += piece
                if line.endswith("\n"):
                    if (heard := hears(line.rstrip("\n"))) is not None:
                        return heard
                    line = ""
            if not alive:
                tail = "\n".join(_lines(said)[-TAIL_LINES:])
                raise RuntimeError(f"it ended before it was ready:\n{tail}")
            time.sleep(LOOK_SECONDS)


def _lines(said: Path) -> list[str]:
    return said.read_text(encoding="utf-8", errors="replace").splitlines()


def processor_seconds(pid: int) -> float:
    """Of a process and all its threads, so far; as Linux counts them."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

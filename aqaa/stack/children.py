"""One child process: how it starts, what it says, how it ends."""

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, Self, TypeVar

from aqaa.stack.plan import Command

LAUNCHER: Final = Path(__file__).with_name("launcher.py")
TAIL_LINES: Final = 12
LONGEST_LINE: Final = 2**20
"""Bytes; what is longer is cut into lines of this length."""
LAST_WORDS_SECONDS: Final = 1.0
"""For the lines of a child that has ended, in case a process of its own keeps its pipe open."""

Heard = TypeVar("Heard")
OnLine = Callable[[str, str], None]


class Child(Generic[Heard]):
    """A process of ours, in a process group of its own: Ctrl-C in a terminal reaches us alone.

        child = await Child.start(command, hears=listening_of, on_line=screen.line)
        where = await child.said

    ``said``: the first thing that ``hears`` understood of its lines; it stays open where there is none.
    ``ended``: its exit status, negative for the number of a signal; all its lines have been handed on by
    then. ``tail``: the last of them.
    """

    def __init__(self, part: str, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        self.part = part
        self.said: asyncio.Future[Heard] = loop.create_future()
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._process = process
        self._life: asyncio.Task[int]

    @classmethod
    async def start(cls, command: Command, *, hears: Callable[[str], Heard | None], on_line: OnLine) -> Self:
        """``on_line``: is given the part's name and each of its lines, of both its outputs."""
        # a pipe of our own: asyncio's would not let the child end before the last process that holds it
        reading, writing = os.pipe()
        pipe = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(pipe), os.fdopen(reading, "rb", buffering=0)
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *command.argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                env=dict(command.environ),
                process_group=0,
            )
        except BaseException:
            transport.close()
            raise
        finally:
            os.close(writing)
        child = cls(command.part, process)
        child._life = asyncio.create_task(child._live(pipe, transport, hears, on_line))
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    @property
    def ended(self) -> "asyncio.Future[int]":
        return self._life

    def signal(self, number: signal.Signals) -> None:
        """To the child alone; nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to it and to whatever it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def stop(self, seconds: float) -> bool:
        """SIGTERM, then SIGKILL if it still runs after ``seconds``. Whether it ended by itself."""
        self.signal(signal.SIGTERM)
        done, _ = await asyncio.wait({self._life}, timeout=seconds)
        if not done:
            self.kill()
            await asyncio.wait({self._life})
        return bool(done)

    async def _live(
        self,
        pipe: asyncio.StreamReader,
        transport: asyncio.BaseTransport,
        hears: Callable[[str], Heard | None],
        on_line: OnLine,
    ) -> int:
        reading = asyncio.create_task(self._read(pipe, hears, on_line))
        try:
            status = await self._process.wait()
            self.kill()  # what it has left behind
            await asyncio.wait({reading}, timeout=LAST_WORDS_SECONDS)
        finally:
            reading.cancel()
            transport.close()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        return status

    async def _read(
        self, pipe: asyncio.StreamReader, hears: Callable[[str], Heard | None], on_line: OnLine
    ) -> None:
        held = b""
        while piece := await pipe.read(2**16):
            *whole, held = (held + piece).split(b"\n")
            if len(held) > LONGEST_LINE:
                whole, held = [*whole, held], b""
            for line in whole:
                self._hear(line, hears, on_line)
        if held:
            self._hear(held, hears, on_line)

    def _hear(self, raw: bytes, hears: Callable[[str], Heard | None], on_line: OnLine) -> None:
        line = raw.decode("utf-8", "replace").rstrip("\r")
        self.tail.append(line)
        on_line(self.part, line)
        if not self.said.done() and (heard := hears(line)) is not None:
            self.said.set_result(heard)


def how_it_ended(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"

"""Processes that are started, shot, and started again, as a cluster would."""

import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from aqaa.stack.health import until_serving
from tests.faults.nursery import Nursery

ROOT = Path(__file__).parents[2]
MARK = "AQAA_FAULTS_RUN"
"""The variable by which processes of one run are found, whoever their parent is by now."""

_AGAIN_SECONDS = 0.5
"""After a process that ended by itself."""
_ENDS: dict[signal.Signals | None, int] = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 0}
_PORTS = range(20000, 32000)
"""Below those that the kernel gives to outgoing connections: nobody takes the port of one that restarts."""


def free_port() -> int:
    """A port that nobody listens on, and that no outgoing connection will be given."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Process:
    """A service on ports that it keeps over its lives.

    process = Process(nursery, "front-1", ["services.orchestrator", "--role", "front"], folder)
    process.start()
    await process.ready()
    process.shoot(signal.SIGKILL)      # it is started again when it has ended
    await process.stop()

    ``accidents``: lives that ended without having been shot, or otherwise than they should.
    """

    def __init__(self, nursery: Nursery, name: str, words: Sequence[str], folder: Path) -> None:
        self.name = name
        self.port, self.metrics_port = free_port(), free_port()
        self.log = folder / f"{name}.log"
        self.accidents: list[str] = []
        self.pid: int | None = None
        """Of the life that goes on."""
        self._nursery = nursery
        self._words = words
        self._shot: signal.Signals | None = None
        self._stopping = False
        self._living: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._living = asyncio.create_task(self._live(), name=self.name)

    async def ready(self) -> None:
        """Returns when health says SERVING. Raises RuntimeError if it cannot be started at all."""
        assert self._living is not None
        serving = asyncio.ensure_future(until_serving(self.address))
        try:
            await asyncio.wait({serving, self._living}, return_when=asyncio.FIRST_COMPLETED)
            if self._living.done():
                self._living.result()
        finally:
            serving.cancel()

    def shoot(self, number: signal.Signals) -> bool:
        """A signal that ends it, or stops it for a while. False if there was nobody to be shot."""
        if self.pid is None:
            return False
        if number in (signal.SIGKILL, signal.SIGTERM):
            self._shot = number
        os.kill(self.pid, number)
        return True

    async def metrics(self) -> dict[str, float]:
        """Sample name with its labels → value; empty while it does not answer."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"

        def read() -> str:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
                return str(answer.read().decode())
            return ""

        lines = re.findall(r"^([^#\s]\S*(?:\{[^}]*\})?) (\S+)$", await asyncio.to_thread(read), re.MULTILINE)
        return {name: float(value) for name, value in lines}

    async def stop(self, seconds: float = 5.0) -> None:
        """SIGTERM, then SIGKILL; no life follows."""
        self._stopping = True
        if self._living is None:
            return
        for number in (signal.SIGCONT, signal.SIGTERM, signal.SIGKILL):
            self.shoot(number)
            if number is not signal.SIGCONT:
                await asyncio.wait({self._living}, timeout=seconds)
            if self._living.done():
                break
        self._living.cancel()
        await asyncio.wait({self._living})

    async def _live(self) -> None:
        ports = ("--port", str(self.port), "--metrics-port", str(self.metrics_port))
        while not self._stopping:
            self._shot = None
            self.pid, ended = await self._nursery.bear(self.name, [*self._words, *ports], self.log)
            try:
                status = await ended
            finally:
                self.pid = None
            if status != _ENDS.get(self._shot):
                after = self._shot.name if self._shot else "nothing"
                self.accidents.append(f"{self.name} ended with {status} after {after}")
                await asyncio.sleep(_AGAIN_SECONDS)


def marked(mark: str) -> dict[int, str]:
    """Processes of a run that are alive: pid → name."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "comm").read_text().strip()
    return found

"""Plans of fake services, a screen that remembers, and proof that a process is gone."""

import asyncio
import functools
import io
import json
import os
import select
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from aqaa.stack.plan import SERVICES, Plan
from aqaa.stack.screen import Screen

FAKE = Path(__file__).with_name("fake_service.py")
HANG_GUARD = 90
"""Seconds until a test that hangs counts as failed. No test waits for it."""


def plan_of_fakes(**changes) -> Plan:
    """Four fakes and an embedded Valkey; ``fakes``: service → how it behaves."""
    fakes = changes.pop("fakes", {})
    environ = {**os.environ, **{f"FAKE_{name.upper()}": how for name, how in fakes.items()}}
    programs = {name: (sys.executable, str(FAKE), name) for name in SERVICES}
    defaults = {
        "bundle": Path("nano"),
        "port": 0,
        "ready_seconds": HANG_GUARD,
        "drain_seconds": 5.0,
    }
    return Plan(**{**defaults, "environ": environ, "programs": programs, **changes})


class Remembered(Screen):
    """What a stack has shown, and events that tests wait for."""

    def __init__(self, *, json_logs=True):
        self.out, self.err = io.StringIO(), io.StringIO()
        self._awaited: list[tuple[Callable[[dict], bool], asyncio.Future]] = []
        super().__init__(out=self.out, err=self.err, json_logs=json_logs)

    def records(self, event=None):
        lines = [json.loads(line) for line in self.err.getvalue().splitlines()]
        return [line for line in lines if event in (None, line["event"])]

    def once(self, service, event) -> asyncio.Future:
        """Done when that service has logged that event."""
        future = asyncio.get_running_loop().create_future()
        self._awaited.append(
            (lambda line: (line.get("service"), line.get("event")) == (service, event), future)
        )
        return future

    def line(self, part, line):
        super().line(part, line)
        for matches, future in self._awaited:
            if not future.done() and line.startswith("{") and matches(json.loads(line)):
                future.set_result(None)


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        async def guarded() -> None:
            await asyncio.wait_for(test(*args, **kwargs), HANG_GUARD)

        asyncio.run(guarded())

    return run


def gone(pid: int) -> bool:
    """Whether no process has this number; one that nobody has buried counts as gone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def all_end(pidfds: Iterable[int], seconds: float = HANG_GUARD) -> bool:
    """Whether the processes behind these descriptors have all ended, waiting for the kernel to say so."""
    waiting = select.poll()
    left = set(pidfds)
    for descriptor in left:
        waiting.register(descriptor, select.POLLIN)
    while left:
        events = waiting.poll(seconds * 1000)
        if not events:
            return False
        for descriptor, _ in events:
            waiting.unregister(descriptor)
            left.discard(descriptor)
    return True

"""One computing thread for many sessions, and whose turn it is.

What a session is given waits for its turn, what is made waits to be taken. The event loop owns all of it: it
decides whose turn it is, and touches a session's stream only while the thread does not. The thread only
computes. So nothing is locked, and the loop answers while the thread works.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

from aqaa.errors import CapacityError, Stalled

Given = TypeVar("Given")
Made = TypeVar("Made")
Result = TypeVar("Result")

Clock = Callable[[], float]


@dataclass(frozen=True)
class Outcome(Generic[Made]):
    """What a turn on the thread did for one session.

    made      for its caller, in order
    held      of what it was given, how much could be computed but is not yet
    more      whether it can go on without being given anything
    finished  whether nothing follows
    error     why the session cannot go on
    """

    made: Sequence[Made] = ()
    held: float = 0.0
    more: bool = False
    finished: bool = False
    error: Exception | None = None


class Session(Generic[Given, Made]):
    """One caller's stream, on the event loop.

        async with session:                    # a place; CapacityError where there is none
            await session.give(pcm, size=seconds)
            async for groups in session: ...

    Who leaves in the middle is forgotten: what the thread is computing for it is dropped. ``give`` waits
    while ``room`` or more is held; nothing is computed while ``most_made`` results wait to be taken.
    """

    def __init__(
        self, thread: "SharedThread[Any, Any]", *, room: float, most_made: int, stall_seconds: float
    ) -> None:
        self._thread = thread
        self._room, self._most_made, self._stall_seconds = room, most_made, stall_seconds
        self._inbox: list[Given] = []
        self._inbox_size = 0.0
        self._held = 0.0
        self._more = self._busy = self._finished = False
        self._made: deque[Made] = deque()
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._stall: asyncio.TimerHandle | None = None
        self.since = 0.0
        """When it became its turn to be computed."""

    async def __aenter__(self) -> Self:
        self._thread.enter(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._taken()
        self._thread.leave(self)

    async def give(self, item: Given, size: float = 0.0) -> None:
        """Hand over ``item``; returns once there is room again, or the session is over."""
        if not (self._inbox or self._more):
            self.since = self._thread.clock()
        self._inbox.append(item)
        self._inbox_size += size
        self._thread.wake()
        while self._inbox_size + self._held >= self._room and not self.over:
            await self._change()

    def fail(self, error: Exception) -> None:
        """Nothing is computed any more; who takes gets ``error``."""
        self._error = self._error or error
        self._changed.set()

    @property
    def over(self) -> bool:
        """Whether nothing more will be made."""
        return self._error is not None or self._finished

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Made:
        self._taken()
        while True:
            if self._error is not None:
                raise self._error
            if self._made:
                self._thread.wake()
                self._stall = asyncio.get_running_loop().call_later(self._stall_seconds, self._stalled)
                return self._made.popleft()
            if self._finished:
                raise StopAsyncIteration
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _taken(self) -> None:
        if self._stall is not None:
            self._stall.cancel()

    def _stalled(self) -> None:
        self.fail(
            Stalled(f"nothing has been taken for {self._stall_seconds:g} s; the place is given to others")
        )
        self._thread.leave(self)

    # What the thread's owner asks.

    @property
    def order(self) -> float:
        """Whose turn it is: the lowest. Here who has waited longest."""
        return self.since

    @property
    def shape(self) -> object:
        """Sessions of equal shape may be computed together."""
        return None

    @property
    def ready(self) -> bool:
        """Whether there is something to compute, and room for what it makes."""
        if self._busy or self.over or len(self._made) >= self._most_made:
            return False
        return self._waits

    @property
    def _waits(self) -> bool:
        return bool(self._inbox) or self._more

    def settle(self) -> None:
        """Between two turns: what a subclass does with what has come, on the event loop."""

    def begin(self) -> list[Given]:
        """Its turn comes: what was given since the last one."""
        given, self._inbox, self._inbox_size, self._busy = self._inbox, [], 0.0, True
        return given

    def done(self, outcome: Outcome[Made]) -> None:
        """Its turn is over."""
        self._busy, self._held, self._more = False, outcome.held, outcome.more
        self._finished = self._finished or outcome.finished
        self.since = self._thread.clock()
        self._made += outcome.made
        if outcome.error is not None:
            self.fail(outcome.error)
        self._changed.set()

    @property
    def busy(self) -> bool:
        """Whether the thread works for it now."""
        return self._busy


Who = TypeVar("Who", bound=Session[Any, Any])


@dataclass(eq=False)
class SharedThread(Generic[Who, Made]):
    """The thread, and who shares it.

        async with SharedThread("tokenizer", compute, places=64, batch=8) as thread:
            ...

    ``compute(sessions, given)`` runs in the thread, for at most ``batch`` sessions of one shape and with what
    each was given; it returns an Outcome for each. Should it raise, these sessions fail with that error.

    clock        seconds, for waiting times
    retry_after  what a session is told that finds all ``places`` taken
    on_places    hears how many places are taken
    on_wait      hears how long a session has waited for its turn
    """

    name: str
    compute: Callable[[Sequence[Who], Sequence[list[Any]]], Sequence[Outcome[Made]]]
    places: int
    batch: int
    retry_after: float = 1.0
    clock: Clock = time.monotonic
    on_places: Callable[[int], None] = lambda count: None
    on_wait: Callable[[float], None] = lambda seconds: None
    _sessions: dict[Who, None] = field(default_factory=dict)
    _work: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"aqaa-{self.name}")

    async def __aenter__(self) -> Self:
        self._turns = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._turns.cancel()
        with suppress(asyncio.CancelledError):
            await self._turns
        await asyncio.to_thread(self._thread.shutdown)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Something else in the thread: warming up."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def enter(self, session: Who) -> None:
        """Raises CapacityError if all places are taken."""
        if len(self._sessions) >= self.places:
            raise CapacityError(
                f"all {self.places} places of the {self.name} are taken", retry_after=self.retry_after
            )
        self._sessions[session] = None
        self.on_places(len(self._sessions))

    def leave(self, session: Who) -> None:
        """Its place is free again."""
        self._sessions.pop(session, None)
        self.on_places(len(self._sessions))

    def wake(self) -> None:
        """Something has changed that may make a session ready."""
        self._work.set()

    def _next(self) -> list[Who]:
        for session in self._sessions:
            if not session.busy:
                try:
                    session.settle()
                except Exception as error:  # its own; the others go on
                    session.fail(error)
        ready = sorted((session for session in self._sessions if session.ready), key=_order)
        alike = (session for session in ready if session.shape == ready[0].shape)
        return [session for session, _ in zip(alike, range(self.batch), strict=False)]

    async def _run(self) -> None:
        while True:
            self._work.clear()
            while sessions := self._next():
                await self._turn(sessions)
            await self._work.wait()

    async def _turn(self, sessions: Sequence[Who]) -> None:
        now = self.clock()
        for session in sessions:
            self.on_wait(max(0.0, now - session.since))
        given = [session.begin() for session in sessions]
        outcomes: Iterable[Outcome[Made]]
        try:
            outcomes = await self.run(lambda: self.compute(sessions, given))
        except Exception as error:  # of theirs, told to each by its own call
            outcomes = [Outcome(error=error)] * len(sessions)
        for session, outcome in zip(sessions, outcomes, strict=True):
            session.done(outcome)


def _order(session: Session[Any, Any]) -> float:
    return session.order

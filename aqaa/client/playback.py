"""Acknowledgements of what was played: the newest one, at most four a second."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, runtime_checkable

ACK_SECONDS: Final = 0.25
"""Between two acknowledgements of a turn."""


@runtime_checkable
class Player(Protocol):
    """What plays an answer and can tell how far it is."""

    @property
    def played_samples(self) -> int:
        """Samples of the turn that the listener has heard, from its first one; never less than before."""


class Acks:
    """The acknowledgements of one turn. Nothing is sent until something has been played."""

    def __init__(
        self,
        send: Callable[[int], None],
        sleep: Callable[[float], Awaitable[object]],
        player: Player | None = None,
        received: Callable[[], int] = lambda: sys.maxsize,
    ) -> None:
        """``received``: samples that have come; more cannot have been played, and the server refuses it."""
        self._send = send
        self._sleep = sleep
        self._player = player
        self._received = received
        self._news = False
        self._task: asyncio.Task[None] | None = None
        self._last = 0
        self.played: int | None = None
        """Samples as last reported; None: nobody reports."""
        self.total: int | None = None
        """Samples of the whole turn, once they are known."""

    def begin(self) -> None:
        """Looks at the player from now on, if there is one."""
        if self._player is not None and self._task is None:
            self.played = 0
            self._task = asyncio.ensure_future(self._follow())

    def report(self, samples: int) -> None:
        """So much was played. Raises ValueError if it is less than before, or more than has come."""
        if not (self.played or 0) <= samples <= self._received():
            expected = f"{self.played or 0}, as before, to {self._received()}, as received"
            raise ValueError(f"{samples} samples played, expected {expected}")
        self.played, self._news = samples, True
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._tell())

    def end(self) -> None:
        """No more is said. ``played`` is where the player stands now."""
        if self._task is not None:
            self._task.cancel()
            self._look()

    async def _follow(self) -> None:
        while self.total is None or (self.played or 0) < self.total:
            self._look()
            self._say(self.played or 0)
            await self._sleep(ACK_SECONDS)

    def _look(self) -> None:
        if self._player is not None:
            self.played = max(self.played or 0, min(self._player.played_samples, self._received()))

    async def _tell(self) -> None:
        while self._news:
            self._news = False
            self._say(self.played or 0)
            await self._sleep(ACK_SECONDS)

    def _say(self, samples: int) -> None:
        if samples > self._last:
            self._last = samples
            self._send(samples)

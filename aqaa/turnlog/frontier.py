"""How far an answer may be written: few writes for many acknowledgements."""

from aqaa.turnlog.clock import Clock


class Frontier:
    """Coalesces a number that only grows to at most one write an interval.

        if (value := frontier.move(groups)) is not None:
            await log.control(tenure, frontier=value)

    The last value never gets lost: ``pending`` says that one waits, ``due`` when it may be written.
    """

    def __init__(self, clock: Clock, interval: float) -> None:
        self._clock = clock
        self._interval = interval
        self._written: int | None = None
        self._value = 0
        self._next = clock.now()

    @property
    def pending(self) -> bool:
        return self._written is None or self._value > self._written

    @property
    def due(self) -> float:
        """When the next write is allowed, by the clock."""
        return self._next

    def move(self, value: int) -> int | None:
        """Takes a new value, and gives the one to write now, if any. Smaller ones change nothing."""
        self._value = max(self._value, value)
        return self.take()

    def take(self) -> int | None:
        """The value to write now, if one waits and it is time."""
        if not self.pending or self._clock.now() < self._next:
            return None
        self._written = self._value
        self._next = self._clock.now() + self._interval
        return self._value


def played_by_the_clock(sent_at: float, now: float, sample_rate: int, sent: int) -> int:
    """Samples that count as played where nobody acknowledges: real time from sending, at most all."""
    return min(sent, max(0, int((now - sent_at) * sample_rate)))

"""Staying an owner: one heartbeat for every role that this process holds, in two round trips."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from redis.exceptions import ResponseError

from aqaa.errors import AqaaError, Unavailable
from aqaa.turnlog.append import Appender
from aqaa.turnlog.capacity import Capacity
from aqaa.turnlog.dispatch import Consumer, Dispatched
from aqaa.turnlog.link import Link, granted
from aqaa.turnlog.names import Role, Stream
from aqaa.turnlog.tenure import Tenure

_LAST = (Stream.QUERY, Stream.ANSWER, Stream.DELIVERY)
"""As RENEW names them."""


@dataclass(eq=False)
class Held:
    """A role that is kept, the entry it came with (runners), and the pens that write under it."""

    tenure: Tenure
    dispatched: Dispatched | None = None
    pens: list[Appender] = field(default_factory=list)


class Keeper:
    """Renews leases every heartbeat: in the turn's state under the fence, then its entry and its place.

    The entry is that of the dispatch stream, the place that among the live turns.

    A role that cannot be renewed is lost: ``tenure.lost`` is set, ``tenure.error`` says why. What a failover
    has lost of a pen's stream is written again. A turn that nobody keeps counts as live for a lease more.
    """

    def __init__(self, link: Link, consumer: Consumer | None = None) -> None:
        self.link = link
        self.consumer = consumer
        self._capacity = Capacity(link)
        self._held: dict[Tenure, Held] = {}

    @property
    def held(self) -> tuple[Held, ...]:
        return tuple(self._held.values())

    def keep(
        self, tenure: Tenure, dispatched: Dispatched | None = None, pens: Iterable[Appender] = ()
    ) -> Held:
        """Renews this from now on, until ``drop`` or until it is lost."""
        held = Held(tenure, dispatched, list(pens))
        self._held[tenure] = held
        return held

    def drop(self, tenure: Tenure) -> None:
        """Renews it no more: the turn is over."""
        self._held.pop(tenure, None)

    async def run(self) -> None:
        """Beats until it is cancelled. While the log is away leases run out, and that is all."""
        while True:
            await self.link.clock.sleep(self.link.settings.heartbeat)
            try:
                await self.beat()
            except Unavailable:
                continue

    async def beat(self) -> None:
        """One heartbeat. Raises Unavailable."""
        held = [h for h in self.held if h.tenure.error is None]
        replies = await self.link.pipeline([h.tenure.renewal() for h in held])
        for one, reply in zip(held, replies, strict=True):
            granted(reply)
            try:
                if reply[0] == "OK":
                    for pen in one.pens:
                        await pen.mend(int(reply[2 + _LAST.index(pen.stream)]))
                else:
                    await one.tenure.refused(reply)
            except Unavailable:
                raise
            except AqaaError as error:
                one.tenure.lose(error)
        await self._renew_rest([h for h in held if h.tenure in self._held])
        for one in self.held:
            if one.tenure.error is not None:
                self.drop(one.tenure)

    async def hand_over(self) -> list[Held]:
        """SIGTERM: gives every role and entry back, for the next scan to take. What was held."""
        held = list(self.held)
        for one in held:
            self.drop(one.tenure)
            await one.tenure.release()
            if one.dispatched is not None and self.consumer is not None:
                await self.consumer.hand_over(one.dispatched)
        return held

    async def _renew_rest(self, held: list[Held]) -> None:
        """Keeps live turns and entries; an entry that is no longer ours has another runner, who will acquire.

        A front takes a turn's place and gives it back; a runner only keeps one that is there.
        """
        live = [h.tenure for h in held if h.tenure.error is None]
        claimed = [(h.tenure, h.dispatched) for h in held if h.dispatched is not None]
        calls = [self._capacity.renewal(t.turn, again=t.role is Role.FRONT) for t in live]
        if self.consumer is not None:
            calls += [self.consumer.claiming(dispatched) for _, dispatched in claimed]
        replies = await self.link.pipeline(calls)
        for (tenure, _), reply in zip(claimed, replies[len(live) :], strict=self.consumer is not None):
            kept = not isinstance(reply, ResponseError) and reply[0] == "OK"
            if not kept and tenure.error is None:
                tenure.replaced(f"another runner has the entry of turn {tenure.turn.turn_id}")
                await tenure.release()
        for reply in replies[: len(live)]:
            granted(reply)

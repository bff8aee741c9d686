"""Staying an owner: a heartbeat for every role that this process holds, in one round trip to a node."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from redis.exceptions import ResponseError

from aqaa.errors import AqaaError, Unavailable
from aqaa.turnlog.append import Appender
from aqaa.turnlog.capacity import Capacity
from aqaa.turnlog.dispatch import Consumer, Dispatched
from aqaa.turnlog.link import Link, granted
from aqaa.turnlog.names import Role, Stream
from aqaa.turnlog.state import Phase
from aqaa.turnlog.tenure import Tenure

_LAST = (Stream.QUERY, Stream.ANSWER, Stream.DELIVERY)
"""As RENEW names them."""


@dataclass(eq=False)
class Held:
    """A role that is kept, the entry it came with (runners), and the pens that write under it.

    idle       whether no stage works for the turn just now
    completed  its tokens were, at the last beat
    missing    a beat did not find the turn among the live ones
    lacking    and it still ran at the beat after that
    """

    tenure: Tenure
    dispatched: Dispatched | None = None
    pens: list[Appender] = field(default_factory=list)
    idle: Callable[[], bool] = lambda: False
    completed: bool = False
    missing: bool = False
    lacking: bool = False


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
        self,
        tenure: Tenure,
        dispatched: Dispatched | None = None,
        pens: Iterable[Appender] = (),
        idle: Callable[[], bool] = lambda: False,
    ) -> Held:
        """Renews this from now on, until ``drop`` or until it is lost."""
        held = Held(tenure, dispatched, list(pens), idle)
        self._held[tenure] = held
        return held

    def drop(self, tenure: Tenure) -> None:
        """Renews it no more: the turn is over."""
        self._held.pop(tenure, None)

    async def run(self) -> None:
        """Beats until it is cancelled. While the log is away leases run out, and that is all.

        On a cluster each node has a beat of its own: one that is away holds up no other.
        """
        under_way: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                await self.link.clock.sleep(self.link.settings.heartbeat)
                for part, renew in {**self._by_node(), "": self._renew_rest}.items():
                    if part not in under_way:
                        under_way[part] = group.create_task(_unless_away(renew()), name="turnlog-beat")
                        under_way[part].add_done_callback(partial(_over, under_way, part))

    async def beat(self) -> None:
        """One heartbeat. Raises Unavailable."""
        await asyncio.gather(*(renew() for renew in self._by_node().values()))
        await self._renew_rest()

    async def hand_over(self) -> list[tuple[Held, Exception]]:
        """SIGTERM: gives every role and entry back, all at once, for the next scan to take.

        What could not be given back, and why: its successor has to wait for the end of the lease.
        """
        held = self.held
        errors = await asyncio.gather(*(self._hand_over(one) for one in held))
        return [(one, error) for one, error in zip(held, errors, strict=True) if error is not None]

    async def _hand_over(self, held: Held) -> Exception | None:
        """The entry too if the role could not be given back; the first of the errors."""
        self.drop(held.tenure)
        error: Exception | None = None
        try:
            await held.tenure.release()
        except Exception as raised:
            error = raised
        try:
            if held.dispatched is not None and self.consumer is not None:
                await self.consumer.hand_over(held.dispatched)
        except Exception as raised:
            error = error or raised
        return error

    def _by_node(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """What renews the roles of turns that lie on the same node."""
        nodes: dict[str, list[Held]] = {}
        for held in self.held:
            nodes.setdefault(f"at {self.link.node(held.tenure.turn.state)}", []).append(held)
        return {node: partial(self._renew, held) for node, held in nodes.items()}

    async def _renew(self, all_held: Sequence[Held]) -> None:
        held = [h for h in all_held if h.tenure.error is None]
        missing = [h.missing for h in held]  # before it is asked whether they run
        replies = await self.link.pipeline([h.tenure.renewal() for h in held])
        for one, missed, reply in zip(held, missing, replies, strict=True):
            granted(reply)
            try:
                if reply[0] == "OK":
                    one.completed = Phase(reply[1].decode()) is Phase.COMPLETED
                    one.lacking = missed and not one.completed
                    for pen in one.pens:
                        await pen.mend(int(reply[2 + _LAST.index(pen.stream)]))
                else:
                    await one.tenure.refused(reply)
            except Unavailable:
                raise
            except AqaaError as error:
                one.tenure.lose(error)
        self._drop_lost()

    async def _renew_rest(self) -> None:
        """Keeps live turns and entries; an entry that is no longer ours has another runner, who will acquire.

        Only a front takes a lost place again, a beat after missing it: its turn was found running meanwhile,
        so the place went with a part of the log and was not given back. That of a turn whose tokens are
        complete is given back as soon as no stage works for it, and never taken again.
        """
        held = [h for h in self.held if h.tenure.error is None]
        claimed = [(h.tenure, h.dispatched) for h in held if h.dispatched is not None]
        for one in held:
            if one.completed and not one.missing and one.idle():
                await self._capacity.leave(one.tenure.turn)
                one.missing = True
        calls = [
            self._capacity.renewal(h.tenure.turn, again=h.lacking and h.tenure.role is Role.FRONT)
            for h in held
        ]
        if self.consumer is not None:
            calls += [self.consumer.claiming(dispatched) for _, dispatched in claimed]
        replies = await self.link.pipeline(calls)
        for (tenure, _), reply in zip(claimed, replies[len(held) :], strict=self.consumer is not None):
            kept = not isinstance(reply, ResponseError) and reply[0] == "OK"
            if not kept and tenure.error is None:
                tenure.replaced(f"another runner has the entry of turn {tenure.turn.turn_id}")
                await tenure.release()
        self._drop_lost()
        for one, reply in zip(held, replies, strict=False):
            one.missing = granted(reply)[0] != "OK"

    def _drop_lost(self) -> None:
        for one in self.held:
            if one.tenure.error is not None:
                self.drop(one.tenure)


async def _unless_away(renewing: Awaitable[None]) -> None:
    with contextlib.suppress(Unavailable):
        await renewing


def _over(under_way: dict[str, asyncio.Task[None]], part: str, _: object) -> None:
    del under_way[part]

"""From fronts to runners: opened turns in a consumer group, taken over when their runner is gone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from aqaa.telemetry import catalogue
from aqaa.turnlog import scripts
from aqaa.turnlog.link import Call, Link
from aqaa.turnlog.names import DEAD, DISPATCH, RUNNERS, TurnRef
from aqaa.turnlog.settings import ms

_OFFERED_MS = 24 * 3600 * 1000
"""Idle time of an entry that was handed over: any scan takes it."""
_SILENT_MS = 3600 * 1000
_DEAD_KEPT = 10000


@dataclass(frozen=True)
class Dispatched:
    """A turn that this consumer shall run.

    entry       of the dispatch stream; pending for this consumer until ``done``
    deliveries  how often it has been given to someone, this time included
    """

    entry: str
    turn: TurnRef
    bundle_digest: str
    deliveries: int = 1


async def post(link: Link, turn: TurnRef, bundle_digest: str) -> str:
    """Tells the runners of a turn; the entry's id. Twice is harmless, because acquiring decides."""
    fields = ("tenant", turn.tenant, "session", turn.session, "turn", turn.turn_id, "bundle", bundle_digest)
    entry: bytes = await link.command("XADD", DISPATCH, "*", *fields)
    return entry.decode()


class Consumer:
    """One process's place in the group. Its name must be new at every start of the process.

    Ask only while there is a free backbone slot: what is taken is not offered to others.
    """

    def __init__(self, link: Link, name: str) -> None:
        self.link = link
        self.name = name

    async def take(self, count: int) -> list[Dispatched]:
        """Turns that nobody has been given; waits up to ``dispatch_block`` for the first."""
        block = ms(self.link.settings.dispatch_block)
        words = ("XREADGROUP", "GROUP", RUNNERS, self.name, "COUNT", count, "BLOCK", block)
        found = await self._in_group(lambda: self.link.command(*words, "STREAMS", DISPATCH, ">"))
        return [dispatched for _, entries in found or [] for dispatched in await self._parse(entries)]

    async def scan(self, count: int) -> list[Dispatched]:
        """Turns whose consumer has given no sign of life for a lease, or has handed them over."""
        idle = ms(self.link.settings.lease)
        words = ("XAUTOCLAIM", DISPATCH, RUNNERS, self.name, idle, "0-0", "COUNT", count)
        reply = await self._in_group(lambda: self.link.command(*words))
        entries = [(entry, fields) for entry, fields in reply[1] if entry is not None]
        if not entries:
            return []
        counts = await self.link.run(
            scripts.DELIVERIES, [DISPATCH], [RUNNERS, *(entry for entry, _ in entries)]
        )
        return await self._parse(entries, [int(count) for count in counts[1:]])

    def claiming(self, dispatched: Dispatched, idle_ms: int | None = None) -> Call:
        """The call that keeps an entry, or with an idle time offers it."""
        idle = "" if idle_ms is None else str(idle_ms)
        before = max(0, dispatched.deliveries - 1)
        return Call(scripts.CLAIM, [DISPATCH], [RUNNERS, self.name, dispatched.entry, idle, before])

    async def hand_over(self, dispatched: Dispatched, after: float = 0.0) -> bool:
        """Offers an entry to the next scan, at once or ``after`` seconds. False if it was no longer ours."""
        idle = _OFFERED_MS if after <= 0 else max(0, ms(self.link.settings.lease) - ms(after))
        call = self.claiming(dispatched, idle)
        reply = await self._in_group(lambda: self.link.run(call.script, call.keys, call.args))
        return bool(reply[0] == "OK")

    async def done(self, dispatched: Dispatched) -> None:
        """Ends an entry: the turn's terminal state is written, or another entry stands for the turn."""
        await self.link.command("XACK", DISPATCH, RUNNERS, dispatched.entry)

    async def bury(self, dispatched: Dispatched, reason: str) -> None:
        """Notes a turn that is given up, and ends its entry. Its terminal state is written before."""
        turn = dispatched.turn
        fields = ("tenant", turn.tenant, "session", turn.session, "turn", turn.turn_id, "reason", reason)
        count = ("deliveries", dispatched.deliveries)
        self.link.metrics[catalogue.LOG_DEAD].labels(reason).inc()
        await self.link.command("XADD", DEAD, "MAXLEN", "~", _DEAD_KEPT, "*", *fields, *count)
        await self.done(dispatched)

    async def tidy(self, *, leaving: bool = False) -> tuple[int, int]:
        """Trims what no one needs any more and forgets dead consumers: (entries, consumers).

        leaving: forget this one too, if it holds nothing.
        """
        args = (RUNNERS, _SILENT_MS, self.name if leaving else "")
        reply = await self._in_group(lambda: self.link.run(scripts.TIDY, [DISPATCH], args))
        return int(reply[1]), int(reply[2])

    async def _in_group(self, call: Callable[[], Any]) -> Any:
        """``call``; a group that is gone (a new server, a deleted stream) is made again at its beginning."""
        try:
            return await call()
        except ResponseError as error:
            if not _no_group(error):
                raise
        try:
            await self.link.command("XGROUP", "CREATE", DISPATCH, RUNNERS, "0", "MKSTREAM")
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):  # another runner was faster
                raise
        return await call()

    async def _parse(
        self, entries: Sequence[tuple[bytes, dict[bytes, bytes]]], counts: Sequence[int] = ()
    ) -> list[Dispatched]:
        dispatched = []
        for i, (entry, fields) in enumerate(entries):
            if not fields:  # trimmed while it was pending
                await self.link.command("XACK", DISPATCH, RUNNERS, entry)
                continue
            turn = TurnRef(*(fields[name].decode() for name in (b"tenant", b"session", b"turn")))
            found = Dispatched(entry.decode(), turn, fields[b"bundle"].decode(), counts[i] if counts else 1)
            dispatched.append(found)
        return dispatched


def _no_group(error: ResponseError) -> bool:
    return "NOGROUP" in str(error) or "no such key" in str(error)

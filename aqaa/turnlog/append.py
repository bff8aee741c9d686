"""Writing a stream: one append at a time, each through the fenced script, each safe to repeat."""

import asyncio
from collections.abc import Iterable
from functools import cache, partial

from google.protobuf.message import Message

from aqaa.telemetry import catalogue
from aqaa.turnlog import scripts
from aqaa.turnlog.link import Call, Link
from aqaa.turnlog.names import READER, WRITER, Role, Stream, TurnRef
from aqaa.turnlog.records import Cursor, Entry, encode
from aqaa.turnlog.settings import ms
from aqaa.turnlog.tenure import Tenure

_ROUNDS = 8
"""Of mending one append before the log counts as diverged: each failover in its middle takes one."""


def appending(
    link: Link,
    turn: TurnRef,
    stream: Stream,
    entry: Entry,
    before: bytes,
    *,
    role: Role | None,
    owner: str = "",
    below: int = 0,
) -> Call:
    """The call that appends. ``role`` None restores an entry that the log held before a failover."""
    settings = link.settings
    channel = turn.channel(READER[stream]) if stream in READER else ""
    keep = settings.delivery_keep if stream is Stream.DELIVERY else 0
    head = (role or "", owner, stream, entry.seq, before, entry.hash, entry.data)
    return Call(
        scripts.APPEND,
        [turn.state, turn.stream(stream)],
        [*head, ms(settings.turn_ttl), link.publish, channel, keep, below],
    )


class Appender:
    """The pen of one stream: counts its own sequence and keeps what it wrote while the turn lives.

        answer = Appender(tenure, Stream.ANSWER)
        seq = await answer.append(AnswerRecord(piece=piece))

    ``written``: the entries that are in the log already, where someone goes on who took the turn over; of a
    trimmed stream the last ones. Appending what is there already is no error if it is the same.
    """

    def __init__(self, tenure: Tenure, stream: Stream, written: Iterable[Entry] = ()) -> None:
        if WRITER[stream] is not tenure.role:
            raise ValueError(f"the {stream} is written by the {WRITER[stream]}, not by the {tenure.role}")
        self.tenure = tenure
        self.stream = stream
        self._kept = list(written)
        self._base = Cursor()  # what stands before the first entry that is kept
        if self._kept and self._kept[0].seq > 1:
            first = self._kept.pop(0)
            self._base = Cursor(first.seq, first.hash)
        self._writing = asyncio.Lock()
        metrics = tenure.link.metrics
        self._outcomes = cache(partial(metrics[catalogue.LOG_APPENDS].labels, stream))
        self._seconds = metrics[catalogue.LOG_APPEND_SECONDS].labels(stream)

    @property
    def cursor(self) -> Cursor:
        """The last entry."""
        return Cursor(self._kept[-1].seq, self._kept[-1].hash) if self._kept else self._base

    async def append(self, record: Message, *, below: int = 0) -> int:
        """Adds a record and gives its sequence number; returns when the log has it.

        below: entries under this number are needed no more (delivery).
        Raises Superseded or Cancelled when the turn is someone else's or over, LogDiverged, LogLost. The
        record has its place as soon as this is called: after Unavailable, or when the call was cancelled, it
        keeps the place and goes in with the next one. So whoever counts what is written counts before.
        """
        self.tenure.check()
        entry = self.cursor.after(encode(record))
        self._kept.append(entry)
        async with self._writing:
            await self._write(entry, below)
            if self.stream is Stream.DELIVERY and len(self._kept) > self.tenure.link.settings.delivery_keep:
                first = self._kept.pop(0)
                self._base = Cursor(first.seq, first.hash)
            return entry.seq

    async def settle(self) -> None:
        """Returns when the log has all that has its place. Raises as ``append`` does."""
        async with self._writing:
            if self._kept:
                await self._write(self._kept[-1], 0)  # whatever is missing before it goes in first

    async def mend(self, last: int) -> None:
        """Appends again what the log, whose last entry is ``last``, has lost."""
        async with self._writing:
            if last < self.cursor.seq and self.tenure.error is None:
                await self._restore(last, self.cursor.seq)

    async def _write(self, entry: Entry, below: int) -> None:
        link, turn = self.tenure.link, self.tenure.turn
        for _ in range(_ROUNDS):
            before = self._hash_before(entry.seq)
            call = appending(
                link, turn, self.stream, entry, before,
                role=self.tenure.role, owner=self.tenure.owner, below=below,
            )  # fmt: skip
            began = link.clock.now()
            reply = await link.run(call.script, call.keys, call.args)
            self._outcomes(reply[0]).inc()
            self._seconds.observe(link.clock.now() - began)
            match reply[0]:
                case "OK" | "DUP":
                    return
                case "GAP":
                    await self._restore(int(reply[1]), entry.seq - 1)
                case "CONFLICT":
                    break
                case _:
                    await self.tenure.refused(reply)
        raise self.tenure.diverged(
            f"the {self.stream} of turn {turn.turn_id} holds something else at entry {entry.seq}",
            missing=f"{self.stream}:{entry.seq}",
        )

    async def _restore(self, last: int, until: int) -> None:
        if last < self._base.seq:
            raise self.tenure.diverged(
                f"the {self.stream} of turn {self.tenure.turn.turn_id} ends at {last}, behind what is kept",
                missing=f"{self.stream}:{last + 1}",
            )
        for entry in self._kept[last - self._base.seq : until - self._base.seq]:
            await self._write(entry, 0)

    def _hash_before(self, seq: int) -> bytes:
        at = seq - 2 - self._base.seq
        return self._kept[at].hash if at >= 0 else self._base.hash

"""Reading live turns: pub/sub only wakes, readers drain by cursor, a sweep makes it safe.

Two connections carry all readers of a process: one hears, the other reads state and entries of every turn
that was woken, in one pipeline. Nobody polls, nobody waits for ever.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any, Self

from redis.exceptions import ResponseError

from aqaa.errors import AqaaError, Deadline, LogDiverged, LogLost, Unavailable
from aqaa.telemetry import catalogue
from aqaa.turnlog.append import appending
from aqaa.turnlog.bell import Bell
from aqaa.turnlog.channels import Channels
from aqaa.turnlog.link import Command, Link
from aqaa.turnlog.names import READER, Stream, TurnRef
from aqaa.turnlog.records import Cursor, Entry, announced, entries_of
from aqaa.turnlog.state import TurnState

_STATE = b"state"
"""A wake-up that is not about an entry."""
_SLICES = 8
"""Of a sweep: so many times in its length a part of the readers is looked after."""


class Follower:
    """One reader of one stream of a live turn, who also sees the turn's state. Made by ``Following.follow``.

        async with following.follow(turn, Stream.ANSWER) as answer:
            while (entry := await answer.next(timeout=5.0)) is not None:
                record = entry.record(Stream.ANSWER)

    It keeps what it has read: after a failover that lost the stream's end it puts it back.
    """

    def __init__(self, following: "Following", turn: TurnRef, stream: Stream, read: Iterable[Entry]) -> None:
        self.turn = turn
        self.stream = stream
        self.state: TurnState | None = None
        self._following = following
        self._kept = list(read)
        self._waiting: deque[Entry] = deque()
        self._news = Bell()
        self._error: AqaaError | None = None
        self._log_ends: int | None = None  # before the cursor, where a failover lost entries
        self.due = 0.0
        self.woken: float | None = None  # when, by the clock, since it was last read
        self.swept = False
        self.stale = True  # the state may be another one than was read
        self.restoring = False

    @property
    def cursor(self) -> Cursor:
        """The last entry that has arrived, be it taken or not."""
        return Cursor(self._kept[-1].seq, self._kept[-1].hash) if self._kept else Cursor()

    async def next(self, timeout: float) -> Entry | None:
        """The next entry; None when the turn is over and nothing more will come.

        Raises Deadline after ``timeout`` seconds, Unavailable if the log could not be read in that time,
        LogLost, LogDiverged.
        """
        await self._until(lambda: bool(self._waiting) or self._over(), timeout)
        return self._waiting.popleft() if self._waiting else None

    def ready(self) -> list[Entry]:
        """What has arrived already, without waiting."""
        entries = list(self._waiting)
        self._waiting.clear()
        return entries

    async def seen(self, wanted: Callable[[TurnState], bool], timeout: float) -> TurnState:
        """Waits until the turn's state is as wanted, and gives it. Raises as ``next`` does."""
        await self._until(lambda: self.state is not None and wanted(self.state), timeout)
        assert self.state is not None
        return self.state

    async def changed(self, timeout: float) -> None:
        """Waits for anything new: an entry, another state. Raises as ``next`` does."""
        before = self.state, self.cursor
        await self._until(lambda: (self.state, self.cursor) != before, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._following.leave(self)

    def _over(self) -> bool:
        return self.state is not None and self.state.phase.terminal and not self._behind()

    def _behind(self) -> bool:
        return self.state is not None and self.state.last[self.stream].seq > self.cursor.seq

    async def _until(self, met: Callable[[], bool], timeout: float) -> None:
        ends: float | None = None
        while not met():
            if self._error is not None:
                raise self._error
            now = asyncio.get_running_loop().time()
            ends = now + timeout if ends is None else ends
            if await self._news.heard(ends - now):
                continue
            if self._following.failing is not None:
                raise Unavailable(f"the turn log cannot be read: {self._following.failing}", stage="turnlog")
            raise Deadline(
                f"turn {self.turn.turn_id}: nothing new on {self.stream} for {timeout:g} s", stage="turnlog"
            )

    def hears(self, entry: Entry) -> bool:
        """Takes an entry that came with its wake-up. False if the log must be read. For ``Following``."""
        cursor = self.cursor
        if entry.seq <= cursor.seq:
            return True
        if self.state is None or entry != cursor.after(entry.data):
            return False
        self._kept.append(entry)
        self._waiting.append(entry)
        self._news.ring()
        return True

    def reason(self) -> tuple[float | None, bool, bool]:
        """Why it is read: when it was woken; whether a sweep looks; whether at its state. ``Following``'s."""
        why = self.woken, self.swept, self.stale
        self.woken, self.swept, self.stale = None, False, False
        return why

    def take(self, raw_state: dict[bytes, bytes] | None, raw: list[Any]) -> None:
        """What one reading found; no state where it read none. For ``Following``."""
        state = self.state if raw_state is None else TurnState.parse(raw_state)
        if state is None:
            if self.state is not None or self._kept:
                self.fail(LogLost(f"the log of turn {self.turn.turn_id} is gone", missing=self._missing()))
            return
        try:
            entries = entries_of(raw, self.stream, self.cursor)
        except LogDiverged as error:
            self.fail(error)
            return
        if raw_state is not None:
            last = state.last[self.stream]
            self._log_ends = last.seq if not entries and last.seq < self.cursor.seq else None
            if not entries and last.seq == self.cursor.seq and last.hash != self.cursor.hash:
                otherwise = f"{self.stream} ends otherwise than what was read"
                self.fail(LogDiverged(otherwise, missing=self._missing()))
                return
        if entries or state != self.state:
            self._news.ring()
        self.state = state
        self._kept += entries
        self._waiting += entries

    @property
    def lost(self) -> list[tuple[Entry, bytes]]:
        """Entries that were read and are not in the log any more, each with the hash before it."""
        last = self._log_ends
        if last is None or self._error is not None:
            return []
        hashes = [b"", *(entry.hash for entry in self._kept)]
        return [(entry, hashes[i]) for i, entry in enumerate(self._kept) if entry.seq > last]

    def fail(self, error: AqaaError) -> None:
        """Every waiting call raises this, once what arrived before is taken."""
        self._error = self._error or error
        self._news.ring()

    def _missing(self) -> str:
        return f"{self.stream}:{self.cursor.seq + 1}"


class Following:
    """All readers of a process.

    async with Following(link) as following:
        ...
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.failing: str | None = None
        """Why the log cannot be read just now."""
        self._wake_seconds = cache(link.metrics[catalogue.LOG_WAKE_SECONDS].labels)
        self._channels = Channels(link, self._heard)
        self._readers: dict[str, set[Follower]] = {}
        self._dirty: dict[str, dict[Follower, None]] = {}  # by node
        self._woken = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._restoring: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self.link.on_break.append(self._look_at_all)
        self._tasks = [
            asyncio.create_task(self._drain(), name="turnlog-drain"),
            asyncio.create_task(self._sweep(), name="turnlog-sweep"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.link.on_break.remove(self._look_at_all)
        tasks = [*self._tasks, *self._reading.values(), *self._restoring]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._channels.aclose()

    def follow(self, turn: TurnRef, stream: Stream, read: Iterable[Entry] = ()) -> Follower:
        """A reader of what comes after ``read``, the entries from the first one on that are known already."""
        follower = Follower(self, turn, stream, read)
        channel = turn.channel(READER[stream])
        if channel not in self._readers:
            self._readers[channel] = set()
            self._channels.add(channel)
        self._readers[channel].add(follower)
        self._look_at([follower])
        return follower

    def leave(self, follower: Follower) -> None:
        """Ends a reader."""
        channel = follower.turn.channel(READER[follower.stream])
        readers = self._readers.get(channel, set())
        readers.discard(follower)
        for dirty in self._dirty.values():
            dirty.pop(follower, None)
        if not readers and self._readers.pop(channel, None) is not None:
            self._channels.drop(channel)

    def _heard(self, channel: str, message: bytes | None) -> None:
        """message: a new entry as append.lua writes it, or ``state``; or None."""
        readers = self._readers.get(channel, ())
        entry = None if message is None or message == _STATE else announced(message)
        for follower in readers:
            if entry is not None and entry[0] == follower.stream and follower.hears(entry[1]):
                self._wake_seconds(follower.stream).observe(0.0)
                continue
            if message is not None and follower.woken is None:
                follower.woken = self.link.clock.now()
            if message is None or message == _STATE:
                follower.stale = True
            self._look_at([follower])

    def _look_at(self, followers: Iterable[Follower]) -> None:
        for follower in followers:
            node = self.link.node(follower.turn.state)
            self._dirty.setdefault(node, {})[follower] = None
            if node not in self._reading:
                self._woken.set()

    def _look_at_all(self) -> None:
        for readers in self._readers.values():
            for follower in readers:
                follower.stale = True
            self._look_at(readers)

    async def _sweep(self) -> None:
        """Looks at every reader once a sweep, woken or not, and at where its channel's slot lies."""
        clock, sweep = self.link.clock, self.link.settings.sweep
        while True:
            await clock.sleep(sweep / _SLICES)
            now = clock.now()
            self._channels.settle()
            due = [f for readers in self._readers.values() for f in readers if f.due <= now]
            for follower in due:
                follower.swept = follower.stale = True
            self._look_at(due)

    async def _drain(self) -> None:
        """Reads for whoever is to be looked at: in one pipeline for each node, which waits for no other."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            for node in [node for node in self._dirty if node not in self._reading]:
                task = asyncio.create_task(self._read(list(self._dirty.pop(node))), name="turnlog-read")
                self._reading[node] = task
                task.add_done_callback(partial(self._read_out, node))

    def _read_out(self, node: str, _: object) -> None:
        del self._reading[node]
        if node in self._dirty:
            self._woken.set()

    async def _read(self, batch: Sequence[Follower]) -> None:
        count = self.link.settings.read_count
        why = [(follower.cursor.seq, *follower.reason()) for follower in batch]
        calls: list[Command] = []
        for follower, (seq, _, _, stale) in zip(batch, why, strict=True):
            if stale:  # the state first: entries appended before a terminal state are then never missed
                calls.append(("HGETALL", follower.turn.state))
                follower.due = self.link.clock.now() + self.link.settings.sweep
            calls.append(("XRANGE", follower.turn.stream(follower.stream), f"(0-{seq}", "+", "COUNT", count))
        try:
            replies = iter(await self.link.pipeline(calls))
        except (Unavailable, ResponseError) as error:
            self.failing = str(error)
            for follower in batch:
                follower.stale = True
            self._look_at(batch)
            await self.link.clock.sleep(self.link.settings.sweep)
            return
        self.failing = None
        for follower, (seq, woken, swept, stale) in zip(batch, why, strict=True):
            state, entries = next(replies) if stale else None, next(replies)
            if isinstance(state, Exception) or isinstance(entries, Exception):
                self.failing = f"{state}; {entries}"
                follower.stale = True
                continue
            if follower.cursor.seq != seq:  # read meanwhile, from the node that has it now
                follower.stale = True
                self._look_at([follower])
                continue
            follower.take(state, entries)
            found = follower.cursor.seq - seq
            if found == count:
                self._look_at([follower])
            self._count(follower.stream, found, woken, swept)
            if follower.lost and not follower.restoring:
                follower.restoring = True
                task = asyncio.create_task(self._restore(follower), name="turnlog-restore")
                self._restoring.add(task)
                task.add_done_callback(self._restoring.discard)

    def _count(self, stream: Stream, entries: int, woken: float | None, swept: bool) -> None:
        if not entries:
            return
        if woken is not None:
            self._wake_seconds(stream).observe(self.link.clock.now() - woken)
        elif swept:
            self.link.metrics[catalogue.LOG_SWEEPS].labels(stream).inc(entries)

    async def _restore(self, follower: Follower) -> None:
        """Puts back what a failover lost and this reader has kept."""
        try:
            for entry, before in follower.lost:
                call = appending(self.link, follower.turn, follower.stream, entry, before, role=None)
                reply = await self.link.run(call.script, call.keys, call.args)
                if reply[0] == "CONFLICT":
                    raise LogDiverged(
                        f"{follower.stream} holds something else at entry {entry.seq}",
                        missing=f"{follower.stream}:{entry.seq}",
                    )
                if reply[0] not in ("OK", "DUP"):
                    return  # gone, or lost anew meanwhile: the next sweep sees it
        except Unavailable as error:
            self.failing = str(error)
        except AqaaError as error:
            follower.fail(error)
        finally:
            follower.restoring = False


async def read_all(link: Link, turn: TurnRef, stream: Stream) -> list[Entry]:
    """A whole stream, as someone reads it who takes a turn over; of a trimmed delivery what is left.

    Raises LogDiverged.
    """
    raw = await link.command("XRANGE", turn.stream(stream), "-", "+")
    return entries_of(raw, stream, None if stream is Stream.DELIVERY else Cursor())

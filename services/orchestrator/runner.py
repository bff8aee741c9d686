"""The runner: takes opened turns while the backbone has room, and answers them."""

import asyncio
from contextlib import suppress

from aqaa.errors import AqaaError, CapacityError
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import bind, traceback_of
from aqaa.turnlog import Consumer, Dispatched, Role, Stream, Tenure, TurnRef
from aqaa.v1.errors_pb2 import ErrorReason
from aqaa.v1.tokens_pb2 import EndReason
from aqaa.v1.turnlog_pb2 import QueryRecord, TerminalState
from services.orchestrator.run import Run
from services.orchestrator.session import Book
from services.orchestrator.shared import Shared
from services.orchestrator.tasks import ended

_MOST_AT_ONCE = 8
_TIDY_EVERY = 60.0
_OTHERS_ALIVE_MS = 3000


class Runner:
    """One process's runner. ``name`` must be new at every start."""

    def __init__(self, shared: Shared, name: str) -> None:
        self._shared = shared
        self._consumer = Consumer(shared.log.link, name)
        self._keeper = shared.log.keeper(self._consumer)
        self._turns: dict[asyncio.Task[None], Run | None] = {}
        self._replicas: dict[str, tuple[int, float]] = {}  # free slots, and when they were said
        self._bundles: set[str] = set()
        self._changed = asyncio.Event()
        self._stopping = False
        self._loops: list[asyncio.Task[None]] = []
        background = shared.background
        background.forever("runner keeper", self._keeper.run)
        background.forever("capacity", self._watch_capacity)
        background.forever("tidy", self._tidy)
        background.forever("abandoned turns", self._end_abandoned)
        self._loops = [background.forever("take", self._take), background.forever("scan", self._scan)]

    @property
    def turns(self) -> int:
        """That it holds."""
        return len(self._turns)

    @property
    def room(self) -> int:
        """Turns that it may take: free slots, less those for turns that have not got theirs yet."""
        if self._stopping:
            return 0
        now, fresh = self._shared.clock.now(), self._shared.log.link.settings.slots_lease
        free = sum(slots for slots, said in self._replicas.values() if now - said <= fresh)
        waiting = sum(1 for run in self._turns.values() if run is None or not run.opened.is_set())
        return min(_MOST_AT_ONCE, max(0, free - waiting))

    async def drain(self, seconds: float) -> None:
        """Takes nothing more. Hands its turns to other runners; without any, answers them in the time."""
        self._stopping = True
        self._changed.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._loops:
                    await asyncio.wait(self._loops)
                    self._loops = []
                while None in self._turns.values():  # what is being taken just now is handed over too
                    self._changed.clear()
                    await self._changed.wait()
                if self._turns and not await self._others():
                    while self._turns:
                        await asyncio.wait(set(self._turns))
        await self._shared.hand_over(self._keeper)
        await ended(*self._turns)
        with suppress(AqaaError):
            await self._consumer.tidy(leaving=True)

    async def _others(self) -> bool:
        """Whether another runner is alive."""
        infos = await self._shared.log.link.command("XINFO", "CONSUMERS", "aqaa:dispatch", "runners")
        for info in infos:
            found = info if isinstance(info, dict) else dict(zip(info[::2], info[1::2], strict=True))
            fields = {key.decode() if isinstance(key, bytes) else key: value for key, value in found.items()}
            name = fields["name"].decode() if isinstance(fields["name"], bytes) else fields["name"]
            if name != self._consumer.name and int(fields["idle"]) < _OTHERS_ALIVE_MS:
                return True
        return False

    # -- what it may take --

    async def _watch_capacity(self) -> None:
        """Asks the backbone how much room it has, and says it to the fronts."""
        while not self._stopping:
            try:
                capacity = await self._shared.stages.capacity()
            except AqaaError:
                self._replicas.clear()
            else:
                self._replicas[capacity.replica] = (capacity.free_slots, self._shared.clock.now())
                self._bundles = {capacity.bundle_digest}
                self._changed.set()
                await self._shared.log.capacity.publish(
                    capacity.replica.replace(" ", "_"),
                    capacity.slots,
                    capacity.free_slots,
                    bundle=capacity.bundle_digest,
                )
            await self._shared.clock.sleep(self._shared.settings.capacity_seconds)

    async def _tidy(self) -> None:
        while True:
            await self._shared.clock.sleep(_TIDY_EVERY)
            await self._consumer.tidy()

    async def _end_abandoned(self) -> None:
        """Ends turns whose front is gone, and whose caller has not come back to another one."""
        log, journal = self._shared.log, self._shared.journal
        lease = log.link.settings.lease
        seconds = max(self._shared.settings.resume_seconds, lease)  # a front that pauses is not gone
        while True:
            await self._shared.clock.sleep(lease)
            runs = {run.turn: run for run in self._turns.values() if run is not None}
            for turn in await log.end_abandoned(list(runs), after=seconds):
                journal.info("a turn was given up", session_id=turn.session, turn_id=turn.turn_id)
                with suppress(AqaaError):
                    await Book(log).settle(turn, runs[turn].caller)

    async def _take(self) -> None:
        while not self._stopping:
            if not (room := self.room):
                self._changed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._shared.settings.capacity_seconds):
                        await self._changed.wait()
                continue
            for dispatched in await self._consumer.take(room):
                self._begin(dispatched)

    async def _scan(self) -> None:
        while not self._stopping:
            if room := self.room:
                for dispatched in await self._consumer.scan(room):
                    self._begin(dispatched)
            await self._shared.clock.sleep(self._shared.log.link.settings.scan)

    # -- what it has taken --

    def _begin(self, dispatched: Dispatched) -> None:
        task = asyncio.create_task(self._run(dispatched), name=f"run {dispatched.turn.turn_id}")
        self._turns[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._turns.pop(task, None)
        self._changed.set()

    async def _run(self, dispatched: Dispatched) -> None:
        """One dispatch entry, whatever becomes of it."""
        turn, shared = dispatched.turn, self._shared
        bind(session_id=turn.session, turn_id=turn.turn_id, role=Role.RUNNER)
        if self._lacks(dispatched) and await shared.log.capacity.holds(dispatched.bundle_digest):
            shared.journal.info("a turn is left to who holds its bundle", bundle=dispatched.bundle_digest)
            await self._consumer.hand_over(dispatched, after=shared.log.link.settings.scan)
            return
        tenure = await shared.log.acquire_runner(self._consumer, dispatched)
        if tenure is None:
            return
        with shared.metrics[catalogue.TURNS_LIVE].labels(role=Role.RUNNER).track_inprogress():
            try:
                await self._answer(dispatched, tenure)
                await self._consumer.done(dispatched)
            except CapacityError:
                await self._pass_on(dispatched, tenure)
            except AqaaError as error:
                shared.journal.info("a turn was left", reason=error.reason)
                await self._leave(dispatched, turn)
            except Exception as error:
                shared.journal.error("a turn could not be run", traceback=traceback_of(error, messages=False))
                with suppress(AqaaError):
                    failed = TerminalState(
                        reason=EndReason.END_REASON_FAILED,
                        error=ErrorReason.ERROR_REASON_INTERNAL,
                        message="a fault of the service",
                    )
                    await shared.log.finish(tenure, failed)
                    await self._consumer.done(dispatched)
            finally:
                self._keeper.drop(tenure)

    async def _pass_on(self, dispatched: Dispatched, tenure: Tenure) -> None:
        """There was less room than was said: the turn is for whoever has some, and so not for us just now."""
        self._shared.journal.info("a turn was passed on for want of a slot")
        self._replicas.clear()
        self._keeper.drop(tenure)
        with suppress(AqaaError):
            await tenure.release()
            await self._consumer.hand_over(dispatched)

    def _lacks(self, dispatched: Dispatched) -> bool:
        return bool(self._bundles) and dispatched.bundle_digest not in self._bundles

    async def _answer(self, dispatched: Dispatched, tenure: Tenure) -> None:
        shared, log, turn = self._shared, self._shared.log, dispatched.turn
        if self._lacks(dispatched):
            await log.refuse_bundle(self._consumer, dispatched, tenure)
            return
        pen, entries = await log.pen(tenure, Stream.ANSWER)
        self._keeper.keep(tenure, dispatched, [pen])
        if tenure.epoch > 1:
            shared.journal.info("a turn was taken over", owner=tenure.owner, sequence=pen.cursor.seq)
        async with log.following.follow(turn, Stream.QUERY) as query:
            first = await query.next(log.link.settings.call_timeout)
            if first is None:
                return
            record: QueryRecord = first.record(Stream.QUERY)
            history = await log.sessions.known(turn, record.spec.history_digest)
            written = [entry.record(Stream.ANSWER) for entry in entries]
            run = Run(shared, tenure, record.spec, history, query, pen, written)
            task = asyncio.current_task()
            if task in self._turns:
                self._turns[task] = run
                self._changed.set()
            await run.answer()

    async def _leave(self, dispatched: Dispatched, turn: TurnRef) -> None:
        """The turn is over, or another's: the entry has done its work if it is over."""
        with suppress(AqaaError):
            raw = await self._shared.log.link.command("HGET", turn.state, "phase")
            if raw is None or raw in (b"completed", b"cancelled", b"failed"):
                await self._consumer.done(dispatched)

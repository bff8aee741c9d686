"""One turn in the hands of a front: its question, its answer, and what becomes of it when a call breaks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from aqaa.errors import AqaaError, Cancelled, CapacityError, Deadline, NotFound, Superseded
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import bind
from aqaa.telemetry.tracing import SpanName
from aqaa.turnlog import Appender, Follower, Keeper, Phase, Role, Tenure, TurnRef
from aqaa.v1.orchestrator_pb2 import QuestionCommitted, TurnEvent, TurnOpened
from aqaa.v1.tokens_pb2 import EndReason
from aqaa.v1.turnlog_pb2 import TurnSpec
from services.orchestrator.failures import error_of, terminal_of
from services.orchestrator.front.question import Question
from services.orchestrator.front.telling import Telling, is_resumable
from services.orchestrator.session import Book, add_tokens
from services.orchestrator.shared import Shared
from services.orchestrator.tasks import beside


@dataclass(frozen=True, eq=False)
class Desk:
    """What the turns of one front share. ``keeper`` renews their leases and their places."""

    shared: Shared
    book: Book
    keeper: Keeper


class FrontTurn:
    """A turn that this front owns.

    question  what is still to be asked, and its pen; None when the question is in the log already
    groups    of a question that is in the log
    """

    def __init__(
        self,
        desk: Desk,
        turn: TurnRef,
        caller: str,
        spec: TurnSpec,
        tenure: Tenure,
        follower: Follower,
        telling: Telling,
        *,
        question: Question | None = None,
        query: Appender | None = None,
        groups: int | None = None,
    ) -> None:
        self._desk = desk
        self._shared = desk.shared
        self.turn = turn
        self.caller = caller
        self.telling = telling
        self._spec = spec
        self._tenure = tenure
        self._follower = follower
        self._question = question
        self._query = query
        self._groups = groups
        self._begun = False
        self._left = False
        self.committed = question is None
        self.over = False
        """Its manifest, or its error, was sent."""
        self.resumable = False
        """Its call has failed, and another one may go on with it."""

    @property
    def idle(self) -> bool:
        """Whether only its caller is waited for: it takes nothing, or is gone."""
        return self._left or self.telling.unheard >= self._shared.log.link.settings.heartbeat

    async def run(self, sample_rate_hz: int) -> None:
        """Tells the turn from its first event to its manifest. Raises what it failed with.

        A turn whose call breaks (this is cancelled) waits for its caller and is cancelled then.
        """
        spec, shared = self._spec, self._shared
        self._begun = True
        bind(session_id=self.turn.session, turn_id=self.turn.turn_id)
        async with self._held():
            try:
                opened = TurnOpened(
                    session_id=spec.session_id,
                    sample_rate_hz=sample_rate_hz,
                    bundle_digest=spec.bundle_digest,
                    seed=spec.seed,
                )
                await self.telling.send(TurnEvent(turn_id=spec.turn_id, opened=opened))
                ids = {"session_id": self.turn.session, "turn_id": self.turn.turn_id}
                with shared.tracing.span(SpanName.TURN, traceparent=spec.traceparent or None, **ids):
                    reason = await self._told()
                await self._remember(all_heard=True)
                manifest = self.telling.sound.manifest(self.telling.answer, reason)
                await add_tokens(manifest, shared.log, self.turn, spec)
                self.over = True
                await self.telling.send(TurnEvent(turn_id=spec.turn_id, manifest=manifest))
                self._count(EndReason.Name(reason).removeprefix("END_REASON_"))
                await self.give_back()
            except asyncio.CancelledError:
                self._broken()
                raise
            except Exception as error:
                self.over = True
                # in a task of its own: a call that breaks just now must not break this off
                await asyncio.shield(shared.background.once("end", self._failed(error)))
                raise

    def leave(self) -> None:
        """The call is over. It may have ended before the turn was run at all."""
        if not self._begun:
            self._shared.log.following.leave(self._follower)
            self._broken()

    async def _told(self) -> "EndReason.ValueType":
        telling = self.telling
        try:
            async with beside(telling.watch(), telling.lost(), self._dispatch()):
                await self._ask()
                async with beside(telling.pace()):
                    return await telling.tell()
        except (Cancelled, Superseded):
            if telling.silenced:
                return EndReason.END_REASON_CANCELLED
            state = await self._shared.log.state(self.turn, self.caller)
            if state.phase is Phase.FAILED and state.terminal is not None:
                raise error_of(state.terminal) from None
            if state.phase is not Phase.CANCELLED:
                raise
            await self._follower.seen(lambda state: state.phase.terminal, self._log_seconds)
            return EndReason.END_REASON_CANCELLED

    async def _ask(self) -> None:
        """Brings the question into the log, unless it is there."""
        if self._question is not None and self._query is not None:
            with self._shared.tracing.span(SpanName.QUESTION):
                self._groups = await self._question.into(self._query, self._spec.bundle_digest)
        committed = QuestionCommitted(groups=self._groups or 0)
        await self.telling.send(TurnEvent(turn_id=self._spec.turn_id, question_committed=committed))
        if not self.committed:
            self.committed = True
            if self.telling.asked_at is not None:
                seconds = self._shared.clock.now() - self.telling.asked_at
                self._shared.metrics[catalogue.TURN_COMMIT_SECONDS].observe(seconds)
            with suppress(Superseded):  # behind the turn's end
                await self._shared.log.control(self._tenure, commit=self._groups)
        seconds = self._shared.settings.dispatch_seconds
        try:
            await self._follower.seen(lambda state: state.phase is not Phase.OPEN, seconds)
        except Deadline:
            raise CapacityError(f"no runner has taken the turn within {seconds:g} s, try again") from None

    async def _dispatch(self) -> None:
        settings = self._shared.settings
        state = self._follower.state
        if state is None or state.phase is Phase.OPEN:
            await self._shared.log.dispatch(
                self.turn, self._spec.bundle_digest, self._follower, settings.turn_seconds
            )
        await self._shared.log.keep_dispatched(self.turn, self._spec.bundle_digest, self._follower)

    # -- its end --

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[None]:
        gauge = self._shared.metrics[catalogue.TURNS_LIVE].labels(role=Role.FRONT)
        async with AsyncExitStack() as stack:
            stack.enter_context(gauge.track_inprogress())
            stack.callback(self._shared.log.following.leave, self._follower)
            yield

    def _broken(self) -> None:
        """The call is gone, its caller perhaps not."""
        self._shared.metrics[catalogue.TURN_MANIFESTS_MISSING].inc()
        self._shared.background.once("linger", self._linger(self.telling.played))

    async def _failed(self, error: Exception) -> None:
        shared = self._shared
        reason = error.reason if isinstance(error, AqaaError) else AqaaError.reason
        if isinstance(error, Superseded):
            self._drop()
            return
        mendable = self.committed or bool(self._spec.request_id)
        if isinstance(error, AqaaError) and is_resumable(error) and mendable and not await self._has_ended():
            self.resumable = self.committed
            shared.background.once("linger", self._linger(self.telling.played))
            return
        self._count(reason)
        with suppress(AqaaError):  # what cannot be written now, the log's own time ends
            await shared.log.finish(self._tenure, terminal_of(error))
            with suppress(Deadline):
                await self._follower.seen(lambda state: state.phase.terminal, self._log_seconds)
            await self._remember()
        await self.give_back()

    async def _linger(self, played: int) -> None:
        """Waits for another front to take the turn over; else ends it."""
        shared, tenure = self._shared, self._tenure
        self._left = True
        with suppress(TimeoutError):
            async with asyncio.timeout(shared.settings.resume_seconds):
                await tenure.lost.wait()
        if tenure.error is not None and not await self._has_ended():
            self._drop()  # another front has it, or may take it
            return
        with suppress(AqaaError):
            _, terminal = await shared.log.cancel(self.turn, self.caller, played_samples=played)
            await self._desk.book.settle(self.turn, self.caller)
            self._count(EndReason.Name(terminal.reason).removeprefix("END_REASON_"))
        await self.give_back()

    async def _has_ended(self) -> bool:
        """Whether nobody can go on with the turn any more, as far as the log can say."""
        try:
            state = await self._shared.log.state(self.turn, self.caller)
        except NotFound:
            return True
        except AqaaError:
            return False
        return state.phase in (Phase.CANCELLED, Phase.FAILED)

    async def give_back(self) -> None:
        """Holds the turn no more."""
        self._drop()
        with suppress(AqaaError):
            await self._shared.log.capacity.leave(self.turn)
            await self._tenure.release()

    def _drop(self) -> None:
        self._desk.keeper.drop(self._tenure)

    async def remember(self) -> None:
        """Keeps how the turn stands, for the history of the next one."""
        await self._remember(all_heard=self.over)

    async def _remember(self, *, all_heard: bool = False) -> None:
        await self._desk.book.remember(self.turn, self.caller, self.telling.summary(all_heard=all_heard))

    def _count(self, reason: str) -> None:
        self._shared.metrics[catalogue.TURNS].labels(reason=reason).inc()
        self._shared.journal.info("a turn has ended", reason=reason, samples=self.telling.sound.place.sample)

    @property
    def _log_seconds(self) -> float:
        return self._shared.log.link.settings.call_timeout

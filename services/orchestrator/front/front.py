"""The front: lets turns in, gives them back to callers who lost them, ends them."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from aqaa.errors import (
    AqaaError,
    BundleChanged,
    Draining,
    Forbidden,
    InvalidRequest,
    NotFound,
    StateError,
)
from aqaa.rpc.caller import Caller
from aqaa.telemetry import catalogue
from aqaa.telemetry.tracing import traceparent_of
from aqaa.turnlog import (
    Appender,
    Entry,
    Opened,
    Phase,
    Session,
    Stream,
    Tenure,
    TurnRef,
    TurnState,
    history_digest,
    read_all,
)
from aqaa.v1.orchestrator_pb2 import (
    AskRequest,
    ReplayRequest,
    ResumeRequest,
    TurnEvent,
    TurnOpened,
    TurnOptions,
)
from aqaa.v1.tokens_pb2 import EndReason, StartMode, Task
from aqaa.v1.turnlog_pb2 import QueryRecord, TurnSpec
from services.orchestrator import doors
from services.orchestrator.failures import error_of
from services.orchestrator.front.question import Question
from services.orchestrator.front.replay import replay
from services.orchestrator.front.telling import Send, Telling
from services.orchestrator.front.turn import Desk, FrontTurn
from services.orchestrator.session import Book, add_tokens, answer_from_log, deliveries
from services.orchestrator.shared import Shared
from services.orchestrator.sound import Sound, delivered
from services.orchestrator.stages import Facts


@dataclass(frozen=True)
class Asked:
    """A question as its caller begins it. ``ends``: when it waits no longer, by the clock, if it said so."""

    caller: Caller
    session_id: str
    request_id: str
    options: TurnOptions
    ends: float | None = None


class Front:
    """Everything that callers can do, but for how it is said in gRPC."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.book = Book(shared.log)
        self.desk = Desk(shared, self.book, shared.log.keeper())
        self.draining = asyncio.Event()
        self._admitted = asyncio.Event()
        shared.background.forever("front keeper", self.desk.keeper.run)

    # -- questions --

    async def ask(self, caller: Caller, request: AskRequest, seconds: float | None, send: Send) -> None:
        """One question, whole, told to its manifest. Raises what it failed with."""
        shared = self.shared
        audio_format = doors.check_format(request.format)
        pcm = doors.check_pcm(request.pcm, audio_format, at_most=doors.MAX_QUESTION_BYTES, field="pcm")
        options = doors.check_options(request.options)
        request_id = doors.check_request_id(request.request_id)
        ends = None if seconds is None else shared.clock.now() + seconds
        asked = Asked(caller, request.session_id, request_id, options, ends)
        question = Question(shared, audio_format, ends)
        question.add(pcm)
        question.commit(len(pcm))
        told = await self.open(asked, await self.turn_of(asked), question, send)
        if told is not None:
            told.telling.asked_at = shared.clock.now()
            await told.run(shared.stages.facts.sample_rate_hz)

    async def turn_of(self, asked: Asked, fresh: TurnRef | None = None) -> TurnRef:
        """The turn that a question is for: a new one, or that of a repeated request. Raises NotFound …"""
        if self.draining.is_set():
            raise Draining("this replica is shutting down, ask again: another will answer")
        log, caller, tenant = self.shared.log, str(asked.caller), asked.caller.tenant
        if asked.session_id:
            await log.sessions.get(log.session(tenant, asked.session_id), caller)
        turn = fresh or log.new_turn(tenant, asked.session_id)
        if asked.request_id:
            turn = await log.sessions.attach(caller, asked.request_id, turn)
            if asked.session_id and turn.session != asked.session_id:
                raise InvalidRequest(f"request_id has opened a turn of session {turn.session} before")
        return turn

    async def open(self, asked: Asked, turn: TurnRef, question: Question, send: Send) -> FrontTurn | None:
        """The turn of a question whose first sound is accepted, as ``turn_of`` named it.

        None if it has ended before, and its end was told. Raises CapacityError, Unavailable …
        """
        shared, caller = self.shared, str(asked.caller)
        facts = shared.stages.facts
        if asked.request_id:
            try:
                await shared.log.state(turn, caller)
                return await self._again(turn, caller, question, send, ends=asked.ends)
            except NotFound:
                pass  # it is new, or was given up before it was opened
        try:
            await shared.log.capacity.admit(turn)
            self._admitted.set()
        except AqaaError as error:
            shared.metrics[catalogue.TURNS_REFUSED].labels(reason=error.reason).inc()
            raise
        try:
            return await self._opened(asked, turn, facts, question, send)
        except BaseException:
            await shared.log.capacity.leave(turn)
            raise

    async def _opened(
        self, asked: Asked, turn: TurnRef, facts: Facts, question: Question, send: Send
    ) -> FrontTurn | None:
        shared, caller, options = self.shared, str(asked.caller), asked.options
        history = await self.book.history(turn, caller)
        deadline = 0
        if asked.ends is not None:
            left = asked.ends - shared.clock.now()
            deadline = await shared.log.link.now_ms() + round(left * 1000)
        spec = TurnSpec(
            session_id=turn.session,
            turn_id=turn.turn_id,
            caller=caller,
            bundle_digest=facts.bundle_digest,
            seed=options.seed if options.HasField("seed") else int(shared.log.nonce(), 16),
            task=Task.TASK_ANSWER,
            start_mode=options.start_mode or StartMode.START_MODE_SPEECH,
            sampling=options.sampling,
            transcript=not options.omit_transcript,
            chunk_groups=facts.chunk_groups,
            with_tokens=options.with_tokens,
            history_digest=history_digest(history),
            deadline_unix_ms=deadline,
            traceparent=traceparent_of() or "",
            request_id=asked.request_id,
        )
        opened = await shared.log.open(turn, caller, spec, history)
        if not isinstance(opened, Opened):  # the same request came twice at once
            return await self._again(turn, caller, question, send, ends=asked.ends)
        if asked.request_id:
            await shared.log.sessions.remember_request(caller, asked.request_id, turn)
        delivery = Appender(opened.tenure, Stream.DELIVERY)
        return self._turn(
            turn, spec, opened.tenure, Sound(facts.sample_rate_hz), delivery, send,
            question=question, query=opened.query, ends=asked.ends,
        )  # fmt: skip

    # -- turns that exist --

    async def resume(self, caller: Caller, request: ResumeRequest, send: Send) -> None:
        """Goes on with a turn behind what its caller has. Raises NotFound, StateError, InvalidRequest …"""
        outcomes = self.shared.metrics[catalogue.TURN_RESUMES]
        try:
            turn = self.shared.log.session(caller.tenant, request.session_id).turn(request.turn_id)
            received = doors.text_received(request.text)
            await self.shared.log.state(turn, str(caller))
            place = (request.last_sequence, request.next_sample)
            found = await self._again(turn, str(caller), None, send, received, *place)
        except AqaaError as error:
            outcomes.labels(outcome=error.reason).inc()
            raise
        outcomes.labels(outcome="OK").inc()
        if found is not None:
            await found.run(self.shared.stages.facts.sample_rate_hz)

    async def _again(
        self,
        turn: TurnRef,
        caller: str,
        question: Question | None,
        send: Send,
        received: Mapping[int, int] | None = None,
        last_sequence: int = 0,
        next_sample: int = 0,
        ends: float | None = None,
    ) -> FrontTurn | None:
        """A turn that was opened before, taken from whichever front has it.

        ends: when who asks again waits no longer. Who resumes may come back, so its call bounds nothing.
        """
        shared = self.shared
        state = await shared.log.state(turn, caller)
        spec, entries = await self._query(turn)
        if state.phase in (Phase.CANCELLED, Phase.FAILED):
            await self._tell_end(turn, spec, state, send)
            return None
        self._check_bundle(spec)
        last: QueryRecord = entries[-1].record(Stream.QUERY)
        whole = last.HasField("end")
        if not whole and question is None:
            raise StateError(
                f"the question of turn {turn.turn_id} is not complete: repeat it with its request_id"
            )
        rate, place = shared.stages.facts.sample_rate_hz, (last_sequence, next_sample)
        Sound.resumed(
            rate, await deliveries(shared.log, turn), *place
        )  # refused before anything is taken over
        tenure = await shared.log.resume(turn, caller)
        delivery, written = await shared.log.pen(tenure, Stream.DELIVERY)
        records = {entry.seq: entry.record(Stream.DELIVERY) for entry in written}
        sound = Sound.resumed(rate, records, *place)
        return self._turn(
            turn, spec, tenure, sound, delivery, send,
            question=None if whole else question,
            query=None if whole else Appender(tenure, Stream.QUERY, entries[:1]),
            groups=last.end.groups if whole else None,
            state_before=state, received=received, last_sequence=last_sequence, next_sample=next_sample,
            ends=ends,
        )  # fmt: skip

    def _turn(
        self,
        turn: TurnRef,
        spec: TurnSpec,
        tenure: Tenure,
        sound: Sound,
        delivery: Appender,
        send: Send,
        *,
        question: Question | None = None,
        query: Appender | None = None,
        groups: int | None = None,
        state_before: TurnState | None = None,
        received: Mapping[int, int] | None = None,
        last_sequence: int = 0,
        next_sample: int = 0,
        ends: float | None = None,
    ) -> FrontTurn:
        follower = self.shared.log.following.follow(turn, Stream.ANSWER)
        pens = [delivery] if query is None else [delivery, query]
        telling = Telling(
            self.shared, spec, tenure, follower, sound, delivery, send, state_before=state_before,
            received=received, last_sequence=last_sequence, next_sample=next_sample, ends=ends,
        )  # fmt: skip
        made = FrontTurn(
            self.desk, turn, spec.caller, spec, tenure, follower, telling,
            question=question, query=query, groups=groups,
        )  # fmt: skip
        self.desk.keeper.keep(tenure, pens=pens, idle=lambda: made.idle)
        return made

    async def _tell_end(self, turn: TurnRef, spec: TurnSpec, state: TurnState, send: Send) -> None:
        """A turn that was cancelled has its manifest; one that failed has its error."""
        assert state.terminal is not None
        if state.phase is Phase.FAILED:
            raise error_of(state.terminal)
        await send(TurnEvent(turn_id=turn.turn_id, opened=self._opening(spec)))
        answer = await answer_from_log(self.shared.log, turn)
        sound = delivered(self.shared.stages.facts.sample_rate_hz, await deliveries(self.shared.log, turn))
        manifest = sound.manifest(answer, EndReason.END_REASON_CANCELLED)
        await add_tokens(manifest, self.shared.log, turn, spec)
        await send(TurnEvent(turn_id=turn.turn_id, manifest=manifest))

    def _opening(self, spec: TurnSpec) -> TurnOpened:
        return TurnOpened(
            session_id=spec.session_id,
            sample_rate_hz=self.shared.stages.facts.sample_rate_hz,
            bundle_digest=spec.bundle_digest,
            seed=spec.seed,
        )

    async def _query(self, turn: TurnRef) -> tuple[TurnSpec, list[Entry]]:
        entries = await read_all(self.shared.log.link, turn, Stream.QUERY)
        if not entries:
            raise NotFound(f"there is no turn {turn.turn_id} in session {turn.session}")
        spec: TurnSpec = entries[0].record(Stream.QUERY).spec
        return spec, entries

    def _check_bundle(self, spec: TurnSpec) -> None:
        held = self.shared.stages.facts.bundle_digest
        if spec.bundle_digest != held:
            raise BundleChanged(
                f"turn {spec.turn_id} began with bundle {spec.bundle_digest}, this deployment holds {held}"
            )

    # -- the rest --

    async def cancel(
        self, caller: Caller, session_id: str, turn_id: str, played_samples: int | None
    ) -> "EndReason.ValueType":
        """Ends a turn; how it ended. Raises NotFound, InvalidRequest."""
        turn = self.shared.log.session(caller.tenant, session_id).turn(turn_id)
        log = self.shared.log
        _, terminal = await log.cancel(turn, str(caller), played_samples=played_samples)
        await log.capacity.leave(turn)
        if played_samples is not None:  # else the front that tells it knows better
            await self.book.settle(turn, str(caller))
        return terminal.reason

    async def session(self, caller: Caller, session_id: str) -> Session:
        """Raises NotFound, InvalidRequest."""
        return await self.book.session(caller.tenant, session_id, str(caller))

    async def replay(self, caller: Caller, request: ReplayRequest, send: Send) -> None:
        """The sound of an ended turn. Raises Forbidden where it is off, NotFound, StateError."""
        turn = self.shared.log.session(caller.tenant, request.session_id).turn(request.turn_id)
        if not self.shared.settings.replay:
            raise Forbidden("this deployment does not replay turns")
        state = await self.shared.log.state(turn, str(caller))
        if not state.phase.terminal or state.phase is Phase.FAILED or state.terminal is None:
            raise StateError(
                f"turn {turn.turn_id} is {state.phase}: only one that has been answered is replayed"
            )
        spec, _ = await self._query(turn)
        self._check_bundle(spec)
        await send(TurnEvent(turn_id=turn.turn_id, opened=self._opening(spec)))
        await replay(self.shared, turn, spec, state.terminal.reason, send)

    async def watch_room(self, say: Callable[[bool], None]) -> None:
        """Says again and again whether the next turn would be let in; at once when one was let in here."""
        log, seconds = self.shared.log, self.shared.settings.capacity_seconds
        while True:
            self._admitted.clear()
            try:
                slots, live = await log.capacity.known_slots(), await log.capacity.live()
                say(live < slots)
            except AqaaError:
                say(False)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._admitted.wait()

    async def drain(self) -> None:
        """Lets nothing new in; what waits for a caller is for other fronts."""
        self.draining.set()

    async def hand_over(self) -> None:
        """Gives every turn back that is still held."""
        await self.shared.hand_over(self.desk.keeper)

"""One turn in the hands of a runner: its question to the backbone as it is spoken, its answer to the log."""

import asyncio
from contextlib import suppress

from aqaa.errors import (
    AqaaError,
    Cancelled,
    CapacityError,
    Deadline,
    Stalled,
    Superseded,
    Unavailable,
)
from aqaa.telemetry.log import traceback_of
from aqaa.telemetry.tracing import SpanName, failed
from aqaa.turnlog import Appender, Follower, Stream, Tenure, TurnRef, TurnState
from aqaa.v1.backbone_pb2 import (
    Advance,
    CommitPrompt,
    OpenPrompt,
    StreamGenerateRequest,
    StreamGenerateResponse,
)
from aqaa.v1.tokens_pb2 import AnswerPiece, AudioGroups, EndReason
from aqaa.v1.turnlog_pb2 import AnswerRecord, History, QueryRecord, TerminalState, TurnSpec
from services.orchestrator import groups as groups_of
from services.orchestrator.failures import terminal_of
from services.orchestrator.gathering import Gathering
from services.orchestrator.shared import Shared
from services.orchestrator.stages import LLM, Attempts, StageCall
from services.orchestrator.tasks import beside

Call = StageCall[StreamGenerateRequest, StreamGenerateResponse]


class Run:
    """Answers one turn. What was written of it before, by whomever, is gone on with.

    run = Run(shared, tenure, spec, history, query, pen, written)
    await run.answer()        # returns when its terminal state is written
    """

    def __init__(
        self,
        shared: Shared,
        tenure: Tenure,
        spec: TurnSpec,
        history: History,
        query: Follower,
        pen: Appender,
        written: list[AnswerRecord],
    ) -> None:
        self._shared = shared
        self._tenure = tenure
        self._spec = spec
        self._history = history
        self._query = query
        self._pen = pen
        self._pieces = [record.piece for record in written if record.HasField("piece")]
        self._transcribed = any(record.HasField("transcript") for record in written)
        self._groups = sum(groups_of.count(piece.groups) for piece in self._pieces)
        self._question: list[AudioGroups] = []
        self._asked: int | None = None  # groups of the question, once it is whole
        self._news = asyncio.Event()
        self._ends: float | None = None  # the turn's time, by the clock
        facts = shared.stages.known
        self._gathering = Gathering(
            spec.chunk_groups,
            facts.context_groups if facts is not None else None,
            shared.settings.text_interval_seconds,
        )
        self.opened = asyncio.Event()
        """The backbone has given it a slot."""

    @property
    def turn(self) -> TurnRef:
        return self._tenure.turn

    @property
    def caller(self) -> str:
        return self._spec.caller

    async def answer(self) -> None:
        """Raises Superseded or Cancelled when the turn is not this runner's, Unavailable without a log.

        Raises CapacityError when the llm has no slot for it: then it is another runner's.
        """
        shared = self._shared
        ids = {"session_id": self.turn.session, "turn_id": self.turn.turn_id}
        with shared.tracing.span(SpanName.RUN, traceparent=self._spec.traceparent or None, **ids) as span:
            try:
                seconds = await self._seconds()
                self._ends = shared.clock.now() + seconds
                async with (
                    asyncio.timeout(seconds),
                    beside(self._lost(), self._follow()),
                ):
                    await self._generate()
                    await self._pen.settle()  # an append that broke with its call may be on its way
                end = self._pieces[-1].end.reason
                terminal = TerminalState(reason=end or EndReason.END_REASON_STOP)
            except TimeoutError:
                failed(span, Deadline.__name__)
                terminal = terminal_of(Deadline("the turn's time ran out", stage="turn"))
            except AqaaError as error:
                self._tenure.check()
                if isinstance(error, Cancelled | Superseded) or error.metadata.get("stage") == "turnlog":
                    raise
                if isinstance(error, CapacityError) and not self._let_in:
                    raise
                where = traceback_of(error, messages=False)
                stage = error.metadata.get("stage", "")
                shared.journal.warning("a turn has failed", reason=error.reason, stage=stage, traceback=where)
                failed(span, type(error).__name__)
                terminal = terminal_of(error)
            await shared.log.finish(self._tenure, terminal)

    async def _seconds(self) -> float:
        """Until the turn's time is over, whoever has had it before."""
        now, state = await self._shared.log.link.now_ms(), self._query.state
        began = now if state is None or state.opened is None else state.opened
        ends = began + round(self._shared.settings.turn_seconds * 1000)
        return max(0, min(ends, self._spec.deadline_unix_ms or ends) - now) / 1000

    # -- the question --

    async def _lost(self) -> None:
        await self._tenure.lost.wait()
        self._tenure.check()

    async def _follow(self) -> None:
        """Gathers the question, then watches the turn's state; raises Cancelled when it is over."""
        settings = self._shared.settings
        while self._asked is None:
            try:
                entry = await self._query.next(settings.question_idle_seconds)
            except Deadline:
                raise Deadline(
                    f"nothing of the question has come for {settings.question_idle_seconds:g} s",
                    stage="question",
                ) from None
            if entry is None:
                break
            record: QueryRecord = entry.record(Stream.QUERY)
            match record.WhichOneof("record"):
                case "groups":
                    self._question.append(record.groups)
                case "end":
                    self._asked = record.end.groups
            self._news.set()
        while True:
            with suppress(Deadline):
                if self._over(await self._query.seen(self._is_news, settings.turn_seconds)):
                    raise Cancelled(f"turn {self._spec.turn_id} is over")
                self._frontier = self._told()
                self._news.set()

    def _is_news(self, state: TurnState) -> bool:
        return self._over(state) or (state.frontier or 0) > self._frontier

    _frontier = 0

    @staticmethod
    def _over(state: TurnState) -> bool:
        return state.phase.terminal

    def _told(self) -> int:
        state = self._query.state
        return state.frontier or 0 if state is not None else 0

    async def _more(self) -> None:
        self._news.clear()
        await self._news.wait()

    # -- the answer --

    @property
    def _until_group(self) -> int:
        return max(self._shared.lookahead_groups, self._frontier)

    @property
    def _ended(self) -> bool:
        return bool(self._pieces) and self._pieces[-1].HasField("end")

    async def _generate(self) -> None:
        """Until the answer's end is in the log. Raises what the llm raises, again and again."""
        attempts = Attempts(self._shared.settings, self._shared.clock, LLM)
        while not self._ended:
            before = len(self._pieces)
            try:
                await self._attempt()
            except AqaaError as error:
                if self._ended:  # only the transcript is missing
                    break
                if isinstance(error, CapacityError) and not self._let_in:
                    raise
                await attempts.again(error, progress=len(self._pieces) > before)
                while isinstance(error, Stalled) and self._groups >= self._until_group:
                    await self._more()  # its slot was needed while the caller did not listen

    async def _attempt(self) -> None:
        stages = self._shared.stages
        waiting, self._let_in = not self._let_in, False
        async with (
            stages.calling(stages.llm.StreamGenerate, LLM, self._ends) as call,
            beside(self._prompt(call, waiting)),
        ):
            await self._write(call)

    async def _prompt(self, call: Call, waiting: bool) -> None:
        """waiting: for a slot before it says more: what is written just then may cost a refusal its why."""
        opening = OpenPrompt(
            bundle_digest=self._spec.bundle_digest, history=self._history.messages, seed=self._spec.seed
        )
        await call.send(StreamGenerateRequest(open=opening))
        while waiting and not self._let_in:
            await self._more()
        sent = 0
        while self._asked is None or sent < len(self._question):
            if sent == len(self._question):
                await self._more()
                continue
            await call.send(StreamGenerateRequest(prompt=self._question[sent]))
            sent += 1
        until = self._until_group
        commit = CommitPrompt(
            task=self._spec.task,
            start_mode=self._spec.start_mode,
            sampling=self._spec.sampling,
            prompt_groups=self._asked,
            transcript=self._spec.transcript and not self._transcribed,
            answered=self._pieces,
            until_group=until,
        )
        await call.send(StreamGenerateRequest(commit=commit))
        self._told_until = until
        while True:
            self._settle(call)
            if self._until_group > until:
                until = self._until_group
                await call.send(StreamGenerateRequest(advance=Advance(until_group=until)))
                self._told_until = until
            else:
                await self._more()

    _let_in = True
    """Whether the last attempt, if there was one, has got a slot."""

    _told_until: int | None = None
    """Up to where the llm was told to write; None before the commit."""

    def _settle(self, call: Call) -> None:
        call.owes(self._told_until is not None and (self._ended or self._heard < self._told_until))

    @property
    def _heard(self) -> int:
        """Groups that the llm has written, be they in the log or not."""
        return self._groups + self._gathering.waiting

    async def _write(self, call: Call) -> None:
        """Appends what comes."""
        clock = self._shared.clock
        self._told_until = None
        self._gathering.begin(self._pieces)
        while True:
            due = self._gathering.due
            within = None if due is None else max(0.0, due - clock.now())
            try:
                response = await call.receive(within)
            except TimeoutError:
                await self._flush()
                continue
            if response is None:
                break
            match response.WhichOneof("event"):
                case "opened":
                    self._let_in = True
                    self._news.set()
                    self.opened.set()
                case "piece":
                    await self._piece(response.piece)
                    self._settle(call)
                case "transcript" if not self._transcribed:
                    await self._flush()
                    self._transcribed = True
                    await self._pen.append(AnswerRecord(transcript=response.transcript))
        await self._flush()
        if not self._ended:
            raise Unavailable("the llm left the answer without its end", stage=LLM)

    async def _piece(self, piece: AnswerPiece) -> None:
        for whole in self._gathering.add(piece, self._shared.clock.now()):
            await self._append(whole)
        if self._told_until is not None and self._heard >= self._told_until:
            await self._flush()  # nothing more will come until this is heard

    async def _flush(self) -> None:
        for whole in self._gathering.flush(self._shared.clock.now()):
            await self._append(whole)

    async def _append(self, piece: AnswerPiece) -> None:
        self._groups += groups_of.count(piece.groups)
        self._pieces.append(piece)  # a call that breaks meanwhile does not take it back
        await self._pen.append(AnswerRecord(piece=piece))

"""One call: its prompt as it grows, its answer as it is written, and the transcript beside it."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum, auto

from opentelemetry.trace import Span

from aqaa.errors import Stalled
from aqaa.telemetry import catalogue
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import SpanName, Tracing
from aqaa.tokens.grammar import FinishReason
from aqaa.v1 import backbone_pb2, tokens_pb2
from services.llm.engines import (
    Decoding,
    Engine,
    Failed,
    Finished,
    Generation,
    Happening,
    Placed,
    Written,
)
from services.llm.faults import fault
from services.llm.pieces import PieceWriter
from services.llm.requests import Door, Opening

Request = backbone_pb2.StreamGenerateRequest
Response = backbone_pb2.StreamGenerateResponse


@dataclass(frozen=True)
class Patience:
    """Seconds that a call may keep its place without using it.

    ``stall``: at the frontier without an advance, or with a piece that its consumer does not take.
    ``prompt``: without a message before the commit.
    """

    stall: float = 30.0
    prompt: float = 60.0


class _HalfClosed(Enum):
    """The caller will say nothing more, and has not committed."""

    EARLY = auto()


@dataclass(frozen=True)
class _Heard:
    """What happened to the transcript."""

    happening: Happening


_News = Happening | _Heard | _HalfClosed | Exception


class Answering:
    """Serves one call and is thrown away.

        async with aclosing(Answering(door, engine, ...).serve(requests)) as responses:
            async for response in responses: ...

    Whatever comes (requests, tokens, time running out) goes through one inbox and is handled in the order in
    which it came. Leaving ``serve`` by any way takes back what still runs.
    """

    def __init__(
        self, door: Door, engine: Engine, patience: Patience, metrics: Metrics, tracing: Tracing
    ) -> None:
        self._door, self._language, self._engine = door, door.language, engine
        self._patience, self._metrics, self._phases = patience, metrics, _Phases(tracing)
        self._inbox: deque[_News] = deque()
        self._arrived = asyncio.Event()
        self._opening: Opening | None = None
        self._generation: Generation | None = None
        self._transcribing: Generation | None = None
        self._prompt: list[int] = []
        self._groups = 0
        self._writer: PieceWriter | None = None
        self._frontier = 0
        self._transcript_ids: list[int] = []
        self._transcript: str | None = None
        self._end: FinishReason | None = None
        self._fault: Exception | None = None
        self._asking, self._held, self._taking = (_Wait(self._stall) for _ in range(3))

    async def serve(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Response, None]:
        """Reads requests while it answers.

        Raises:
            AqaaError: as the contract says for each fault; Stalled after ``patience``.
        """
        reading = asyncio.create_task(self._read(requests))
        try:
            async with aclosing(self._respond()) as responses:
                async for response in responses:
                    self._taking.begin(self._patience.stall, "the consumer has taken nothing")
                    yield response
                    self._taking.end()
        finally:
            for wait in (self._asking, self._held, self._taking):
                wait.end()
            reading.cancel()
            self._take_back()
            self._phases.end()
            await asyncio.wait([reading])

    # What comes in.

    async def _read(self, requests: AsyncIterator[Request]) -> None:
        try:
            self._asking.begin(self._patience.prompt, "nothing was asked")
            async for request in requests:
                before = len(self._prompt)
                await self._take(request)
                if self._writer is None and len(self._prompt) > before:
                    self._asking.begin(self._patience.prompt, "the prompt has not grown")
            if self._writer is None:
                self._post(_HalfClosed.EARLY)
        except Exception as error:
            self._post(error)

    async def _take(self, request: Request) -> None:
        step = request.WhichOneof("step")
        if (self._opening is None) != (step == "open"):
            raise fault(step or "step", "expected open first, and once")
        if step in ("prompt", "commit") and self._writer is not None:
            raise fault(step, "the prompt is committed, expected advance alone")
        match step:
            case "open":
                await self._open(request.open)
            case "prompt":
                await self._hear(request.prompt)
            case "commit":
                await self._commit(request.commit)
            case "advance":
                await self._advance(request.advance.until_group)
            case _:
                raise fault("step", "is empty, expected prompt, commit or advance")

    async def _open(self, request: backbone_pb2.OpenPrompt) -> None:
        self._opening = self._door.opening(request)
        self._prompt = list(self._opening.ids)
        self._phases.enter(SpanName.QUEUE)
        self._generation = await self._engine.open(self._prompt, self._post)

    async def _hear(self, groups: tokens_pb2.AudioGroups) -> None:
        assert self._opening is not None
        assert self._generation is not None
        if self._opening.written is not None:
            raise fault("prompt", "the question is written (open.text), expected no sound")
        ids = self._door.groups(groups, before=self._groups, positions=len(self._prompt))
        if ids:
            self._groups += len(ids) // self._language.ratios.group_size
            self._prompt += ids
            await self._generation.append(ids)

    async def _commit(self, request: backbone_pb2.CommitPrompt) -> None:
        assert self._opening is not None
        assert self._generation is not None
        door, opening, prompts = self._door, self._opening, self._language.prompts
        task = door.task(request)
        start_mode = door.start_mode(request, task)
        door.check_prompt(request, task, groups=self._groups, written=opening.written)
        forced = door.forced(request, task)
        sampling = door.sampling(request, task, opening.seed)
        question, marker = [*self._prompt, *prompts.closing], prompts.marker(task)
        writer = PieceWriter(self._language, task, start_mode)
        if request.answered:
            given = writer.take_up(request.answered)
            door.check_forced(given, forced)
        else:
            given = tuple(forced)
            writer.give(given)
        door.check_answer_fits(task, start_mode, prompt=len(question) + len(marker), given=len(given))
        transcript = None
        if request.transcript:
            transcript = Decoding("transcript", door.defaults("transcript", opening.seed))
        self._asking.end()
        self._phases.enter(SpanName.DECODE)
        self._frontier, self._writer = request.until_group, writer
        await self._generation.append([*prompts.closing, *marker])
        await self._generation.commit(
            Decoding(task, sampling, start_mode, given, opening.written, request.until_group)
        )
        if transcript is not None:
            self._transcribing = await self._engine.open_beside(
                self._generation,
                question + prompts.marker("transcript"),
                transcript,
                lambda happening: self._post(_Heard(happening)),
            )

    async def _advance(self, until_group: int) -> None:
        if self._writer is None or self._generation is None:
            raise fault("advance", "the prompt is not committed, expected commit first")
        if until_group and (until_group < self._frontier or not self._frontier):
            before = self._frontier or "0 (no frontier)"
            raise fault("advance.until_group", f"is {until_group}, expected no less than before, {before}")
        self._frontier = until_group
        self._held.end()
        self._watch_frontier()
        await self._generation.advance(until_group)

    # What happens.

    def _post(self, news: _News) -> None:
        """For handling in turn. Tokens in a row become one: larger pieces for a consumer that is behind."""
        last = self._inbox[-1] if self._inbox else None
        if isinstance(news, Written) and isinstance(last, Written):
            self._inbox[-1] = Written(last.ids + news.ids)
        else:
            self._inbox.append(news)
        self._arrived.set()

    async def _next(self) -> _News:
        while not self._inbox:
            self._arrived.clear()
            await self._arrived.wait()
        return self._inbox.popleft()

    # What goes out.

    async def _respond(self) -> AsyncGenerator[Response, None]:
        while self._end is None or self._transcribing is not None:
            self._watch_frontier()
            news = await self._next()
            for response in self._handle(news):
                if self._fault is not None:
                    raise self._fault
                yield response
            if news is _HalfClosed.EARLY:
                return
        if self._writer is not None:
            yield Response(piece=self._writer.end(self._end))

    def _handle(self, news: _News) -> Iterator[Response]:
        match news:
            case Placed():
                if self._writer is None:
                    self._phases.enter(SpanName.PREFILL)
                yield Response(opened=backbone_pb2.PromptOpened(bundle_digest=self._language.digest))
            case Written(ids=ids):
                assert self._writer is not None
                for piece in self._writer.push(ids):
                    yield Response(piece=piece)
                yield from self._tell_transcript()
            case Finished(reason=reason):
                self._end = reason
                self._held.end()
                yield from self._tell_transcript()
            case _Heard(happening=happening):
                self._hear_transcript(happening)
                yield from self._tell_transcript()
            case Failed(error=error):
                raise error
            case Exception():
                raise news
            case _:
                pass

    def _hear_transcript(self, happening: Happening) -> None:
        if isinstance(happening, Written):
            self._transcript_ids += happening.ids
        elif isinstance(happening, Finished):
            eot = self._language.grammar.ranges.eot
            self._transcript = self._language.text.decode(i for i in self._transcript_ids if i != eot)
        elif isinstance(happening, Failed):
            raise happening.error

    def _tell_transcript(self) -> Iterator[Response]:
        """The transcript, as soon as it is whole, but behind the first sound."""
        assert self._writer is not None
        if self._transcript is not None and (self._writer.groups or self._end is not None):
            yield Response(transcript=tokens_pb2.Transcript(text=self._transcript))
            self._transcribing = self._transcript = None

    # Time, and the end.

    def _watch_frontier(self) -> None:
        """Starts the clock of an answer that waits at its frontier."""
        at_it = self._writer is not None and 0 < self._frontier <= self._writer.groups
        if at_it and self._end is None:
            self._held.begin_once(self._patience.stall, "the frontier has not been renewed")

    def _stall(self, what: str, seconds: float) -> None:
        self._fault = Stalled(f"{what} for {seconds:g} s; its place is given to others")
        self._metrics[catalogue.LLM_STALLED].inc()
        self._take_back()
        self._post(self._fault)

    def _take_back(self) -> None:
        if self._transcribing is not None:
            self._transcribing.cancel()
        if self._generation is not None:
            self._generation.cancel()


class _Wait:
    """A clock that calls ``late`` if it is not stopped in time. Begun again, it starts from the beginning."""

    def __init__(self, late: Callable[[str, float], None]) -> None:
        self._late = late
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, seconds: float, what: str) -> None:
        self.end()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._late, what, seconds)

    def begin_once(self, seconds: float, what: str) -> None:
        """Does nothing where it runs."""
        if self._timer is None:
            self.begin(seconds, what)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Phases:
    """The spans of a call, one after another."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._span: Span | None = None

    def enter(self, name: SpanName) -> None:
        self.end()
        self._span = self._tracing.tracer.start_span(name)

    def end(self) -> None:
        if self._span is not None:
            self._span.end()
            self._span = None

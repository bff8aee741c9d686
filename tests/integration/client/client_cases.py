"""A scripted orchestrator on 127.0.0.1, over real gRPC, that breaks its calls as it is told."""

import asyncio
import functools
import hashlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import google_crc32c
import grpc
import grpc.aio
import numpy as np

from aqaa.client import AsyncClient, Patience, Timing
from aqaa.errors import AqaaError, NotFound
from aqaa.rpc.channel import ChannelSettings
from aqaa.rpc.status import to_status
from aqaa.v1 import orchestrator_pb2_grpc, tokens_pb2
from aqaa.v1.audio_pb2 import AnswerAudio
from aqaa.v1.orchestrator_pb2 import (
    AnswerText,
    AskResponse,
    CancelResponse,
    ConversationOpened,
    ConverseResponse,
    GetSessionResponse,
    QuestionCommitted,
    ReplayResponse,
    ResumeResponse,
    SegmentSummary,
    TurnEvent,
    TurnFailed,
    TurnManifest,
    TurnOpened,
    TurnSummary,
)

HANG_GUARD = 30
"""Seconds until a test that hangs counts as failed. No test waits for it."""

RATE = 24000
SESSION = "s" * 26


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        async def guarded() -> None:
            await asyncio.wait_for(test(*args, **kwargs), HANG_GUARD)

        asyncio.run(guarded())

    return run


@dataclass(frozen=True)
class Script:
    """A turn: its segments' texts and the sizes of its chunks, in samples; sound drawn from ``seed``."""

    texts: tuple[tuple[str, ...], ...] = (("Hello, ", "wörld."), ("Good", "bye."))
    chunks: tuple[tuple[int, ...], ...] = ((240, 480, 960), (480, 480))
    seed: int = 1
    reason: int = tokens_pb2.END_REASON_STOP
    transcript: str = "Say hello."

    @functools.cached_property
    def pcm(self) -> np.ndarray:
        size = sum(map(sum, self.chunks))
        return np.random.default_rng(self.seed).integers(-20000, 20000, size).astype("<i2")

    @property
    def text(self) -> str:
        return "".join("".join(pieces) for pieces in self.texts)

    def turn_id(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()[:26]

    def events(self, turn_id: str = "") -> list[TurnEvent]:
        name = turn_id or self.turn_id()
        opened = TurnOpened(session_id=SESSION, sample_rate_hz=RATE, bundle_digest="b" * 64, seed=self.seed)
        events = [TurnEvent(turn_id=name, opened=opened)]
        events.append(TurnEvent(turn_id=name, question_committed=QuestionCommitted(groups=9)))
        events.append(TurnEvent(turn_id=name, transcript=tokens_pb2.Transcript(text=self.transcript)))
        sample, sequence, crc, segments = 0, 0, 0, []
        for index, (pieces, sizes) in enumerate(zip(self.texts, self.chunks, strict=True)):
            start = tokens_pb2.SegmentStart(segment=index, style="soft")
            events.append(TurnEvent(turn_id=name, segment_start=start))
            first_byte = 0
            for piece in pieces:
                text = AnswerText(segment=index, text=piece, first_byte=first_byte)
                events.append(TurnEvent(turn_id=name, text=text))
                first_byte += len(piece.encode())
            first = sample
            for size in sizes:
                raw = self.pcm[sample : sample + size].tobytes()
                sequence, crc = sequence + 1, google_crc32c.extend(crc, raw)
                chunk = AnswerAudio(sequence=sequence, segment=index, first_sample=sample, pcm=raw,
                                    crc32c=google_crc32c.value(raw), turn_crc32c=crc)  # fmt: skip
                events.append(TurnEvent(turn_id=name, audio=chunk))
                sample += size
            segments.append(SegmentSummary(segment=index, style="soft", text="".join(pieces), groups=1,
                                           first_sample=first, samples=sample - first))  # fmt: skip
        manifest = TurnManifest(reason=self.reason, chunks=sequence, samples=sample, turn_crc32c=crc,
                                segments=segments)  # fmt: skip
        return [*events, TurnEvent(turn_id=name, manifest=manifest)]

    def after(self, request) -> list[TurnEvent]:
        """What a Resume brings: opened, and all that is missing."""
        opened, *rest = self.events(request.turn_id)
        texts = {received.segment: received.bytes for received in request.text}
        kept = [opened]
        for event in rest:
            kind = event.WhichOneof("event")
            if kind == "audio" and event.audio.sequence <= request.last_sequence:
                continue
            if kind == "text":
                end = event.text.first_byte + len(event.text.text.encode())
                if end <= texts.get(event.text.segment, 0):
                    continue
            kept.append(event)
        return kept


@dataclass(frozen=True)
class Fault:
    """What befalls one call after ``after`` events of it.

    drop      ends with the gRPC code ``code``, no ErrorInfo: a connection or a proxy
    error     ends with ``error``, as the service says it
    end       ends well, and too early
    repeat    sends the last event once more and goes on
    rewind    sends everything from the beginning once more and goes on
    corrupt   flips a bit of the event's sound, if it has any
    roll      gives the event's sound another rolling checksum
    skip      leaves the event out
    hang      says nothing more
    """

    kind: str
    after: int = 0
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    error: AqaaError | None = None


async def _abort(context, error: AqaaError, retry: float | None = None) -> None:
    status = to_status(error)
    await context.abort(status.code, status.details, status.trailing_metadata)


@dataclass
class Orchestrator(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    """Answers every question with ``script``. Each call that streams meets the next of ``faults``, if any."""

    script: Script = Script()
    faults: list[Fault] = field(default_factory=list)
    calls: list[tuple[str, object]] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    replay: bool = True
    questions: dict[str, bytes] = field(default_factory=dict)
    """By request id: the question as it was committed."""
    turns: dict[str, str] = field(default_factory=dict)
    """Turn ids of conversations, by request id. The first is the script's own."""
    steps: list[str] = field(default_factory=list)
    """Of conversations, in the order in which they came."""
    played: list[int] = field(default_factory=list)
    hold: int | None = None
    """Events of an answer after which it waits for ``go``."""
    go: asyncio.Event = field(default_factory=asyncio.Event)
    called_off: set[str] = field(default_factory=set)
    """Turns that a conversation has cancelled."""
    naming: asyncio.Event = field(default_factory=asyncio.Event)
    """What the turns of conversations wait for before they are opened. Set, unless a test clears it."""
    refusals: dict[int, AqaaError] = field(default_factory=dict)
    """Of conversations, by the number of the turn, from 1: what its first sound is refused with."""

    def __post_init__(self) -> None:
        self.naming.set()

    def named(self, name: str) -> list[object]:
        """Requests of one method."""
        return [request for method, request in self.calls if method == name]

    async def Ask(self, request, context):  # noqa: N802 - gRPC's name
        self.calls.append(("Ask", request))
        self.questions.setdefault(request.request_id, request.pcm)
        async for event in self._through(self.script.events(), context):
            yield AskResponse(event=event)

    async def Resume(self, request, context):  # noqa: N802 - gRPC's name
        self.calls.append(("Resume", request))
        if request.turn_id not in (self.script.turn_id(), *self.turns.values()):
            await _abort(context, NotFound("no such turn"))
        async for event in self._through(self.script.after(request), context):
            yield ResumeResponse(event=event)

    async def Replay(self, request, context):  # noqa: N802 - gRPC's name
        self.calls.append(("Replay", request))
        async for event in self._through(self.script.events(), context):
            yield ReplayResponse(event=event)

    async def Cancel(self, request, context):  # noqa: N802 - gRPC's name
        self.calls.append(("Cancel", request))
        self.cancelled.set()
        return CancelResponse(reason=tokens_pb2.END_REASON_CANCELLED)

    async def GetSession(self, request, context):  # noqa: N802 - gRPC's name
        self.calls.append(("GetSession", request))
        if request.session_id != SESSION:
            await _abort(context, NotFound("no such session"))
        turn = TurnSummary(turn_id=self.script.turn_id(), phase=3, reason=1, answer_text="Hello",
                           heard_text="Hel", heard_estimated=True, samples=7)  # fmt: skip
        return GetSessionResponse(session_id=SESSION, turns=[turn])

    async def _through(self, events, context):
        fault = self.faults.pop(0) if self.faults else Fault("none")
        sent = []
        for number, event in enumerate(events):
            if self.hold is not None and number == self.hold:
                await self.go.wait()
            if self.cancelled.is_set():
                yield self._cut_off(event)
                return
            due = number == fault.after
            if due and fault.kind == "drop":
                await context.abort(fault.code, "Socket closed")
            if due and fault.kind == "error":
                await _abort(context, fault.error)
            if due and fault.kind == "end":
                return
            if due and fault.kind == "hang":
                await asyncio.Event().wait()
            if due and fault.kind == "skip":
                continue
            if due and event.WhichOneof("event") == "audio":
                event = _damaged(event, fault.kind)
            yield event
            sent.append(event)
            if due and fault.kind == "repeat":
                yield event
            if due and fault.kind == "rewind":
                for again in sent:
                    yield again
        if fault.kind == "error" and fault.after == len(events):
            await _abort(context, fault.error)

    def _cut_off(self, event):
        """The manifest of a turn that was cancelled before ``event``."""
        sent = [e.audio for e in self.script.events() if e.HasField("audio")]
        manifest = TurnManifest(reason=tokens_pb2.END_REASON_CANCELLED, chunks=len(sent),
                                samples=len(self.script.pcm), turn_crc32c=sent[-1].turn_crc32c)  # fmt: skip
        return TurnEvent(turn_id=event.turn_id, manifest=manifest)

    async def Converse(self, requests, context):  # noqa: N802 - gRPC's name
        self.calls.append(("Converse", None))
        events: asyncio.Queue = asyncio.Queue()
        hearing = asyncio.ensure_future(self._hear(requests, events))
        hearing.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, AqaaError):
                    await _abort(context, event)
                if isinstance(event, grpc.StatusCode):
                    await context.abort(event, "Socket closed")
                yield event
        finally:
            hearing.cancel()
        await hearing

    async def _hear(self, requests, out):
        fault = self.faults.pop(0) if self.faults else Fault("none")
        request_id, question, answering, messages = "", b"", set(), 0
        async for request in requests:
            step = request.WhichOneof("step")
            self.steps.append(step)
            messages += 1
            if fault.kind == "deaf" and messages > fault.after:  # drops while the question is spoken
                out.put_nowait(fault.code)
                await asyncio.Event().wait()
            match step:
                case "open":
                    assert request.open.session_id in ("", SESSION)
                    if fault.kind == "door":
                        out.put_nowait(fault.error)
                        await asyncio.Event().wait()
                    out.put_nowait(ConverseResponse(opened=ConversationOpened(session_id=SESSION)))
                case "turn":
                    request_id, question = request.turn.request_id, b""
                    fresh = f"{len(self.turns):026d}" if self.turns else self.script.turn_id()
                    turn_id = self.turns.setdefault(request_id, fresh)
                case "audio":
                    assert request.audio.first_byte == len(question)
                    question += request.audio.pcm
                    if request.audio.first_byte == 0 and (refusal := self._refusal(request_id)):
                        failed = TurnFailed(reason=refusal.reason, message=str(refusal))
                        out.put_nowait(ConverseResponse(turn=TurnEvent(turn_id="f" * 26, failed=failed)))
                    elif request.audio.first_byte == 0:
                        await self.naming.wait()
                        out.put_nowait(ConverseResponse(turn=self.script.events(turn_id)[0]))
                case "commit":
                    assert request.commit.bytes == len(question)
                    if self._refusal(request_id):
                        continue
                    self.questions[request_id] = question
                    answering.add(asyncio.ensure_future(self._answer(turn_id, fault, out)))
                case "played":
                    self.played.append(request.played.samples)
                case "cancel":
                    self.calls.append(("CancelTurn", request.cancel))
                    self.called_off.add(request.cancel.turn_id)
                    self.go.set()
        for task in answering:
            await task

    def _refusal(self, request_id):
        return self.refusals.get(1 + list(self.turns).index(request_id))

    async def _answer(self, turn_id, fault, out):
        for number, event in enumerate(self.script.events(turn_id)):
            if self.hold is not None and number == self.hold:
                await self.go.wait()
            if self.cancelled.is_set() or turn_id in self.called_off:
                out.put_nowait(ConverseResponse(turn=self._cut_off(event)))
                return
            due = number == fault.after
            if due and fault.kind == "drop":
                out.put_nowait(fault.code)
                return
            if due and fault.kind == "error":
                failed = TurnFailed(reason=fault.error.reason, message=str(fault.error), resumable=True)
                out.put_nowait(ConverseResponse(turn=TurnEvent(turn_id=event.turn_id, failed=failed)))
                return
            if due and fault.kind == "fatal":
                failed = TurnFailed(reason=fault.error.reason, message=str(fault.error))
                out.put_nowait(ConverseResponse(turn=TurnEvent(turn_id=event.turn_id, failed=failed)))
                return
            if due and fault.kind == "hang":
                return
            if number:  # opened has been said
                out.put_nowait(ConverseResponse(turn=event))


def _damaged(event: TurnEvent, kind: str) -> TurnEvent:
    made = TurnEvent()
    made.CopyFrom(event)
    if kind == "corrupt":
        made.audio.pcm = bytes([made.audio.pcm[0] ^ 1]) + made.audio.pcm[1:]
    if kind == "roll":
        made.audio.turn_crc32c ^= 1
    return made


@dataclass
class Waits:
    """A clock that stands still but for sleeping, which takes no time."""

    seconds: list[float] = field(default_factory=list)
    meanwhile: Callable[[], object] = lambda: None
    """What happens while somebody sleeps."""

    def timing(self) -> Timing:
        return Timing(clock=lambda: sum(self.seconds), sleep=self.sleep, chance=lambda: 1.0)

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self.meanwhile()
        await asyncio.sleep(0)


@dataclass
class Served:
    """A client of a scripted orchestrator."""

    client: AsyncClient
    orchestrator: Orchestrator
    waits: Waits
    address: str


@contextmanager
def serving_apart(*faults: Fault, **told: object) -> Iterator[tuple[Orchestrator, str]]:
    """A scripted orchestrator and its address, on a loop and thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> tuple[Orchestrator, grpc.aio.Server, int]:
        orchestrator, server = Orchestrator(faults=list(faults), **told), grpc.aio.server()
        orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(orchestrator, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return orchestrator, server, port

    orchestrator, server, port = asyncio.run_coroutine_threadsafe(start(), loop).result(HANG_GUARD)
    try:
        yield orchestrator, f"127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(None), loop).result(HANG_GUARD)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


PATIENCE = Patience(answer_seconds=1e6)
"""An answer's own: while it plays, each look at the player puts the clock of Waits on."""
PLAIN = ChannelSettings(health_check=False, attempts=1)


@asynccontextmanager
async def serving(
    *faults: Fault, script: Script = Script(), patience: Patience = PATIENCE, **told: object
) -> AsyncIterator[Served]:
    orchestrator = Orchestrator(script, list(faults), **told)
    server = grpc.aio.server()
    orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(orchestrator, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    waits = Waits()
    address = f"127.0.0.1:{port}"
    try:
        async with AsyncClient(address, patience=patience, channel=PLAIN, timing=waits.timing()) as client:
            yield Served(client, orchestrator, waits, address)
    finally:
        await server.stop(None)

"""What the orchestrator's tests share: replicas over stub stages, callers, and what must not be left over."""

import asyncio
import io
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import grpc.aio
import numpy as np
from prometheus_client import CollectorRegistry

from aqaa.rpc.caller import Caller, call_metadata
from aqaa.rpc.calls import Calls
from aqaa.rpc.channel import ChannelSettings, open_channel
from aqaa.rpc.status import from_rpc_error
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import make_log
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing
from aqaa.v1 import orchestrator_pb2 as pb
from aqaa.v1 import orchestrator_pb2_grpc
from aqaa.v1.audio_pb2 import AudioEncoding, AudioFormat, QuestionAudio
from aqaa.v1.tokens_pb2 import EndReason
from services.orchestrator.config import OrchestratorSettings
from services.orchestrator.service import Orchestrator
from services.orchestrator.servicer import OrchestratorServicer
from tests.stages import StubStages

ALICE, BOB = Caller("acme", "alice"), Caller("acme", "bob")
FORMAT = AudioFormat(encoding=AudioEncoding.AUDIO_ENCODING_PCM_S16LE, sample_rate_hz=16000, channels=1)
PATIENCE = 60.0
"""Seconds after which a wait has failed; no test waits for them."""


def pcm(seconds: float = 1.0, seed: int = 0) -> bytes:
    samples = round(seconds * FORMAT.sample_rate_hz)
    return np.random.default_rng(seed).integers(-9999, 9999, samples).astype("<i2").tobytes()


@dataclass
class Replica:
    """One orchestrator that serves."""

    orchestrator: Orchestrator
    calls: Calls
    stub: Any
    registry: CollectorRegistry
    written: io.StringIO

    def sample(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def lines(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.written.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]


@asynccontextmanager
async def replica(url: str, stages: str, **given: Any) -> AsyncIterator[Replica]:
    """A process of its own, as far as callers, stages and the log can tell."""
    defaults: dict[str, Any] = {
        "profile": "development", "redis_url": url, "tokenizer": stages, "llm": stages, "vocoder": stages,
        "lease_seconds": 3.0, "capacity_seconds": 0.05, "retry_seconds": 0.01, "stage_attempts": 3,
        "resume_seconds": 30.0, "question_piece_seconds": 0.12,
    }  # fmt: skip
    settings = OrchestratorSettings(**{**defaults, **given})
    registry, written = CollectorRegistry(), io.StringIO()
    journal = make_log("orchestrator", file=written, strict=True)
    metrics = Metrics(registry, catalogue.RPC, catalogue.TURNLOG, catalogue.ORCHESTRATOR)
    tracing = Tracing.open("orchestrator", endpoint=settings.otlp_endpoint, ratio=settings.trace_ratio)
    # a bare server: no port of metrics, no signals; what surrounds every call is the services'
    calls = Calls(log=journal, metrics=metrics, tracing=tracing, messages=True)
    server = grpc.aio.server(interceptors=[calls], options=[("grpc.so_reuseport", 0)])
    parts = Orchestrator.over(
        settings, journal=journal, metrics=metrics, tracing=tracing, name=secrets.token_hex(8)
    )
    async with parts as orchestrator:
        if orchestrator.front is not None:
            servicer = OrchestratorServicer(orchestrator.front)
            orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            await orchestrator.until_ready()
            while orchestrator.runner is not None and not orchestrator.runner.room:
                await asyncio.sleep(0.005)
            plain = ChannelSettings(health_check=False, attempts=1)
            async with open_channel(f"127.0.0.1:{port}", plain) as channel:
                stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
                yield Replica(orchestrator, calls, stub, registry, written)
        except BaseException:
            print(written.getvalue())  # pytest shows it with the failure
            raise
        finally:
            await calls.cut_off(within=1.0)
            await server.stop(None)
            await asyncio.to_thread(tracing.close)


@asynccontextmanager
async def one(url: str, stages: StubStages | None = None, **given: Any) -> AsyncIterator[Replica]:
    """A replica over stages of its own."""
    async with (stages or StubStages()).serving() as address, replica(url, address, **given) as made:
        yield made


def asking(question: bytes | None = None, **given: Any) -> pb.AskRequest:
    options = given.pop("options", None) or pb.TurnOptions(seed=7)
    return pb.AskRequest(format=FORMAT, pcm=pcm() if question is None else question, options=options, **given)


def metadata(caller: Caller = ALICE) -> Any:
    return call_metadata(caller=caller)


@dataclass
class Told:
    """What a caller has got of one turn, checked as it came."""

    opened: pb.TurnOpened | None = None
    committed: int | None = None
    texts: dict[int, str] = field(default_factory=dict)
    starts: list[tuple[int, str]] = field(default_factory=list)
    chunks: list[Any] = field(default_factory=list)
    sound: bytes = b""
    transcript: str = ""
    manifest: pb.TurnManifest | None = None
    failed: pb.TurnFailed | None = None
    turn_id: str = ""
    order: list[str] = field(default_factory=list)

    def add(self, event: pb.TurnEvent) -> "Told":
        assert self.manifest is None, "an event behind the manifest"
        kind = event.WhichOneof("event")
        self.turn_id = self.turn_id or event.turn_id
        assert event.turn_id == self.turn_id
        self.order.append(kind)
        match kind:
            case "opened":
                self.opened = event.opened
            case "question_committed":
                self.committed = event.question_committed.groups
            case "segment_start":
                self.starts.append((event.segment_start.segment, event.segment_start.style))
            case "text":
                before = self.texts.get(event.text.segment, "")
                assert event.text.first_byte == len(before.encode())
                self.texts[event.text.segment] = before + event.text.text
            case "audio":
                audio = event.audio
                assert audio.sequence == len(self.chunks) + 1
                assert audio.first_sample * 2 == len(self.sound)
                assert audio.crc32c == google_crc32c.value(audio.pcm)
                self.sound += audio.pcm
                assert audio.turn_crc32c == google_crc32c.value(self.sound)
                self.chunks.append(audio)
            case "transcript":
                self.transcript = event.transcript.text
            case "manifest":
                self.manifest = event.manifest
                assert event.manifest.chunks == len(self.chunks)
                assert event.manifest.samples * 2 == len(self.sound)
                assert event.manifest.turn_crc32c == google_crc32c.value(self.sound)
            case "failed":
                self.failed = event.failed
        return self

    @property
    def resuming(self) -> pb.ResumeRequest:
        """Goes on behind this."""
        received = [pb.TextReceived(segment=s, bytes=len(t.encode())) for s, t in self.texts.items()]
        return pb.ResumeRequest(
            session_id=self.opened.session_id,
            turn_id=self.turn_id,
            last_sequence=len(self.chunks),
            next_sample=len(self.sound) // 2,
            text=received,
        )

    @property
    def whole(self) -> tuple[Any, ...]:
        """What must be equal, however often it was taken up again."""
        assert self.manifest is not None
        return (
            self.texts,
            self.sound,
            [len(chunk.pcm) for chunk in self.chunks],
            self.manifest.SerializeToString(deterministic=True),
        )


async def hear(call: Any, told: Told | None = None, *, until: str | None = None, count: int = 1) -> Told:
    """A call's events, all of them, or until the given number of one kind has come in this call."""
    told, came = told or Told(), 0
    async for response in call:
        told.add(response.event)
        came += told.order[-1] == until
        if until is not None and came >= count:
            return told
    return told


async def ask(replica: Replica, request: pb.AskRequest | None = None, caller: Caller = ALICE) -> Told:
    told = await hear(replica.stub.Ask(request or asking(), metadata=metadata(caller), timeout=PATIENCE))
    assert told.manifest is not None
    return told


class Talking:
    """A Converse call and what came of each of its turns."""

    def __init__(self, replica: Replica, caller: Caller = ALICE) -> None:
        self.call = replica.stub.Converse(metadata=metadata(caller), timeout=PATIENCE)
        self.turns: dict[str, Told] = {}
        self.session_id = ""

    async def say(self, **step: Any) -> None:
        await self.call.write(pb.ConverseRequest(**step))

    async def begin(self, session_id: str = "") -> "Talking":
        await self.say(open=pb.OpenConversation(session_id=session_id, format=FORMAT))
        response = await self.call.read()
        self.session_id = response.opened.session_id
        return self

    async def question(
        self, sound: bytes, *, commit: bool = True, step: int = 3200, seed: int = 7, **opening: Any
    ) -> None:
        await self.say(turn=pb.OpenTurn(options=pb.TurnOptions(seed=seed), **opening))
        for at in range(0, len(sound), step):
            await self.say(audio=QuestionAudio(first_byte=at, pcm=sound[at : at + step]))
        if commit:
            await self.say(commit=pb.CommitQuestion(bytes=len(sound)))

    async def hear(self, kind: str) -> Told:
        """Until the next event of this kind, of whichever turn."""
        while (response := await self.call.read()) is not grpc.aio.EOF:
            told = self.turns.setdefault(response.turn.turn_id, Told())
            told.add(response.turn)
            if told.order[-1] == kind:
                return told
        raise AssertionError(f"the call ended before {kind}")

    async def end(self) -> None:
        await self.call.done_writing()
        while (response := await self.call.read()) is not grpc.aio.EOF:
            self.turns.setdefault(response.turn.turn_id, Told()).add(response.turn)


async def until(met: Any) -> None:
    """Waits for what other processes do."""
    async with asyncio.timeout(PATIENCE):
        while not (found := met()) or (asyncio.iscoroutine(found) and not await found):
            await asyncio.sleep(0.005)


async def nothing_left(stages: StubStages, *replicas: Replica) -> None:
    """No slot, stage call, live turn or pending entry; every key of a turn runs out."""
    link = replicas[0].orchestrator.shared.log.link
    await until(lambda: stages.held == 0 and stages.open_calls == 0)
    for made in replicas:
        if made.orchestrator.front is not None:
            await until(lambda made=made: not made.orchestrator.front.desk.keeper.held)
        if made.orchestrator.runner is not None:
            await until(lambda made=made: not made.orchestrator.runner.turns)
    async with asyncio.timeout(PATIENCE):
        while await replicas[0].orchestrator.shared.log.capacity.live():
            await asyncio.sleep(0.005)
        while (await link.command("XPENDING", "aqaa:dispatch", "runners"))["pending"]:
            await asyncio.sleep(0.005)
    for key in await link.command("KEYS", "aqaa:{*"):
        assert await link.command("PTTL", key) > 0, key
    for made in replicas:
        assert not made.lines("a background task has failed"), made.lines("a background task has failed")
        assert not made.lines("a turn could not be run")


STOP = EndReason.END_REASON_STOP
CANCELLED = EndReason.END_REASON_CANCELLED


async def refused(call: Any) -> tuple[str, grpc.StatusCode]:
    """How a call was refused: the reason of its ErrorInfo, and the code."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error).reason, error.code()
    raise AssertionError("the call was not refused")

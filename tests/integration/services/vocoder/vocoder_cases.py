"""A served nano vocoder in this process, and turns for it."""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from opentelemetry.sdk.trace import SpanProcessor
from prometheus_client import CollectorRegistry

from aqaa.bundle import Bundle
from aqaa.engine.vocoder import Vocoder
from aqaa.rpc.channel import open_channel
from aqaa.rpc.status import typed_errors
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import make_log
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing
from aqaa.v1 import tokens_pb2, vocoder_pb2, vocoder_pb2_grpc
from services.vocoder.config import VocoderSettings
from services.vocoder.service import Service

BUNDLE = Path(__file__).resolve().parents[4] / "models" / "nano"
Request = vocoder_pb2.StreamSynthesizeRequest
PLACES = 3
SEED = 2**64 - 5


@dataclass
class Served:
    service: Service
    metrics: Metrics
    stub: vocoder_pb2_grpc.VocoderServiceStub
    ready_before_warm: bool

    @property
    def vocoder(self) -> Vocoder:
        return self.service.engine.vocoder

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def until_no_turn_is_open(self) -> None:
        async with asyncio.timeout(20):
            while self.value("aqaa_vocoder_streams"):
                await asyncio.sleep(0)

    @contextmanager
    def thread_held(self) -> Iterator[None]:
        """The computing thread stands still inside."""
        gate = threading.Event()
        self.service.engine.thread._thread.submit(gate.wait, 30)
        try:
            yield
        finally:
            gate.set()


@asynccontextmanager
async def served(spans: SpanProcessor | None = None) -> AsyncIterator[Served]:
    settings = VocoderSettings(profile="development", bundle=BUNDLE, max_streams=PLACES, ready_pieces=1)
    metrics = Metrics(CollectorRegistry(), catalogue.RPC, catalogue.VOCODER)
    tracing = Tracing.open("vocoder", processor=spans)
    log = make_log("vocoder", file=io.StringIO(), strict=True)
    vocoder = Vocoder.load(Bundle.open(BUNDLE))
    service = Service.of(settings, vocoder, log=log, metrics=metrics, tracing=tracing)
    async with service.engine, service.server:
        early = service.server.is_ready
        await service.engine.warm_up()
        service.server.ready()
        async with open_channel(f"127.0.0.1:{service.server.port}") as channel:
            yield Served(service, metrics, vocoder_pb2_grpc.VocoderServiceStub(channel), early)


def codes(groups: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.hstack((rng.integers(0, 1024, (groups, 2)), rng.integers(0, 4096, (groups, 3))))


def opening(seed: int = SEED, digest: str = "") -> Request:
    return Request(open=vocoder_pb2.OpenSynthesis(seed=seed, bundle_digest=digest))


def begin(segment: int, restart: bytes = b"", from_sample: int = 0) -> Request:
    fields = {"segment": segment, "restart": restart, "from_sample": from_sample}
    return Request(segment=vocoder_pb2.SynthesisSegment(**fields))


def audio_groups(given: np.ndarray, first: int = 0) -> tokens_pb2.AudioGroups:
    return tokens_pb2.AudioGroups(
        first_group=first,
        linguistic=given[:, :2].reshape(-1).tolist(),
        semantic=given[:, 2:].reshape(-1).tolist(),
    )


def groups(given: np.ndarray, first: int = 0) -> Request:
    return Request(groups=audio_groups(given, first))


def end(count: int) -> Request:
    return Request(segment_end=vocoder_pb2.SynthesisSegmentEnd(groups=count))


def said(segment: int, given: np.ndarray, cuts: Sequence[int] = (), **place: object) -> Iterator[Request]:
    """A whole segment, its groups cut at these places."""
    yield begin(segment, **place)
    for first, last in pairwise([0, *sorted(cuts), len(given)]):
        yield groups(given[first:last], first)
    yield end(len(given))


@dataclass
class Heard:
    """What a call gave, by segment."""

    audio: dict[int, list[vocoder_pb2.SynthesizedAudio]] = field(default_factory=dict)
    done: dict[int, int] = field(default_factory=dict)

    def pcm(self, segment: int) -> bytes:
        """Its sound; each piece begins where the one before it ended."""
        pieces = self.audio.get(segment, [])
        for piece, after in pairwise(pieces):
            assert after.first_sample == piece.first_sample + len(piece.pcm) // 2
        return b"".join(piece.pcm for piece in pieces)


async def heard(served: Served, requests: Sequence[Request]) -> Heard:
    """A whole call; checks what its responses promise."""
    found, opened = Heard(), False
    with typed_errors():
        async for response in served.stub.StreamSynthesize(iter(requests), timeout=100):
            event = response.WhichOneof("event")
            assert opened == (event != "opened")
            opened = True
            if event == "audio":
                assert response.audio.segment not in found.done
                found.audio.setdefault(response.audio.segment, []).append(response.audio)
            elif event == "segment_done":
                found.done[response.segment_done.segment] = response.segment_done.samples
    return found

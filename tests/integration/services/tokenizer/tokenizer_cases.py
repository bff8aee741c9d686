"""A served nano tokenizer in this process, and signals for it."""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from opentelemetry.sdk.trace import SpanProcessor
from prometheus_client import CollectorRegistry

from aqaa.audio.pcm import from_bytes
from aqaa.audio.resample import resample
from aqaa.bundle import Bundle
from aqaa.engine.tokenizer import Tokenizer
from aqaa.rpc.channel import open_channel
from aqaa.rpc.status import typed_errors
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import make_log
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing
from aqaa.v1 import audio_pb2, tokenizer_pb2, tokenizer_pb2_grpc
from services.tokenizer.config import TokenizerSettings
from services.tokenizer.service import Service

BUNDLE = Path(__file__).resolve().parents[4] / "models" / "nano"
Request = tokenizer_pb2.StreamTokenizeRequest
S16, F32 = audio_pb2.AUDIO_ENCODING_PCM_S16LE, audio_pb2.AUDIO_ENCODING_PCM_F32LE
KEPT = tokenizer_pb2.LEVEL_MODE_KEPT
PLACES = 4


@dataclass
class Served:
    service: Service
    metrics: Metrics
    stub: tokenizer_pb2_grpc.TokenizerServiceStub
    digest: str
    ready_before_warm: bool

    @property
    def tokenizer(self) -> Tokenizer:
        return self.service.engine.tokenizer

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def until_no_stream_is_open(self) -> None:
        async with asyncio.timeout(20):
            while self.value("aqaa_tokenizer_streams"):
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
    settings = TokenizerSettings(profile="development", bundle=BUNDLE, max_batch=4, max_streams=PLACES)
    metrics = Metrics(CollectorRegistry(), catalogue.RPC, catalogue.TOKENIZER)
    tracing = Tracing.open("tokenizer", processor=spans)
    log = make_log("tokenizer", file=io.StringIO(), strict=True)
    bundle = Bundle.open(BUNDLE)
    service = Service.of(settings, bundle, Tokenizer.load(bundle), log=log, metrics=metrics, tracing=tracing)
    async with service.engine, service.server:
        early = service.server.is_ready
        await service.engine.warm_up()
        service.server.ready()
        async with open_channel(f"127.0.0.1:{service.server.port}") as channel:
            stub = tokenizer_pb2_grpc.TokenizerServiceStub(channel)
            yield Served(service, metrics, stub, bundle.digest, early)


@dataclass(frozen=True)
class Signal:
    """Bytes of a signal and what they mean."""

    raw: bytes
    encoding: int = S16
    rate: int = 16000
    channels: int = 1
    level: int = tokenizer_pb2.LEVEL_MODE_UNSPECIFIED

    @property
    def open(self) -> tokenizer_pb2.OpenTokenize:
        form = audio_pb2.AudioFormat(encoding=self.encoding, sample_rate_hz=self.rate, channels=self.channels)
        return tokenizer_pb2.OpenTokenize(format=form, level=self.level)

    def expected(self, tokenizer: Tokenizer) -> np.ndarray:
        """What the library makes of it."""
        encoding = "s16le" if self.encoding == S16 else "f32le"
        pcm = resample(from_bytes(self.raw, encoding, self.channels), self.rate, tokenizer.sample_rate)
        return tokenizer.tokenize(pcm, "kept" if self.level == KEPT else "normalised")

    def pieces(self, cuts: list[float]) -> Iterator[Request]:
        """Its audio, cut at these shares of its length, each rounded down to whole samples."""
        size = self.channels * (2 if self.encoding == S16 else 4)
        frames = len(self.raw) // size
        edges = [0, *sorted(int(cut * frames) for cut in cuts), frames]
        for first, last in pairwise(edges):
            pcm = self.raw[first * size : last * size]
            yield Request(audio=audio_pb2.QuestionAudio(first_byte=first * size, pcm=pcm))


def noise(seconds: float, *, seed: int = 0, **form: int) -> Signal:
    """A signal whose loudness changes."""
    made = Signal(b"", **form)
    rng = np.random.default_rng(seed)
    count = round(seconds * made.rate) * made.channels
    loudness = np.repeat(rng.uniform(0.02, 0.5, count // 900 + 1), 900)[:count]
    pcm = (rng.normal(size=count) * loudness).clip(-1, 1)
    raw = (pcm * 32767).astype("<i2").tobytes() if made.encoding == S16 else pcm.astype("<f4").tobytes()
    return Signal(raw, **form)


async def tokenized(served: Served, signal: Signal, cuts: list[float] = []) -> np.ndarray:  # noqa: B006
    """The groups of a whole call; checks what every response promises."""
    call = served.stub.StreamTokenize(timeout=60)
    with typed_errors():
        await call.write(Request(open=signal.open))
        for piece in signal.pieces(cuts):
            await call.write(piece)
        await call.done_writing()
        return rows([response async for response in call])


def rows(responses: list[tokenizer_pb2.StreamTokenizeResponse]) -> np.ndarray:
    assert [response.end for response in responses] == [False] * (len(responses) - 1) + [True]
    found = np.empty((0, 5), np.int64)
    for response in responses:
        assert response.groups.first_group == len(found)
        assert response.end or response.groups.linguistic
        own = np.hstack(
            (
                np.array(response.groups.linguistic, np.int64).reshape(-1, 2),
                np.array(response.groups.semantic, np.int64).reshape(-1, 3),
            )
        )
        found = np.concatenate((found, own))
    return found

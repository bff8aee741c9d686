"""A real server on 127.0.0.1 with a toy tokenizer, and everything that it says."""

import asyncio
import functools
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc.aio
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from aqaa.config import ServiceSettings
from aqaa.rpc.channel import ChannelSettings, open_channel
from aqaa.rpc.server import Server
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import make_log
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing
from aqaa.v1 import tokenizer_pb2, tokenizer_pb2_grpc

NAME = "aqaa.v1.TokenizerService"
TOKENIZE = f"/{NAME}/Tokenize"
STREAM = f"/{NAME}/StreamTokenize"
HANG_GUARD = 60
"""Seconds until a test that hangs counts as failed. No test waits for it."""


class ToySettings(ServiceSettings):
    service = "toy"


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        async def guarded() -> None:
            await asyncio.wait_for(test(*args, **kwargs), HANG_GUARD)

        asyncio.run(guarded())

    return run


Unary = Callable[[tokenizer_pb2.TokenizeRequest, grpc.aio.ServicerContext], Awaitable[object]]


class ToyTokenizer(tokenizer_pb2_grpc.TokenizerServiceServicer):
    """Tokenize does what ``behaviour`` says; StreamTokenize answers each request with its number of bytes."""

    def __init__(self, behaviour: Unary | None = None) -> None:
        self.behaviour = behaviour
        self.closed = asyncio.Event()

    async def Tokenize(self, request, context):  # noqa: N802 - gRPC's name
        if self.behaviour is not None:
            await self.behaviour(request, context)
        return tokenizer_pb2.TokenizeResponse(seconds=len(request.pcm))

    async def StreamTokenize(self, requests, context):  # noqa: N802 - gRPC's name
        try:
            async for request in requests:
                yield tokenizer_pb2.StreamTokenizeResponse(seconds=len(request.audio.pcm))
            yield tokenizer_pb2.StreamTokenizeResponse(end=True)
        finally:
            self.closed.set()


@dataclass
class Served:
    """A server that listens, a channel to it, and its traces and log."""

    server: Server
    channel: grpc.aio.Channel
    stub: tokenizer_pb2_grpc.TokenizerServiceStub
    registry: CollectorRegistry
    written: io.StringIO
    spans: InMemorySpanExporter
    toy: ToyTokenizer

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def lines(self, event: str | None = None) -> list[dict]:
        """Log lines, all or those of one event."""
        lines = [json.loads(line) for line in self.written.getvalue().splitlines()]
        return [line for line in lines if event in (None, line["event"])]

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@asynccontextmanager
async def serving(
    behaviour: Unary | None = None, *, ready: bool = True, **settings: object
) -> AsyncIterator[Served]:
    chosen = ToySettings(**settings)
    registry, written, spans = CollectorRegistry(), io.StringIO(), InMemorySpanExporter()
    server = Server(
        chosen,
        log=make_log("toy", file=written, strict=True),
        metrics=Metrics(registry, catalogue.RPC),
        tracing=Tracing.open("toy", processor=SimpleSpanProcessor(spans)),
        services=[NAME],
    )
    toy = ToyTokenizer(behaviour)
    tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server(toy, server.grpc)
    async with server:
        if ready:
            server.ready()
        plain = ChannelSettings(health_check=False, attempts=1)
        async with open_channel(f"127.0.0.1:{server.port}", plain) as channel:
            stub = tokenizer_pb2_grpc.TokenizerServiceStub(channel)
            yield Served(server, channel, stub, registry, written, spans, toy)

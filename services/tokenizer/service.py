"""The parts of the tokenizer service put together, and its life from start to drain."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final, Self

from prometheus_client import CollectorRegistry

from aqaa.bundle import Bundle
from aqaa.engine.tokenizer import Tokenizer
from aqaa.rpc.server import Server
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import Log, make_log
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing
from aqaa.v1 import tokenizer_pb2, tokenizer_pb2_grpc
from services.tokenizer.config import TokenizerSettings
from services.tokenizer.engine import TokenizerEngine
from services.tokenizer.servicer import TokenizerServicer

NAME: Final = tokenizer_pb2.DESCRIPTOR.services_by_name["TokenizerService"].full_name


@dataclass(frozen=True)
class Service:
    """Everything that settings and a bundle decide; nothing runs yet."""

    engine: TokenizerEngine
    server: Server

    @classmethod
    def of(
        cls,
        settings: TokenizerSettings,
        bundle: Bundle,
        tokenizer: Tokenizer,
        *,
        log: Log,
        metrics: Metrics,
        tracing: Tracing,
    ) -> Self:
        """To be called inside a running event loop."""
        engine = TokenizerEngine(
            tokenizer,
            threads=settings.threads,
            max_batch=settings.max_batch,
            max_streams=settings.max_streams,
            ahead_seconds=settings.ahead_seconds,
            stall_seconds=settings.stall_seconds,
            retry_seconds=settings.retry_seconds,
            metrics=metrics,
            tracing=tracing,
        )
        servicer = TokenizerServicer(
            engine,
            digest=bundle.digest,
            max_seconds=bundle.manifest.max_question_seconds,
            idle_seconds=settings.idle_seconds,
        )
        server = Server(settings, log=log, metrics=metrics, tracing=tracing, services=[NAME])
        tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server(servicer, server.grpc)
        return cls(engine, server)


async def serve(settings: TokenizerSettings) -> None:
    """Runs the service until it is told to stop.

    Raises:
        BundleError, SettingsError: it cannot start.
    """
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    log = make_log("tokenizer", level=level, strict=settings.development)
    tracing = Tracing.open("tokenizer", endpoint=settings.otlp_endpoint, ratio=settings.trace_ratio)
    metrics = Metrics(CollectorRegistry(), catalogue.RPC, catalogue.TOKENIZER)
    bundle = await asyncio.to_thread(Bundle.open, settings.bundle)
    tokenizer = await asyncio.to_thread(Tokenizer.load, bundle)
    service = Service.of(settings, bundle, tokenizer, log=log, metrics=metrics, tracing=tracing)
    async with service.engine, service.server:
        await service.engine.warm_up()
        service.server.ready()
        log.info("the model is warm", bundle=bundle.digest, batch=max(service.engine.sizes))
        await service.server.until_stopped()

"""The parts of the vocoder service put together, and its life from start to drain."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final, Self

from prometheus_client import CollectorRegistry

from aqaa.bundle import Bundle
from aqaa.engine.vocoder import Vocoder
from aqaa.rpc.server import Server
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import Log, make_log
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing
from aqaa.v1 import vocoder_pb2, vocoder_pb2_grpc
from services.vocoder.config import VocoderSettings
from services.vocoder.engine import Limits, VocoderEngine
from services.vocoder.servicer import VocoderServicer

NAME: Final = vocoder_pb2.DESCRIPTOR.services_by_name["VocoderService"].full_name


@dataclass(frozen=True)
class Service:
    """Everything that settings and a model decide; nothing runs yet."""

    engine: VocoderEngine
    server: Server

    @classmethod
    def of(
        cls,
        settings: VocoderSettings,
        vocoder: Vocoder,
        *,
        log: Log,
        metrics: Metrics,
        tracing: Tracing,
    ) -> Self:
        """To be called inside a running event loop."""
        limits = Limits(settings.ahead_groups, settings.ready_pieces, settings.stall_seconds)
        engine = VocoderEngine(
            vocoder,
            limits,
            threads=settings.threads,
            max_batch=settings.max_batch,
            max_streams=settings.max_streams,
            retry_seconds=settings.retry_seconds,
            metrics=metrics,
            tracing=tracing,
        )
        servicer = VocoderServicer(
            engine, max_segment_groups=settings.max_segment_groups, idle_seconds=settings.idle_seconds
        )
        server = Server(settings, log=log, metrics=metrics, tracing=tracing, services=[NAME])
        vocoder_pb2_grpc.add_VocoderServiceServicer_to_server(servicer, server.grpc)
        return cls(engine, server)


async def serve(settings: VocoderSettings) -> None:
    """Runs the service until it is told to stop.

    Raises:
        BundleError, SettingsError: it cannot start.
    """
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    log = make_log("vocoder", level=level, strict=settings.development)
    tracing = Tracing.open("vocoder", endpoint=settings.otlp_endpoint, ratio=settings.trace_ratio)
    metrics = Metrics(CollectorRegistry(), catalogue.RPC, catalogue.VOCODER)
    bundle = await asyncio.to_thread(Bundle.open, settings.bundle)
    vocoder = await asyncio.to_thread(Vocoder.load, bundle)
    service = Service.of(settings, vocoder, log=log, metrics=metrics, tracing=tracing)
    async with service.engine, service.server:
        await service.engine.warm_up()
        service.server.ready()
        log.info("the model is warm", bundle=bundle.digest, batch=max(service.engine.sizes))
        await service.server.until_stopped()

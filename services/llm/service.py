"""The parts of the llm service put together, and its life from start to drain."""

import asyncio
import logging
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

from prometheus_client import CollectorRegistry

from aqaa.bundle import Bundle
from aqaa.rpc.server import Server
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import Log, make_log, traceback_of
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing
from aqaa.v1 import backbone_pb2, backbone_pb2_grpc
from services.llm.answering import Patience
from services.llm.config import LlmSettings
from services.llm.engines import Engine
from services.llm.language import Language
from services.llm.requests import Door
from services.llm.servicer import BackboneServicer

NAME: Final = backbone_pb2.DESCRIPTOR.services_by_name["BackboneService"].full_name


@dataclass(frozen=True)
class Service:
    """Everything that settings and a bundle decide; nothing runs yet."""

    engine: Engine
    servicer: BackboneServicer
    server: Server

    @classmethod
    def of(
        cls, settings: LlmSettings, bundle: Bundle, *, log: Log, metrics: Metrics, tracing: Tracing
    ) -> Self:
        """To be called inside a running event loop. Raises BundleError where the bundle does not fit."""
        language = Language.load(bundle)
        engine = _torch(settings, bundle, language, metrics)
        servicer = BackboneServicer(
            Door(language, settings.slot_positions, settings.text_bytes),
            engine,
            patience=Patience(stall=settings.stall_seconds, prompt=settings.prompt_seconds),
            replica=secrets.token_hex(8),
            metrics=metrics,
            tracing=tracing,
        )
        server = Server(settings, log=log, metrics=metrics, tracing=tracing, services=[NAME])
        backbone_pb2_grpc.add_BackboneServiceServicer_to_server(servicer, server.grpc)
        return cls(engine, servicer, server)


def _torch(settings: LlmSettings, bundle: Bundle, language: Language, metrics: Metrics) -> Engine:
    # here, because a service whose engine is another process needs no torch
    from aqaa.engine.backbone import EngineSettings
    from services.llm.engines.torch import TorchEngine, TorchSettings

    decode = EngineSettings(
        mode=settings.mode,
        slots=settings.slots,
        capacity=settings.slot_positions,
        max_waiting=settings.max_waiting,
        prefill_rows=settings.prefill_rows,
    )
    own = TorchSettings(decode, retry_seconds=settings.retry_seconds, threads=settings.threads)
    return TorchEngine.of(bundle, language.grammar, own, metrics)


async def serve(settings: LlmSettings) -> int:
    """Runs the service until it is told to stop; the exit status of the process.

    Raises:
        BundleError, SettingsError: it cannot start.
    """
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    log = make_log("llm", level=level, strict=settings.development)
    tracing = Tracing.open("llm", endpoint=settings.otlp_endpoint, ratio=settings.trace_ratio)
    metrics = Metrics(CollectorRegistry(), catalogue.RPC, catalogue.LLM)
    bundle = await asyncio.to_thread(Bundle.open, settings.bundle)
    service = Service.of(settings, bundle, log=log, metrics=metrics, tracing=tracing)
    engine, server = service.engine, service.server
    broken = asyncio.create_task(_stop_when_broken(engine, server, log, messages=settings.development))
    try:
        async with server:
            await engine.start()
            server.ready()
            log.info("the model is warm", bundle=bundle.digest, slots=settings.slots)
            await server.until_stopped()
    finally:
        failed = broken.done()
        broken.cancel()
        with suppress(asyncio.CancelledError):
            await broken
        await engine.close()
    return int(failed)


async def _stop_when_broken(engine: Engine, server: Server, log: Log, *, messages: bool) -> None:
    error = await engine.until_broken()
    log.error("the engine has broken", traceback=traceback_of(error, messages=messages))
    server.stop()

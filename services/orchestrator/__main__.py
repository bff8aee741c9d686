"""Starts the orchestrator: ``python -m services.orchestrator --help``."""

import logging
import os
import secrets
import sys

from prometheus_client import CollectorRegistry

from aqaa.errors import AqaaError
from aqaa.rpc.server import Server, run
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import LibraryLog, make_log
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing
from aqaa.v1 import orchestrator_pb2_grpc
from services.orchestrator.config import OrchestratorSettings
from services.orchestrator.service import Orchestrator
from services.orchestrator.servicer import SERVICE, OrchestratorServicer


async def main(settings: OrchestratorSettings) -> None:
    """Serves until SIGTERM, then drains."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    journal = make_log(settings.service, level=level, strict=settings.development)
    logging.getLogger().addHandler(LibraryLog(journal, messages=settings.development))
    metrics = Metrics(CollectorRegistry(), catalogue.RPC, catalogue.TURNLOG, catalogue.ORCHESTRATOR)
    tracing = Tracing.open(settings.service, endpoint=settings.otlp_endpoint, ratio=settings.trace_ratio)
    server = Server(settings, log=journal, metrics=metrics, tracing=tracing, services=[SERVICE])
    name = f"orchestrator-{secrets.token_hex(8)}"
    parts = Orchestrator.over(settings, journal=journal, metrics=metrics, tracing=tracing, name=name)
    async with parts as orchestrator:
        if orchestrator.front is not None:
            servicer = OrchestratorServicer(orchestrator.front)
            orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(servicer, server.grpc)
        async with server:
            await orchestrator.until_ready()
            server.ready()
            orchestrator.watch(
                well=lambda well: server.ready() if well else server.not_ready(),
                room=lambda room: server.full(not room),
            )
            try:
                await server.until_stopped(drain=orchestrator.drain)
            finally:
                await orchestrator.aclose()


if __name__ == "__main__":
    try:
        run(main(OrchestratorSettings.at_start_up(sys.argv[1:], os.environ)))
    except AqaaError as error:
        sys.exit(f"aqaa-orchestrator cannot go on: {error}")

"""One stub stage as a process of its own: ``python -m tests.faults.stub --stage vocoder --port 50053``.

The stages of ``tests/stages.py`` behind the server that every service has: health, metrics, drain on SIGTERM.
They take their time, so that a turn has phases in which something can be killed.
"""

import asyncio
import os
import sys
from typing import Any, ClassVar, Literal

from prometheus_client import CollectorRegistry
from pydantic import Field

from aqaa.config import ServiceSettings
from aqaa.rpc.server import Server, run
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import make_log
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing
from aqaa.v1 import backbone_pb2_grpc, tokenizer_pb2_grpc, vocoder_pb2_grpc
from tests.stages import Faults, Plan, StubLlm, StubStages, StubTokenizer, StubVocoder

SECONDS = {
    "tokenizer": 0.01,
    "tokenizer-end": 0.05,
    "llm-commit": 0.2,
    "llm": 0.02,
    "vocoder": 0.25,
}
"""Taken by each group, by the question's end, before the first token, by each piece, by each tile."""

PLAN = Plan(segments=((4, 24), (3, 12)))

_SERVICES: dict[str, tuple[str, Any, Any]] = {
    "tokenizer": (
        "aqaa.v1.TokenizerService",
        StubTokenizer,
        tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server,
    ),
    "llm": ("aqaa.v1.BackboneService", StubLlm, backbone_pb2_grpc.add_BackboneServiceServicer_to_server),
    "vocoder": ("aqaa.v1.VocoderService", StubVocoder, vocoder_pb2_grpc.add_VocoderServiceServicer_to_server),
}


class StubSettings(ServiceSettings):
    """What a stub stage can be told."""

    service: ClassVar[str] = "stub"

    stage: Literal["tokenizer", "llm", "vocoder"] = Field("llm", description="which one it is")
    slots: int = Field(4, ge=1, le=64, description="of the llm")


class Pace(Faults):
    """Nothing goes wrong, but each step takes its time."""

    async def passing(self, stage: str, at: int) -> None:
        await asyncio.sleep(SECONDS.get(stage, 0.0))


async def serve(settings: StubSettings) -> None:
    """Until SIGTERM, then drains."""
    stages = StubStages(
        plan=PLAN, slots=settings.slots, faults=Pace(), replica=f"{settings.stage}-{settings.port}"
    )
    name, servicer, add = _SERVICES[settings.stage]
    metrics = Metrics(CollectorRegistry(), catalogue.RPC)
    log = make_log(settings.stage, strict=True)
    server = Server(settings, log=log, metrics=metrics, tracing=Tracing.open(settings.stage), services=[name])
    add(servicer(stages), server.grpc)
    async with server:
        server.ready()
        await server.until_stopped()


if __name__ == "__main__":
    run(serve(StubSettings.at_start_up(sys.argv[1:], os.environ)))

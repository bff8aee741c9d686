"""The gRPC surface of the llm service."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc.aio

from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing
from aqaa.v1 import backbone_pb2, backbone_pb2_grpc
from services.llm.answering import Answering, Patience
from services.llm.engines import Engine
from services.llm.faults import fault
from services.llm.requests import Door

Context = grpc.aio.ServicerContext[Any, Any]


class BackboneServicer(backbone_pb2_grpc.BackboneServiceServicer):
    """Gives every call an `Answering` of its own; nothing else changes with a request."""

    def __init__(
        self,
        door: Door,
        engine: Engine,
        *,
        patience: Patience,
        replica: str,
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        """``replica``: names this process, anew at each start."""
        self._door, self._engine, self._patience = door, engine, patience
        self._replica, self._metrics, self._tracing = replica, metrics, tracing

    async def StreamGenerate(  # noqa: N802 - gRPC's name
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[backbone_pb2.StreamGenerateResponse]:
        """A prompt that grows, then its answer."""
        async with aclosing(self._answering().serve(request_iterator)) as responses:
            async for response in responses:
                yield response

    async def Generate(  # noqa: N802 - gRPC's name
        self, request: backbone_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[backbone_pb2.GenerateResponse]:
        """The same for a prompt that is there."""
        if request.commit.until_group:
            raise fault("commit.until_group", "is set, but no advance can follow; expected 0")
        async with aclosing(self._answering().serve(_steps(request))) as responses:
            async for response in responses:
                match response.WhichOneof("event"):
                    case "piece":
                        yield backbone_pb2.GenerateResponse(piece=response.piece)
                    case "transcript":
                        yield backbone_pb2.GenerateResponse(transcript=response.transcript)

    async def GetCapacity(  # noqa: N802 - gRPC's name
        self, request: backbone_pb2.GetCapacityRequest, context: Any
    ) -> backbone_pb2.GetCapacityResponse:
        """What the engine has room for now."""
        room = self._engine.room
        return backbone_pb2.GetCapacityResponse(
            replica=self._replica,
            slots=room.slots,
            free_slots=room.free_slots,
            waiting=room.waiting,
            bundle_digest=self._door.language.digest,
            slot_positions=room.positions,
        )

    def _answering(self) -> Answering:
        return Answering(self._door, self._engine, self._patience, self._metrics, self._tracing)


async def _steps(request: backbone_pb2.GenerateRequest) -> AsyncIterator[backbone_pb2.StreamGenerateRequest]:
    yield backbone_pb2.StreamGenerateRequest(open=request.open)
    if request.HasField("prompt"):
        yield backbone_pb2.StreamGenerateRequest(prompt=request.prompt)
    yield backbone_pb2.StreamGenerateRequest(commit=request.commit)

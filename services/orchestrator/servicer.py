"""The gRPC surface of the orchestrator: who calls, what is asked, and nothing else."""

import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeVar

import grpc.aio

from aqaa.rpc.caller import LOCAL, Caller, caller_of
from aqaa.rpc.deadline import time_left
from aqaa.v1 import orchestrator_pb2_grpc
from aqaa.v1.orchestrator_pb2 import (
    AskRequest,
    AskResponse,
    CancelRequest,
    CancelResponse,
    ConverseRequest,
    ConverseResponse,
    GetSessionRequest,
    GetSessionResponse,
    ReplayRequest,
    ReplayResponse,
    ResumeRequest,
    ResumeResponse,
    TurnEvent,
)
from services.orchestrator.front.conversation import Conversation
from services.orchestrator.front.front import Front
from services.orchestrator.tasks import Outbox

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = "aqaa.v1.OrchestratorService"

T = TypeVar("T")


class OrchestratorServicer(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    """Delegates to a front."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._settings = front.shared.settings

    async def Ask(self, request: AskRequest, context: Any) -> AsyncIterator[AskResponse]:  # noqa: N802 - gRPC's name
        caller, seconds = self._caller(context), self._seconds(context)

        async def work(outbox: Outbox[TurnEvent]) -> None:
            await self._front.ask(caller, request, seconds, outbox.put)

        async with aclosing(self._outbox(TurnEvent).taken(work)) as events:
            async for event in events:
                yield AskResponse(event=event)

    async def Converse(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[ConverseRequest], context: Any
    ) -> AsyncIterator[ConverseResponse]:
        conversation = Conversation(self._front, self._caller(context), self._seconds(context))

        async def work(outbox: Outbox[ConverseResponse]) -> None:
            await conversation.run(request_iterator, outbox)

        async with aclosing(self._outbox(ConverseResponse).taken(work)) as responses:
            async for response in responses:
                yield response

    async def Resume(self, request: ResumeRequest, context: Any) -> AsyncIterator[ResumeResponse]:  # noqa: N802 - gRPC's name
        caller = self._caller(context)

        async def work(outbox: Outbox[TurnEvent]) -> None:
            await self._front.resume(caller, request, outbox.put)

        async with aclosing(self._outbox(TurnEvent).taken(work)) as events:
            async for event in events:
                yield ResumeResponse(event=event)

    async def Replay(self, request: ReplayRequest, context: Any) -> AsyncIterator[ReplayResponse]:  # noqa: N802 - gRPC's name
        caller = self._caller(context)

        async def work(outbox: Outbox[TurnEvent]) -> None:
            await self._front.replay(caller, request, outbox.put)

        async with aclosing(self._outbox(TurnEvent).taken(work)) as events:
            async for event in events:
                yield ReplayResponse(event=event)

    async def Cancel(self, request: CancelRequest, context: Any) -> CancelResponse:  # noqa: N802 - gRPC's name
        played = request.played_samples if request.HasField("played_samples") else None
        reason = await self._front.cancel(self._caller(context), request.session_id, request.turn_id, played)
        return CancelResponse(reason=reason)

    async def GetSession(self, request: GetSessionRequest, context: Any) -> GetSessionResponse:  # noqa: N802 - gRPC's name
        session = await self._front.session(self._caller(context), request.session_id)
        return GetSessionResponse(session_id=session.ref.session, turns=session.turns)

    def _caller(self, context: Context) -> Caller:
        default = LOCAL if self._settings.development else None
        return caller_of(context.invocation_metadata(), default=default)

    def _seconds(self, context: Context) -> float | None:
        """What the caller has left; None if it set no end. Each turn has ``turn_seconds`` besides: its runner
        sees to that, and a conversation may be longer."""
        if context.time_remaining() is None:
            return None
        return time_left(context, stage="orchestrator", at_most=math.inf)

    def _outbox(self, _: type[T]) -> Outbox[T]:
        return Outbox(self._settings.outbox, self._settings.unread_seconds)

"""What all calls of one client share: the channel, who calls, how patient it is, and who reads which turn."""

from collections.abc import Awaitable
from typing import Any, TypeVar
from weakref import WeakSet, WeakValueDictionary

import grpc
import grpc.aio

from aqaa.client.calls import Broken, CallSource, Patience, Timing
from aqaa.client.delivery import Position
from aqaa.client.events import EndReason, reason_of
from aqaa.rpc.caller import Caller, call_metadata
from aqaa.v1 import orchestrator_pb2
from aqaa.v1.orchestrator_pb2_grpc import OrchestratorServiceStub

Response = TypeVar("Response")


class Line:
    """One client's line to the orchestrator."""

    def __init__(
        self, channel: grpc.aio.Channel, caller: Caller | None, patience: Patience, timing: Timing
    ) -> None:
        self.stub = OrchestratorServiceStub(channel)
        self.metadata = call_metadata(caller=caller)
        self.patience = patience
        self.timing = timing
        self.open: WeakSet[Any] = WeakSet()
        """Streams and conversations, to be closed with the client."""
        self._readers: WeakValueDictionary[str, object] = WeakValueDictionary()

    def claim(self, turn_id: str, reader: object) -> None:
        """From now on ``reader`` is the one that reads the turn."""
        self._readers[turn_id] = reader

    def reads(self, turn_id: str, reader: object) -> bool:
        """Whether no newer reader of this client has the turn."""
        return self._readers.get(turn_id, reader) is reader

    async def unary(self, call: Awaitable[Response]) -> Response:
        """The response.

        Raises:
            AqaaError: what the service raised.
        """
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise Broken.by_rpc(error).error from error

    async def cancel(self, session_id: str, turn_id: str, played_samples: int | None) -> EndReason:
        """Ends a turn; gives how it has ended."""
        request = orchestrator_pb2.CancelRequest(
            session_id=session_id, turn_id=turn_id, played_samples=played_samples
        )
        call = self.stub.Cancel(request, timeout=self.patience.call_seconds, metadata=self.metadata)
        return reason_of((await self.unary(call)).reason)

    def resume(self, position: Position, seconds: float) -> CallSource:
        """A call that goes on from ``position``."""
        return CallSource(self.stub.Resume(position.message(), timeout=seconds, metadata=self.metadata))

"""Whether an orchestrator is there and ready: the standard health check, for who has no more than gRPC."""

from enum import StrEnum
from typing import Final

import grpc
import grpc.aio

from aqaa.rpc.channel import ChannelSettings, open_channel

SERVICE: Final = "aqaa.v1.OrchestratorService"

_CHECK: Final = "/grpc.health.v1.Health/Check"
_REQUEST: Final = b"\x0a" + bytes([len(SERVICE)]) + SERVICE.encode()
_SERVING: Final = b"\x08\x01"
"""HealthCheckRequest(service=…) and HealthCheckResponse(status=SERVING): their package is the services'."""


class Standing(StrEnum):
    """What answers at an address."""

    SERVING = "serves"
    NOT_READY = "is not ready"
    NOBODY = "is not there"


async def standing(address: str, seconds: float) -> Standing:
    """How the orchestrator at ``address`` stands; whatever is none, or says nothing in time, is nobody."""
    async with open_channel(address, ChannelSettings(health_check=False, attempts=1)) as channel:
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_CHECK)
        try:
            answer = await check(_REQUEST, timeout=seconds)
        except grpc.aio.AioRpcError:
            return Standing.NOBODY
    return Standing.SERVING if answer == _SERVING else Standing.NOT_READY

"""Where a service listens, and when it is ready: its first log line, then the standard health service."""

import asyncio
import json
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from aqaa.rpc.channel import ChannelSettings, open_channel

AGAIN_SECONDS: Final = 0.2
"""After a watch that broke. Whether the service lives is not asked here."""


@dataclass(frozen=True)
class Listening:
    """Where a service listens: its calls, its metrics."""

    address: str
    metrics_address: str


def listening_of(line: str) -> Listening | None:
    """What a service's log line "listening" says; None for any other line."""
    if '"listening"' not in line:
        return None
    try:
        match json.loads(line):
            case {"event": "listening", "address": str(address), "metrics_address": str(metrics)}:
                return Listening(address, metrics)
    except ValueError:
        pass
    return None


async def until_serving(address: str) -> None:
    """Returns when health there says SERVING; waits for ever otherwise."""
    async with open_channel(address, ChannelSettings(health_check=False, attempts=1)) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            watch = health.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
            try:
                async for answer in watch:
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            except grpc.aio.AioRpcError:
                pass  # the caller has a deadline, and sees whether the process lives
            finally:
                watch.cancel()
            await asyncio.sleep(AGAIN_SECONDS)

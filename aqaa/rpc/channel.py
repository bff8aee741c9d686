"""Channels to the services: balanced, health-checked, kept alive, with retries where they do no harm."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

RETRY_SAFE: Final = frozenset(
    {
        "/aqaa.v1.TokenizerService/Tokenize",
        "/aqaa.v1.BackboneService/GetCapacity",
        "/aqaa.v1.OrchestratorService/GetSession",
        "/aqaa.v1.OrchestratorService/Cancel",
    }
)
"""Calls that may be made twice: they read, compute from their request alone, or let the first one win."""

MAX_MESSAGE_BYTES: Final = 5 * 2**20
"""Of requests and responses: 4 MiB of PCM, the largest field of the contract, and what goes with it."""


@dataclass(frozen=True)
class ChannelSettings:
    """How a channel behaves. Times in seconds."""

    max_message_bytes: int = MAX_MESSAGE_BYTES
    keepalive_seconds: float = 30.0
    """Between pings while calls are open; the server allows no less than 10."""
    keepalive_timeout_seconds: float = 10.0
    """For the answer to a ping, before the connection counts as dead."""
    attempts: int = 3
    """Of a call that may be repeated and finds its replica UNAVAILABLE, the first one included."""
    health_check: bool = True
    """Watch each replica's health, and send calls only where it is SERVING."""


def open_channel(
    target: str,
    settings: ChannelSettings = ChannelSettings(),
    *,
    retry_safe: Iterable[str] = RETRY_SAFE,
    credentials: grpc.ChannelCredentials | None = None,
) -> grpc.aio.Channel:
    """A channel that spreads calls over all addresses of ``target``; it connects when first used.

        async with open_channel("dns:///tokenizer:50051") as channel:
            stub = tokenizer_pb2_grpc.TokenizerServiceStub(channel)

    ``target`` is a gRPC name: ``127.0.0.1:50051``, ``ipv4:127.0.0.1:50051,127.0.0.1:50052``, ``dns:///headless:50051``.
    Retries stop at the call's deadline; when most calls fail, nothing is retried.

    Raises:
        ValueError: a name in ``retry_safe`` is not ``/package.Service/Method``.
    """
    options = channel_options(settings, retry_safe)
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)


def channel_options(
    settings: ChannelSettings, retry_safe: Iterable[str] = RETRY_SAFE
) -> list[tuple[str, int | str]]:
    """gRPC's channel arguments, for clients that open channels of their own (a synchronous one)."""
    return [
        ("grpc.service_config", json.dumps(service_config(settings, retry_safe))),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.keepalive_time_ms", round(settings.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", round(settings.keepalive_timeout_seconds * 1000)),
        ("grpc.http2.max_pings_without_data", 0),  # 0: as many as keep-alive wants
        ("grpc.use_local_subchannel_pool", 1),  # a channel's faults are its own
    ]


def service_config(settings: ChannelSettings, retry_safe: Iterable[str] = RETRY_SAFE) -> Mapping[str, Any]:
    """gRPC's service config: balancing, health check, and a retry policy for the safe calls alone."""
    safe = []
    for full_name in sorted(retry_safe):
        if not (parts := re.fullmatch(r"/([^/]+)/([^/]+)", full_name)):
            raise ValueError(f"retry_safe has {full_name!r}, expected /package.Service/Method")
        safe.append({"service": parts[1], "method": parts[2]})
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if settings.health_check:
        config["healthCheckConfig"] = {"serviceName": ""}
    if safe and settings.attempts > 1:
        config["methodConfig"] = [
            {
                "name": safe,
                "retryPolicy": {
                    "maxAttempts": settings.attempts,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
        # a tenth of a retry is earned by a success: a fleet that is down is not hammered
        config["retryThrottling"] = {"maxTokens": 100, "tokenRatio": 0.1}
    return config

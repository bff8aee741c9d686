"""The standard health service: everybody who watches hears it change.

One answer holds for the whole process, under ``""`` and the names of its services: whether calls may come
here. Clients and balancers ask for that. ``readiness`` also says no while a service would refuse new work for
want of room: it is for probes alone, since who is in must still come to resume and to cancel.

grpcio-health-checking has one too, whose watchers of a name go deaf when any of them leaves
(docs/decisions/0006).
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

Context = grpc.aio.ServicerContext[Any, Any]


READINESS = "readiness"


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """NOT_SERVING until told otherwise. Knows ``""``, READINESS and the names in ``services``."""

    def __init__(self, services: Iterable[str] = ()) -> None:
        self._names = {"", READINESS, *services}
        self._serving = False
        self._full = False
        self._changed = asyncio.Event()

    @property
    def serving(self) -> bool:
        """What ``Check`` answers."""
        return self._serving

    @property
    def full(self) -> bool:
        return self._full

    def say(self, *, serving: bool | None = None, full: bool | None = None) -> None:
        """Tells everybody who watches; what is not given stays as it was."""
        before = self._serving, self._full
        self._serving = self._serving if serving is None else serving
        self._full = self._full if full is None else full
        if (self._serving, self._full) != before:
            past, self._changed = self._changed, asyncio.Event()
            past.set()

    async def Check(self, request: Any, context: Context) -> Any:  # noqa: N802 - gRPC's name
        """The present answer, NOT_FOUND for a service that is not here."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(self, request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: N802 - gRPC's name
        """The present answer, then every other one, until the watcher leaves or the server stops."""
        told = None
        while True:
            changed = self._changed  # before the status: a change while it is sent is not missed
            status = self._status(request.service)
            if status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)
            await changed.wait()

    def _status(self, service: str) -> int:
        kinds = health_pb2.HealthCheckResponse
        if service not in self._names:
            return int(kinds.SERVICE_UNKNOWN)
        well = self._serving and not (service == READINESS and self._full)
        return int(kinds.SERVING if well else kinds.NOT_SERVING)

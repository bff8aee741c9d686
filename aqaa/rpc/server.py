"""A gRPC server as every service of AQAA runs it: health, reflection, limits, metrics, a graceful end."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
import grpc.aio
import prometheus_client
from grpc_health.v1 import health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from aqaa.config import ServiceSettings
from aqaa.errors import SettingsError
from aqaa.rpc.calls import Calls
from aqaa.rpc.health import Health
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import Log, traceback_of
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing

Drain = Callable[[float], Awaitable[None]]
"""What a service does when it must end: hands over or finishes what it holds, in so many seconds."""

CLEAN_UP_SECONDS: Final = 1.0
"""For handlers that are cut off at the end of a drain."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_HEALTH: Final = "grpc.health.v1.Health"

Result = TypeVar("Result")


class Server:
    """One service's server.

        names = ["aqaa.v1.TokenizerService"]
        server = Server(settings, log=log, metrics=metrics, tracing=tracing, services=names)
        add_TokenizerServiceServicer_to_server(TokenizerServicer(...), server.grpc)
        async with server:                       # listens; health says NOT_SERVING
            await engine.warm_up()
            server.ready()                       # health says SERVING
            await server.until_stopped(drain=engine.hand_over)

    To be made inside a running event loop. ``port`` and ``metrics_port`` are the real ones once it listens.

    On SIGTERM or SIGINT: health says NOT_SERVING and new calls are refused with Draining; the service's
    ``drain`` runs; calls that are open may finish. What still runs ``drain_seconds`` after the signal is
    ended with Draining. A second signal ends it at once, and one that comes before ``until_stopped`` ends the
    warm-up: what stands inside ``async with`` is cancelled, and nothing is raised.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        *,
        log: Log,
        metrics: Metrics,
        tracing: Tracing,
        services: Iterable[str],
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        """``services``: full names, for health and reflection. ``credentials``: of TLS; None is none."""
        names = tuple(services)
        self.calls = Calls(log=log, metrics=metrics, tracing=tracing, messages=settings.development)
        self.grpc: grpc.aio.Server = grpc.aio.server(interceptors=[self.calls], options=_options(settings))
        self.port = 0
        self.metrics_port = 0
        self._settings = settings
        self._log = log
        self._metrics = metrics
        self._tracing = tracing
        self._credentials = credentials
        self._health = Health(names)
        self._asked = asyncio.Event()
        self._warming: asyncio.Task[Any] | None = None
        self._grace: asyncio.Timeout | None = None
        self._stop_metrics: Callable[[], None] = lambda: None
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        if settings.development:
            reflection.enable_server_reflection((*names, _HEALTH, reflection.SERVICE_NAME), self.grpc)

    async def __aenter__(self) -> Self:
        """Listens.

        Raises:
            SettingsError: an address cannot be listened on.
        """
        settings = self._settings
        self.port = self._listen(_address(settings.host, settings.port))
        try:
            metrics_server, thread = prometheus_client.start_http_server(
                settings.metrics_port, settings.metrics_host, self._metrics.registry
            )
        except OSError as error:
            raise SettingsError(
                f"metrics_port = {settings.metrics_port}: {settings.metrics_host} cannot use it: {error}"
            ) from error

        def stop_metrics() -> None:
            metrics_server.shutdown()
            metrics_server.server_close()
            thread.join()

        self._stop_metrics = stop_metrics
        self.metrics_port = metrics_server.server_port
        await self.grpc.start()
        self._warming = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        self._log.info(
            "listening",
            address=_address(settings.host, self.port),
            metrics_address=_address(settings.metrics_host, self.metrics_port),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        stopped_warming = (
            self._warming is not None and self._asked.is_set() and kind is asyncio.CancelledError
        )
        if stopped_warming and self._warming is not None:
            self._warming.uncancel()
        self.not_ready()
        for number in _SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)
        await self.grpc.stop(None)
        await asyncio.to_thread(self._stop_metrics)
        await asyncio.to_thread(self._tracing.close)
        self._log.info("stopped")
        return stopped_warming

    @property
    def is_ready(self) -> bool:
        """What health says."""
        return self._health.serving

    def ready(self) -> None:
        """The service can answer: its model is warm, what it depends on is there. Not while it drains."""
        if not self._asked.is_set():
            self._health.say(serving=True)
            self._metrics[catalogue.READY].set(1)

    def not_ready(self) -> None:
        """New calls should go elsewhere; those that come are still answered."""
        self._health.say(serving=False)
        self._metrics[catalogue.READY].set(0)

    def full(self, full: bool) -> None:
        """Whether new work would be refused for want of room: only the health name ``readiness`` says so."""
        self._health.say(full=full)

    def stop(self) -> None:
        """Asks the server to drain and end, as SIGTERM does; asked again, to end at once."""
        self.not_ready()
        if self._grace is not None and not self._grace.expired():
            self._grace.reschedule(asyncio.get_running_loop().time())
        elif self._warming is not None and not self._asked.is_set():
            self._warming.cancel()
        self._asked.set()

    async def until_stopped(self, drain: Drain | None = None) -> None:
        """Serves until SIGTERM, SIGINT or ``stop``, then drains."""
        self._warming = None
        await self._asked.wait()
        await self._drain(drain)

    async def _drain(self, drain: Drain | None) -> None:
        seconds = self._settings.drain_seconds
        self.calls.refuse()
        self._metrics[catalogue.DRAINING].set(1)
        self._log.info("draining", in_flight=self.calls.in_flight, seconds=seconds)
        try:
            async with asyncio.timeout(seconds) as grace:
                self._grace = grace
                if drain is not None:
                    await self._hand_over(drain, seconds)
                await self.calls.idle()
        except TimeoutError:
            self._grace = None
            self._log.warning("calls are cut off", in_flight=self.calls.in_flight)
            await self.calls.cut_off(within=CLEAN_UP_SECONDS)
        self._grace = None
        await self.grpc.stop(None)  # nothing is left but those who watch health

    async def _hand_over(self, drain: Drain, seconds: float) -> None:
        try:
            await drain(seconds)
        except Exception as error:  # the calls that are open shall still have their time
            where = traceback_of(error, messages=self._settings.development)
            self._log.error("handing over has failed", traceback=where)

    def _on_signal(self, number: signal.Signals) -> None:
        self._log.info("a signal has come", signal=number.name)
        self.stop()

    def _listen(self, address: str) -> int:
        try:
            if self._credentials is None:
                return self.grpc.add_insecure_port(address)
            return self.grpc.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise SettingsError(
                f"port = {self._settings.port}: {address} cannot be listened on; is it in use?"
            ) from error


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Runs a service's ``main`` on uvloop, or on asyncio's own loop where uvloop is absent."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def _options(settings: ServiceSettings) -> list[tuple[str, int]]:
    def milliseconds(seconds: float) -> int:
        return round(seconds * 1000)

    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.keepalive_time_ms", milliseconds(settings.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", milliseconds(settings.keepalive_timeout_seconds)),
        ("grpc.http2.min_ping_interval_without_data_ms", 9_000),  # clients may ping every 10 s
        ("grpc.max_connection_age_ms", milliseconds(settings.connection_age_seconds)),
        ("grpc.max_connection_age_grace_ms", milliseconds(settings.connection_age_grace_seconds)),
        ("grpc.so_reuseport", 0),  # else a second server on the port is silently given half of the calls
    ]


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

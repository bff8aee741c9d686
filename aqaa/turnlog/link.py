"""The connection to Redis or Valkey, a server or a cluster: scripts by SHA, deadlines, bounded repetition."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from prometheus_client import CollectorRegistry
from redis import exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from aqaa.errors import Unavailable
from aqaa.telemetry import catalogue
from aqaa.telemetry.metrics import Metrics
from aqaa.turnlog.clock import Clock, MonotonicClock
from aqaa.turnlog.scripts import Script
from aqaa.turnlog.settings import TurnLogSettings

T = TypeVar("T")

_BROKEN = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.OutOfMemoryError,
    redis_errors.ClusterDownError,
    redis_errors.ClusterError,
    redis_errors.MasterDownError,
    redis_errors.SlotNotCoveredError,
    redis_errors.TryAgainError,
    redis_errors.RedisClusterException,
    OSError,
)
"""What a failover or a restart looks like: the call is repeated until its time is over."""

_FIRST_WAIT, _LONGEST_WAIT = 0.02, 0.5


@dataclass(frozen=True)
class Call:
    """A script with its keys and arguments."""

    script: Script
    keys: Sequence[str]
    args: Sequence[str | bytes | int]

    def words(self, *, whole: bool = False) -> tuple[Any, ...]:
        head = ("EVAL", self.script.text) if whole else ("EVALSHA", self.script.sha)
        return (*head, len(self.keys), *self.keys, *self.args)


class Link:
    """Every call has a deadline; every call may be repeated, so each one is safe to repeat.

    ``breaks`` counts lost connections: whoever keeps a place in a stream compares it after one. ``on_break``
    is told of each. Raises Unavailable when a call's time is over.
    """

    def __init__(
        self,
        client: Redis | RedisCluster,
        settings: TurnLogSettings,
        clock: Clock,
        node_options: Mapping[str, Any] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.client = client
        self.metrics = metrics or Metrics(CollectorRegistry(), catalogue.TURNLOG)
        self._node_options = dict(node_options or {})
        self.settings = settings
        self.clock = clock
        self.clustered = isinstance(client, RedisCluster)
        self.publish = "SPUBLISH" if self.clustered else "PUBLISH"
        self.breaks = 0
        self.on_break: list[Callable[[], None]] = []

    @classmethod
    async def connect(
        cls,
        url: str,
        settings: TurnLogSettings | None = None,
        *,
        cluster: bool = False,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
        **options: Any,
    ) -> Self:
        """``metrics``: with the part ``catalogue.TURNLOG``; without, they are counted for nobody.

        ``options`` go to redis-py: TLS, passwords. Raises Unavailable if nobody answers there.
        """
        settings = settings or TurnLogSettings()
        common: dict[str, Any] = {
            "socket_timeout": settings.socket_timeout,
            "socket_connect_timeout": settings.socket_timeout,
            "retry": Retry(NoBackoff(), 0),  # repeating is this class's, where it is counted
            "protocol": 2,
            "driver_info": None,  # two commands a connection that a user with few rights may not give
            **options,
        }
        client: Redis | RedisCluster
        if cluster:
            client = RedisCluster.from_url(url, max_connections=settings.connections, **common)
        else:
            pool = BlockingConnectionPool.from_url(
                url, max_connections=settings.connections, timeout=settings.call_timeout, **common
            )
            client = Redis.from_pool(pool)
        link = cls(client, settings, clock or MonotonicClock(), {**_login(url), **common}, metrics)
        try:
            await link.repeat("TIME", lambda: link._time())
        except BaseException:
            await link.aclose()
            raise
        return link

    async def aclose(self) -> None:
        await self.client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def subscriber(self, node: str) -> Redis:
        """A client whose connection may be put into subscriber mode; of a cluster, the node's "host:port"."""
        if not isinstance(self.client, RedisCluster):
            return self.client
        host, port = node.rsplit(":", 1)
        return Redis(host=host, port=int(port), **self._node_options)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[str | bytes | int]) -> list[Any]:
        """A script's reply; its first item is the status, as text."""
        call = Call(script, keys, args)
        return await self.repeat(script.name, lambda: self._run(call))

    async def command(self, *words: str | bytes | int, **options: Any) -> Any:
        """One command that may be repeated. Raises redis's ResponseError for one that the server refuses."""
        return await self.repeat(str(words[0]), lambda: self.client.execute_command(*words, **options))

    async def pipeline(self, calls: Sequence[Call | tuple[Any, ...]]) -> list[Any]:
        """The replies of many calls in one round trip; a refused one's place holds its ResponseError."""
        if not calls:
            return []
        return await self.repeat("pipeline", lambda: self._pipeline(calls))

    async def now_ms(self) -> int:
        """The server's clock, in milliseconds since 1970: the clock of leases and of turns' deadlines."""
        return await self.repeat("TIME", lambda: self._time())

    async def repeat(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """``attempt`` until it is answered. Raises Unavailable after ``call_timeout``."""
        wait, last = _FIRST_WAIT, "no answer"
        try:
            async with asyncio.timeout(self.settings.call_timeout):
                while True:
                    try:
                        return await heeding(attempt())
                    except ResponseError as error:
                        if not isinstance(error, _BROKEN):
                            raise
                        last = self.broke(error)
                    except _BROKEN as error:
                        last = self.broke(error)
                    await self.clock.sleep(wait)
                    wait = min(2 * wait, _LONGEST_WAIT)
        except TimeoutError:
            raise Unavailable(
                f"the turn log did not answer {what} within {self.settings.call_timeout:g} s: {last}",
                stage="turnlog",
            ) from None

    def broke(self, error: BaseException) -> str:
        """Notes a lost connection."""
        self.breaks += 1
        self.metrics[catalogue.LOG_BREAKS].inc()
        for told in self.on_break:
            told()
        return f"{type(error).__name__}: {error}"

    async def _run(self, call: Call) -> list[Any]:
        try:
            reply = await self.client.execute_command(*call.words())
        except NoScriptError:  # a server that restarted, or a promoted replica
            reply = await self.client.execute_command(*call.words(whole=True))
        return _reply(reply)

    async def _pipeline(self, calls: Sequence[Call | tuple[Any, ...]]) -> list[Any]:
        try:
            return await self._piped(calls)
        except _BROKEN:
            if isinstance(self.client, RedisCluster):  # only single commands learn that a node was replaced
                await self.client.nodes_manager.initialize()
            raise

    async def _piped(self, calls: Sequence[Call | tuple[Any, ...]]) -> list[Any]:
        pipe: Any
        pipe = self.client.pipeline() if self.clustered else self.client.pipeline(transaction=False)
        for call in calls:
            pipe.execute_command(*(call.words() if isinstance(call, Call) else call))
        replies: list[Any] = await pipe.execute(raise_on_error=False)
        for i, (call, reply) in enumerate(zip(calls, replies, strict=True)):
            if isinstance(call, Call):
                replies[i] = await self._run(call) if isinstance(reply, NoScriptError) else reply
                if isinstance(replies[i], list) and not isinstance(reply, NoScriptError):
                    replies[i] = _reply(replies[i])
            if isinstance(replies[i], _BROKEN):
                raise replies[i]
            if isinstance(replies[i], RedisError) and not isinstance(replies[i], ResponseError):
                raise replies[i]
        return replies

    async def _time(self) -> int:
        options: dict[str, Any] = {}
        if isinstance(self.client, RedisCluster):
            await self.client.initialize()
            options["target_nodes"] = self.client.get_random_node()
        client: Any = self.client
        seconds, micros = await client.execute_command("TIME", **options)
        return int(seconds) * 1000 + int(micros) // 1000


async def heeding(awaited: Awaitable[T]) -> T:
    """``awaited``, and a cancellation that came meanwhile.

    redis-py sends through ``wait_for``, which before Python 3.12 forgets one that comes just as it ends.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    found = await awaited
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
    return found


def granted(reply: Any) -> Any:
    """A reply of a pipeline. Raises Unavailable for a call that the server refuses."""
    if isinstance(reply, ResponseError):
        raise Unavailable(f"the turn log refuses a call: {reply}", stage="turnlog") from reply
    return reply


def _login(url: str) -> dict[str, Any]:
    """What a URL says besides the address."""
    found: dict[str, Any] = {**parse_url(url)}
    for key in ("host", "port", "path", "db", "connection_class"):
        found.pop(key, None)
    return {**found, "ssl": True} if url.startswith("rediss") else found


def _reply(reply: list[Any]) -> list[Any]:
    return [reply[0].decode(), *reply[1:]]

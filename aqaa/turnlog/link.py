"""The connection to Redis or Valkey, a server or a cluster: scripts by SHA, deadlines, bounded repetition."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from hiredis import pack_command
from prometheus_client import CollectorRegistry
from redis import exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ResponseError

from aqaa.errors import Unavailable
from aqaa.telemetry import catalogue
from aqaa.telemetry.metrics import Metrics
from aqaa.turnlog.clock import Clock, MonotonicClock
from aqaa.turnlog.lane import Broken, Lane, Source
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

_ELSEWHERE = (
    redis_errors.AskError,
    redis_errors.MovedError,
    redis_errors.TryAgainError,
    redis_errors.ClusterDownError,
)
"""What a node answers that is not, or not alone, the one to ask: redis-py finds who is, and remembers."""

_FIRST_WAIT, _LONGEST_WAIT = 0.02, 0.5
_LEARN_AGAIN = 0.25
"""Seconds between two looks at which nodes a cluster has."""

_KEYED = frozenset(
    {"GET", "HGET", "HGETALL", "SET", "UNLINK", "XACK", "XADD", "XRANGE", "ZCOUNT", "ZRANGE", "ZREM"}
)
"""Commands that are asked like scripts: the second word is the key, and they never wait."""

Command = tuple[str | bytes | int, ...]
"""A command whose second word is the key that says where it goes."""


def pack(command: Command) -> bytes:
    """A command in the server's protocol."""
    packed: bytes = pack_command(command)  # type: ignore[arg-type]  # its stub names a tuple of one
    return packed


@dataclass(frozen=True)
class Call:
    """A script with its keys and arguments."""

    script: Script
    keys: Sequence[str]
    args: Sequence[str | bytes | int]

    def words(self, *, whole: bool = False) -> Command:
        head = ("EVAL", self.script.text) if whole else ("EVALSHA", self.script.sha)
        return (*head, len(self.keys), *self.keys, *self.args)


class Link:
    """Every call has a deadline; every call may be repeated, so each one is safe to repeat.

    Scripts and pipelines of many callers share one connection to a node (``Lane``): what is called while an
    exchange is under way goes out with the next one. Each call keeps its own error, deadline and repetition.

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
        self._server = client if isinstance(client, Redis) else None
        self._cluster = client if isinstance(client, RedisCluster) else None
        self.clustered = self._cluster is not None
        self.publish = "SPUBLISH" if self.clustered else "PUBLISH"
        self.breaks = 0
        self.on_break: list[Callable[[], None]] = []
        self._lanes: dict[str, Lane] = {}
        self._learned = -_LEARN_AGAIN

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
            await link.repeat("TIME", link._time)
        except BaseException:
            await link.aclose()
            raise
        return link

    async def aclose(self) -> None:
        for lane in list(self._lanes.values()):
            await lane.aclose()
        await self.client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def subscriber(self, node: str) -> Redis:
        """A client whose connection may be put into subscriber mode; of a cluster, the node's "host:port"."""
        if self._server is not None:
            return self._server
        host, port = node.rsplit(":", 1)
        return Redis(host=host, port=int(port), **self._node_options)

    def node(self, key: str) -> str:
        """Which node of a cluster has a key, "host:port"; "" on a single server, and where nobody has it."""
        return self._where(key)[0] if self.clustered else ""

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[str | bytes | int]) -> list[Any]:
        """A script's reply; its first item is the status, as text."""
        call = Call(script, keys, args)
        reply: list[Any] = await self.repeat(script.name, lambda ends: self._ask(call, ends))
        return reply

    async def command(self, *words: str | bytes | int, **options: Any) -> Any:
        """One command that may be repeated. Raises redis's ResponseError for one that the server refuses."""
        name = str(words[0])
        if name in _KEYED and not options:
            return await self.repeat(name, lambda ends: self._ask(words, ends))
        return await self.repeat(name, lambda ends: self._execute(ends, *words, **options))

    async def pipeline(self, calls: Sequence[Call | Command]) -> list[Any]:
        """The replies of many calls in one round trip to each node; a refused one's is its ResponseError."""
        if not self.clustered:
            return await self._pipeline(calls)
        places: dict[str, list[int]] = {}
        for i, call in enumerate(calls):
            places.setdefault(self.node(_key(call)), []).append(i)
        parts = (self._pipeline([calls[i] for i in part]) for part in places.values())
        found = zip(places.values(), await asyncio.gather(*parts), strict=True)
        replies = {i: reply for part, some in found for i, reply in zip(part, some, strict=True)}
        return [replies[i] for i in range(len(calls))]

    async def now_ms(self) -> int:
        """The server's clock, in milliseconds since 1970: the clock of leases and of turns' deadlines."""
        return await self.repeat("TIME", self._time)

    async def repeat(self, what: str, attempt: Callable[[float], Awaitable[T]]) -> T:
        """``attempt`` until it is answered. Raises Unavailable after ``call_timeout``.

        attempt: is given when that is, by the event loop's clock, and raises TimeoutError then.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + self.settings.call_timeout
        wait, last = _FIRST_WAIT, "no answer"
        while True:
            try:
                return await attempt(ends)
            except ResponseError as error:
                if not isinstance(error, _BROKEN):
                    raise
                last = self.broke(error)
            except _BROKEN as error:  # builtin's TimeoutError among them
                if loop.time() < ends:
                    last = self.broke(error)
            except Broken as error:
                last = str(error)
            try:
                async with asyncio.timeout_at(ends):
                    await self.clock.sleep(wait)
            except TimeoutError:
                break
            wait = min(2 * wait, _LONGEST_WAIT)
        raise Unavailable(
            f"the turn log did not answer {what} within {self.settings.call_timeout:g} s: {last}",
            stage="turnlog",
        )

    def broke(self, error: BaseException) -> str:
        """Notes a lost connection."""
        self.breaks += 1
        self.metrics[catalogue.LOG_BREAKS].inc()
        for told in self.on_break:
            told()
        return f"{type(error).__name__}: {error}"

    async def _ask(self, call: Call | Command, ends: float) -> Any:
        [reply] = await self._lane(_key(call)).ask([_packed(call)], ends)
        return await self._settled(call, reply, ends)

    async def _pipeline(self, calls: Sequence[Call | Command]) -> list[Any]:
        """``pipeline`` for keys of one node."""
        return await self.repeat("pipeline", lambda ends: self._piped(calls, ends)) if calls else []

    async def _piped(self, calls: Sequence[Call | Command], ends: float) -> list[Any]:
        replies = await self._lane(_key(calls[0])).ask([_packed(call) for call in calls], ends)
        for i, call in enumerate(calls):
            try:
                replies[i] = await self._settled(call, replies[i], ends)
            except ResponseError as error:
                if isinstance(error, _BROKEN):
                    raise
                replies[i] = error
        return replies

    async def _settled(self, call: Call | Command, reply: Any, ends: float) -> Any:
        """A reply as its caller wants it. Raises the error of a refused call."""
        if isinstance(reply, ResponseError):
            reply = await self._alone(call, reply, ends)
        elif not isinstance(call, Call):
            parse = self.client.response_callbacks.get(str(call[0]))
            return parse(reply) if parse is not None else reply
        return [reply[0].decode(), *reply[1:]] if isinstance(call, Call) else reply

    async def _alone(self, call: Call | Command, error: ResponseError, ends: float) -> Any:
        """Asks again what another node has to answer, or what was not answered for want of its script."""
        try:
            if not isinstance(error, _ELSEWHERE):
                raise error
            return await self._execute(ends, *(call.words() if isinstance(call, Call) else call))
        except NoScriptError:  # a server that restarted, or a promoted replica
            assert isinstance(call, Call)
            return await self._execute(ends, *call.words(whole=True))

    async def _execute(self, ends: float, *words: str | bytes | int, **options: Any) -> Any:
        async with asyncio.timeout_at(ends):
            return await heeding(self.client.execute_command(*words, **options))

    def _lane(self, key: str) -> Lane:
        name, source = self._where(key)
        lane = self._lanes.get(name)
        if lane is None or lane.source is not source:
            lane = self._lanes[name] = Lane(source, self.settings.socket_timeout, self._lost)
        return lane

    def _where(self, key: str) -> tuple[str, Source]:
        if self._server is not None:
            return "", self._server.connection_pool
        assert self._cluster is not None
        node = self._cluster.get_node_from_key(key)
        assert node is not None  # only a replica may be missing
        return node.name, node

    async def _lost(self, error: Exception) -> None:
        """Notes an exchange that broke; on a cluster it finds out who has the slots now."""
        self.broke(error)
        if self._cluster is not None and self.clock.now() >= self._learned + _LEARN_AGAIN:
            self._learned = self.clock.now()
            with contextlib.suppress(*_BROKEN):
                await self._cluster.nodes_manager.initialize()

    async def _time(self, ends: float) -> int:
        options: dict[str, Any] = {}
        if self._cluster is not None:
            await self._cluster.initialize()
            options["target_nodes"] = self._cluster.get_random_node()
        seconds, micros = await self._execute(ends, "TIME", **options)
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


def _packed(call: Call | Command) -> bytes:
    return pack(call.words() if isinstance(call, Call) else call)


def _key(call: Call | Command) -> str:
    return call.keys[0] if isinstance(call, Call) else str(call[1])

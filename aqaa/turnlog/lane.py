"""One connection to a node, shared by all who ask it: what they ask meanwhile goes out in one write."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import ResponseError

Source = ConnectionPool | ClusterNode


class Broken(Exception):
    """The connection was lost before the answer came. It has been noted; the call may be repeated."""


@dataclass(frozen=True, eq=False)
class _Asked:
    commands: Sequence[bytes]
    answer: "asyncio.Future[list[Any] | Broken | TimeoutError]"


class Lane:
    """Exchanges with one node, one after the other, over a connection of redis-py's pool.

    The first call goes out at once; those that come while an exchange is under way are joined in the next.
    So a lane adds no waiting where it is idle, and one write and one read serve many calls where it is not.

    timeout  seconds for one exchange, connecting included
    lost     told of an exchange that broke, before those who asked learn of it
    """

    def __init__(self, source: Source, timeout: float, lost: Callable[[Exception], Awaitable[None]]) -> None:
        self.source = source
        self._timeout = timeout
        self._lost = lost
        self._waiting: list[_Asked] = []
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    async def ask(self, commands: Sequence[bytes], ends: float) -> list[Any]:
        """The replies to commands in the server's protocol; a refused one's is its ResponseError.

        Who is cancelled leaves the others alone, and what has been sent is carried out. Raises Broken, or
        TimeoutError when it ``ends`` by the event loop's clock.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Any] | Broken | TimeoutError] = loop.create_future()
        self._waiting.append(_Asked(commands, answer))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="turnlog-lane")
        timer = loop.call_at(ends, _settle, answer, TimeoutError())
        try:
            found = await answer
        finally:
            timer.cancel()
        if isinstance(found, Exception):
            raise found
        return found

    async def aclose(self) -> None:
        """Gives the connection back; whoever waits for an answer gets none."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
            if isinstance(self.source, ClusterNode):
                self.source.release(connection)
            else:
                await self.source.release(connection)

    async def _run(self) -> None:
        asked: list[_Asked] = []
        try:
            while self._waiting:
                asked, self._waiting = [one for one in self._waiting if not one.answer.done()], []
                try:
                    await self._exchange(asked)
                except Exception as error:
                    await self._fail(asked, error)
        finally:
            self._task = None
            for one in (*asked, *self._waiting):  # none, unless this was cancelled
                _settle(one.answer, Broken("the connection is closed"))
            self._waiting = []

    async def _exchange(self, asked: Sequence[_Asked]) -> None:
        async with asyncio.timeout(self._timeout):
            connection = await self._ready()
            packed = b"".join(command for one in asked for command in one.commands)
            await connection.send_packed_command(packed, check_health=False)
            for one in asked:
                replies = [await _reply(connection) for _ in one.commands]
                _settle(one.answer, replies)

    async def _fail(self, asked: Sequence[_Asked], error: Exception) -> None:
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)
        await self._lost(error)
        for one in asked:
            _settle(one.answer, Broken(f"{type(error).__name__}: {error}"))

    async def _ready(self) -> Connection:
        """The connection; one that the server has closed meanwhile connects again when it is written to."""
        if self._connection is None:
            if isinstance(self.source, ClusterNode):
                self._connection = self.source.acquire_connection()
            else:
                self._connection = await self.source.get_connection()  # type: ignore[no-untyped-call]
            self._connection.socket_timeout = None  # an exchange has its own
        connection = self._connection
        if connection.is_connected and (connection.should_reconnect() or await connection.can_read()):
            await connection.disconnect(nowait=True)
        return connection


def _settle(
    answer: "asyncio.Future[list[Any] | Broken | TimeoutError]", found: list[Any] | Broken | TimeoutError
) -> None:
    if not answer.done():
        answer.set_result(found)


async def _reply(connection: Connection) -> Any:
    try:
        return await connection.read_response(timeout=math.inf)
    except ResponseError as error:
        return error

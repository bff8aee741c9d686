"""Being woken: one connection to a node that hears every channel of this process."""

import asyncio
import contextlib
import math
from collections.abc import Callable

from redis import exceptions as redis_errors
from redis.asyncio import Connection

from aqaa.turnlog.link import Link, heeding, pack

_SILENT, _DEAD = 5, 10
"""Sweeps without a word: after the first number the server is asked, after the second it counts as gone."""

_LOST = (redis_errors.RedisError, OSError)

Heard = Callable[[str, bytes | None], None]
"""(channel, message); the message is None when the subscription has just been confirmed."""


class Channels:
    """The channels that this process listens to, wherever their slots lie. A wake-up may be lost.

    On a cluster the channels are sharded, in the slots of their turns: ``settle`` follows slots that move.
    """

    def __init__(self, link: Link, heard: Heard) -> None:
        self._link = link
        self._heard = heard
        self._wanted: dict[str, str] = {}
        self._ears: dict[str, _Ear] = {}

    def add(self, channel: str) -> None:
        """Listen there. Confirmed by a call of ``heard``."""
        node = self._link.node(channel)
        self._wanted[channel] = node
        if node not in self._ears:
            self._ears[node] = _Ear(self._link, node, self._heard)
        self._ears[node].add(channel)

    def drop(self, channel: str) -> None:
        """Listen there no more."""
        node = self._wanted.pop(channel, None)
        if node in self._ears:
            self._ears[node].drop(channel)

    def settle(self) -> None:
        """Moves the channels of slots that have moved."""
        if not self._link.clustered:
            return
        for channel, node in list(self._wanted.items()):
            if self._link.node(channel) != node or channel in self._ears[node].refused:
                self._ears[node].drop(channel)
                self.add(channel)

    async def aclose(self) -> None:
        ears, self._ears = list(self._ears.values()), {}
        for ear in ears:
            await ear.aclose()


class _Ear:
    """One connection in subscriber mode; after a loss it connects again and hears the same channels."""

    def __init__(self, link: Link, node: str, heard: Heard) -> None:
        self._link = link
        self._node = node
        self._heard = heard
        self._wanted: set[str] = set()
        self._asked: set[str] = set()
        self.refused: set[str] = set()
        self._changed = asyncio.Event()
        self._silence = 0
        self._task = asyncio.create_task(self._run(), name=f"turnlog-ear {node}")

    def add(self, channel: str) -> None:
        self._wanted.add(channel)
        self.refused.discard(channel)
        self._changed.set()

    def drop(self, channel: str) -> None:
        self._wanted.discard(channel)
        self._changed.set()

    async def aclose(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            client = self._link.subscriber(self._node)
            connection: Connection | None = None
            try:
                connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
                self._asked = set()
                self._changed.set()
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._ask(connection))
                    group.create_task(self._hear(connection))
                    group.create_task(self._watch(connection))
            except* _LOST as lost:
                self._link.broke(lost.exceptions[0])
            finally:
                if connection is not None:
                    with contextlib.suppress(*_LOST):
                        await connection.disconnect(nowait=True)
                    await client.connection_pool.release(connection)
                if client is not self._link.client:
                    with contextlib.suppress(*_LOST):
                        await client.aclose()
            await self._link.clock.sleep(0.05)

    async def _ask(self, connection: Connection) -> None:
        """Keeps what was subscribed to equal to what is wanted."""
        more, less = ("SSUBSCRIBE", "SUNSUBSCRIBE") if self._link.clustered else ("SUBSCRIBE", "UNSUBSCRIBE")
        while True:
            await self._changed.wait()
            self._changed.clear()
            changes = [(less, channel) for channel in self._asked - self._wanted]
            changes += [(more, channel) for channel in self._wanted - self._asked]
            self._asked = set(self._wanted)
            # one command a channel: their slots may differ
            if changes:
                await heeding(connection.send_packed_command(b"".join(map(pack, changes))))

    async def _hear(self, connection: Connection) -> None:
        while True:
            try:
                message = await connection.read_response(
                    timeout=math.inf, disconnect_on_error=False, push_request=True
                )
            except redis_errors.MovedError:
                self.refused |= self._asked
                continue
            self._silence = 0
            if not isinstance(message, list):  # the answer to a ping, where nothing is subscribed to
                continue
            kind, name = message[0], message[1].decode()
            if kind in (b"message", b"smessage"):
                self._heard(name, message[2])
            elif kind in (b"subscribe", b"ssubscribe"):
                self._heard(name, None)
            elif kind == b"sunsubscribe" and name in self._wanted:  # its slot has left this node
                self._asked.discard(name)
                self.refused.add(name)

    async def _watch(self, connection: Connection) -> None:
        self._silence = 0
        while True:
            await self._link.clock.sleep(self._link.settings.sweep)
            self._silence += 1
            if self._silence == _SILENT:
                await heeding(connection.send_command("PING"))
            elif self._silence == _DEAD:
                raise redis_errors.ConnectionError("the subscribed connection is silent")

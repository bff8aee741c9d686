"""Being woken: one connection to a node that hears every channel of this process."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio.cluster import RedisCluster

from aqaa.turnlog.link import Link, heeding

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
        node = self._node(channel)
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
            if self._node(channel) != node or channel in self._ears[node].refused:
                self._ears[node].drop(channel)
                self.add(channel)

    async def aclose(self) -> None:
        ears, self._ears = list(self._ears.values()), {}
        for ear in ears:
            await ear.aclose()

    def _node(self, channel: str) -> str:
        client = self._link.client
        if not isinstance(client, RedisCluster):
            return ""
        node = client.get_node_from_key(channel)
        return node.name if node is not None else ""


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
            pubsub = client.pubsub()
            try:
                await pubsub.connect()  # type: ignore[no-untyped-call]
                self._asked = set()
                self._changed.set()
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._ask(pubsub))
                    group.create_task(self._hear(pubsub))
            except* _LOST as lost:
                self._link.broke(lost.exceptions[0])
            finally:
                with contextlib.suppress(*_LOST):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]
                if client is not self._link.client:
                    with contextlib.suppress(*_LOST):
                        await client.aclose()
            await self._link.clock.sleep(0.05)

    async def _ask(self, pubsub: Any) -> None:
        """Keeps what was subscribed to equal to what is wanted."""
        more, less = (
            (pubsub.ssubscribe, pubsub.sunsubscribe)
            if self._link.clustered
            else (pubsub.subscribe, pubsub.unsubscribe)
        )
        while True:
            await self._changed.wait()
            self._changed.clear()
            gone, new = self._asked - self._wanted, self._wanted - self._asked
            self._asked = set(self._wanted)
            # one command a channel: their slots may differ
            for channel in gone:
                await heeding(less(channel))
            for channel in new:
                await heeding(more(channel))

    async def _hear(self, pubsub: Any) -> None:
        silence = 0
        while True:
            try:
                message = await heeding(pubsub.get_message(timeout=self._link.settings.sweep))
            except redis_errors.MovedError:
                self.refused |= self._asked
                continue
            if message is None:
                silence += 1
                if silence == _SILENT:
                    await heeding(pubsub.ping())
                elif silence == _DEAD:
                    raise redis_errors.ConnectionError("the subscribed connection is silent")
                continue
            silence = 0
            kind, channel = message["type"], message["channel"]
            name = channel.decode() if isinstance(channel, bytes) else channel
            if kind in ("message", "smessage"):
                self._heard(name, message["data"])
            elif kind in ("subscribe", "ssubscribe"):
                self._heard(name, None)
            elif kind == "sunsubscribe" and name in self._wanted:  # its slot has left this node
                self._asked.discard(name)
                self.refused.add(name)

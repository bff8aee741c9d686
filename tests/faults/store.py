"""The turn log's server and what becomes of it: restarted, cut short, replaced by its replica, paused.

Also what is in it, as one looks from outside.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from aqaa.turnlog import Phase, TurnState
from aqaa.v1.turnlog_pb2 import AnswerRecord
from tests.faults.processes import free_port
from tests.integration.turnlog.turnlog_servers import Server, binary

AOF = ("--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0")

_SHARED = {b"aqaa:dispatch", b"aqaa:slots", b"aqaa:live", b"aqaa:dead"}
"""Keys of no turn: they stay, and are bounded."""


class Store:
    """A Valkey (or, as ``kind``, ``redis7``) with an append-only file on a port that it keeps."""

    def __init__(self, folder: Path, kind: str = "valkey9") -> None:
        self.folder = folder
        self._program = binary(kind)
        self._generation = 0
        self._server = Server(self._program, folder / "store-0", *AOF, port=free_port())
        self._replica: Server | None = None

    @property
    def url(self) -> str:
        return self._server.url

    def close(self) -> None:
        for server in (self._server, self._replica):
            if server is not None:
                server.kill()

    # -- what becomes of it --

    async def restart(self, cut: int = 0) -> None:
        """SIGKILL, then a new life with its file, less the last ``cut`` bytes."""
        self._server.kill()
        if cut:
            [tail] = (self._server.folder / "appendonlydir").glob("*.incr.aof")
            whole = tail.read_bytes()
            tail.write_bytes(whole[: max(0, len(whole) - cut)])
        await asyncio.to_thread(self._server.start)

    async def pause(self, seconds: float) -> None:
        """SIGSTOP for so long."""
        self._server.pause()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._server.go_on()

    async def replicate(self) -> None:
        """Starts a replica; returns when it has everything."""
        self._generation += 1
        folder = self.folder / f"store-{self._generation}"
        self._replica = await asyncio.to_thread(lambda: Server(self._program, folder, *AOF, port=free_port()))
        self._replica.ask("REPLICAOF", "127.0.0.1", str(self._server.port))
        while b"master_link_status:up" not in self._replica.ask("INFO", "replication"):
            await asyncio.sleep(0.02)

    async def promote(self, behind: float) -> None:
        """Cuts the replica's link; so many seconds later the server dies and the replica has its port."""
        replica = self._replica
        if replica is None:
            raise RuntimeError("no replica has been started")
        replica.ask("REPLICAOF", "NO", "ONE")
        await asyncio.sleep(behind)
        self._server.kill()
        answer = replica.ask("CONFIG", "SET", "port", str(self._server.port))
        if not answer.startswith(b"+OK"):
            raise RuntimeError(f"the replica does not take the port: {answer!r}")
        replica.port = self._server.port
        self._server, self._replica = replica, None

    # -- what is in it --

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Any]:
        async with Redis(host="127.0.0.1", port=self._server.port, protocol=2) as client:
            yield client

    async def command(self, *words: Any) -> Any:
        async with self._open() as client:
            return await client.execute_command(*words)

    async def states(self) -> dict[str, TurnState]:
        """State key → where that turn stands."""
        async with self._open() as client:
            found = {}
            for key in await client.keys("aqaa:{*}:*:state"):
                state = TurnState.parse(await client.hgetall(key))
                if state is not None:
                    found[key.decode()] = state
            return found

    async def answer_has_ended(self, state_key: str) -> bool:
        """Whether the answer's end marker is written."""
        stream = state_key.removesuffix("state") + "answer"
        for _, fields in await self.command("XREVRANGE", stream, "+", "-", "COUNT", 3):
            if AnswerRecord.FromString(fields[b"d"]).piece.HasField("end"):
                return True
        return False

    async def leftovers(self) -> list[str]:
        """What should have been given back when no turn is live any more."""
        left = []
        async with self._open() as client:
            seconds, micros = await client.time()
            live = await client.zcount("aqaa:live", f"({seconds * 1000 + micros // 1000}", "+inf")
            if live:
                left.append(f"{live} turns count as live")
            if await client.exists("aqaa:dispatch"):
                groups = await client.xinfo_groups("aqaa:dispatch")
                left += [f"{g['pending']} dispatch entries are pending" for g in groups if g["pending"]]
            keys = [key for key in await client.keys("*") if key not in _SHARED]
            left += [f"key {key.decode()} never expires" for key in keys if await client.pttl(key) == -1]
        left += [f"turn {key} is {at.phase}" for key, at in (await self.states()).items() if not over(at)]
        return left


def over(state: TurnState) -> bool:
    return state.phase.terminal


def is_open(state: TurnState) -> bool:
    """Whether no runner has taken it yet."""
    return state.phase is Phase.OPEN


async def until(met: Callable[[], Awaitable[bool]], seconds: float = 30.0, pause: float = 0.005) -> None:
    """Looks again and again. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not await met():
            await asyncio.sleep(pause)

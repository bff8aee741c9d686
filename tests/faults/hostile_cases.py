"""An orchestrator as a process of its own, over stub stages of this one: what hostile callers meet.

    with turn_log(folder) as url:
        async with orchestrator(url, StubStages(), question_idle_seconds=0.2) as front:
            await front.answered()          # a good caller gets its whole answer
            front.resident              # bytes of its memory

The process is a real one, with the limits of a real server, and in the production profile.
"""

import asyncio
import contextlib
import json
import os
import re
import sys
import urllib.request
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from redis.asyncio import Redis

from aqaa.rpc.caller import Caller
from aqaa.rpc.channel import ChannelSettings, open_channel
from aqaa.stack.children import LAUNCHER
from aqaa.stack.health import until_serving
from aqaa.v1 import orchestrator_pb2 as pb
from aqaa.v1 import orchestrator_pb2_grpc
from tests.integration.orchestrator.orchestrator_cases import ALICE, PATIENCE, Told, asking, hear, metadata
from tests.integration.turnlog.turnlog_servers import Server, binary
from tests.stages import StubStages

ROOT = Path(__file__).parents[2]
SERVICE = "/aqaa.v1.OrchestratorService"
SCENE_SECONDS = 500.0
START_SECONDS = 120.0
"""For a Python process on a busy machine. No test waits for it."""


@contextmanager
def turn_log(folder: Path) -> Iterator[str]:
    """The URL of a Valkey of its own."""
    server = Server(binary("valkey9"), folder)
    try:
        yield server.url
    finally:
        server.kill()


@dataclass
class Front:
    """One orchestrator process."""

    address: str
    metrics_address: str
    pid: int
    url: str
    channel: grpc.aio.Channel
    stages: StubStages

    @property
    def stub(self) -> Any:
        return orchestrator_pb2_grpc.OrchestratorServiceStub(self.channel)

    @property
    def resident(self) -> int:
        """Bytes of its memory that are in use."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    async def sample(self, name: str) -> float:
        """The sum of a metric over its labels."""

        def read() -> str:
            with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=10) as answer:
                return str(answer.read().decode())

        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", await asyncio.to_thread(read), re.MULTILINE)
        return sum(map(float, found))

    async def command(self, *words: Any) -> Any:
        """Of the turn log's server."""
        async with Redis.from_url(self.url, protocol=2) as client:
            return await client.execute_command(*words)

    async def keys(self) -> set[bytes]:
        """Of sessions, turns and requests."""
        return set(await self.command("KEYS", "aqaa:{*"))

    async def answered(self, caller: Caller = ALICE, **given: Any) -> Told:
        """A good caller's turn, to its last sample."""
        told = await hear(self.stub.Ask(asking(**given), metadata=metadata(caller), timeout=PATIENCE))
        assert told.manifest is not None
        return told

    async def at_rest(self, calls: int = 0) -> None:
        """Returns when it holds no turn, no place, no slot, and no more than so many calls."""

        async def resting() -> bool:
            open_calls, turns = [
                await self.sample(f"aqaa_{name}") for name in ("rpc_in_flight", "turns_live")
            ]
            places = await self.command("ZCARD", "aqaa:live")
            held = self.stages.held or self.stages.open_calls
            return open_calls <= calls and not (turns or places or held)

        await until(resting)


def run(scene: Coroutine[Any, Any, None]) -> None:
    """A scene of a test, which has failed when it is not over in time."""
    asyncio.run(asyncio.wait_for(scene, SCENE_SECONDS))


async def until(met: Callable[[], Awaitable[bool]], seconds: float = PATIENCE) -> None:
    """Waits for what another process does. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not await met():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def orchestrator(url: str, stages: StubStages, **flags: Any) -> AsyncIterator[Front]:
    """Ready to let turns in. It has to live to the end: who breaks it fails the test."""
    given = {"redis_url": url, "profile": "production", "capacity_seconds": 0.1, "resume_seconds": 0, **flags}
    async with stages.serving() as address:
        given |= {"tokenizer": address, "llm": address, "vocoder": address}
        words = [
            word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()),
            sys.executable, "-m", "services.orchestrator", *words,
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, limit=2**20,
            stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE,
        )  # fmt: skip
        lines: list[dict[str, Any]] = []
        listening = asyncio.Event()
        reading = asyncio.create_task(_read(process.stderr, lines, listening))
        try:
            async with asyncio.timeout(START_SECONDS):
                await listening.wait()
            said = next(line for line in lines if line["event"] == "listening")
            await until_serving(said["address"])
            plain = ChannelSettings(health_check=False, attempts=1, max_message_bytes=2**28)
            async with open_channel(said["address"], plain) as channel:
                front = Front(said["address"], said["metrics_address"], process.pid, url, channel, stages)
                await until(lambda: _slots(front))
                yield front
            assert process.returncode is None, "the orchestrator has died"
            faults = [line for line in lines if line["level"] == "error"]
            assert not faults, faults
        except BaseException:
            print(*lines, sep="\n")  # pytest shows it with the failure
            raise
        finally:
            if process.returncode is None:
                process.kill()
            await reading
            await process.wait()


async def _slots(front: Front) -> bool:
    return bool(await front.command("ZCARD", "aqaa:slots"))


async def _read(stream: Any, lines: list[dict[str, Any]], listening: asyncio.Event) -> None:
    """Keeps the lines that matter here: where it listens, and whatever is an error or a crash."""
    async for raw in stream:
        line = {"event": raw.decode(), "level": "error" if b"Traceback" in raw else "info"}
        with contextlib.suppress(ValueError):
            line = json.loads(raw)
        if line["event"] == "listening":
            lines.append(line)
            listening.set()
        elif line["level"] == "error":
            lines.append(line)
    listening.set()


@dataclass(frozen=True)
class Refusal:
    """How a call was refused. ``reason`` is empty where gRPC, not the service, refused it."""

    code: grpc.StatusCode
    reason: str
    fields: tuple[str, ...]
    retry_seconds: float | None
    details: str

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> "Refusal":
        reason, fields, retry = "", (), None
        status = rpc_status.from_call(error)
        for packed in [] if status is None else status.details:
            info, bad, delay = (
                error_details_pb2.ErrorInfo(),
                error_details_pb2.BadRequest(),
                error_details_pb2.RetryInfo(),
            )
            if packed.Unpack(info):
                assert info.domain == "aqaa"
                reason = info.reason
            elif packed.Unpack(bad):
                fields = tuple(violation.field for violation in bad.field_violations)
            elif packed.Unpack(delay):
                retry = delay.retry_delay.ToMilliseconds() / 1000
        return cls(error.code(), reason, fields, retry, error.details() or "")


async def refused(call: Any) -> Refusal:
    """Reads a call to its end, which has to be a refusal."""
    try:
        if isinstance(call, grpc.aio.UnaryUnaryCall):
            await call
        else:
            while await call.read() is not grpc.aio.EOF:
                pass
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)
    raise AssertionError("the call was not refused")


async def conversing(front: Front, *steps: pb.ConverseRequest, given: Any = None) -> Any:
    """A Converse call that has said these steps, and does not hang up.

    The last one is what is wrong with it: who goes on writing to a call that was refused may not see why.
    """
    call = front.stub.Converse(metadata=metadata() if given is None else given, timeout=PATIENCE)
    for step in steps:
        await call.write(step)
    return call

"""An orchestrator as a process of its own, which a test may end."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqaa.rpc.channel import ChannelSettings, open_channel
from aqaa.stack.health import listening_of, until_serving
from aqaa.v1 import orchestrator_pb2_grpc


@dataclass
class Running:
    """One that serves, at ``address``."""

    process: asyncio.subprocess.Process
    address: str
    stub: Any
    lines: list[str]

    @property
    def pid(self) -> int:
        return self.process.pid

    async def wait(self) -> int:
        """How it has ended."""
        return await self.process.wait()


@asynccontextmanager
async def process_of(url: str, stages: str, **given: object) -> AsyncIterator[Running]:
    """Ready when the body begins; killed at its end if it still runs. ``given``: settings."""
    flags = {
        "profile": "development", "redis_url": url, "tokenizer": stages, "llm": stages, "vocoder": stages,
        "lease_seconds": 3, "capacity_seconds": 0.05, "retry_seconds": 0.01, "stage_attempts": 3, **given,
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.orchestrator", *words,
        cwd=Path(__file__).parents[3], stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    lines: list[str] = []
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def read() -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            lines.append(line.decode())
            if not address.done() and (found := listening_of(lines[-1])) is not None:
                address.set_result(found.address)

    reading = asyncio.create_task(read())
    try:
        await asyncio.wait({address, reading}, return_when=asyncio.FIRST_COMPLETED)
        assert address.done(), "it has ended before it listened"
        await until_serving(address.result())
        async with open_channel(address.result(), ChannelSettings(health_check=False, attempts=1)) as channel:
            stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
            yield Running(process, address.result(), stub, lines)
    except BaseException:
        print("".join(lines))  # pytest shows it with the failure
        raise
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading

"""A deployment on this machine: two fronts, two runners, the stages, the turn log's server."""

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from aqaa.rpc.channel import ChannelSettings, open_channel
from aqaa.v1 import backbone_pb2, backbone_pb2_grpc
from tests.faults.nursery import Nursery
from tests.faults.processes import MARK, ROOT, Process, marked
from tests.faults.store import Store, until

STAGES = ("tokenizer", "llm", "vocoder")
ROLES = ("front", "runner", *STAGES)

_STREAMS = {
    "tokenizer": "/aqaa.v1.TokenizerService/StreamTokenize",
    "llm": "/aqaa.v1.BackboneService/StreamGenerate",
    "vocoder": "/aqaa.v1.VocoderService/StreamSynthesize",
}


@dataclass(frozen=True)
class Settings:
    """``bundle``: real stages with it; None: stub stages. ``replicas``: of each stage. Times in seconds."""

    bundle: Path | None = None
    replicas: int = 1
    store: str = "valkey9"
    lease: float = 2.0
    stage: float = 3.0
    resume: float = 4.0
    drain: float = 8.0
    ready: float = 120.0
    settle: float = 20.0


class Stack:
    """A deployment.

    async with Stack.over(folder, Settings()) as stack:
        victim = await stack.holding("runner")
        victim.shoot(signal.SIGKILL)
        ...
        assert not await stack.leftovers()
    """

    def __init__(self, folder: Path, settings: Settings, nursery: Nursery, mark: str) -> None:
        """``mark``: in the environment of all that the nursery starts."""
        self.settings = settings
        self.store = Store(folder, settings.store)
        self._nursery = nursery
        self._mark = mark
        common = ["--profile", "development", "--drain-seconds", f"{settings.drain:g}"]
        self.processes: dict[str, list[Process]] = {}
        for stage in STAGES:
            words = ["tests.faults.stub", "--stage", stage]
            if settings.bundle is not None:
                words = [f"services.{stage}", "--bundle", str(settings.bundle)]
            self.processes[stage] = [
                Process(nursery, f"{stage}-{i}", [*words, *common], folder) for i in range(settings.replicas)
            ]
        for role in ("front", "runner"):
            words = [
                "services.orchestrator", "--role", role, *common, "--redis-url", self.store.url,
                "--lease-seconds", f"{settings.lease:g}", "--stage-seconds", f"{settings.stage:g}",
                "--resume-seconds", f"{settings.resume:g}", "--capacity-seconds", "0.1",
                *(("--question-piece-seconds", "0.12") if settings.bundle is None else ()),
                "--stage-attempts", "7" if settings.replicas > 1 else "10",  # until a lone one is back
                *(word for stage in STAGES for word in (f"--{stage}", self.address(stage))),
            ]  # fmt: skip
            self.processes[role] = [Process(nursery, f"{role}-{i}", words, folder) for i in range(2)]

    @classmethod
    @asynccontextmanager
    async def over(cls, folder: Path, settings: Settings) -> AsyncIterator["Stack"]:
        """Ready to be asked. Raises RuntimeError if it cannot be, or if a process is left at the end."""
        mark, modules = secrets.token_hex(8), ["services.orchestrator.service", "uvloop"]
        if settings.bundle is None:
            modules.append("tests.faults.stub")
        else:
            modules += [f"services.{stage}.service" for stage in STAGES]
        threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        environ = {**os.environ, **threads, "PYTHONUNBUFFERED": "1", MARK: mark}
        nursery = await Nursery.open(modules, environ, ROOT)
        stack = cls(folder, settings, nursery, mark)
        try:
            for process in stack.all:
                process.start()
            await stack.ready()
            yield stack
        finally:
            for role in reversed([*STAGES, "runner", "front"]):
                await asyncio.gather(*(process.stop() for process in stack.processes[role]))
            stack.store.close()
            await nursery.aclose()
        if orphans := marked(mark):
            raise RuntimeError(f"processes are left: {orphans}")

    @property
    def all(self) -> Iterable[Process]:
        return [process for role in (*STAGES, "runner", "front") for process in self.processes[role]]

    def address(self, role: str) -> str:
        """A gRPC name of all replicas."""
        return "ipv4:" + ",".join(process.address for process in self.processes[role])

    async def ready(self) -> None:
        """Returns when every process serves and turns are let in. Raises RuntimeError."""
        try:
            async with asyncio.timeout(self.settings.ready):
                await asyncio.gather(*(process.ready() for process in self.all))
                await until(self._admits, self.settings.ready)
        except TimeoutError:
            seconds, logs = self.settings.ready, self.store.folder
            raise RuntimeError(f"the stack is not ready after {seconds:g} s; logs in {logs}") from None

    async def _admits(self) -> bool:
        return bool(await self.store.command("ZCARD", "aqaa:slots"))

    async def renew(self) -> None:
        """Begins again with an empty log and new processes: what one turn left does not disturb the next."""
        for process in self.all:
            process.shoot(signal.SIGKILL)
        await self.store.command("FLUSHALL")
        await self.ready()
        self.accidents()

    async def holding(self, role: str) -> Process | None:
        """The process of that role that has the live turn in its hands; None if nobody has."""
        name = _STREAMS.get(role)
        sample = f'aqaa_rpc_in_flight{{method="{name}"}}' if name else f'aqaa_turns_live{{role="{role}"}}'
        for process in self.processes[role]:
            if (await process.metrics()).get(sample):
                return process
        return None

    def accidents(self) -> list[str]:
        """Processes that ended otherwise than they should, since the last look."""
        found = [accident for process in self.all for accident in process.accidents]
        for process in self.all:
            process.accidents.clear()
        return found

    async def leftovers(self) -> list[str]:
        """What is still held ``settle`` seconds after a turn was over; nothing, if all is well."""
        left: list[str] = []

        async def clean() -> bool:
            left[:] = [*await self.store.leftovers(), *await self._held(), *self._strangers()]
            return not left

        with suppress(TimeoutError):
            await until(clean, self.settings.settle, pause=0.1)
        return left

    async def _held(self) -> list[str]:
        """Turns, calls and slots that processes hold."""
        left = [f"a {role} still holds a turn" for role in ROLES if await self.holding(role) is not None]
        for llm in self.processes["llm"]:
            plain = ChannelSettings(health_check=False, attempts=1)
            async with open_channel(llm.address, plain) as channel:
                stub = backbone_pb2_grpc.BackboneServiceStub(channel)
                try:
                    capacity = await stub.GetCapacity(backbone_pb2.GetCapacityRequest(), timeout=5)
                except grpc.aio.AioRpcError as error:
                    left.append(f"{llm.name} does not say its capacity: {error.code().name}")
                else:
                    if capacity.free_slots < capacity.slots:
                        left.append(f"{llm.name} has {capacity.slots - capacity.free_slots} slots taken")
        return left

    def _strangers(self) -> list[str]:
        """Processes of this run that are not the ones that should be."""
        known = {self._nursery.pid, *(process.pid for process in self.all)}
        found = marked(self._mark)
        return [f"process {pid} is left, a {name}" for pid, name in found.items() if pid not in known]

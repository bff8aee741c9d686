"""A served nano in this process, and calls to it."""

import asyncio
import io
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
from prometheus_client import CollectorRegistry

from aqaa.bundle import Bundle
from aqaa.rpc.channel import open_channel
from aqaa.rpc.status import typed_errors
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import make_log
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing
from aqaa.v1 import backbone_pb2, backbone_pb2_grpc, tokens_pb2
from services.llm.config import LlmSettings
from services.llm.service import Service

ROOT = Path(__file__).resolve().parents[4]
BUNDLE = ROOT / "models" / "nano"
Step = backbone_pb2.StreamGenerateRequest
ANSWER, AUTO = tokens_pb2.TASK_ANSWER, tokens_pb2.START_MODE_AUTO


class Served:
    """One running service, its metrics, and a stub that speaks with it."""

    def __init__(self, service, metrics, stub):
        self.service, self.metrics, self.stub = service, metrics, stub
        self.language = service.servicer._door.language

    def value(self, metric, suffix="", **labels):
        """What a metric shows now."""
        name = metric.name.removesuffix("_total") + ("_total" if metric.kind == "counter" else suffix)
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def capacity(self):
        return await self.stub.GetCapacity(backbone_pb2.GetCapacityRequest())

    async def until_free(self, slots):
        """Asks until so many slots are free."""
        async with asyncio.timeout(20):
            while (await self.capacity()).free_slots != slots:
                pass

    def groups(self, ids, first=0):
        """Ids of whole groups as they travel."""
        linguistic, semantic = self.language.group_codes(ids)
        return tokens_pb2.AudioGroups(first_group=first, linguistic=linguistic, semantic=semantic)


@asynccontextmanager
async def served(**settings):
    """A warm service on 127.0.0.1."""
    settings = LlmSettings(profile="development", bundle=BUNDLE, threads=1, **settings)
    metrics = Metrics(CollectorRegistry(), catalogue.RPC, catalogue.LLM)
    log = make_log("llm", file=io.StringIO(), strict=True)
    bundle = Bundle.open(settings.bundle)
    service = Service.of(settings, bundle, log=log, metrics=metrics, tracing=Tracing.open("llm"))
    try:
        async with service.server:
            await service.engine.start()
            service.server.ready()
            async with open_channel(f"127.0.0.1:{service.server.port}") as channel:
                yield Served(service, metrics, backbone_pb2_grpc.BackboneServiceStub(channel))
    finally:
        await service.engine.close()


class Call:
    """A StreamGenerate call from the client's side; leaving it cancels what still runs."""

    def __init__(self, served, *, timeout=60, **opening):
        self._served = served
        self._call = served.stub.StreamGenerate(timeout=timeout)
        self._opening, self._said = opening, 0
        self.pieces, self.transcript, self.happened = [], None, []

    async def __aenter__(self):
        with typed_errors():
            await self._call.write(Step(open=backbone_pb2.OpenPrompt(**self._opening)))
        return self

    async def __aexit__(self, *_):
        self._call.cancel()

    async def send(self, step):
        with typed_errors():
            await self._call.write(step)

    async def say(self, ids, pieces=1):
        """The question, in about so many messages."""
        size = self._served.language.ratios.group_size
        count = len(ids) // size
        for n in range(pieces):
            low, high = count * n // pieces, count * (n + 1) // pieces
            await self.send(Step(prompt=self._served.groups(ids[low * size : high * size], self._said)))
            self._said += high - low

    async def commit(self, task=ANSWER, start_mode=None, **fields):
        if start_mode is None:
            start_mode = AUTO if task == ANSWER else tokens_pb2.START_MODE_UNSPECIFIED
        fields = {"prompt_groups": self._said} | fields
        await self.send(Step(commit=backbone_pb2.CommitPrompt(task=task, start_mode=start_mode, **fields)))

    async def advance(self, until_group):
        await self.send(Step(advance=backbone_pb2.Advance(until_group=until_group)))

    async def half_close(self):
        await self._call.done_writing()

    async def next(self):
        """The next response; None at the end of the call."""
        with typed_errors():
            response = await self._call.read()
        if response is grpc.aio.EOF:
            return None
        self.happened.append(response.WhichOneof("event"))
        if response.HasField("piece"):
            self.pieces.append(response.piece)
        elif response.HasField("transcript"):
            self.transcript = response.transcript.text
        return response

    async def until_groups(self, groups):
        """Reads until the answer has so many groups of sound."""
        while groups_of(self.pieces) < groups:
            assert await self.next() is not None

    async def rest(self):
        """Reads to the end; all pieces."""
        while await self.next() is not None:
            pass
        return self.pieces


def groups_of(pieces):
    return sum(len(piece.groups.semantic) // 3 for piece in pieces)


def text_of(pieces):
    return "".join(piece.text.text for piece in pieces)

"""Readiness goes before overload is refused; who is in goes on, and may still call."""

from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from orchestrator_cases import PATIENCE, ask, asking, hear, metadata, nothing_left, refused, replica
from orchestrator_processes import process_of

from aqaa.rpc.channel import ChannelSettings, open_channel
from aqaa.rpc.health import READINESS
from aqaa.v1 import orchestrator_pb2 as pb
from tests.stages import StubStages

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def health_of(running):
    async with open_channel(running.address, ChannelSettings(health_check=False, attempts=1)) as channel:
        yield health_pb2_grpc.HealthStub(channel)


async def until_said(watch, status):
    while (await watch.read()).status != status:
        pass


async def test_a_front_without_room_is_not_ready_and_yet_serves(server):
    stages = StubStages(slots=1)
    async with (
        stages.serving() as address,
        replica(server.url, address, role="runner") as runner,
        process_of(server.url, address, role="front") as front,
        health_of(front) as health,
    ):
        watch = health.Watch(health_pb2.HealthCheckRequest(service=READINESS))
        await until_said(watch, SERVING)
        undisturbed = await ask(front)
        held = stages.faults.hold("llm", 12)
        call = front.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
        told = await hear(call, until="audio")
        await until_said(watch, NOT_SERVING)
        refusal = await refused(hear(front.stub.Ask(asking(), metadata=metadata())))
        assert refusal == ("CAPACITY", grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        session = pb.GetSessionRequest(session_id=told.opened.session_id)
        assert (await front.stub.GetSession(session, metadata=metadata())).turns
        held.release()
        assert (await hear(call, told)).whole == undisturbed.whole
        await until_said(watch, SERVING)
        watch.cancel()
        await nothing_left(stages, runner)

"""SIGTERM: not ready at once, turns finished or handed over, gone within the grace."""

import asyncio
import os
import signal

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from orchestrator_cases import (
    ALICE,
    PATIENCE,
    Talking,
    ask,
    asking,
    hear,
    metadata,
    nothing_left,
    one,
    pcm,
    refused,
    replica,
)
from orchestrator_processes import process_of

from aqaa.rpc.channel import ChannelSettings, open_channel
from aqaa.turnlog import Role, history_digest
from aqaa.v1.turnlog_pb2 import History, TurnSpec
from tests.stages import StubStages

DRAINING = ("DRAINING", grpc.StatusCode.UNAVAILABLE)


async def told_to_end(running):
    """SIGTERM; returns when health says so."""
    async with open_channel(running.address, ChannelSettings(health_check=False, attempts=1)) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        os.kill(running.pid, signal.SIGTERM)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()


async def test_the_last_runner_answers_what_it_has(server):
    stages = StubStages()
    async with stages.serving() as address, replica(server.url, address, role="front") as front:
        async with replica(server.url, address, role="runner"):
            undisturbed = await ask(front)
        held = stages.faults.hold("llm", 12)
        async with process_of(server.url, address, role="runner", drain_seconds=PATIENCE) as runner:
            call = front.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
            told = await hear(call, until="audio")
            await held.reached.wait()
            await told_to_end(runner)
            held.release()
            assert (await hear(call, told)).whole == undisturbed.whole
            assert await runner.wait() == 0
        await nothing_left(stages, front)


async def test_a_runner_that_has_nothing_goes_at_once(server):
    stages = StubStages()
    async with (
        stages.serving() as address,
        replica(server.url, address, role="front") as front,
        process_of(server.url, address, role="runner", drain_seconds=PATIENCE) as runner,
    ):
        await ask(front)
        await told_to_end(runner)
        assert await runner.wait() == 0
        consumers = await front.orchestrator.shared.log.link.command(
            "XINFO", "CONSUMERS", "aqaa:dispatch", "runners"
        )
        assert not consumers


async def test_a_turn_that_is_being_taken_is_handed_over_too(server, monkeypatch):
    stages, taken, go_on = StubStages(), asyncio.Event(), asyncio.Event()
    long = {"lease_seconds": PATIENCE}  # nobody may wait for its end
    async with (
        stages.serving() as address,
        replica(server.url, address, role="front", **long) as front,
        replica(server.url, address, role="runner", **long) as leaving,
    ):
        log = leaving.orchestrator.shared.log
        pen = log.pen

        async def slowly(*given):
            taken.set()
            await go_on.wait()
            return await pen(*given)

        monkeypatch.setattr(log, "pen", slowly)
        answering = asyncio.ensure_future(ask(front))
        await taken.wait()
        async with replica(server.url, address, role="runner", **long) as other:
            while len(await log.link.command("XINFO", "CONSUMERS", "aqaa:dispatch", "runners")) < 2:
                await asyncio.sleep(0.005)
            draining = asyncio.ensure_future(leaving.orchestrator.drain(PATIENCE))
            while not leaving.orchestrator.runner._stopping or leaving.orchestrator.runner._loops:
                await asyncio.sleep(0.005)
            for _ in range(5):  # long enough for a drain that does not wait for it
                await log.link.command("PING")
            assert not draining.done()
            go_on.set()
            await draining
            assert leaving.orchestrator.runner.turns == 0
            assert (await answering).manifest is not None
            await nothing_left(stages, front, leaving, other)


async def test_a_front_tells_to_the_end_what_it_tells(server):
    stages = StubStages()
    async with stages.serving() as address, replica(server.url, address) as other:
        undisturbed = await ask(other)
        held = stages.faults.hold("vocoder", 2)
        async with process_of(server.url, address, role="front", drain_seconds=PATIENCE) as front:
            idle = await Talking(front).begin()
            talking = await Talking(front).begin()
            await talking.question(pcm())
            call = front.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
            told = await hear(call, until="audio", count=2)
            await talking.hear("audio")
            await told_to_end(front)
            assert await refused(idle.hear("nothing")) == DRAINING
            assert await refused(hear(front.stub.Ask(asking(), metadata=metadata()))) == DRAINING
            held.release()
            assert (await hear(call, told)).whole == undisturbed.whole
            assert (await talking.hear("manifest")).sound == undisturbed.sound
            assert await refused(talking.hear("nothing")) == DRAINING
            assert await front.wait() == 0
        await nothing_left(stages, other)


async def test_what_a_front_cannot_tell_in_time_goes_on_elsewhere(server):
    stages = StubStages()
    async with stages.serving() as address, replica(server.url, address) as other:
        undisturbed = await ask(other)
        held = stages.faults.hold("llm", 12)
        async with process_of(server.url, address, role="front", drain_seconds=0.5) as front:
            call = front.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
            told = await hear(call, until="audio")
            await held.reached.wait()
            await told_to_end(front)
            assert await refused(hear(call, told)) == DRAINING
            assert await front.wait() == 0
        held.release()
        again = other.stub.Resume(told.resuming, metadata=metadata(), timeout=PATIENCE)
        assert (await hear(again, told)).whole == undisturbed.whole
        await nothing_left(stages, other)


async def test_what_a_front_cannot_give_back_is_named_and_the_rest_is_given_back(server):
    async with one(server.url, role="front") as made:
        log, keeper = made.orchestrator.shared.log, made.orchestrator.front.desk.keeper
        broken, whole = [log.new_turn(ALICE.tenant) for _ in range(2)]
        for turn in (broken, whole):
            spec = TurnSpec(
                session_id=turn.session,
                turn_id=turn.turn_id,
                caller=str(ALICE),
                history_digest=history_digest(History()),
            )
            keeper.keep((await log.open(turn, str(ALICE), spec, History())).tenure)
        await log.link.command("SET", broken.state, "no hash")
        await made.orchestrator.aclose()
        [line] = made.lines("a turn could not be handed over")
        assert (line["turn_id"], line["session_id"], line["role"]) == (
            broken.turn_id,
            broken.session,
            "front",
        )
        assert Role.FRONT not in (await log.state(whole, str(ALICE))).owners

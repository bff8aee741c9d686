"""Two bundles in one deployment, as while it is renewed: turns go to who holds theirs."""

import asyncio

import grpc
from orchestrator_cases import PATIENCE, ask, asking, hear, metadata, nothing_left, refused, replica, until

from tests.stages import StubStages

OTHER = "0f" * 32


async def test_a_turn_is_left_to_a_runner_that_holds_its_bundle(server):
    old, new = StubStages(), StubStages(bundle=OTHER, replica="renewed")
    async with (
        old.serving() as address,
        new.serving() as elsewhere,
        replica(server.url, address, role="front", dispatch_seconds=PATIENCE) as front,
    ):
        async with replica(server.url, address, role="runner"):
            undisturbed = await ask(front)
        log = front.orchestrator.shared.log

        async def say_that_it_lives():
            while True:
                await log.capacity.publish("stub", 4, 0, bundle=old.bundle)
                await asyncio.sleep(0.1)

        async with replica(server.url, elsewhere, role="runner") as second:
            living = asyncio.create_task(say_that_it_lives())
            asking_ = asyncio.create_task(ask(front))
            await until(lambda: len(second.lines("a turn is left to who holds its bundle")) > 6)
            async with replica(server.url, address, role="runner") as first:
                living.cancel()
                assert (await asking_).whole == undisturbed.whole
                assert not new.prompts
                await nothing_left(old, front, first, second)
        assert not await log.link.command("XLEN", "aqaa:dead")


async def test_a_turn_whose_bundle_nobody_holds_has_ended(server):
    old, new = StubStages(), StubStages(bundle=OTHER, replica="renewed")
    async with (
        old.serving() as address,
        new.serving() as elsewhere,
        replica(server.url, address, role="front", dispatch_seconds=PATIENCE) as front,
        replica(server.url, elsewhere, role="runner") as runner,
    ):
        call = front.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
        assert await refused(hear(call)) == ("BUNDLE_CHANGED", grpc.StatusCode.FAILED_PRECONDITION)
        await nothing_left(new, front, runner)

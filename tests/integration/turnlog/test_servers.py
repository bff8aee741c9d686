"""What a turn log runs on: the oldest Redis, a server that stands still, TLS, users with few rights."""

import asyncio

import pytest
from turnlog_cases import BUNDLE, CALLER, everything, open_turn, text, texts, turn_log
from turnlog_servers import Server, binary

from aqaa.turnlog import Appender, Consumer, Role, Stream, Tenure, TurnLogSettings, post


@pytest.fixture(params=["redis62", "redis7", "valkey9"])
def fresh(request, folder):
    server = Server(binary(request.param), folder)
    yield server
    server.kill()


async def test_a_turn_lives_on_every_server_from_redis_62_on(fresh):
    async with turn_log(fresh.url) as front, turn_log(fresh.url, seed=1) as runner:
        await everything(front, runner)


async def test_entries_that_were_deleted_are_skipped_by_a_scan(fresh):
    """Redis 6.2 names them among what was claimed, 7 does not."""
    async with turn_log(fresh.url) as log:
        consumer = Consumer(log.link, "runner-1")
        for _ in range(3):
            await post(log.link, log.new_turn("tenant"), BUNDLE)
        found = await consumer.take(3)
        for dispatched in found:
            assert await consumer.hand_over(dispatched)
        await log.link.command("XDEL", "aqaa:dispatch", found[1].entry)
        scanned = await Consumer(log.link, "runner-2").scan(5)
        assert [one.turn for one in scanned] == [found[0].turn, found[2].turn]
        assert [one.deliveries for one in scanned] == [2, 2]


async def test_a_turn_goes_on_after_its_server_stood_still_for_longer_than_a_lease(fresh):
    settings = TurnLogSettings(lease=1.0, heartbeat=0.5, dispatch_block=0.02)
    async with (
        turn_log(fresh.url, settings=settings) as one,
        turn_log(fresh.url, seed=1, settings=settings) as two,
    ):
        live = await open_turn(one)
        consumer = Consumer(one.link, "runner-1")
        await post(one.link, live.turn, BUNDLE)
        [found] = await consumer.take(1)
        runner = await one.acquire_runner(consumer, found)
        assert isinstance(runner, Tenure)
        answer = Appender(runner, Stream.ANSWER)
        keeper = one.keeper(consumer)
        keeper.keep(live.front)
        keeper.keep(runner, found, [answer])
        async with one.following.follow(live.turn, Stream.ANSWER) as follower:
            await answer.append(text("One"))
            assert await texts(follower, 1) == ["One"]
            fresh.pause()
            try:
                writing = asyncio.create_task(answer.append(text(" two")))
                beating = asyncio.create_task(keeper.beat())
                await asyncio.sleep(2.0)
                assert not writing.done()
            finally:
                fresh.go_on()
            assert await writing == 2
            await beating
            assert await texts(follower, 1) == [" two"]
        assert {held.tenure for held in keeper.held} == {live.front, runner}
        assert await Consumer(two.link, "runner-2").scan(1) == []
        assert (await Tenure.acquire(two.link, live.turn, Role.RUNNER, two.nonce())).why == "LEASED"
        assert (await two.state(live.turn, CALLER)).last[Stream.ANSWER].seq == 2

"""Dispatch: every opened turn gets a runner, duplicates are harmless, what cannot be run is buried."""

import asyncio

import pytest
from turnlog_cases import (
    BUNDLE,
    CALLER,
    PATIENCE,
    SETTINGS,
    STOPPED,
    HandClock,
    expire,
    open_turn,
    subscribed,
    turn_log,
)

from aqaa.errors import Superseded
from aqaa.turnlog import Consumer, Phase, Role, Stream, Tenure, TurnLogSettings, post
from aqaa.v1.errors_pb2 import ErrorReason


async def length(log):
    return await log.link.command("XLEN", "aqaa:dispatch")


async def pending(log):
    return (await log.link.command("XPENDING", "aqaa:dispatch", "runners"))["pending"]


async def make_idle(log, consumer, dispatched):
    """As if its consumer had been silent for a lease."""
    words = ("XCLAIM", "aqaa:dispatch", "runners", consumer.name, 0, dispatched.entry)
    await log.link.command(*words, "IDLE", 10**7, "JUSTID", parse_justid=True)


async def test_a_turn_dispatched_before_there_was_any_runner_is_taken(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        await post(log.link, live.turn, BUNDLE)
        [found] = await Consumer(log.link, "late").take(5)
        assert (found.turn, found.bundle_digest, found.deliveries) == (live.turn, BUNDLE, 1)


async def test_a_lost_group_is_made_again_at_the_beginning(server):
    async with turn_log(server.url) as log:
        consumer = Consumer(log.link, "runner-1")
        assert await consumer.take(5) == []
        assert await consumer.scan(5) == []
        await log.link.command("FLUSHALL")
        live = await open_turn(log)
        await post(log.link, live.turn, BUNDLE)
        assert [d.turn for d in await consumer.take(5)] == [live.turn]
        await log.link.command("FLUSHALL")
        assert await consumer.scan(5) == []


async def test_a_second_entry_of_a_running_turn_is_dropped(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        one, two = Consumer(log.link, "runner-1"), Consumer(log.link, "runner-2")
        await post(log.link, live.turn, BUNDLE)
        await post(log.link, live.turn, BUNDLE)
        [first], [second] = await one.take(1), await two.take(1)
        assert isinstance(await log.acquire_runner(one, first), Tenure)
        assert await log.acquire_runner(two, second) is None
        assert await pending(log) == 1


async def test_a_turn_that_has_ended_or_is_gone_is_dropped(server):
    async with turn_log(server.url) as log:
        consumer = Consumer(log.link, "runner-1")
        ended, gone = await open_turn(log), await open_turn(log)
        await log.cancel(ended.turn, CALLER)
        await log.link.command("UNLINK", *gone.turn.keys)
        for live in (ended, gone):
            await post(log.link, live.turn, BUNDLE)
            [found] = await consumer.take(1)
            assert await log.acquire_runner(consumer, found) is None
        assert await pending(log) == 0


async def test_an_entry_comes_back_when_its_runners_lease_ends(server):
    """It is idle, the lease in the state is not over: nothing else stands for the turn, so it is kept."""
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        one, two = Consumer(log.link, "runner-1"), Consumer(log.link, "runner-2")
        await post(log.link, live.turn, BUNDLE)
        [first] = await one.take(1)
        assert isinstance(await log.acquire_runner(one, first), Tenure)
        await make_idle(log, one, first)
        [again] = await two.scan(1)
        assert await log.acquire_runner(two, again) is None
        assert await pending(log) == 1
        assert await two.scan(1) == []
        await expire(log, live.turn, Role.RUNNER)
        await make_idle(log, two, again)
        [again] = await two.scan(1)
        assert isinstance(await log.acquire_runner(two, again), Tenure)


async def test_a_turn_that_fells_every_runner_is_buried(server):
    settings = TurnLogSettings(lease=600.0, heartbeat=60.0, dispatch_block=0.02, max_deliveries=2)
    async with turn_log(server.url, settings=settings) as log:
        live = await open_turn(log)
        consumer = Consumer(log.link, "runner-1")
        await post(log.link, live.turn, BUNDLE)
        [found] = await consumer.take(1)
        for _ in range(2):
            assert isinstance(await log.acquire_runner(consumer, found), Tenure)
            await expire(log, live.turn, Role.RUNNER)
            await make_idle(log, consumer, found)
            [found] = await consumer.scan(1)
        assert found.deliveries == 3
        assert await log.acquire_runner(consumer, found) is None
        state = await log.state(live.turn, CALLER)
        assert state.phase is Phase.FAILED
        assert state.terminal.error == ErrorReason.ERROR_REASON_UNAVAILABLE
        assert await pending(log) == 0
        [(_, dead)] = await log.link.command("XRANGE", "aqaa:dead", "-", "+")
        assert (dead[b"turn"].decode(), dead[b"reason"]) == (live.turn.turn_id, b"MAX_DELIVERIES")


async def test_a_bundle_that_is_gone_ends_the_turn(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        consumer = Consumer(log.link, "runner-1")
        await post(log.link, live.turn, BUNDLE)
        [found] = await consumer.take(1)
        tenure = await log.acquire_runner(consumer, found)
        await log.refuse_bundle(consumer, found, tenure)
        state = await log.state(live.turn, CALLER)
        assert state.terminal.error == ErrorReason.ERROR_REASON_BUNDLE_CHANGED
        assert await pending(log) == 0


async def test_trimming_spares_what_anyone_still_needs(server):
    async with turn_log(server.url) as log:
        consumer = Consumer(log.link, "runner-1")
        lives = [await open_turn(log) for _ in range(5)]
        for live in lives:
            await post(log.link, live.turn, BUNDLE)
        found = await consumer.take(3)
        assert await consumer.tidy() == (0, 0)
        await consumer.done(found[0])
        await consumer.done(found[2])
        assert await consumer.tidy() == (1, 0)
        await consumer.done(found[1])
        await consumer.tidy()
        rest = await consumer.take(5)
        assert [d.turn for d in rest] == [live.turn for live in lives[3:]]


async def test_a_consumer_is_forgotten_when_it_holds_nothing(server):
    async with turn_log(server.url) as log:
        consumer = Consumer(log.link, "runner-1")
        live = await open_turn(log)
        await post(log.link, live.turn, BUNDLE)
        [found] = await consumer.take(1)
        assert (await consumer.tidy(leaving=True))[1] == 0
        tenure = await log.acquire_runner(consumer, found)
        await log.finish(live.front, STOPPED)
        await consumer.done(found)
        assert tenure.error is None
        assert (await consumer.tidy(leaving=True))[1] == 1


def test_the_settings_of_these_tests_let_no_lease_run_out():
    assert SETTINGS.lease >= 600


@pytest.mark.parametrize("after", [0.0, 5.0])
async def test_an_entry_that_was_lost_is_not_handed_over(server, after):
    async with turn_log(server.url) as log:
        consumer, thief = Consumer(log.link, "runner-1"), Consumer(log.link, "runner-2")
        live = await open_turn(log)
        await post(log.link, live.turn, BUNDLE)
        [found] = await consumer.take(1)
        await log.link.command("XCLAIM", "aqaa:dispatch", "runners", thief.name, 0, found.entry)
        assert await consumer.hand_over(found, after=after) is False


@pytest.mark.parametrize("lost", ["entry", "stream"])
@pytest.mark.parametrize("dead", [False, True], ids=["told so", "dead"])
async def test_a_running_turn_whose_entry_is_lost_is_dispatched_again(server, lost, dead):
    settings = TurnLogSettings(lease=0.3, heartbeat=0.05, dispatch_again=0.05, dispatch_block=0.02)
    async with turn_log(server.url, settings=settings) as log:
        live = await open_turn(log)
        one, two = Consumer(log.link, "runner-1"), Consumer(log.link, "runner-2")
        await post(log.link, live.turn, BUNDLE)
        [first] = await one.take(1)
        tenure = await log.acquire_runner(one, first)
        keeper = log.keeper(one)
        keeper.keep(tenure, first)
        async with log.following.follow(live.turn, Stream.ANSWER) as answer:
            await answer.seen(lambda state: state.phase is Phase.RUNNING, PATIENCE)
            again = asyncio.create_task(log.keep_dispatched(live.turn, BUNDLE, answer))
            if lost == "stream":
                await log.link.command("DEL", "aqaa:dispatch")
            else:
                await log.link.command("XDEL", "aqaa:dispatch", first.entry)
            if not dead:
                await keeper.beat()
                assert isinstance(tenure.error, Superseded)
            async with asyncio.timeout(PATIENCE):
                found = []
                while not (found := await two.take(1)):
                    pass
                while (successor := await log.acquire_runner(two, found[0])) is None:
                    found = await two.take(1) or found
            assert found[0].turn == live.turn
            await log.finish(successor, STOPPED)
            async with asyncio.timeout(PATIENCE):
                await again


async def let_go(log, consumer, dispatched, answer):
    """A runner takes the turn, and hands it on for want of a slot."""
    tenure = await log.acquire_runner(consumer, dispatched)
    await answer.seen(lambda state: Role.RUNNER in state.owners, PATIENCE)
    await tenure.release()
    await consumer.hand_over(dispatched)
    await answer.seen(lambda state: Role.RUNNER not in state.owners, PATIENCE)


async def test_a_turn_that_was_let_go_and_nobody_takes_is_dispatched_ever_more_rarely(server):
    clock = HandClock()
    async with turn_log(server.url, clock=clock) as log:
        live = await open_turn(log)
        consumer = Consumer(log.link, "runner-1")
        await post(log.link, live.turn, BUNDLE)
        [first] = await consumer.take(1)
        async with log.following.follow(live.turn, Stream.ANSWER) as answer:
            await subscribed(log, live.turn.channel(Role.FRONT))
            await let_go(log, consumer, first, answer)
            others = clock.sleeping
            keeping = asyncio.create_task(log.keep_dispatched(live.turn, BUNDLE, answer))

            async def entries_after(seconds):
                """What the dispatch stream holds then."""
                for _ in range(round(2 * seconds)):
                    while clock.sleeping <= others:
                        await asyncio.sleep(0.001)
                    clock.advance(0.5)
                while clock.sleeping <= others:
                    await asyncio.sleep(0.001)
                return await length(log)

            counts = [await entries_after(seconds) for seconds in (0, 0.5, 1, 2, 4, 5, 5)]
            assert counts == [1, 2, 3, 4, 5, 6, 7]
            assert await entries_after(60) == 7 + 60 / 5
            [again] = await consumer.scan(1)
            await let_go(log, consumer, again, answer)
            counts = [await entries_after(seconds) for seconds in (5, 0.5, 1)]
            assert counts == [19, 20, 21], "it was taken meanwhile, and the waits begin anew"
            await log.cancel(live.turn, CALLER)
            await answer.seen(lambda state: state.phase.terminal, PATIENCE)
            clock.advance(5)
            async with asyncio.timeout(PATIENCE):
                await keeping

"""Who holds a turn: acquiring, heartbeats, take-over, hand-over, and the first end of a turn."""

import asyncio

import pytest
from redis.exceptions import ResponseError
from turnlog_cases import (
    BUNDLE,
    CALLER,
    PATIENCE,
    STOPPED,
    HandClock,
    chunk,
    expire,
    groups,
    open_turn,
    roll_back,
    run_turn,
    snapshot,
    subscribed,
    text,
    turn_log,
)

from aqaa.errors import Cancelled, LogLost, NotFound, Superseded
from aqaa.turnlog import Appender, Consumer, Phase, Refused, Role, Stream, Tenure, post, read_all
from aqaa.turnlog.settings import ms
from aqaa.v1.tokens_pb2 import EndReason
from aqaa.v1.turnlog_pb2 import TerminalState


async def test_a_role_has_one_holder(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        got = await asyncio.gather(
            *(Tenure.acquire(log.link, live.turn, Role.RUNNER, log.nonce()) for _ in range(8))
        )
        holders = [g for g in got if isinstance(g, Tenure)]
        assert len(holders) == 1
        assert {g.why for g in got if isinstance(g, Refused)} == {"LEASED"}
        state = await log.state(live.turn, CALLER)
        assert (state.phase, state.owners[Role.RUNNER]) == (Phase.RUNNING, holders[0].owner)


async def test_acquiring_again_after_a_lost_reply_is_the_same_tenure(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        nonce = log.nonce()
        first = await Tenure.acquire(log.link, live.turn, Role.RUNNER, nonce)
        again = await Tenure.acquire(log.link, live.turn, Role.RUNNER, nonce)
        assert first.owner == again.owner


async def test_a_silent_runner_is_replaced_and_its_successor_goes_on(server):
    async with turn_log(server.url) as one, turn_log(server.url, seed=1) as two:
        live = await open_turn(one)
        first = Appender(await run_turn(one, live.turn), Stream.ANSWER)
        await first.append(text("One"))
        await expire(one, live.turn, Role.RUNNER)
        second, written = await two.pen(await run_turn(two, live.turn), Stream.ANSWER)
        assert [e.record(Stream.ANSWER) for e in written] == [text("One")]
        assert await second.append(text(" two")) == 2
        with pytest.raises(Superseded):  # it was stopped, not dead
            await first.append(text(" zwei"))
        keeper = one.keeper()
        keeper.keep(first.tenure)
        await keeper.beat()
        assert keeper.held == ()


async def test_a_heartbeat_keeps_the_lease_and_the_entry(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        consumer = Consumer(log.link, "runner-1")
        await post(log.link, live.turn, BUNDLE)
        [dispatched] = await consumer.take(5)
        tenure = await log.acquire_runner(consumer, dispatched)
        keeper = log.keeper(consumer)
        keeper.keep(tenure, dispatched)
        await expire(log, live.turn, Role.RUNNER)
        await keeper.beat()
        refused = await Tenure.acquire(log.link, live.turn, Role.RUNNER, log.nonce())
        assert refused.why == "LEASED"
        assert refused.left > 500
        assert refused.entry == dispatched.entry


async def test_a_runner_whose_entry_was_taken_stops(server):
    """And it gives the turn back, so that the taker need not wait for its lease."""
    async with turn_log(server.url) as one, turn_log(server.url, seed=1) as two:
        live = await open_turn(one)
        mine, theirs = Consumer(one.link, "runner-1"), Consumer(two.link, "runner-2")
        await post(one.link, live.turn, BUNDLE)
        [dispatched] = await mine.take(5)
        keeper = one.keeper(mine)
        tenure = await one.acquire_runner(mine, dispatched)
        keeper.keep(tenure, dispatched)
        await one.link.command("XCLAIM", "aqaa:dispatch", "runners", theirs.name, 0, dispatched.entry)
        await keeper.beat()
        assert isinstance(tenure.error, Superseded)
        assert keeper.held == ()
        assert isinstance(await two.acquire_runner(theirs, dispatched), Tenure)
        # and the loser's next beat does not steal it back
        pending = await one.link.command(
            "XPENDING", "aqaa:dispatch", "runners", "-", "+", 5, parse_detail=True
        )
        assert [p["consumer"] for p in pending] == [b"runner-2"]


async def test_handing_over_needs_no_lease_to_end_and_counts_as_no_failure(server):
    async with turn_log(server.url) as one, turn_log(server.url, seed=1) as two:
        live = await open_turn(one)
        mine, theirs = Consumer(one.link, "runner-1"), Consumer(two.link, "runner-2")
        await post(one.link, live.turn, BUNDLE)
        [dispatched] = await mine.take(5)
        keeper = one.keeper(mine)
        tenure = await one.acquire_runner(mine, dispatched)
        keeper.keep(tenure, dispatched)
        assert await theirs.scan(5) == []
        await keeper.hand_over()
        [taken] = await theirs.scan(5)
        assert (taken.turn, taken.deliveries) == (live.turn, 1)  # handing over counts as no delivery
        assert isinstance(await two.acquire_runner(theirs, taken), Tenure)
        with pytest.raises(Superseded):
            tenure.check()


async def test_a_turn_that_cannot_be_handed_over_keeps_no_other(server):
    async with turn_log(server.url) as one, turn_log(server.url, seed=1) as two:
        lives = [await open_turn(one) for _ in range(3)]
        mine, theirs = Consumer(one.link, "runner-1"), Consumer(two.link, "runner-2")
        keeper = one.keeper(mine)
        for live in lives:
            await post(one.link, live.turn, BUNDLE)
            [dispatched] = await mine.take(1)
            keeper.keep(await one.acquire_runner(mine, dispatched), dispatched)
        await one.link.command("SET", lives[0].turn.state, "no hash")
        [(held, error)] = await keeper.hand_over()
        assert held.tenure.turn == lives[0].turn
        assert isinstance(error, ResponseError)
        assert keeper.held == ()
        taken = await theirs.scan(5)
        assert [dispatched.turn for dispatched in taken] == [live.turn for live in lives]
        for dispatched in taken[1:]:
            assert isinstance(await two.acquire_runner(theirs, dispatched), Tenure)


async def test_a_heartbeat_writes_again_what_a_failover_lost(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        keeper = log.keeper()
        keeper.keep(live.front, pens=[live.query])
        kept = await snapshot(log, live.turn)
        await live.query.append(groups(0))
        await roll_back(log, kept)
        await keeper.beat()
        assert len(await read_all(log.link, live.turn, Stream.QUERY)) == 2
        await log.link.command("FLUSHALL")
        await keeper.beat()
        assert isinstance(live.front.error, LogLost)


async def test_the_first_end_decides(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        runner = await run_turn(log, live.turn)
        won = await log.finish(live.front, STOPPED)
        assert won == (Phase.COMPLETED, STOPPED)
        assert await log.cancel(live.turn, CALLER, played_samples=99) == won
        assert (await log.state(live.turn, CALLER)).played == 99
        failed = TerminalState(reason=EndReason.END_REASON_FAILED, message="too late")
        assert await log.finish(runner, failed) == won
        refused = await Tenure.acquire(log.link, live.turn, Role.RUNNER, log.nonce())
        assert refused == Refused("ENDED")
        # a caller whose connection broke at the very end still gets the sound
        assert isinstance(await log.resume(live.turn, CALLER), Tenure)


async def test_a_cancelled_turn_is_resumed_by_nobody_and_the_next_one_may_begin(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        phase, terminal = await log.cancel(live.turn, CALLER)
        assert (phase, terminal.reason) == (Phase.CANCELLED, EndReason.END_REASON_CANCELLED)
        with pytest.raises(Superseded, match="has ended"):
            await log.resume(live.turn, CALLER)
        with pytest.raises(Cancelled):
            await log.control(live.front, commit=3)
        await open_turn(log, session=live.turn.session)


async def test_a_completed_turn_is_still_played_and_the_log_knows_how_far(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        runner = await run_turn(log, live.turn)
        await log.control(live.front, frontier=20, played=100)
        await log.finish(runner, STOPPED)
        await log.control(
            live.front, commit=3, played=4800
        )  # the runner saw the question's end before its commit
        await Appender(live.front, Stream.DELIVERY).append(chunk(0))
        state = await log.state(live.turn, CALLER)
        assert (state.phase, state.commit, state.played) == (Phase.COMPLETED, 3, 4800)
        live.front.check()
        taken = await log.resume(live.turn, CALLER)
        with pytest.raises(Superseded):
            await log.control(live.front, played=9600)
        await log.control(taken, played=7200)
        assert (await log.state(live.turn, CALLER)).played == 7200


async def test_a_cancel_behind_the_end_changes_no_end_but_silences_who_still_tells_it(server):
    """No time passes for the front: only the message of the cancel can wake it."""
    async with turn_log(server.url) as other, turn_log(server.url, seed=1, clock=HandClock()) as front:
        live = await open_turn(front)
        async with front.following.follow(live.turn, Stream.ANSWER) as answer:
            await other.finish(await run_turn(other, live.turn), STOPPED)
            await answer.seen(lambda state: state.phase is Phase.COMPLETED, PATIENCE)
            await subscribed(front, live.turn.channel(Role.FRONT))
            assert await other.cancel(live.turn, CALLER) == (Phase.COMPLETED, STOPPED)
            first = await answer.seen(lambda state: state.cancel is not None, PATIENCE)
            assert (first.phase, first.terminal, first.played) == (Phase.COMPLETED, STOPPED, None)
            await other.cancel(live.turn, CALLER, played_samples=4800)
            again = await answer.seen(lambda state: state.played == 4800, PATIENCE)
            assert again.cancel == first.cancel


async def test_what_was_heard_of_a_cancelled_turn_may_be_said_later(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        won = await log.cancel(live.turn, CALLER)
        with pytest.raises(Cancelled):
            await log.control(live.front, played=2400)
        assert await log.cancel(live.turn, CALLER, played_samples=2400) == won
        assert await log.cancel(live.turn, CALLER, played_samples=1200) == won
        state = await log.state(live.turn, CALLER)
        assert (state.phase, state.played) == (Phase.CANCELLED, 2400)


async def test_a_front_that_a_failover_forgot_goes_on_telling_a_completed_turn(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        await log.finish(await run_turn(log, live.turn), STOPPED)
        kept = await snapshot(log, live.turn)
        second = await log.resume(live.turn, CALLER)
        await roll_back(log, kept)
        await Appender(second, Stream.DELIVERY).append(chunk(0))
        assert second.epoch == 3
        with pytest.raises(Superseded):
            await log.control(live.front, played=1)


async def test_a_turn_is_not_completed_before_it_runs(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        with pytest.raises(ValueError, match="cannot be completed"):
            await log.finish(live.front, STOPPED)


async def test_another_callers_turn_does_not_exist(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        for call in (
            log.state(live.turn, "caller-two"),
            log.resume(live.turn, "caller-two"),
            log.cancel(live.turn, "caller-two"),
            log.sessions.get(live.turn.session_ref, "caller-two"),
            log.sessions.close(live.turn.session_ref, "caller-two"),
            open_turn(log, session=live.turn.session, caller="caller-two"),
            log.state(log.new_turn("tenant", live.turn.session), CALLER),
        ):
            with pytest.raises(NotFound):
                await call
        assert (await log.state(live.turn, CALLER)).phase is Phase.OPEN


async def test_opening_twice_attaches(server):
    async with turn_log(server.url) as one, turn_log(server.url, seed=1) as two:
        fresh, other = one.new_turn("tenant"), two.new_turn("tenant")
        turn = await one.sessions.attach(CALLER, "request-1", fresh)
        assert turn == fresh
        assert await two.sessions.attach(CALLER, "request-1", other) == turn
        assert await two.sessions.attach("caller-two", "request-1", other) == other
        [key, _] = sorted(await one.link.command("KEYS", "aqaa:{tenant.request.*"))
        lease = ms(one.link.settings.lease)
        assert await one.link.command("PTTL", key) <= lease  # it may yet be refused
        await one.sessions.remember_request(CALLER, "request-1", turn)
        await one.sessions.remember_request("caller-two", "request-1", other)
        assert await one.link.command("PTTL", key) > lease
        assert await two.sessions.attach(CALLER, "request-1", two.new_turn("tenant")) == turn


async def test_a_front_waits_for_a_runner_and_dispatches_again(server):
    async with turn_log(server.url) as front, turn_log(server.url, seed=1) as runner:
        live = await open_turn(front)
        consumer = Consumer(runner.link, "runner-1")
        async with front.following.follow(live.turn, Stream.ANSWER) as answer:
            waiting = asyncio.create_task(front.dispatch(live.turn, BUNDLE, answer, PATIENCE))
            await front.link.command("DEL", "aqaa:dispatch")  # the first one may be lost
            found = []
            while not found:
                found = await consumer.take(1)
            assert isinstance(await runner.acquire_runner(consumer, found[0]), Tenure)
            assert (await waiting).phase is Phase.RUNNING


async def test_a_turn_whose_front_never_comes_back_is_ended_by_its_runner(server):
    async with turn_log(server.url) as front, turn_log(server.url, seed=1) as runner:
        kept, left, told = [await open_turn(front) for _ in range(3)]
        turns = [live.turn for live in (kept, left, told)]
        tenures = [await run_turn(runner, turn) for turn in turns]
        await runner.finish(tenures[2], STOPPED)
        for turn in turns:
            await front.capacity.publish("llm-0", 3, 3)
            await front.capacity.admit(turn)
        await expire(front, left.turn, Role.FRONT)
        await expire(front, told.turn, Role.FRONT)
        async with runner.following.follow(left.turn, Stream.QUERY) as query:
            assert await runner.end_abandoned(turns, after=15.0) == [left.turn]
            state = await query.seen(lambda state: state.phase.terminal, PATIENCE)
        assert (state.phase, state.terminal.reason) == (Phase.CANCELLED, EndReason.END_REASON_CANCELLED)
        assert state.terminal.message == "its front has not come back within 15 s"
        with pytest.raises(Cancelled):
            await Appender(tenures[1], Stream.ANSWER).append(text("unheard"))
        assert await runner.capacity.live() == 2
        # one that is completed may still be told to a caller who comes back
        completed = await front.state(told.turn, CALLER)
        assert (completed.phase, completed.cancel) == (Phase.COMPLETED, None)
        assert (await front.state(kept.turn, CALLER)).phase is Phase.RUNNING
        with pytest.raises(Superseded, match="has ended"):
            await front.resume(left.turn, CALLER)


async def test_a_front_that_has_handed_its_turn_over_has_just_gone(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        keeper = log.keeper()
        keeper.keep(live.front)
        await keeper.hand_over()
        assert await log.end_abandoned([live.turn], after=600.0) == []
        taken = await log.resume(live.turn, CALLER)
        assert await log.end_abandoned([live.turn], after=0.0) == []
        await taken.release()
        assert await log.end_abandoned([live.turn], after=0.0) == [live.turn]
        assert await log.end_abandoned([], after=0.0) == []

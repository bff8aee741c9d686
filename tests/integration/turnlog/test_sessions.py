"""Sessions and capacity: history as text, closing leaves no key, admission below the slots."""

import asyncio
from dataclasses import replace

import pytest
from turnlog_cases import (
    CALLER,
    SETTINGS,
    STOPPED,
    HandClock,
    groups,
    open_turn,
    run_turn,
    spec_of,
    text,
    turn_log,
)

from aqaa.errors import CapacityError, InvalidRequest, LogDiverged, NotFound
from aqaa.turnlog import Appender, Opened, Stream, TurnState, history_digest
from aqaa.v1.orchestrator_pb2 import TurnSummary
from aqaa.v1.tokens_pb2 import Message, Role
from aqaa.v1.turnlog_pb2 import History

WAITING = replace(SETTINGS, slots_lease=2.0)
"""By a hand clock: half of it passes without a call that runs out of time."""


async def test_the_next_turn_knows_what_was_heard(server):
    async with turn_log(server.url) as log:
        first = await open_turn(log)
        summary = TurnSummary(
            turn_id=first.turn.turn_id,
            question_text="what is two plus two",
            answer_text="Four. And three is seven.",
            heard_text="Four.",
        )
        await log.sessions.remember(first.turn, CALLER, summary, over=False)
        session = await log.sessions.get(first.turn.session_ref, CALLER)
        history = session.history()
        assert list(history.messages) == [
            Message(role=Role.ROLE_HUMAN, text="what is two plus two"),
            Message(role=Role.ROLE_ASSISTANT, text="Four."),
        ]
        turn = log.new_turn("tenant", first.turn.session)
        spec = spec_of(turn, history=history)
        assert isinstance(await log.open(turn, CALLER, spec, history), Opened)

        # what it was opened with stays, whatever becomes of the first turn
        summary.heard_text = summary.answer_text
        await log.sessions.remember(first.turn, CALLER, summary, over=True)
        assert await log.sessions.known(turn, history_digest(history)) == history
        with pytest.raises(LogDiverged):
            await log.sessions.known(turn, history_digest(History()))
        turns = (await log.sessions.get(turn.session_ref, CALLER)).turns
        assert [t.turn_id for t in turns] == [first.turn.turn_id, turn.turn_id]
        assert turns[0] == summary


async def test_closing_a_session_leaves_nothing(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        await open_turn(log, session=live.turn.session)
        await live.query.append(groups(0))
        await Appender(await run_turn(log, live.turn), Stream.ANSWER).append(text("One"))
        assert await log.sessions.close(live.turn.session_ref, CALLER) == 6
        assert await log.link.command("DBSIZE") == 0
        with pytest.raises(NotFound):
            await log.sessions.get(live.turn.session_ref, CALLER)
        with pytest.raises(NotFound):
            await log.sessions.remember(live.turn, CALLER, TurnSummary(), over=True)


async def test_a_turn_is_opened_once_and_as_its_spec_says(server):
    async with turn_log(server.url) as log:
        turn = log.new_turn("tenant")
        with pytest.raises(InvalidRequest):
            await log.open(turn, CALLER, spec_of(log.new_turn("tenant")), History())
        assert await log.link.command("DBSIZE") == 0
        assert isinstance(await log.open(turn, CALLER, spec_of(turn), History()), Opened)
        assert isinstance(await log.open(turn, CALLER, spec_of(turn), History()), TurnState)


async def test_two_tenants_never_share_a_key(server):
    async with turn_log(server.url) as log:
        mine = await open_turn(log, tenant="one")
        theirs = await open_turn(log, tenant="two", session=mine.turn.session)
        assert not {*mine.turn.keys, mine.turn.meta} & {*theirs.turn.keys, theirs.turn.meta}


async def test_turns_are_let_in_while_there_are_slots(server):
    async with turn_log(server.url) as log:
        capacity = log.capacity
        turns = [log.new_turn("tenant") for _ in range(4)]
        await capacity.publish("llm-0", 2, 2)
        await capacity.publish("llm-1", 3, 3)
        await capacity.publish("llm-0", 1, 1)
        assert await capacity.slots() == (4, 4)
        await capacity.withdraw("llm-0")
        for turn in turns[:3]:
            await capacity.admit(turn)
        await capacity.admit(turns[0])  # it is in
        with pytest.raises(CapacityError) as caught:
            await capacity.admit(turns[3], retry_after=2.0)
        assert caught.value.retry_after == 2.0
        await capacity.leave(turns[1])
        await capacity.admit(turns[3])
        assert await capacity.live() == 3


async def test_a_silence_about_slots_is_waited_for(server):
    """A process that was stalled said nothing for longer than its word counts: nobody is full for that."""
    clock = HandClock()
    async with (
        turn_log(server.url, clock=clock, settings=WAITING) as log,
        turn_log(server.url, seed=1) as runner,
    ):
        turns = [log.new_turn("tenant") for _ in range(2)]
        admitting = [asyncio.create_task(log.capacity.admit(turn)) for turn in turns]
        while clock.sleeping < 2 + 1:  # both wait, and so does the sweep
            await asyncio.sleep(0.001)
        assert not any(task.done() for task in admitting)
        await runner.capacity.publish("llm-0", 1, 1)
        clock.advance(log.link.settings.slots_lease / 2)
        first, second = await asyncio.gather(*admitting, return_exceptions=True)
        assert {type(first), type(second)} == {type(None), CapacityError}  # once it is known, full is full
        assert "1 turns are live" in str(first or second)


async def test_a_silence_about_slots_is_not_waited_for_for_ever(server):
    clock = HandClock()
    async with turn_log(server.url, clock=clock, settings=WAITING) as log:
        admitting = asyncio.create_task(log.capacity.admit(log.new_turn("tenant")))
        while not admitting.done():
            await asyncio.sleep(0.001)
            clock.advance(log.link.settings.slots_lease / 20)
        with pytest.raises(CapacityError, match="no backbone says that it has slots"):
            await admitting


async def test_slots_and_leases_run_out_with_their_process(server):
    async with turn_log(server.url) as log:
        await log.capacity.publish("llm-0", 2, 2)
        turn = log.new_turn("tenant")
        await log.capacity.admit(turn)
        await log.link.command("ZADD", "aqaa:live", 1, str(turn))
        assert await log.capacity.live() == 0
        await log.link.command("ZADD", "aqaa:slots", 1, "llm-0 2 2")
        assert await log.capacity.slots() == (0, 0)
        renewal = log.capacity.renewal(turn)
        await log.link.run(renewal.script, renewal.keys, renewal.args)
        assert await log.capacity.live() == 1


async def test_a_turn_counts_as_live_as_long_as_someone_keeps_it(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        await log.capacity.publish("llm-0", 1, 1)
        await log.capacity.admit(live.turn)
        front, runner = log.keeper(), log.keeper()
        held = runner.keep(await run_turn(log, live.turn))
        front.keep(live.front)

        async def place() -> bool:
            """Half its lease is over; whether someone renews it."""
            before = await log.link.now_ms() + 300_000
            await log.link.command("ZADD", "aqaa:live", before, str(live.turn))
            await front.beat()
            await runner.beat()
            return float(await log.link.command("ZSCORE", "aqaa:live", str(live.turn)) or 0) > before

        assert await place()
        front.drop(live.front)
        assert await place()  # its front is gone, but a slot of the backbone still works for it
        with pytest.raises(CapacityError):
            await log.capacity.admit(log.new_turn("tenant"))
        runner.drop(held.tenure)
        assert not await place()
        await log.link.command("ZADD", "aqaa:live", 1, str(live.turn))
        assert await log.capacity.live() == 0
        await log.capacity.admit(log.new_turn("tenant"))


async def test_a_place_that_was_given_back_is_taken_again_by_a_front_only(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        front, runner = log.keeper(), log.keeper()
        runner.keep(await run_turn(log, live.turn))
        front.keep(live.front)
        await runner.beat()
        assert await log.capacity.live() == 0
        await front.beat()  # the node of the live turns was replaced by one that knows none of them
        assert await log.capacity.live() == 0
        await front.beat()
        assert await log.capacity.live() == 1
        await log.cancel(live.turn, CALLER)
        await log.capacity.leave(live.turn)
        await front.beat()
        await runner.beat()
        assert await log.capacity.live() == 0
        assert (front.held, runner.held) == ((), ())


async def test_a_completed_turn_that_no_stage_works_for_gives_its_place_back(server):
    async with turn_log(server.url) as one, turn_log(server.url, seed=1) as two:
        live = await open_turn(one)
        await one.capacity.publish("llm-0", 1, 1)
        await one.capacity.admit(live.turn)
        idle, keeper = False, one.keeper()
        keeper.keep(live.front, idle=lambda: idle)
        runner = await run_turn(one, live.turn)
        idle = True
        await keeper.beat()
        assert await one.capacity.live() == 1  # its tokens are still written
        await one.finish(runner, STOPPED)
        idle = False
        await keeper.beat()
        assert await one.capacity.live() == 1  # its sound is still made
        idle = True
        await keeper.beat()
        assert await one.capacity.live() == 0
        idle = False
        later = two.keeper()
        for _ in range(2):
            await keeper.beat()
            assert await one.capacity.live() == 0  # taken again by nobody: not by its front
        later.keep(await two.resume(live.turn, CALLER))
        for _ in range(3):
            await later.beat()
            await keeper.beat()
            assert await one.capacity.live() == 0  # nor by the next one
        assert len(later.held) == 1


async def test_a_place_given_back_by_the_next_front_stays_given_back(server):
    async with turn_log(server.url) as one, turn_log(server.url, seed=1) as two:
        live = await open_turn(one)
        await one.capacity.publish("llm-0", 1, 1)
        await one.capacity.admit(live.turn)
        keeper = one.keeper()
        keeper.keep(live.front)
        await two.resume(live.turn, CALLER)
        await two.capacity.leave(live.turn)
        for _ in range(3):
            await keeper.beat()  # the first tells the old front that it is superseded
            assert await one.capacity.live() == 0

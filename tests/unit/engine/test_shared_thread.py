"""Whose turn it is on a shared thread, what waits for what, and what an error does to others."""

import asyncio

import pytest

from aqaa.engine.shared_thread import Outcome, Session, SharedThread
from aqaa.errors import CapacityError, InvalidAudio, Stalled


class Counting(Session[int, int]):
    """Gives back what it is given; an item of 0 ends it, a negative one is an error."""

    def __init__(self, thread, *, urgency=None, shape=None, room=100.0, most_made=100, stall=100.0):
        super().__init__(thread, room=room, most_made=most_made, stall_seconds=stall)
        self.urgency, self.kind = urgency, shape

    @property
    def order(self):
        return self.since if self.urgency is None else self.urgency

    @property
    def shape(self):
        return self.kind


class Floor:
    """A thread that notes who was computed with whom."""

    def __init__(self, **settings):
        ticks = iter(range(10**6))
        self.turns = []
        self.places = []
        defaults = {"places": 3, "batch": 2, "clock": lambda: float(next(ticks))}
        self.thread = SharedThread(
            "test", self._compute, on_places=self.places.append, **(defaults | settings)
        )

    def _compute(self, sessions, given):
        self.turns.append([list(items) for items in given])
        return [self._outcome(items) for items in given]

    def _outcome(self, items):
        if any(item < 0 for item in items):
            return Outcome(error=InvalidAudio("negative"))
        return Outcome([item for item in items if item], finished=0 in items)


def run(test):
    async def guarded():
        async with asyncio.timeout(20):
            return await test()

    return asyncio.run(guarded())


async def all_of(session):
    return [item async for item in session]


def test_sessions_of_one_shape_share_a_turn_the_most_urgent_first():
    async def test():
        floor = Floor()
        first, urgent, other = (
            Counting(floor.thread, urgency=urgency, shape=shape)
            for urgency, shape in ((2.0, "a"), (0.0, "b"), (1.0, "a"))
        )
        async with first, urgent, other:
            for number, session in enumerate((first, urgent, other), start=1):
                await session.give(number)
                await session.give(0)
            async with floor.thread:
                found = [await all_of(session) for session in (first, urgent, other)]
        return found, floor.turns, floor.places

    found, turns, places = run(test)
    assert found == [[1], [2], [3]]
    assert turns == [[[2, 0]], [[3, 0], [1, 0]]]
    assert places == [1, 2, 3, 2, 1, 0]


def test_who_waits_longest_comes_first():
    async def test():
        floor = Floor(batch=1)
        sessions = [Counting(floor.thread) for _ in range(3)]
        for session in sessions:
            floor.thread.enter(session)
        for number in (2, 0, 1):
            await sessions[number].give(number + 10)
        async with floor.thread:
            for number in (2, 0, 1):
                await anext(sessions[number])
        return floor.turns

    assert run(test) == [[[12]], [[10]], [[11]]]


def test_one_sessions_error_is_its_own():
    async def test():
        floor = Floor()
        async with floor.thread, Counting(floor.thread) as good, Counting(floor.thread) as bad:
            await bad.give(-1)
            await good.give(5)
            await good.give(0)
            with pytest.raises(InvalidAudio, match="negative"):
                await anext(bad)
            return await all_of(good)

    assert run(test) == [5]


def test_a_place_too_many_is_refused_until_one_is_free():
    async def test():
        floor = Floor(places=1, retry_after=2.5)
        async with Counting(floor.thread):
            with pytest.raises(CapacityError, match="all 1 places") as refused:
                await Counting(floor.thread).__aenter__()
        async with Counting(floor.thread):
            return refused.value.retry_after

    assert run(test) == 2.5


def test_giving_waits_for_room_and_goes_on_when_there_is():
    async def test():
        floor = Floor()
        async with Counting(floor.thread, room=2.0) as session:
            await session.give(1, size=1.0)
            second = asyncio.create_task(session.give(2, size=1.0))
            await asyncio.sleep(0)
            waited = not second.done()
            async with floor.thread:
                await second
                await session.give(0)
                return waited, await all_of(session)

    assert run(test) == (True, [1, 2])


def test_nothing_is_made_while_too_much_waits_to_be_taken():
    async def test():
        floor = Floor()
        async with floor.thread, Counting(floor.thread, most_made=1) as session:
            await session.give(1)
            first = await anext(session)  # its turn has been
            await session.give(2)
            while len(floor.turns) < 2:
                await asyncio.sleep(0)
            await session.give(0)
            await floor.thread.run(lambda: None)  # the thread is idle
            held = len(floor.turns)
            return first, await all_of(session), held, len(floor.turns)

    assert run(test) == (1, [2], 2, 3)


def test_who_takes_nothing_loses_the_place():
    async def test():
        floor = Floor()
        async with floor.thread, Counting(floor.thread, stall=0.001) as session:
            await session.give(1)
            await anext(session)
            while floor.places[-1]:
                await asyncio.sleep(0)
            with pytest.raises(Stalled, match="nothing has been taken"):
                await anext(session)

    run(test)

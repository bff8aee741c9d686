"""Tasks that belong together: who ends, what is raised, and that nobody stays marked as being cancelled."""

import asyncio
from contextlib import suppress

import pytest

from aqaa.errors import Cancelled, Superseded, Unavailable
from services.orchestrator.tasks import Outbox, all_of, beside, ended

SECONDS = 5.0


def run(test):
    async def within():
        async with asyncio.timeout(SECONDS):
            await test()
            assert asyncio.current_task().cancelling() == 0
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(within())


async def fails(error, *, behind=None):
    if behind is not None:
        await behind.wait()
    raise error


class Endless:
    """Runs until it is cancelled."""

    def __init__(self, ends_with=None):
        self.began, self.ended = asyncio.Event(), False
        self._ends_with = ends_with

    async def __call__(self):
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True
            if self._ends_with is not None:
                raise self._ends_with


def test_the_first_error_ends_the_others_and_is_raised():
    async def test():
        other = Endless(ends_with=ValueError("what its end brings up"))
        with pytest.raises(Unavailable):
            await all_of(other(), fails(Unavailable(), behind=other.began))
        assert other.ended

    run(test)


def test_who_runs_several_and_is_cancelled_ends_them():
    async def test():
        other = Endless()
        task = asyncio.create_task(all_of(other()))
        await other.began.wait()
        await ended(task)
        assert task.cancelled()
        assert other.ended

    run(test)


def test_a_task_beside_ends_with_the_body():
    async def test():
        other = Endless()
        async with beside(other()):
            await other.began.wait()
        assert other.ended

    run(test)


def test_an_error_beside_ends_the_body():
    async def test():
        began = asyncio.Event()

        async def body():
            async with beside(fails(Superseded(), behind=began)):
                began.set()
                await asyncio.Event().wait()

        with pytest.raises(Superseded):
            await body()

    run(test)


def test_an_error_of_the_body_comes_before_what_it_stirs_up():
    async def test():
        other = Endless(ends_with=ValueError())

        async def body():
            async with beside(other()):
                await other.began.wait()
                raise Cancelled

        with pytest.raises(Cancelled):
            await body()

    run(test)


def test_an_error_beside_that_the_body_does_not_wait_for_is_raised():
    async def test():
        async def body():
            async with beside(fails(Superseded())):
                await asyncio.sleep(0)

        with pytest.raises(Superseded):
            await body()

    run(test)


def test_who_is_cancelled_in_the_body_stays_cancelled():
    async def test():
        began = asyncio.Event()

        async def outer():
            async with beside(fails(Superseded(), behind=began)):
                began.set()
                asyncio.current_task().cancel()
                await asyncio.Event().wait()

        task = asyncio.create_task(outer())
        await asyncio.wait({task})
        assert task.cancelled()

    run(test)


def test_whoever_takes_is_told_of_an_error_that_came_from_several():
    """The task that makes was ended from inside, and may not be taken for one that its taker has ended."""

    async def test():
        async def work(outbox):
            async with beside(asyncio.Event().wait()):
                await all_of(outbox.put(1), fails(Unavailable("down")))

        taking = Outbox[int](1, unread_seconds=60.0).taken(work)
        assert await anext(taking) == 1
        with pytest.raises(Unavailable):
            await anext(taking)

    run(test)


def test_ending_tasks_waits_for_them_although_it_is_cancelled():
    async def test():
        going, over = asyncio.Event(), asyncio.Event()

        async def slow():
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            going.set()
            await over.wait()

        task = asyncio.create_task(slow())
        await asyncio.sleep(0)
        ending = asyncio.create_task(ended(task))
        await going.wait()
        ending.cancel()
        await asyncio.sleep(0)
        assert not ending.done()
        over.set()
        await asyncio.wait({ending})
        assert ending.cancelled()
        assert task.done()

    run(test)

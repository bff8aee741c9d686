"""Waiting for news: everyone who waits is woken, nobody waits for ever, and nobody is kept."""

import asyncio

import pytest

from aqaa.turnlog.bell import Bell


def test_a_ring_wakes_everyone_who_waits_and_nobody_later() -> None:
    async def case() -> None:
        bell = Bell()
        both = [asyncio.create_task(bell.heard(60.0)) for _ in range(2)]
        await asyncio.sleep(0)
        bell.ring()
        assert await asyncio.gather(*both) == [True, True]
        assert await bell.heard(0.0) is False

    asyncio.run(case())


def test_who_gives_up_is_forgotten() -> None:
    async def case() -> None:
        bell = Bell()
        waiting = asyncio.create_task(bell.heard(60.0))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await bell.heard(0.001) is False
        assert not bell._waiting

    asyncio.run(case())

"""Calls of many callers in one exchange: one write for all, and to each its own answer, error and end."""

import asyncio

import pytest
from turnlog_cases import CALLER, groups, open_turn, run_turn, text, texts, turn_log

from aqaa.errors import LogLost, Superseded, Unavailable
from aqaa.turnlog import Appender, Stream, TurnLogSettings


def reads(server) -> int:
    """How often the server has read from a connection."""
    lines = server.ask("INFO", "stats").decode().splitlines()
    return int(next(line.split(":")[1] for line in lines if line.startswith("total_reads_processed")))


async def answers(log, count: int) -> list[Appender]:
    """The pens of so many turns' answers."""
    turns = [(await open_turn(log)).turn for _ in range(count)]
    return [Appender(await run_turn(log, turn), Stream.ANSWER) for turn in turns]


async def begun(*calls) -> list[asyncio.Task]:
    """Calls that wait for their answers: the first is on its way, the others wait for it."""
    tasks = []
    for call in calls:
        tasks.append(asyncio.create_task(call))
        await asyncio.sleep(0.01)
    return tasks


def hold(server) -> None:
    """The server answers no write."""
    assert server.ask("CLIENT", "PAUSE", "60000", "WRITE") == b"+OK\r\n"


def let_go(server) -> None:
    assert server.ask("CLIENT", "UNPAUSE") == b"+OK\r\n"


async def test_appends_and_readings_of_a_hundred_turns_share_a_few_exchanges(server):
    async with turn_log(server.url) as writer, turn_log(server.url, seed=1) as reader:
        pens = await answers(writer, 100)
        followers = [reader.following.follow(pen.tenure.turn, Stream.ANSWER) for pen in pens]
        for word in ("One", " two"):  # the first round subscribes, too
            before = reads(server)
            await asyncio.gather(*(pen.append(text(word)) for pen in pens))
            assert await asyncio.gather(*(texts(follower, 1) for follower in followers)) == [[word]] * 100
        assert reads(server) - before < 60


async def test_a_refused_call_fails_alone(server):
    async with turn_log(server.url) as log:
        good, fenced, gone, other = await answers(log, 4)
        await log.link.command("UNLINK", *gone.tenure.turn.keys)
        fenced.tenure.nonce = "feed"
        await log.link.command("DEL", other.tenure.turn.stream(Stream.ANSWER))
        await log.link.command("SET", other.tenure.turn.stream(Stream.ANSWER), "no stream")
        hold(server)
        tasks = await begun(*(pen.append(text("One")) for pen in (good, fenced, gone, other, good)))
        let_go(server)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [found[0], found[4]] == [1, 2]
        assert [type(found[1]), type(found[2])] == [Superseded, LogLost]
        assert "WRONGTYPE" in str(found[3])
        assert log.link.breaks == 0


async def test_a_cancelled_call_leaves_the_others_alone(server):
    async with turn_log(server.url) as log:
        pens = await answers(log, 5)
        hold(server)
        tasks = await begun(*(pen.append(text("One")) for pen in pens))
        for cancelled in (tasks[0], tasks[2]):  # on its way, and not yet
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        let_go(server)
        assert [await tasks[i] for i in (1, 3, 4)] == [1, 1, 1]
        assert [await pens[i].append(text(" two")) for i in (0, 2)] == [2, 2]
        assert log.link.breaks == 0


async def test_each_call_has_its_own_deadline(server):
    settings = TurnLogSettings(lease=600.0, heartbeat=60.0, call_timeout=3.0, socket_timeout=30.0)
    async with turn_log(server.url, settings=settings) as log:
        early, late = await answers(log, 2)
        hold(server)
        [first] = await begun(early.append(text("One")))
        await asyncio.sleep(1.5)
        [second] = await begun(late.append(text("One")))
        with pytest.raises(Unavailable, match="within 3 s"):
            await first
        let_go(server)
        assert await second == 1


async def test_calls_of_a_broken_exchange_are_made_again_each_for_itself(server):
    async with turn_log(server.url) as log:
        pens = await answers(log, 20)
        hold(server)
        tasks = await begun(*(pen.append(text("One")) for pen in pens))
        server.ask("CLIENT", "KILL", "TYPE", "normal")
        let_go(server)
        assert await asyncio.gather(*tasks) == [1] * 20
        assert 1 <= log.link.breaks < 20  # the connections, not the calls


async def test_scripts_that_the_server_has_forgotten_are_sent_again(server):
    async with turn_log(server.url) as log:
        pens = await answers(log, 20)
        await log.link.command("SCRIPT", "FLUSH")
        assert await asyncio.gather(*(pen.append(text("One")) for pen in pens)) == [1] * 20
        assert log.link.breaks == 0


async def test_who_waits_when_the_link_is_closed_is_not_left_waiting(server):
    settings = TurnLogSettings(lease=600.0, heartbeat=60.0, call_timeout=0.5)
    async with turn_log(server.url, settings=settings) as log:
        live = await open_turn(log)
        hold(server)
        tasks = await begun(live.query.append(groups(0)), log.control(live.front, commit=1))
        await log.link.aclose()
        let_go(server)
        for task in tasks:
            await asyncio.wait([task])  # answered, as a link connects again, or Unavailable
    async with turn_log(server.url) as log:
        assert (await log.state(live.turn, CALLER)).caller == CALLER

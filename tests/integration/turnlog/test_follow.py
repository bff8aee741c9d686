"""Readers: woken by the append itself, safe without being woken, and exact over failovers."""

import asyncio

import pytest
from turnlog_cases import (
    CALLER,
    END,
    PATIENCE,
    STOPPED,
    HandClock,
    broken,
    groups,
    open_turn,
    roll_back,
    run_turn,
    snapshot,
    subscribed,
    text,
    texts,
    turn_log,
)

from aqaa.errors import Deadline, LogDiverged, LogLost
from aqaa.turnlog import Appender, Phase, Role, Stream, Tenure, read_all


async def test_a_reader_is_woken_without_any_sweep(server):
    """No time passes for the reading process: only the message of the append can wake it."""
    async with turn_log(server.url) as writer, turn_log(server.url, seed=1, clock=HandClock()) as reader:
        live = await open_turn(writer)
        answer = Appender(await run_turn(writer, live.turn), Stream.ANSWER)
        await answer.append(text("before"))
        async with reader.following.follow(live.turn, Stream.ANSWER) as follower:
            assert await texts(follower, 1) == ["before"]
            await subscribed(reader, live.turn.channel(Role.FRONT))
            for i in range(50):
                await answer.append(text(str(i)))
                assert await texts(follower, 1) == [str(i)]


async def test_an_entry_comes_with_its_wake_up_and_one_that_was_missed_is_read(server):
    """The stream is read once for each gap, and not at all where there is none."""

    def readings() -> int:
        lines = server.ask("INFO", "commandstats").decode().splitlines()
        stats = [line for line in lines if line.startswith("cmdstat_xrange:")]
        return int(stats[0].split("calls=")[1].split(",")[0]) if stats else 0

    async with turn_log(server.url) as writer, turn_log(server.url, seed=1, clock=HandClock()) as reader:
        live = await open_turn(writer)
        answer = Appender(await run_turn(writer, live.turn), Stream.ANSWER)
        async with reader.following.follow(live.turn, Stream.ANSWER) as follower:
            await subscribed(reader, live.turn.channel(Role.FRONT))
            await quiet(reader)
            before = readings()
            for i in range(5):
                await answer.append(text(str(i)))
                assert await texts(follower, 1) == [str(i)]
            assert readings() == before
            object.__setattr__(live.turn, "channel", lambda role: "")
            await answer.append(text("unheard"))
            object.__delattr__(live.turn, "channel")
            await answer.append(text("heard"))
            assert await texts(follower, 2) == ["unheard", "heard"]
            assert readings() == before + 1


async def test_a_reader_that_is_never_woken_reads_within_a_sweep(server):
    clock = HandClock()
    async with turn_log(server.url) as writer, turn_log(server.url, seed=1, clock=clock) as reader:
        live = await open_turn(writer)
        async with reader.following.follow(live.turn, Stream.QUERY) as follower:
            first = await follower.next(PATIENCE)
            await subscribed(reader, live.turn.channel(Role.RUNNER))
            await quiet(reader)
            await silent_append(live)
            assert first.seq == 1
            assert follower.ready() == []
            clock.advance(reader.link.settings.sweep)
            assert (await follower.next(PATIENCE)).record(Stream.QUERY) == groups(0)


async def silent_append(live):
    """An append whose wake-up is lost on its way."""
    object.__setattr__(live.turn, "channel", lambda role: "")
    await live.query.append(groups(0))
    object.__delattr__(live.turn, "channel")


async def quiet(log):
    """Returns once a reading that was under way is over."""
    await log.link.now_ms()
    await asyncio.sleep(0.05)


async def test_the_end_comes_after_the_last_entry(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        answer = Appender(await run_turn(log, live.turn), Stream.ANSWER)
        async with log.following.follow(live.turn, Stream.ANSWER) as follower:
            for i in range(150):
                await answer.append(text(str(i)))
            await answer.append(END)
            await log.finish(live.front, STOPPED)
            assert await texts(follower, 150) == [str(i) for i in range(150)]
            assert (await follower.next(PATIENCE)).record(Stream.ANSWER) == END
            assert await follower.next(PATIENCE) is None
            assert follower.state.phase is Phase.COMPLETED


async def test_a_runner_sees_commit_frontier_and_cancel(server):
    async with turn_log(server.url) as front, turn_log(server.url, seed=1) as runner:
        live = await open_turn(front)
        async with runner.following.follow(live.turn, Stream.QUERY) as query:
            await run_turn(runner, live.turn)
            await front.control(live.front, commit=12, frontier=20)
            state = await query.seen(lambda s: s.commit is not None, PATIENCE)
            assert (state.commit, state.frontier) == (12, 20)
            await front.control(live.front, frontier=8)  # never back
            await front.control(live.front, frontier=32, played=100)
            assert (await query.seen(lambda s: s.frontier != 20, PATIENCE)).frontier == 32
            await front.cancel(live.turn, CALLER, played_samples=4800)
            state = await query.seen(lambda s: s.phase.terminal, PATIENCE)
            assert (state.phase, state.played) == (Phase.CANCELLED, 4800)


async def test_waiting_has_an_end(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        async with log.following.follow(live.turn, Stream.ANSWER) as follower:
            with pytest.raises(Deadline, match="nothing new on answer"):
                await follower.next(0.01)


async def test_a_reader_puts_back_what_a_failover_lost(server):
    """The writer is gone; what the reader has seen was in the log, and comes into it again."""
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        answer = Appender(await run_turn(log, live.turn), Stream.ANSWER)
        async with log.following.follow(live.turn, Stream.ANSWER) as follower:
            await answer.append(text("0"))
            kept = await snapshot(log, live.turn)
            await answer.append(text("1"))
            await answer.append(text("2"))
            assert await texts(follower, 3) == ["0", "1", "2"]
            await roll_back(log, kept)
            log.link.broke(ConnectionError("failover"))
            while len(await read_all(log.link, live.turn, Stream.ANSWER)) < 3:
                await asyncio.sleep(0.005)
            successor = await Tenure.acquire(log.link, live.turn, Role.RUNNER, log.nonce(), force=True)
            pen, written = await log.pen(successor, Stream.ANSWER)
            assert len(written) == 3
            await pen.append(text("3"))
            assert await texts(follower, 1) == ["3"]


async def test_a_reader_never_follows_a_fork(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        runner = await run_turn(log, live.turn)
        kept = await snapshot(log, live.turn)
        async with log.following.follow(live.turn, Stream.ANSWER) as follower:
            answer = Appender(runner, Stream.ANSWER)
            await answer.append(text("zero"))
            assert await texts(follower, 1) == ["zero"]
            log.following._tasks[0].cancel()  # it does not look while this happens
            await roll_back(log, kept)
            fork = Appender(runner, Stream.ANSWER)
            await fork.append(text("null"))
            await fork.append(text("one"))
            log.following._tasks[0] = asyncio.create_task(log.following._drain())
            with pytest.raises(LogDiverged):
                await follower.next(PATIENCE)


async def test_a_log_that_vanishes_is_an_error(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        async with log.following.follow(live.turn, Stream.QUERY) as follower:
            await follower.next(PATIENCE)
            await log.link.command("UNLINK", *live.turn.keys)
            with pytest.raises(LogLost) as caught:
                await follower.next(PATIENCE)
            assert caught.value.metadata == {"missing": "query:2"}


async def test_a_hundred_readers_share_two_connections(server):
    async with turn_log(server.url) as writer, turn_log(server.url, seed=1) as reader:
        lives = [await open_turn(writer) for _ in range(100)]
        pens = [Appender(await run_turn(writer, live.turn), Stream.ANSWER) for live in lives]
        followers = [reader.following.follow(live.turn, Stream.ANSWER) for live in lives]
        for words in ("One", " two", " three"):
            await asyncio.gather(*(pen.append(text(words)) for pen in pens))
            assert await asyncio.gather(*(texts(f, 1) for f in followers)) == [[words]] * 100
        clients = (await reader.link.command("INFO", "clients"))["connected_clients"]
        assert clients <= writer.link.settings.connections + 1 + 2 + 1
        for follower in followers:
            reader.following.leave(follower)
        channel = lives[0].turn.channel(Role.FRONT)
        while (await reader.link.command("PUBSUB", "NUMSUB", channel))[1]:
            await asyncio.sleep(0.005)


async def test_readers_hear_again_after_their_connection_was_cut(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        answer = Appender(await run_turn(log, live.turn), Stream.ANSWER)
        async with log.following.follow(live.turn, Stream.ANSWER) as follower:
            await answer.append(text("One"))
            assert await texts(follower, 1) == ["One"]
            await subscribed(log, live.turn.channel(Role.FRONT))
            await log.link.command("CLIENT", "KILL", "TYPE", "pubsub")
            await broken(log)
            await answer.append(text(" two"))
            assert await texts(follower, 1) == [" two"]
            await subscribed(log, live.turn.channel(Role.FRONT))

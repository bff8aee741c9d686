"""What the log counts: every metric of the catalogue's part moves, and says what happened."""

import re
from pathlib import Path

import pytest
from turnlog_cases import (
    BUNDLE,
    CALLER,
    HandClock,
    broken,
    expire,
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

from aqaa.errors import LogDiverged, Superseded
from aqaa.telemetry import catalogue
from aqaa.turnlog import Appender, Consumer, Role, Stream, Tenure, TurnLogSettings, post, read_all


def counted(log, metric, **labels):
    name = metric.name + ("_count" if metric.kind == "histogram" else "")
    return log.link.metrics.registry.get_sample_value(name, labels) or 0


async def test_appends_are_counted_by_how_the_log_answered(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        kept = await snapshot(log, live.turn)
        await live.query.append(groups(0))
        again = Appender(live.front, Stream.QUERY, (await read_all(log.link, live.turn, Stream.QUERY))[:1])
        await again.append(groups(0))
        await roll_back(log, kept)
        await live.query.append(groups(1))
        with pytest.raises(LogDiverged):
            await again.append(groups(7))
        taken = await log.resume(live.turn, CALLER)
        pen, _ = await log.pen(taken, Stream.QUERY)
        with pytest.raises(Superseded):
            await Appender(Tenure(log.link, live.turn, Role.FRONT, "feed", 1), Stream.DELIVERY).append(
                groups(0)
            )
        await log.link.command("UNLINK", *live.turn.keys)
        with pytest.raises(Exception, match="is gone"):
            await pen.append(groups(2))
        found = {
            outcome: counted(log, catalogue.LOG_APPENDS, stream="query", outcome=outcome)
            for outcome in ("OK", "DUP", "GAP", "CONFLICT", "GONE")
        }
        assert found == {"OK": 3, "DUP": 1, "GAP": 1, "CONFLICT": 1, "GONE": 1}
        assert counted(log, catalogue.LOG_APPENDS, stream="delivery", outcome="FENCED") == 1
        assert counted(log, catalogue.LOG_APPEND_SECONDS, stream="query") == 7


async def test_readers_say_what_woke_them(server):
    clock = HandClock()
    async with turn_log(server.url) as writer, turn_log(server.url, seed=1, clock=clock) as reader:
        live = await open_turn(writer)
        answer = Appender(await run_turn(writer, live.turn), Stream.ANSWER)
        async with reader.following.follow(live.turn, Stream.ANSWER) as follower:
            await subscribed(reader, live.turn.channel(Role.FRONT))
            for i in range(3):
                await answer.append(text(str(i)))
                assert await texts(follower, 1) == [str(i)]
            assert 1 <= counted(reader, catalogue.LOG_WAKE_SECONDS, stream="answer") <= 3
            assert counted(reader, catalogue.LOG_SWEEPS, stream="answer") == 0
            object.__setattr__(live.turn, "channel", lambda role: "")
            while not counted(reader, catalogue.LOG_SWEEPS, stream="answer"):
                await answer.append(
                    text("unannounced")
                )  # a look that was under way may find it: once more then
                clock.advance(reader.link.settings.sweep)
                assert await texts(follower, 1) == ["unannounced"]
            object.__delattr__(live.turn, "channel")
            assert counted(reader, catalogue.LOG_SWEEPS, stream="answer") == 1


async def test_turns_change_hands(server):
    settings = TurnLogSettings(lease=600.0, heartbeat=60.0, dispatch_block=0.02, max_deliveries=1)
    async with turn_log(server.url, settings=settings) as one, turn_log(server.url, seed=1) as two:
        live = await open_turn(one)
        mine, theirs = Consumer(one.link, "runner-1"), Consumer(two.link, "runner-2")
        await post(one.link, live.turn, BUNDLE)
        [found] = await mine.take(1)
        keeper = one.keeper(mine)
        keeper.keep(await one.acquire_runner(mine, found), found)
        await one.link.command("XCLAIM", "aqaa:dispatch", "runners", theirs.name, 0, found.entry)
        await keeper.beat()
        assert counted(one, catalogue.LOG_LEASES_LOST, role="runner") == 1
        assert isinstance(await two.acquire_runner(theirs, found), Tenure)
        assert counted(two, catalogue.LOG_TAKE_OVERS, role="runner") == 1

        await two.resume(live.turn, CALLER)
        assert counted(two, catalogue.LOG_TAKE_OVERS, role="front") == 1
        keeper.keep(live.front)
        await keeper.beat()
        await keeper.beat()
        assert counted(one, catalogue.LOG_LEASES_LOST, role="front") == 1

        await expire(two, live.turn, Role.RUNNER)
        await one.link.command("XCLAIM", "aqaa:dispatch", "runners", mine.name, 0, found.entry, "IDLE", 10**7)
        [again] = await mine.scan(1)
        assert await one.acquire_runner(mine, again) is None
        assert counted(one, catalogue.LOG_DEAD, reason="MAX_DELIVERIES") == 1


async def test_what_breaks_is_counted(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        async with log.following.follow(live.turn, Stream.ANSWER):
            await subscribed(log, live.turn.channel(Role.FRONT))
            await log.link.command("CLIENT", "KILL", "TYPE", "pubsub")
            await broken(log)
        assert counted(log, catalogue.LOG_BREAKS) == log.link.breaks >= 1


def test_this_file_looks_at_every_metric_of_the_log():
    names = set(re.findall(r"catalogue\.(LOG_\w+)", Path(__file__).read_text()))
    assert {getattr(catalogue, name) for name in names} == set(catalogue.TURNLOG)

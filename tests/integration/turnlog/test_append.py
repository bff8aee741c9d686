"""The fenced append: in order, once, by the owner, and never anything else."""

import asyncio

import pytest
from turnlog_cases import CALLER, chunk, groups, open_turn, roll_back, run_turn, snapshot, text, turn_log

from aqaa.errors import Cancelled, LogDiverged, LogLost, Superseded
from aqaa.turnlog import Appender, Role, Stream, Tenure, read_all
from aqaa.turnlog.append import appending
from aqaa.turnlog.records import Cursor, encode


async def status(log, pen, entry, before, **who):
    call = appending(log.link, pen.tenure.turn, pen.stream, entry, before, **who)
    return (await log.link.run(call.script, call.keys, call.args))[0]


async def test_records_come_back_as_they_were_written(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        assert [await live.query.append(groups(i)) for i in range(3)] == [2, 3, 4]
        entries = await read_all(log.link, live.turn, Stream.QUERY)
        assert entries[0].record(Stream.QUERY).spec == await log.spec(live.turn)
        assert [e.record(Stream.QUERY) for e in entries[1:]] == [groups(i) for i in range(3)]
        assert (await log.state(live.turn, CALLER)).last[Stream.QUERY] == live.query.cursor


async def test_every_reply_of_the_script(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        pen, owner = live.query, {"role": Role.FRONT, "owner": live.front.owner}
        spec = pen.cursor
        second = spec.after(encode(groups(0)))
        third = Cursor(second.seq, second.hash).after(encode(groups(1)))
        other = spec.after(encode(groups(0, seed=9)))
        assert await status(log, pen, third, second.hash, **owner) == "GAP"
        assert (
            await status(log, pen, second, spec.hash, role=Role.FRONT, owner="1.feedfeedfeedfeed") == "FENCED"
        )
        assert await status(log, pen, second, b"another past", **owner) == "CONFLICT"
        assert await status(log, pen, second, spec.hash, **owner) == "OK"
        assert await status(log, pen, second, spec.hash, **owner) == "DUP"
        assert await status(log, pen, other, spec.hash, **owner) == "CONFLICT"
        assert await status(log, pen, third, other.hash, **owner) == "CONFLICT"
        await log.link.command("DEL", live.turn.stream(Stream.QUERY))
        assert await status(log, pen, third, second.hash, **owner) == "GONE"
        await log.link.command("DEL", live.turn.state)
        assert await status(log, pen, second, spec.hash, **owner) == "GONE"
        assert await log.link.command("EXISTS", live.turn.stream(Stream.QUERY)) == 0


async def test_the_same_question_again_is_no_new_one(server):
    """A front that died while the user spoke: the next one replays the question from its beginning."""
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        for i in range(4):
            await live.query.append(groups(i))
        again = await log.resume(live.turn, CALLER)
        pen = Appender(again, Stream.QUERY, (await read_all(log.link, live.turn, Stream.QUERY))[:1])
        for i in range(6):
            await pen.append(groups(i))
        entries = await read_all(log.link, live.turn, Stream.QUERY)
        assert [e.record(Stream.QUERY) for e in entries[1:]] == [groups(i) for i in range(6)]


async def test_another_question_under_the_same_turn_is_refused(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        await live.query.append(groups(0))
        again = await log.resume(live.turn, CALLER)
        pen = Appender(again, Stream.QUERY, (await read_all(log.link, live.turn, Stream.QUERY))[:1])
        with pytest.raises(LogDiverged) as caught:
            await pen.append(groups(0, seed=1))
        assert caught.value.metadata == {"missing": "query:2"}
        with pytest.raises(LogDiverged):
            await pen.append(groups(1))


async def test_a_replaced_owner_writes_nothing(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        taken = await log.resume(live.turn, CALLER)
        with pytest.raises(Superseded):
            await live.query.append(groups(0))
        assert live.front.lost.is_set()
        pen, _ = await log.pen(taken, Stream.QUERY)
        assert await pen.append(groups(0)) == 2


async def test_nobody_writes_an_answer_that_was_cancelled(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        runner = await run_turn(log, live.turn)
        answer = Appender(runner, Stream.ANSWER)
        await answer.append(text("One"))
        await log.cancel(live.turn, CALLER)
        with pytest.raises(Cancelled):
            await answer.append(text(" two"))
        with pytest.raises(Cancelled):
            await Appender(live.front, Stream.DELIVERY).append(chunk(0))


async def test_a_turn_whose_log_is_gone_cannot_go_on(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        await log.link.command("FLUSHALL")
        with pytest.raises(LogLost):
            await live.query.append(groups(0))
        assert await log.link.command("DBSIZE") == 0


async def test_a_pen_belongs_to_the_role_that_writes_the_stream(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        with pytest.raises(ValueError, match="written by the runner"):
            Appender(live.front, Stream.ANSWER)


async def test_of_the_delivery_the_last_64_chunks_are_kept_and_none_that_was_acknowledged(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        pen = Appender(live.front, Stream.DELIVERY)
        for i in range(70):
            await pen.append(chunk(i))
        assert [e.seq for e in await read_all(log.link, live.turn, Stream.DELIVERY)] == list(range(7, 71))
        await pen.append(chunk(70), below=69)
        assert [e.seq for e in await read_all(log.link, live.turn, Stream.DELIVERY)] == [69, 70, 71]

        taken = await log.resume(live.turn, CALLER)
        pen, written = await log.pen(taken, Stream.DELIVERY)
        assert written[-1].record(Stream.DELIVERY) == chunk(70)
        assert await pen.append(chunk(71)) == 72


async def test_every_key_of_a_turn_expires(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        await live.query.append(groups(0))
        runner = await run_turn(log, live.turn)
        await Appender(runner, Stream.ANSWER).append(text("One"))
        await Appender(live.front, Stream.DELIVERY).append(chunk(0))
        for key in (*live.turn.keys, live.turn.meta):
            assert 0 < await log.link.command("PTTL", key) <= 900_000


@pytest.mark.parametrize("lost", [1, 3])
async def test_what_a_failover_lost_is_written_again(server, lost):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        runner = await run_turn(log, live.turn)
        answer = Appender(runner, Stream.ANSWER)
        await answer.append(text("0"))
        kept = await snapshot(log, live.turn)
        for i in range(1, 1 + lost):
            await answer.append(text(str(i)))
        await roll_back(log, kept)
        await answer.append(text("last"))
        written = await read_all(log.link, live.turn, Stream.ANSWER)
        expected = [*map(str, range(1 + lost)), "last"]
        assert [e.record(Stream.ANSWER).piece.text.text for e in written] == expected


async def test_an_owner_that_a_failover_forgot_takes_its_role_again(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        first = await run_turn(log, live.turn)
        kept = await snapshot(log, live.turn)
        await first.release()
        second = await run_turn(log, live.turn)
        answer = Appender(second, Stream.ANSWER)
        await answer.append(text("0"))
        await roll_back(log, kept)  # where the first one holds a lease
        await answer.append(text("1"))
        assert second.epoch == 3
        assert len(await read_all(log.link, live.turn, Stream.ANSWER)) == 2


async def test_a_log_that_forked_in_a_failover_ends_the_turn(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        first = await run_turn(log, live.turn)
        answer = Appender(first, Stream.ANSWER)
        kept = await snapshot(log, live.turn)
        await answer.append(text("0"))
        await roll_back(log, kept)
        fork = Tenure(log.link, live.turn, Role.RUNNER, first.nonce, first.epoch)
        await Appender(fork, Stream.ANSWER).append(text("zero"))
        with pytest.raises(LogDiverged) as caught:
            await answer.append(text("1"))
        assert caught.value.metadata["missing"].startswith("answer:")


async def test_a_record_has_its_place_though_its_call_was_cancelled_at_once(server):
    """Another append is on its way: the second waits for it, is cancelled, and goes in all the same."""
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        first = asyncio.create_task(live.query.append(groups(0)))
        second = asyncio.create_task(live.query.append(groups(1)))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait({first, second})
        assert second.cancelled()
        await live.query.settle()
        await live.query.settle()
        assert await live.query.append(groups(2)) == 4
        entries = await read_all(log.link, live.turn, Stream.QUERY)
        assert [e.record(Stream.QUERY) for e in entries[1:]] == [groups(i) for i in range(3)]

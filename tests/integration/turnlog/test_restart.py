"""A server that goes away and comes back: turns go on, scripts are sent again, leases start anew."""

import asyncio

import pytest
from turnlog_cases import CALLER, open_turn, run_turn, text, texts, turn_log
from turnlog_servers import Server, binary

from aqaa.errors import Unavailable
from aqaa.turnlog import Appender, Link, Role, Stream, Tenure, TurnLogSettings, read_all


async def test_forgotten_scripts_are_sent_again(server):
    async with turn_log(server.url) as log:
        live = await open_turn(log)
        await log.link.command("SCRIPT", "FLUSH")
        runner = await run_turn(log, live.turn)
        await log.link.command("SCRIPT", "FLUSH")
        keeper = log.keeper()
        keeper.keep(runner)
        keeper.keep(live.front)
        await keeper.beat()
        assert len(keeper.held) == 2


@pytest.mark.parametrize("kind", ["valkey9", "redis7"])
async def test_a_turn_goes_on_after_a_restart_with_its_append_only_file(kind, folder):
    server = Server(binary(kind), folder, "--appendonly", "yes", "--appendfsync", "always")
    try:
        async with turn_log(server.url) as log:
            live = await open_turn(log)
            runner = await run_turn(log, live.turn)
            answer = Appender(runner, Stream.ANSWER)
            async with log.following.follow(live.turn, Stream.ANSWER) as follower:
                await answer.append(text("One"))
                assert await texts(follower, 1) == ["One"]
                server.kill()
                writing = asyncio.create_task(answer.append(text(" two")))
                await asyncio.sleep(0)
                server.start()
                assert await writing == 2
                assert await texts(follower, 1) == [" two"]
            assert (await log.state(live.turn, CALLER)).owners[Role.RUNNER] == runner.owner
            assert (await Tenure.acquire(log.link, live.turn, Role.RUNNER, log.nonce())).why == "LEASED"
            assert len(await read_all(log.link, live.turn, Stream.ANSWER)) == 2
    finally:
        server.kill()


async def test_an_append_only_file_without_its_tail_is_filled_up_again(folder):
    server = Server(binary("valkey9"), folder, "--appendonly", "yes", "--appendfsync", "always")
    try:
        async with turn_log(server.url) as log:
            live = await open_turn(log)
            answer = Appender(await run_turn(log, live.turn), Stream.ANSWER)
            async with log.following.follow(live.turn, Stream.ANSWER) as follower:
                for word in ("One", " two", " three"):
                    await answer.append(text(word))
                assert await texts(follower, 3) == ["One", " two", " three"]
                server.kill()
                [tail] = (folder / "appendonlydir").glob("*.incr.aof")
                tail.write_bytes(tail.read_bytes()[:-150])
                server.start()
                await answer.append(text(" four"))
                assert await texts(follower, 1) == [" four"]
            written = await read_all(log.link, live.turn, Stream.ANSWER)
            assert [e.record(Stream.ANSWER).piece.text.text for e in written] == [
                "One",
                " two",
                " three",
                " four",
            ]
    finally:
        server.kill()


async def test_a_server_that_stays_away_is_unavailable(folder):
    server = Server(binary("valkey9"), folder)
    settings = TurnLogSettings(call_timeout=0.3)
    async with await Link.connect(server.url, settings) as link:
        server.kill()
        with pytest.raises(Unavailable, match="did not answer TIME") as caught:
            await link.now_ms()
        assert caught.value.metadata == {"stage": "turnlog"}
        assert link.breaks >= 1

"""A cluster of three: a session in one slot, redirections, and replicas that become masters."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis
from turnlog_cases import (
    BUNDLE,
    CALLER,
    PATIENCE,
    SETTINGS,
    STOPPED,
    HandClock,
    everything,
    groups,
    open_turn,
    run_turn,
    text,
    texts,
    turn_log,
)
from turnlog_rules import ON_A_CLUSTER, RULES
from turnlog_servers import Server, cluster, node_id, settled

from aqaa.errors import LogDiverged, Superseded
from aqaa.turnlog import Appender, Consumer, Role, Stream, Tenure, post, read_all

CLUSTER = replace(SETTINGS, call_timeout=30.0)


def replicated(replica: Server, stream: str) -> int:
    with redis.Redis(port=replica.port, single_connection_client=True) as client:
        client.execute_command("READONLY")
        return client.xlen(stream)


def sessions_on(log, node: Server) -> Iterator:
    """Turns whose session lies on this node."""
    while True:
        turn = log.new_turn("tenant")
        if log.link.client.get_node_from_key(turn.state).port == node.port:
            yield turn


async def test_turns_live_on_every_node_and_in_one_slot_each(tmp_path):
    async with cluster(tmp_path) as nodes, turn_log(nodes[0].url, cluster=True, settings=CLUSTER) as log:
        consumer = Consumer(log.link, "runner-1")
        for node in nodes:
            live = await open_turn(log, session=next(sessions_on(log, node)).session)
            await post(log.link, live.turn, BUNDLE)
            [found] = await consumer.take(1)
            runner = await log.acquire_runner(consumer, found)
            assert isinstance(runner, Tenure)
            answer = Appender(runner, Stream.ANSWER)
            async with (
                log.following.follow(live.turn, Stream.ANSWER) as follower,
                log.following.follow(live.turn, Stream.QUERY) as query,
            ):
                for i in range(20):
                    await live.query.append(groups(i))
                    await answer.append(text(str(i)))
                    assert await texts(follower, 1) == [str(i)]
                await log.control(live.front, commit=20)
                await query.seen(lambda state: state.commit == 20, PATIENCE)
            keeper = log.keeper(consumer)
            keeper.keep(runner, found, [answer])
            keeper.keep(live.front)
            await keeper.beat()
            await keeper.beat()  # the first has missed the turn's place
            assert len(keeper.held) == 2
            await log.finish(live.front, STOPPED)
            await consumer.done(found)
            await consumer.tidy()
            assert await log.capacity.live() == 1
            await log.capacity.leave(live.turn)
            assert await log.sessions.close(live.turn.session_ref, CALLER) == 4
        await log.capacity.publish("llm-0", 4, 4)
        await log.capacity.admit(live.turn)
        assert await log.capacity.live() == 1


async def test_users_with_few_rights_suffice_on_a_cluster_too(tmp_path):
    async with cluster(tmp_path) as nodes:
        for node in nodes:
            for name, words in RULES.items():
                assert node.ask("ACL", "SETUSER", name, *words, *ON_A_CLUSTER) == b"+OK\r\n"
        front_url, runner_url = (f"redis://{name}:SECRET@127.0.0.1:{nodes[0].port}" for name in RULES)
        async with (
            turn_log(front_url, cluster=True, settings=CLUSTER) as front,
            turn_log(runner_url, cluster=True, settings=CLUSTER, seed=1) as runner,
        ):
            await everything(front, runner)
        assert [node.ask("ACL", "LOG") for node in nodes] == [b"*0\r\n"] * 3


async def test_a_turn_goes_on_while_its_slot_moves(tmp_path):
    async with cluster(tmp_path) as nodes, turn_log(nodes[0].url, cluster=True, settings=CLUSTER) as log:
        live = await open_turn(log, session=next(sessions_on(log, nodes[0])).session)
        answer = Appender(await run_turn(log, live.turn), Stream.ANSWER)
        async with log.following.follow(live.turn, Stream.ANSWER) as follower:
            await answer.append(text("One"))
            assert await texts(follower, 1) == ["One"]
            slot = str(log.link.client.keyslot(live.turn.state))
            source, target = nodes[0], nodes[1]
            target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", node_id(source))
            source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", node_id(target))
            keys = (*live.turn.keys, live.turn.meta)
            source.ask("MIGRATE", "127.0.0.1", str(target.port), "", "0", "5000", "KEYS", *keys)
            for node in (target, source, nodes[2]):
                assert node.ask("CLUSTER", "SETSLOT", slot, "NODE", node_id(target)) == b"+OK\r\n"
            for word in (" two", " three"):  # the first is redirected
                await answer.append(text(word))
            assert b"errorstat_MOVED:" in source.ask("INFO", "errorstats")
            assert await texts(follower, 2) == [" two", " three"]
            channel = live.turn.channel("front").encode()
            await settled(lambda: channel in target.ask("PUBSUB", "SHARDCHANNELS"))


async def test_appends_are_made_while_the_keys_of_their_turn_are_on_two_nodes(tmp_path):
    """The slot moves key by key: the server answers ASK and TRYAGAIN, and in the end MOVED."""
    async with cluster(tmp_path) as nodes, turn_log(nodes[0].url, cluster=True, settings=CLUSTER) as log:
        live = await open_turn(log, session=next(sessions_on(log, nodes[0])).session)
        answer = Appender(await run_turn(log, live.turn), Stream.ANSWER)
        slot, source, target = str(log.link.client.keyslot(live.turn.state)), nodes[0], nodes[1]
        words, stopped = [], asyncio.Event()

        async def write() -> None:
            while not stopped.is_set():
                words.append(str(len(words)))
                await answer.append(text(words[-1]))

        async def progress() -> None:
            """Something is written, or tried and sent away, since."""
            before = len(words), log.link.breaks
            while (len(words), log.link.breaks) == before:
                await asyncio.sleep(0.005)

        async with log.following.follow(live.turn, Stream.ANSWER) as follower:
            writing = asyncio.create_task(write())
            await progress()
            target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", node_id(source))
            source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", node_id(target))
            for key in (*live.turn.keys, live.turn.meta):
                await progress()
                source.ask("MIGRATE", "127.0.0.1", str(target.port), key, "0", "5000")
            await progress()
            for node in (target, source, nodes[2]):
                assert node.ask("CLUSTER", "SETSLOT", slot, "NODE", node_id(target)) == b"+OK\r\n"
            await progress()
            stopped.set()
            await writing
            assert await texts(follower, len(words)) == words
        errors = source.ask("INFO", "errorstats") + target.ask("INFO", "errorstats")
        assert all(f"errorstat_{name}:".encode() in errors for name in ("ASK", "MOVED"))


async def test_a_master_that_is_away_stalls_only_the_turns_that_lie_on_it(tmp_path):
    clock = HandClock()
    async with (
        cluster(tmp_path) as nodes,
        turn_log(nodes[0].url, cluster=True, settings=CLUSTER) as log,
        turn_log(nodes[0].url, cluster=True, settings=CLUSTER, seed=1, clock=clock) as keeping,
    ):
        for node in nodes:
            node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
        away, there = nodes[:2]
        lives = [await open_turn(log, session=next(sessions_on(log, n)).session) for n in (away, there)]
        pens = [Appender(await run_turn(log, live.turn), Stream.ANSWER) for live in lives]
        keeper = keeping.keeper()
        for live in lives:
            taken = await keeping.resume(live.turn, CALLER)
            keeper.keep(taken)
        async with (
            log.following.follow(lives[0].turn, Stream.ANSWER) as stalled,
            log.following.follow(lives[1].turn, Stream.ANSWER) as follower,
        ):
            for pen, reader in zip(pens, (stalled, follower), strict=True):
                await pen.append(text("0"))
                assert await texts(reader, 1) == ["0"]
            beating = asyncio.create_task(keeper.run())
            away.pause()
            try:
                waiting = asyncio.create_task(pens[0].append(text("1")))
                for i in range(1, 30):
                    await pens[1].append(text(str(i)))
                    assert await texts(follower, 1) == [str(i)]
                for _ in range(3):  # heartbeats; the first one waits for the node that is away
                    before = await lease(log, lives[1])
                    while await lease(log, lives[1]) == before:
                        clock.advance(CLUSTER.heartbeat)
                        await asyncio.sleep(0.01)
                assert not waiting.done()
            finally:
                away.go_on()
            assert await waiting == 2
            assert await texts(stalled, 1) == ["1"]
            beating.cancel()
            await asyncio.wait([beating])


async def lease(log, live) -> int:
    return (await log.state(live.turn, CALLER)).leases[Role.FRONT]


@pytest.mark.parametrize("how", ["asked", "killed"])
async def test_a_turn_goes_on_when_a_replica_becomes_the_master(tmp_path, how):
    """Its script cache is empty: every script is sent again."""
    async with (
        cluster(tmp_path, replicas=1) as nodes,
        turn_log(nodes[0].url, cluster=True, settings=CLUSTER) as log,
    ):
        live = await open_turn(log, session=next(sessions_on(log, nodes[0])).session)
        answer = Appender(await run_turn(log, live.turn), Stream.ANSWER)
        async with log.following.follow(live.turn, Stream.ANSWER) as follower:
            for i in range(5):
                await answer.append(text(str(i)))
            assert await texts(follower, 5) == [str(i) for i in range(5)]
            assert b"cmdstat_eval:" not in nodes[3].ask("INFO", "commandstats")
            if how == "killed":
                nodes[0].kill()
            else:
                nodes[3].ask("CLUSTER", "FAILOVER")
            for i in range(5, 10):
                await answer.append(text(str(i)))
            assert await texts(follower, 5) == [str(i) for i in range(5, 10)]
            await settled(lambda: b"role:master" in nodes[3].ask("INFO", "replication"))
            assert b"errorstat_NOSCRIPT:" in nodes[3].ask("INFO", "errorstats")
            assert b"cmdstat_eval:" in nodes[3].ask("INFO", "commandstats")
            await log.finish(live.front, STOPPED)
            assert await follower.next(PATIENCE) is None
            assert len(await read_all(log.link, live.turn, Stream.ANSWER)) == 10


@contextlib.asynccontextmanager
async def promoted_behind(tmp_path, *, reads: bool):
    """A replica became the master whose link was cut when it had entry "0"; "1" to "3" were written since.

    Gives a pen, a reader that has read them all (if ``reads``), and the log of a third process.
    """
    async with (
        cluster(tmp_path, replicas=1) as nodes,
        turn_log(nodes[0].url, cluster=True, settings=CLUSTER) as log,
        turn_log(nodes[1].url, cluster=True, settings=CLUSTER, seed=1) as reading,
        turn_log(nodes[2].url, cluster=True, settings=CLUSTER, seed=2) as later,
    ):
        live = await open_turn(log, session=next(sessions_on(log, nodes[0])).session)
        answer = Appender(await run_turn(log, live.turn), Stream.ANSWER)
        async with contextlib.AsyncExitStack() as stack:
            reader = None
            if reads:
                reader = await stack.enter_async_context(reading.following.follow(live.turn, Stream.ANSWER))
            await answer.append(text("0"))
            node = log.link.client.get_node_from_key(live.turn.state)
            assert await log.link.command("WAIT", 1, 5000, target_nodes=node) == 1
            nodes[3].pause()
            nodes[0].ask("CLIENT", "KILL", "TYPE", "replica")
            for i in range(1, 4):
                await answer.append(text(str(i)))
            if reader is not None:
                assert await texts(reader, 4) == list("0123")
                await stand_still(reader)
            nodes[0].kill()
            nodes[3].go_on()
            assert replicated(nodes[3], live.turn.stream(Stream.ANSWER)) == 1
            await settled(lambda: nodes[3].ask("CLUSTER", "FAILOVER", "TAKEOVER") == b"+OK\r\n")
            yield answer, reader, later


async def stand_still(reader) -> None:
    """It does not look before ``look``: nor does a look that is under way, and is asked again elsewhere."""
    following = reader._following
    drain = following._tasks[0]
    drain.cancel()
    await asyncio.wait([drain, *following._reading.values()])


def look(reader) -> None:
    """A reader that stood still goes on."""
    following = reader._following
    following._tasks[0] = asyncio.create_task(following._drain())


async def written(log, pen) -> list[str]:
    """The words of the answer. Raises where the chain of hashes is broken."""
    entries = await read_all(log.link, pen.tenure.turn, Stream.ANSWER)
    return [entry.record(Stream.ANSWER).piece.text.text for entry in entries]


async def successor(log, pen) -> Appender:
    """A runner that takes the turn over, as it finds it."""
    taken = await Tenure.acquire(log.link, pen.tenure.turn, Role.RUNNER, log.nonce(), force=True)
    assert isinstance(taken, Tenure)
    return (await log.pen(taken, Stream.ANSWER))[0]


async def test_a_writer_writes_again_what_a_replica_had_not_yet(tmp_path):
    async with promoted_behind(tmp_path, reads=True) as (answer, reader, later):
        await answer.append(text("4"))
        assert await written(later, answer) == list("01234")
        look(reader)
        assert await texts(reader, 1) == ["4"]


async def test_a_reader_puts_back_what_a_replica_had_not_yet_when_the_writer_is_dead(tmp_path):
    async with promoted_behind(tmp_path, reads=True) as (dead, reader, later):
        look(reader)
        while await written(later, dead) != list("0123"):
            await asyncio.sleep(0.02)
        await (await successor(later, dead)).append(text("4"))
        assert await texts(reader, 1) == ["4"]


async def test_without_witnesses_the_turn_goes_on_from_what_the_replica_has(tmp_path):
    async with promoted_behind(tmp_path, reads=False) as (dead, _, later):
        await (await successor(later, dead)).append(text("one"))
        assert await written(later, dead) == ["0", "one"]
        with pytest.raises(Superseded):  # not dead after all
            await dead.append(text("4"))


async def test_who_has_read_what_was_written_otherwise_since_learns_that_the_log_diverged(tmp_path):
    async with promoted_behind(tmp_path, reads=True) as (dead, reader, later):
        pen = await successor(later, dead)
        for word in ("one", "two", "three", "four"):
            await pen.append(text(word))
        look(reader)
        with pytest.raises(LogDiverged):
            await reader.next(PATIENCE)
        assert await written(later, dead) == ["0", "one", "two", "three", "four"]
        with pytest.raises(Superseded):
            await dead.append(text("4"))

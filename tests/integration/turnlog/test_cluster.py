"""A cluster of three: a session in one slot, redirections, and replicas that become masters."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
import redis
from turnlog_cases import (
    BUNDLE,
    CALLER,
    PATIENCE,
    STOPPED,
    everything,
    groups,
    open_turn,
    run_turn,
    text,
    texts,
    turn_log,
)
from turnlog_rules import ON_A_CLUSTER, RULES
from turnlog_servers import VALKEY, Server

from aqaa.turnlog import Appender, Consumer, Stream, Tenure, TurnLogSettings, post, read_all

SLOTS = ((0, 5460), (5461, 10922), (10923, 16383))
OPTIONS = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000",
           "--cluster-allow-replica-migration", "no", "--repl-diskless-sync-delay", "0")  # fmt: skip
CLUSTER = TurnLogSettings(lease=600.0, heartbeat=60.0, dispatch_block=0.02, call_timeout=30.0)


async def settled(met) -> None:
    async with asyncio.timeout(PATIENCE):
        while not met():
            await asyncio.sleep(0.02)


def info(node: Server) -> bytes:
    return node.ask("CLUSTER", "INFO")


@contextlib.asynccontextmanager
async def cluster(tmp_path, replicas: int = 0):
    """Three masters, and so many replicas of the first."""
    nodes: list[Server] = []
    try:
        nodes.extend(Server(VALKEY, tmp_path / f"node-{i}", *OPTIONS) for i in range(3 + replicas))
        for node, (first, last) in zip(nodes, SLOTS, strict=False):
            assert node.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(last)) == b"+OK\r\n"
        for i, node in enumerate(nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", str(i + 1))
        for node in nodes[1:]:
            nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", str(node.port))
        known = f"cluster_known_nodes:{len(nodes)}\r\n".encode()
        await settled(lambda: all(b"cluster_state:ok" in info(n) and known in info(n) for n in nodes))
        for node in nodes[3:]:
            assert node.ask("CLUSTER", "REPLICATE", node_id(nodes[0])) == b"+OK\r\n"
            await settled(lambda node=node: b"master_link_status:up" in node.ask("INFO", "replication"))
        yield nodes
    finally:
        for node in nodes:
            node.kill()


def node_id(node: Server) -> str:
    return node.ask("CLUSTER", "MYID").split(b"\r\n")[1].decode()


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
            assert await texts(follower, 2) == [" two", " three"]
            channel = live.turn.channel("front").encode()
            await settled(lambda: channel in target.ask("PUBSUB", "SHARDCHANNELS"))


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
            if how == "killed":
                nodes[0].kill()
            else:
                nodes[3].ask("CLUSTER", "FAILOVER")
            for i in range(5, 10):
                await answer.append(text(str(i)))
            assert await texts(follower, 5) == [str(i) for i in range(5, 10)]
            await settled(lambda: b"role:master" in nodes[3].ask("INFO", "replication"))
            await log.finish(live.front, STOPPED)
            assert await follower.next(PATIENCE) is None
            assert len(await read_all(log.link, live.turn, Stream.ANSWER)) == 10


async def test_what_a_replica_had_not_yet_is_written_again(tmp_path):
    """Its link was cut before it was promoted: the last appends are lost, and come back."""
    async with (
        cluster(tmp_path, replicas=1) as nodes,
        turn_log(nodes[0].url, cluster=True, settings=CLUSTER) as log,
    ):
        live = await open_turn(log, session=next(sessions_on(log, nodes[0])).session)
        answer = Appender(await run_turn(log, live.turn), Stream.ANSWER)
        async with log.following.follow(live.turn, Stream.ANSWER) as follower:
            await answer.append(text("0"))
            assert await texts(follower, 1) == ["0"]
            node = log.link.client.get_node_from_key(live.turn.state)
            assert await log.link.command("WAIT", 1, 5000, target_nodes=node) == 1
            nodes[3].pause()
            nodes[0].ask("CLIENT", "KILL", "TYPE", "replica")
            for i in range(1, 4):
                await answer.append(text(str(i)))
            assert await texts(follower, 3) == ["1", "2", "3"]
            nodes[0].kill()
            nodes[3].go_on()
            assert replicated(nodes[3], live.turn.stream(Stream.ANSWER)) == 1
            await settled(lambda: nodes[3].ask("CLUSTER", "FAILOVER", "TAKEOVER") == b"+OK\r\n")
            await answer.append(text("4"))
            assert await texts(follower, 1) == ["4"]
            written = await read_all(log.link, live.turn, Stream.ANSWER)
            assert [e.record(Stream.ANSWER).piece.text.text for e in written] == list("01234")

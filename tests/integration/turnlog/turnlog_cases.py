"""What the turn log's tests share: a clock that a test moves, turns, and what a failover leaves behind."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aqaa.turnlog import (
    Appender,
    Consumer,
    Follower,
    Link,
    Opened,
    Phase,
    Role,
    Stream,
    Tenure,
    TurnLog,
    TurnLogSettings,
    TurnRef,
    post,
)
from aqaa.turnlog.records import history_digest
from aqaa.v1.orchestrator_pb2 import TurnSummary
from aqaa.v1.tokens_pb2 import AnswerEnd, AnswerPiece, AudioGroups, EndReason, TextRun
from aqaa.v1.turnlog_pb2 import AnswerRecord, DeliveryRecord, History, QueryRecord, TerminalState, TurnSpec

CALLER = "caller-one"
BUNDLE = "5a" * 32
PATIENCE = 20.0
"""Seconds after which a wait has failed; no test waits for them."""

SETTINGS = TurnLogSettings(lease=600.0, heartbeat=60.0, slots_lease=600.0, dispatch_block=0.02)
"""Leases that never run out by themselves: a test ends them (``expire``). Nor do slots: none repeats them."""


class HandClock:
    """Time that passes when a test says so; who sleeps is woken by it."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._sleepers.append((self._now + seconds, woken))
        await woken.wait()

    @property
    def sleeping(self) -> int:
        """Who sleeps."""
        return len(self._sleepers)

    def advance(self, seconds: float) -> None:
        self._now += seconds
        for until, woken in self._sleepers:
            if until <= self._now:
                woken.set()
        self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper[1].is_set()]


def counted(seed: int = 0) -> Callable[[int], bytes]:
    """Random bytes that are the same in every run."""
    state = [seed]

    def draw(size: int) -> bytes:
        state[0] += 1
        return hashlib.blake2b(state[0].to_bytes(8, "big"), digest_size=size).digest()

    return draw


@asynccontextmanager
async def turn_log(
    url: str,
    *,
    seed: int = 0,
    clock: HandClock | None = None,
    cluster: bool = False,
    settings: TurnLogSettings = SETTINGS,
    **options: Any,
) -> AsyncIterator[TurnLog]:
    """A process of its own, as far as the server can tell. ``options`` go to redis-py."""
    async with (
        await Link.connect(url, settings, clock=clock, cluster=cluster, **options) as link,
        TurnLog(link, counted(seed << 32)) as log,
    ):
        yield log


def spec_of(turn: TurnRef, caller: str = CALLER, history: History | None = None) -> TurnSpec:
    return TurnSpec(
        session_id=turn.session,
        turn_id=turn.turn_id,
        caller=caller,
        bundle_digest=BUNDLE,
        seed=7,
        chunk_groups=[3, 3, 6, 12],
        history_digest=history_digest(history or History()),
    )


@dataclass
class Live:
    """A turn with its front and, once ``running``, its runner."""

    turn: TurnRef
    front: Tenure
    query: Appender


async def open_turn(log: TurnLog, tenant: str = "tenant", session: str = "", caller: str = CALLER) -> Live:
    turn = log.new_turn(tenant, session)
    opened = await log.open(turn, caller, spec_of(turn, caller), History())
    assert isinstance(opened, Opened)
    return Live(turn, opened.tenure, opened.query)


async def run_turn(log: TurnLog, turn: TurnRef) -> Tenure:
    """A runner that got the turn by any way."""
    tenure = await Tenure.acquire(log.link, turn, Role.RUNNER, log.nonce())
    assert isinstance(tenure, Tenure)
    return tenure


def groups(first: int, seed: int = 0) -> QueryRecord:
    return QueryRecord(
        groups=AudioGroups(first_group=first, linguistic=[seed, first], semantic=[1, 2, first])
    )


def text(words: str) -> AnswerRecord:
    return AnswerRecord(piece=AnswerPiece(text=TextRun(text=words, token_ids=[len(words)])))


def chunk(first: int) -> DeliveryRecord:
    return DeliveryRecord(first_group=first, groups=3, samples=8640, restart=bytes(69))


END = AnswerRecord(piece=AnswerPiece(end=AnswerEnd(reason=EndReason.END_REASON_STOP)))
STOPPED = TerminalState(reason=EndReason.END_REASON_STOP)


async def texts(follower: Follower, count: int) -> list[str]:
    """The next text runs."""
    found = []
    for _ in range(count):
        entry = await follower.next(PATIENCE)
        assert entry is not None
        found.append(entry.record(Stream.ANSWER).piece.text.text)
    return found


async def expire(log: TurnLog, turn: TurnRef, role: Role) -> None:
    """The role's holder has been silent for longer than its lease."""
    await log.link.command("HSET", turn.state, f"{role}_until", 0)


async def snapshot(log: TurnLog, turn: TurnRef) -> dict[str, Any]:
    """All keys of a turn, as a replica has them whose link is about to break."""
    return {key: await log.link.command("DUMP", key) for key in turn.keys}


async def roll_back(log: TurnLog, kept: dict[str, Any]) -> None:
    """That replica was promoted."""
    for key, value in kept.items():
        await log.link.command("DEL", key)
        if value is not None:
            await log.link.command("RESTORE", key, 0, value)


async def subscribed(log: TurnLog, channel: str) -> None:
    """Returns once the server has the subscription."""
    while not (await log.link.command("PUBSUB", "NUMSUB", channel))[1]:
        await asyncio.sleep(0.005)


async def broken(log: TurnLog) -> None:
    """Returns once the process has noticed that a connection is gone."""
    while not log.link.breaks:
        await asyncio.sleep(0.005)


async def everything(front: TurnLog, runner: TurnLog) -> None:
    """A turn's life and every other thing that the two roles ask of a server, over a link each."""
    caller, consumer = CALLER, Consumer(runner.link, "runner-1")
    await runner.capacity.publish("llm-0", 2, 2)
    assert await consumer.take(1) == []  # makes the group
    turn = await front.sessions.attach(caller, "request-1", front.new_turn("tenant"))
    assert await front.sessions.attach(caller, "request-1", front.new_turn("tenant")) == turn
    await front.capacity.admit(turn)
    opened = await front.open(turn, caller, spec_of(turn), History())
    assert isinstance(opened, Opened)
    async with (
        front.following.follow(turn, Stream.ANSWER) as answer,
        runner.following.follow(turn, Stream.QUERY) as query,
    ):
        dispatching = asyncio.create_task(front.dispatch(turn, BUNDLE, answer, PATIENCE))
        while not (found := await consumer.take(1)):
            pass
        tenure = await runner.acquire_runner(consumer, found[0])
        assert isinstance(tenure, Tenure)
        assert (await dispatching).phase is Phase.RUNNING
        first = await query.next(PATIENCE)
        assert first is not None
        spec = first.record(Stream.QUERY).spec
        assert await runner.sessions.known(turn, spec.history_digest) == History()
        await opened.query.append(groups(0))
        await front.control(opened.tenure, commit=1, frontier=8)
        entry = await query.next(PATIENCE)
        assert entry is not None
        assert entry.record(Stream.QUERY) == groups(0)
        assert (await query.seen(lambda state: state.commit is not None, PATIENCE)).frontier == 8

        pen, _ = await runner.pen(tenure, Stream.ANSWER)
        for word in ("One", " two"):
            await pen.append(text(word))
        assert await texts(answer, 2) == ["One", " two"]
        delivery = Appender(opened.tenure, Stream.DELIVERY)
        for i in range(3):
            await delivery.append(chunk(i), below=i)
        for log, role, entry_of in ((front, opened.tenure, None), (runner, tenure, found[0])):
            keeper = log.keeper(consumer if entry_of else None)
            keeper.keep(role, entry_of)
            await keeper.beat()
            assert role.error is None

        # handed over, found by a scan, gone on with
        taken = await front.resume(turn, caller)
        await runner.keeper(consumer).hand_over()
        await tenure.release()
        assert await consumer.hand_over(found[0])
        successor = Consumer(runner.link, "runner-2")
        [again] = await successor.scan(1)
        tenure = await Tenure.acquire(runner.link, turn, Role.RUNNER, runner.nonce(), entry=again.entry)
        assert isinstance(tenure, Tenure)
        pen, written = await runner.pen(tenure, Stream.ANSWER)
        assert len(written) == 2
        await pen.append(END)
        await runner.finish(tenure, STOPPED)
        assert (await answer.next(PATIENCE)) is not None
        assert await answer.next(PATIENCE) is None
        await front.control(taken, played=480)
        assert await front.cancel(turn, caller, played_samples=960) == (Phase.COMPLETED, STOPPED)
        assert (await front.state(turn, caller)).played == 960

    summary = TurnSummary(turn_id=turn.turn_id, heard_text="One")
    await front.sessions.remember(turn, caller, summary, over=True)
    assert (await front.sessions.get(turn.session_ref, caller)).turns == (summary,)
    await front.capacity.leave(turn)
    assert await front.capacity.live() == 0
    await successor.done(again)
    await successor.tidy(leaving=True)

    # one that nobody reads, and one that is given up
    for _ in range(2):
        live = await open_turn(front)
        await post(front.link, live.turn, BUNDLE)
        [found_again] = await consumer.take(1)
        lost = await runner.acquire_runner(consumer, found_again)
        assert isinstance(lost, Tenure)
        await live.front.release()
        assert await runner.end_abandoned([live.turn], after=0.0) == [live.turn]
        await consumer.bury(found_again, "TEST")
        assert await front.sessions.close(live.turn.session_ref, caller) > 0
    await runner.capacity.withdraw("llm-0")
    assert await front.capacity.slots() == (0, 0)

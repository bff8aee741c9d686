"""What the turn log's tests share: a clock that a test moves, turns, and what a failover leaves behind."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aqaa.turnlog import (
    Appender,
    Follower,
    Link,
    Opened,
    Role,
    Stream,
    Tenure,
    TurnLog,
    TurnLogSettings,
    TurnRef,
)
from aqaa.turnlog.records import history_digest
from aqaa.v1.tokens_pb2 import AnswerEnd, AnswerPiece, AudioGroups, EndReason, TextRun
from aqaa.v1.turnlog_pb2 import AnswerRecord, DeliveryRecord, History, QueryRecord, TerminalState, TurnSpec

CALLER = "caller-one"
BUNDLE = "5a" * 32
PATIENCE = 20.0
"""Seconds after which a wait has failed; no test waits for them."""

SETTINGS = TurnLogSettings(lease=600.0, heartbeat=60.0, dispatch_block=0.02)
"""Leases that never run out by themselves: a test ends them (``expire``)."""


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
) -> AsyncIterator[TurnLog]:
    """A process of its own, as far as the server can tell."""
    async with (
        await Link.connect(url, settings, clock=clock, cluster=cluster) as link,
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

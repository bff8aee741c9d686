"""Callers who come and go: thousands of sessions opened and abandoned leave nothing behind."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from aqaa.v1 import orchestrator_pb2 as pb
from aqaa.v1 import orchestrator_pb2_grpc
from aqaa.v1.audio_pb2 import QuestionAudio
from aqaa.v1.tokens_pb2 import StartMode
from tests.faults.hostile_cases import Front, Refusal, conversing, orchestrator, refused, run, turn_log, until
from tests.integration.orchestrator.orchestrator_cases import (
    ALICE,
    FORMAT,
    PATIENCE,
    STOP,
    asking,
    hear,
    metadata,
    pcm,
)
from tests.stages import Plan, StubStages

SESSIONS = 10_000
AT_ONCE = 50
WITH_A_QUESTION = 20
"""One session in so many says something before its caller leaves: that alone writes to the log."""


@pytest.fixture
def url(tmp_path) -> Iterator[str]:
    with turn_log(tmp_path) as url:
        yield url


OPEN = pb.ConverseRequest(open=pb.OpenConversation(format=FORMAT))
SAID = (pb.ConverseRequest(turn=pb.OpenTurn()), pb.ConverseRequest(audio=QuestionAudio(pcm=pcm(0.2))))


async def leave(front: Front, *, speaking: bool) -> str:
    """Opens a session, perhaps begins a question, and is gone. How far it came."""
    call = await conversing(front, OPEN, *(SAID if speaking else ()))
    assert (await call.read()).HasField("opened")
    kind = (await call.read()).turn.WhichOneof("event") if speaking else "opened"
    call.cancel()
    return kind


def test_ten_thousand_abandoned_sessions_leave_nothing(url):
    stages = StubStages(slots=8)

    async def many(front: Front, count: int) -> set[str]:
        numbers = iter(range(count))

        async def one_after_the_other() -> set[str]:
            return {await leave(front, speaking=i % WITH_A_QUESTION == 0) for i in numbers}

        return set().union(*await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE))))

    async def scene():
        async with orchestrator(url, stages, turn_ttl_seconds=10, session_ttl_seconds=10) as front:
            undisturbed = await front.answered()
            await many(front, SESSIONS // 10)  # what a process takes for good, it has taken now
            await front.at_rest()
            resident, files = front.resident, front.open_files
            came = await many(front, SESSIONS)
            assert came <= {"opened", "failed"}  # let in, or refused for want of a place
            await front.at_rest()
            assert front.resident - resident < SESSIONS * 1024
            assert front.open_files <= files + 5
            assert await front.sample("aqaa_sessions_live") == 0
            await until(lambda: _no_keys(front))
            pending = await front.command("XPENDING", "aqaa:dispatch", "runners")
            assert pending["pending"] == 0
            assert (await front.answered()).whole == undisturbed.whole

    run(scene())


async def _no_keys(front: Front) -> bool:
    return not await front.keys()


TEXT = StartMode.START_MODE_TEXT

LONG = Plan(segments=((4, 1000),))
"""Sound of 2 minutes, 5.8 MB: more than ``narrow`` and ``outbox`` hold for a caller who does not read."""


@asynccontextmanager
async def narrow(front: Front) -> AsyncIterator[Any]:
    """A stub whose connection takes 64 KiB of a call that nobody reads, however much the kernel would."""
    options = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 2**16))
    async with grpc.aio.insecure_channel(front.address, options) as channel:
        yield orchestrator_pb2_grpc.OrchestratorServiceStub(channel)


def test_a_caller_who_reads_nothing_loses_its_place(url):
    stages = StubStages(slots=1, plan=LONG)

    async def scene():
        flags = {"lookahead_seconds": 600, "outbox": 1}
        async with orchestrator(url, stages, **flags) as front, narrow(front) as stub:
            call = stub.Ask(asking(), metadata=metadata())
            assert (await call.read()).event.HasField("opened")
            await until(lambda: _written(front), 3 * PATIENCE)
            await until(lambda: _places(front, 0))  # nothing but its caller keeps the turn now
            assert await front.sample("aqaa_turns_live") == 1  # which is told no further, and not over
            told = await front.answered(ALICE, options=pb.TurnOptions(seed=8, start_mode=TEXT))
            assert told.manifest.reason == STOP
            assert not await front.command("ZCARD", "aqaa:live")  # and nobody has taken it again
            call.cancel()
            await front.at_rest()

    run(scene())


def test_a_caller_who_reads_nothing_is_told_to_resume(url):
    stages = StubStages(slots=1, plan=LONG)

    async def scene():
        given = {"lookahead_seconds": 600, "outbox": 1, "unread_seconds": 0.5, "resume_seconds": 60}
        async with orchestrator(url, stages, **given) as front, narrow(front) as stub:
            call = stub.Ask(asking(), metadata=metadata())
            told = await hear(call, until="opened")
            await until(lambda: _written(front), 3 * PATIENCE)
            await until(lambda: _let_go(front))  # though its call is open
            assert await front.sample("aqaa_rpc_in_flight") == 1
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await hear(call, told)
            found = Refusal.of(caught.value)
            assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STALLED")
            assert len(told.chunks) > 0
            again = front.stub.Resume(told.resuming, metadata=metadata(), timeout=PATIENCE)
            assert (await hear(again, told)).manifest.reason == STOP  # with every sample, once
            await front.at_rest()

    run(scene())


async def _let_go(front: Front) -> bool:
    """Whether no front holds a turn: nor any of its sound."""
    return await front.sample("aqaa_turns_live") == 0


async def _written(front: Front) -> bool:
    """Whether every token is in the log: what follows is up to the caller."""
    states = [key for key in await front.keys() if key.endswith(b":state")]
    return [await front.command("HGET", key, "phase") for key in states] == [b"completed"]


async def _places(front: Front, count: int) -> bool:
    return bool(await front.command("ZCARD", "aqaa:live") == count)


def test_a_conversation_that_is_never_opened_is_closed(url):
    async def scene():
        async with orchestrator(url, StubStages(), conversation_idle_seconds=0.3) as front:
            silent = front.stub.Converse(metadata=metadata(), timeout=PATIENCE)
            opened = await conversing(front, OPEN)
            assert (await opened.read()).HasField("opened")
            for call in (silent, opened):
                found = await refused(call)
                assert found.reason == "DEADLINE"
            await front.at_rest()

    run(scene())

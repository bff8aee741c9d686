"""Ten times more callers than places: typed refusals with a delay; who was let in hears every sample."""

import asyncio
from collections.abc import Iterator

import grpc
import grpc.aio
import pytest

from aqaa.v1 import orchestrator_pb2 as pb
from aqaa.v1.audio_pb2 import QuestionAudio
from tests.faults.hostile_cases import Front, Refusal, conversing, orchestrator, run, turn_log, until
from tests.integration.orchestrator.orchestrator_cases import (
    ALICE,
    FORMAT,
    PATIENCE,
    STOP,
    Told,
    asking,
    hear,
    metadata,
    pcm,
)
from tests.stages import Plan, StubStages

SLOTS = 4
TIMES = 10
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
def url(tmp_path) -> Iterator[str]:
    with turn_log(tmp_path) as url:
        yield url


async def asked(front: Front, seed: int) -> Told | Refusal:
    """A caller with a question of its own: the whole answer, or the refusal."""
    call = front.stub.Ask(asking(pcm(0.2, seed=seed)), metadata=metadata(), timeout=PATIENCE * 3)
    try:
        return await hear(call)
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)


def test_overload_is_refused_and_live_turns_play_on(url):
    stages = StubStages(slots=SLOTS, plan=Plan(segments=((4, 40), (3, 20))))

    async def scene():
        async with orchestrator(url, stages) as front:
            alone = [await asked(front, seed) for seed in range(SLOTS)]
            held = stages.faults.hold("vocoder", 2)  # nobody is done before everybody has come
            first = [asyncio.create_task(asked(front, seed)) for seed in range(SLOTS)]
            await held.reached.wait()
            await until(lambda: _places(front, SLOTS))
            crowd = await asyncio.gather(*(asked(front, 100 + i) for i in range(SLOTS * TIMES)))
            assert all(isinstance(one, Refusal) for one in crowd)
            assert {(one.code, one.reason) for one in crowd} == {(FULL, "CAPACITY")}
            assert all(one.retry_seconds and one.retry_seconds > 0 for one in crowd)
            held.release()
            # while they play, twice as many knock again and again
            knocking = [asyncio.create_task(_knock(front, 200 + i, first)) for i in range(2 * SLOTS)]
            told = await asyncio.gather(*first)
            assert not [one for one in told if isinstance(one, Refusal)]
            assert [one.whole for one in told] == [one.whole for one in alone]
            late = [one for tries in await asyncio.gather(*knocking) for one in tries]
            refusals = [one for one in late if isinstance(one, Refusal)]
            assert {(one.code, one.reason) for one in refusals} <= {(FULL, "CAPACITY")}
            assert all(one.retry_seconds for one in refusals)
            assert all(one.manifest.reason == STOP for one in late if isinstance(one, Told))
            await front.at_rest()
            assert await front.sample("aqaa_turns_refused_total") == len(crowd) + len(refusals)
            await front.answered()

    run(scene())


async def _places(front: Front, count: int) -> bool:
    return bool(await front.command("ZCARD", "aqaa:live") == count)


async def _knock(front: Front, seed: int, live: "list[asyncio.Task[Told]]") -> "list[Told | Refusal]":
    tries = []
    while not all(task.done() for task in live):
        tries.append(await asked(front, seed))
    return tries


def test_a_conversation_outlives_the_refusal_of_its_turn(url):
    stages = StubStages(slots=1)

    async def scene():
        async with orchestrator(url, stages) as front:
            held = stages.faults.hold("vocoder", 1)
            live = asyncio.create_task(asked(front, 0))
            await held.reached.wait()
            call = await conversing(front, pb.ConverseRequest(open=pb.OpenConversation(format=FORMAT)))
            assert (await call.read()).HasField("opened")
            for _ in range(TIMES):
                await _question(call)
                failed = (await call.read()).turn.failed
                assert (failed.reason, failed.resumable) == ("CAPACITY", False)
                assert failed.retry_delay.ToMilliseconds() > 0
            held.release()
            assert isinstance(await live, Told)
            await front.at_rest(calls=1)
            await _question(call)
            told = Told()
            while told.manifest is None:
                told.add((await call.read()).turn)
            assert told.manifest.reason == STOP
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK

    run(scene())


async def _question(call):
    sound = pcm(0.3)
    await call.write(pb.ConverseRequest(turn=pb.OpenTurn()))
    await call.write(pb.ConverseRequest(audio=QuestionAudio(pcm=sound)))
    await call.write(pb.ConverseRequest(commit=pb.CommitQuestion(bytes=len(sound))))


def test_a_refused_request_leaves_no_key(url):
    stages = StubStages(slots=1)

    async def scene():
        async with orchestrator(url, stages) as front:
            held = stages.faults.hold("vocoder", 1)
            live = asyncio.create_task(asked(front, 0))
            await held.reached.wait()
            before = await front.keys()
            for i in range(TIMES):
                call = front.stub.Ask(asking(request_id=f"refused-{i}"), metadata=metadata(ALICE))
                with pytest.raises(grpc.aio.AioRpcError):
                    await hear(call)
            await until(lambda: _none_but(front, before), PATIENCE)  # a lease later
            held.release()
            await live

    run(scene())


async def _none_but(front: Front, before: set[bytes]) -> bool:
    return not await front.keys() - before

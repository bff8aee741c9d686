"""Stages and processes that fail in the middle of a turn: it goes on bit for bit, or says what is missing."""

import asyncio
import os
import signal

import grpc
import pytest
from orchestrator_cases import (
    PATIENCE,
    ask,
    asking,
    hear,
    metadata,
    nothing_left,
    one,
    refused,
    replica,
    until,
)
from orchestrator_processes import process_of

from aqaa.errors import AqaaError, Unavailable
from aqaa.rpc.status import from_rpc_error
from aqaa.v1.turnlog_pb2 import QueryRecord
from tests.stages import Plan, StubStages

POINTS = [
    ("tokenizer", 0), ("tokenizer", 5), ("tokenizer-end", 0),
    ("llm-prompt", 3), ("llm-commit", 0), ("llm", 0), ("llm", 3), ("llm", 9),
    ("llm", 15), ("llm", 24), ("llm", 25),
    ("vocoder", 0), ("vocoder", 2), ("vocoder-done", 0), ("vocoder-done", 1),
]  # fmt: skip


@pytest.mark.parametrize("point", POINTS, ids=str)
async def test_a_stage_that_fails_is_taken_up_again(server, point):
    stages = StubStages()
    async with one(server.url, stages) as made:
        undisturbed = await ask(made)
        stages.faults.fail(*point, lambda: Unavailable("shot"), times=2)
        told = await ask(made)
        assert told.whole == undisturbed.whole
        assert told.transcript == undisturbed.transcript
        await nothing_left(stages, made)


@pytest.mark.parametrize(
    ("point", "stage"), [(("tokenizer", 2), "tokenizer"), (("llm", 7), "llm"), (("vocoder", 1), "vocoder")]
)
async def test_a_stage_that_stays_down_is_named(server, point, stage):
    stages = StubStages()
    async with one(server.url, stages, resume_seconds=0.05) as made:
        stages.faults.fail(*point, lambda: Unavailable("down"), times=99)
        call = made.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await hear(call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert from_rpc_error(caught.value).metadata["stage"] == stage
        await nothing_left(stages, made)


async def test_a_fault_of_a_stage_is_not_repeated(server):
    stages = StubStages()
    async with one(server.url, stages) as made:
        stages.faults.fail("llm", 4, lambda: AqaaError("secret"), times=99)
        call = made.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
        assert (await refused(hear(call)))[0] == "INTERNAL"
        assert "secret" not in await call.details()
        assert len(stages.prompts) == 1
        await nothing_left(stages, made)


async def test_a_stage_that_hangs_is_given_up(server):
    stages = StubStages()
    async with one(server.url, stages, stage_seconds=0.2, stage_attempts=2, resume_seconds=0.05) as made:
        for stage in ("tokenizer-end", "llm-commit", "vocoder-done"):
            held = stages.faults.hold(stage, 0)
            call = made.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
            assert (await refused(hear(call)))[0] == "UNAVAILABLE"
            held.release()
        await nothing_left(stages, made)


async def test_a_vocoder_that_hangs_inside_a_long_segment_is_given_up(server):
    """The backbone waits for the caller, the caller for the vocoder: the schedule says whose turn it is."""
    stages = StubStages(plan=Plan(segments=((4, 60),)))
    given = {"stage_seconds": 0.2, "resume_seconds": 0.05, "lookahead_seconds": 2.4}
    async with one(server.url, stages, **given) as made:
        held = stages.faults.hold("vocoder", 1)
        call = made.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await hear(call)
        error = from_rpc_error(caught.value)
        assert (error.reason, error.metadata["stage"]) == ("UNAVAILABLE", "vocoder")
        held.release()
        await nothing_left(stages, made)


async def test_sound_is_cut_as_the_turn_began(server):
    """A vocoder with another schedule is refused before it says anything."""
    began, other = StubStages(), StubStages(tiles=(2, 4, 8))
    async with (
        began.serving() as address,
        other.serving() as elsewhere,
        replica(server.url, address) as first,
        replica(server.url, elsewhere, role="front", resume_seconds=30) as second,
    ):
        undisturbed = await ask(first)
        held = began.faults.hold("vocoder", 2)
        call = first.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
        told = await hear(call, until="audio", count=2)
        key = f"aqaa:{{acme.{told.opened.session_id}}}:{told.turn_id}:query"
        ((_, fields),) = await first.orchestrator.shared.log.link.command("XRANGE", key, "0-1", "0-1")
        assert tuple(QueryRecord.FromString(fields[b"d"]).spec.chunk_groups) == began.tiles
        call.cancel()
        again = second.stub.Resume(told.resuming, metadata=metadata(), timeout=PATIENCE)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await hear(again, told)
        error = from_rpc_error(caught.value)
        assert (error.reason, error.metadata["stage"]) == ("UNAVAILABLE", "vocoder")
        held.release()
        again = first.stub.Resume(told.resuming, metadata=metadata(), timeout=PATIENCE)
        assert (await hear(again, told)).whole == undisturbed.whole
        await nothing_left(began, first, second)


PASSED_ON = "a turn was passed on for want of a slot"


async def test_a_turn_that_finds_no_slot_is_another_runners(server):
    full, free = StubStages(slots=1, replica="full"), StubStages(replica="free")
    async with (
        full.serving() as taken,
        free.serving() as address,
        replica(server.url, address, role="front") as front,
    ):
        async with replica(server.url, address, role="runner"):
            undisturbed = await ask(front)
        full.held, full.says_free = 1, 1  # somebody took its slot since it was asked
        async with replica(server.url, taken, role="runner") as first:
            asked = asyncio.create_task(ask(front))
            await until(lambda: first.lines(PASSED_ON))
            async with replica(server.url, address, role="runner") as second:
                assert (await asked).whole == undisturbed.whole
                assert second.sample("aqaa_log_take_overs_total", role="runner") >= 1
                full.held = 0
                await nothing_left(free, front, first, second)


async def test_a_slot_that_never_comes_free_is_waited_for_as_long_as_a_turn_may_take(server):
    stages = StubStages(slots=1)
    async with one(server.url, stages, turn_seconds=3.0) as made:
        stages.held, stages.says_free = 1, 1
        call = made.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
        assert await refused(hear(call)) == ("DEADLINE", grpc.StatusCode.DEADLINE_EXCEEDED)
        assert len(made.lines(PASSED_ON)) > 1  # more often than it may be given out
        stages.held = 0
        await nothing_left(stages, made)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
async def test_a_runner_that_dies_is_followed_by_another(server, end):
    stages = StubStages()
    async with stages.serving() as address, replica(server.url, address, role="front") as front:
        async with replica(server.url, address, role="runner"):
            undisturbed = await ask(front)
        held = stages.faults.hold("llm", 12)
        async with process_of(server.url, address, role="runner") as runner:
            call = front.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
            told = await hear(call, until="audio")
            await held.reached.wait()
            async with replica(server.url, address, role="runner") as second:
                os.kill(runner.pid, end)
                await until(lambda: stages.held == 0)
                held.release()
                told = await hear(call, told)
                assert told.whole == undisturbed.whole
                assert second.sample("aqaa_log_take_overs_total", role="runner") == 1
                await nothing_left(stages, front, second)
            assert await runner.wait() == (0 if end == signal.SIGTERM else -end)

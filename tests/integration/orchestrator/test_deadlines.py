"""Whose time a turn has, down to the stages, and what is left when it is over."""

import grpc
import pytest
from orchestrator_cases import (
    ALICE,
    PATIENCE,
    STOP,
    Told,
    asking,
    hear,
    metadata,
    nothing_left,
    one,
    refused,
)

from aqaa.turnlog import Phase
from aqaa.v1 import orchestrator_pb2 as pb
from services.orchestrator.failures import error_of
from tests.stages import StubStages

STAGES = {"tokenizer", "llm", "vocoder"}


@pytest.mark.parametrize(
    ("stage", "at"), [("tokenizer", 2), ("llm-prompt", 2), ("llm", 3), ("vocoder-done", 1)]
)
async def test_an_ask_whose_time_ends_leaves_nothing(server, stage, at):
    """Only where its tokens are complete it waits for its caller."""
    stages, complete = StubStages(), stage == "vocoder-done"
    async with one(server.url, stages, resume_seconds=0.1 if complete else 10 * PATIENCE) as made:
        held = stages.faults.hold(stage, at)
        for seconds in (2, 8, 32):  # a slow machine gets that far in one of them
            told = Told()
            _, code = await refused(hear(made.stub.Ask(asking(), metadata=metadata(), timeout=seconds), told))
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED
            await nothing_left(stages, made)
            if held.reached.is_set():
                break
        log = made.orchestrator.shared.log
        state = await log.state(log.session("acme", told.opened.session_id).turn(told.turn_id), str(ALICE))
        if state.phase is Phase.FAILED:
            assert error_of(state.terminal).reason == "DEADLINE"
        else:
            assert complete
            assert state.phase is Phase.COMPLETED


async def test_stages_are_given_what_their_caller_has_left(server):
    stages = StubStages()
    async with one(server.url, stages) as made:
        await hear(made.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE))
        assert set(stages.limits) == STAGES
        assert max(max(given) for given in stages.limits.values()) <= 1.1 * PATIENCE  # gRPC rounds them up
        stages.limits.clear()
        await hear(made.stub.Ask(asking(), metadata=metadata()))
        assert set(stages.limits) == STAGES
        assert min(min(given) for given in stages.limits.values()) > 1.1 * PATIENCE
        await nothing_left(stages, made)


async def test_the_time_of_a_resume_is_not_the_turns(server):
    stages = StubStages()
    async with one(server.url, stages) as made:
        held = stages.faults.hold("vocoder", 2)
        call = made.stub.Ask(asking(), metadata=metadata())
        told = await hear(call, until="audio")
        await held.reached.wait()
        call.cancel()
        asked = pb.ResumeRequest(session_id=told.opened.session_id, turn_id=told.turn_id)
        _, code = await refused(hear(made.stub.Resume(asked, metadata=metadata(), timeout=0.5)))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        held.release()
        again = await hear(made.stub.Resume(asked, metadata=metadata(), timeout=PATIENCE))
        assert again.manifest.reason == STOP
        assert min(stages.limits["vocoder"]) > 1.1 * PATIENCE
        await nothing_left(stages, made)

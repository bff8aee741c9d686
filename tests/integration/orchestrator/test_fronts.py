"""Fronts that die: another one goes on with their turns, and those that nobody asks for are given up."""

import asyncio
import os
import signal

from orchestrator_cases import (
    CANCELLED,
    PATIENCE,
    Talking,
    ask,
    asking,
    hear,
    metadata,
    nothing_left,
    pcm,
    replica,
    until,
)
from orchestrator_processes import process_of

from aqaa.v1 import orchestrator_pb2 as pb
from aqaa.v1.turnlog_pb2 import TerminalState
from tests.stages import StubStages


async def test_a_turn_outlives_its_front(server):
    """While a runner answers it, it stays among the live turns, for longer than a lease."""
    stages = StubStages()
    async with stages.serving() as address, replica(server.url, address) as other:
        undisturbed = await ask(other)
        held = stages.faults.hold("llm", 12)
        async with process_of(server.url, address, role="front") as front:
            call = front.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
            told = await hear(call, until="audio")
            await held.reached.wait()
            os.kill(front.pid, signal.SIGKILL)
            await front.wait()
        log = other.orchestrator.shared.log
        died = await log.link.now_ms()
        while await log.link.now_ms() < died + 2000 * log.link.settings.lease:
            assert await log.capacity.live() == 1
            await asyncio.sleep(0.1)
        held.release()
        call = other.stub.Resume(told.resuming, metadata=metadata(), timeout=PATIENCE)
        assert (await hear(call, told)).whole == undisturbed.whole
        await nothing_left(stages, other)


async def test_a_turn_that_nobody_asks_for_is_given_up(server):
    """Its front is dead, its caller does not resume: the runner ends it and everything of it is free."""
    stages = StubStages()
    async with (
        stages.serving() as address,
        replica(server.url, address, role="runner", resume_seconds=0.2) as runner,
    ):
        held = stages.faults.hold("llm", 8)
        async with process_of(server.url, address, role="front") as front:
            call = front.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
            told = await hear(call, until="text")
            await held.reached.wait()
            os.kill(front.pid, signal.SIGKILL)
            await front.wait()
        await until(lambda: stages.held == 0)
        await nothing_left(stages, runner)
        link = runner.orchestrator.shared.log.link
        state = f"aqaa:{{acme.{told.opened.session_id}}}:{told.turn_id}:state"
        phase, terminal = await link.command("HMGET", state, "phase", "terminal")
        assert phase == b"cancelled"
        assert "has not come back" in TerminalState.FromString(terminal).message
        async with replica(server.url, address, role="front") as other:
            session = await other.stub.GetSession(
                pb.GetSessionRequest(session_id=told.opened.session_id), metadata=metadata()
            )
            assert [turn.reason for turn in session.turns] == [CANCELLED]


async def test_a_question_whose_front_dies_is_given_up(server):
    stages = StubStages()
    async with (
        stages.serving() as address,
        replica(server.url, address, role="runner", resume_seconds=0.2) as runner,
    ):
        async with process_of(server.url, address, role="front") as front:
            talking = await Talking(front).begin()
            await talking.question(pcm(0.72), commit=False)
            await talking.hear("opened")
            await until(lambda: stages.held == 1)
            os.kill(front.pid, signal.SIGKILL)
            await front.wait()
        await until(lambda: stages.held == 0)
        await nothing_left(stages, runner)

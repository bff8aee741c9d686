"""The load of the sessions benchmark, what counts as late, and how the largest number is looked for."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc.aio
import pytest

from aqaa.v1 import orchestrator_pb2 as pb
from aqaa.v1 import orchestrator_pb2_grpc
from aqaa.v1.audio_pb2 import AnswerAudio
from benchmarks._load import FRAME_BYTES, Record, Script, Session, within
from benchmarks._stack import processor_seconds, ready_in, running
from benchmarks.edges import Edge, table
from benchmarks.latency import Spread
from benchmarks.sessions import HEAD, Outcome, largest, limits, row
from tests.stages import GROUP_SAMPLES

SCRIPT = Script(frames=3, groups=2)
OUTCOME = Outcome(
    sessions=100,
    late_p50=0.02,
    late_p99=0.11,
    load_late_p99=0.002,
    chunks=400,
    asked=200,
    answered=200,
    failures={},
    cores={"orchestrator": 0.9, "valkey": 0.1, "llm": 0.2, "vocoder": 0.1, "callers": 0.3},
    other_cores=1,
    appends=9.0,
    memory_bytes=1000.0,
    wire_bytes=9000.0,
)


@pytest.mark.parametrize("threshold", [0, 1, 2, 7, 50, 99, 100, 101, 150, 399, 1999, 2000, 5000])
def test_the_largest_number_is_found_to_a_tenth_in_a_few_steps(threshold: int) -> None:
    tried: list[int] = []

    def holds(number: int) -> bool:
        tried.append(number)
        return number <= threshold

    found = largest(holds, start=100, most=2000)
    best = min(threshold, 2000)
    assert found <= best <= max(found + 1, found * 1.1)
    assert len(tried) <= 9
    assert len(set(tried)) == len(tried)
    assert max(tried) <= 2000


@pytest.mark.parametrize(
    ("changed", "holds", "verdict"),
    [
        ({}, True, "holds"),
        ({"late_p99": 0.121}, False, "late"),
        ({"answered": 199}, False, "late"),
        ({"failures": {"UNAVAILABLE": 1}}, False, "late"),
        ({"load_late_p99": 0.031}, False, "the load was late"),
        ({"late_p99": float("inf"), "chunks": 0}, False, "late"),
    ],
)
def test_sessions_hold_if_all_was_said_in_time_and_the_load_was_what_it_should_be(
    changed: dict[str, Any], holds: bool, verdict: str
) -> None:
    made = replace(OUTCOME, **changed)
    assert made.holds(0.12) is holds
    assert row(made, 0.12).endswith(f": {verdict}")
    assert len(row(made, 0.12).split("  ")) >= len(HEAD.split("  ")) - 1


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, "100 sessions: hold; the orchestrator uses 45% of its core, 222 sessions would fill it"),
        ({"late_p99": 0.2}, "no core is full;"),
        (
            {"late_p99": 0.2, "cores": {"orchestrator": 0.97, "callers": 0.5}},
            "orchestrator's core is full (97%);",
        ),
        ({"late_p99": 0.2, "cores": {"orchestrator": 0.5, "valkey": 0.3, "callers": 0.7}}, "full (100%);"),
        (
            {"load_late_p99": 0.2, "other_cores": 2, "cores": {"orchestrator": 0.5, "callers": 1.0}},
            "the callers' frames were 200 ms late",
        ),
    ],
)
def test_it_is_told_what_limits_the_sessions(changed: dict[str, Any], says: str) -> None:
    made = replace(OUTCOME, **{"cores": {"orchestrator": 0.45, "valkey": 0.1, "callers": 0.3}, **changed})
    assert says in limits(made, 0.12)


def test_a_question_is_its_frames_and_a_commit_of_all_their_bytes() -> None:
    steps = [[pb.ConverseRequest.FromString(raw) for raw in step] for step in SCRIPT.question()]
    assert [[step.WhichOneof("step") for step in messages] for messages in steps] == [
        ["turn", "audio"],
        ["audio"],
        ["audio", "commit"],
    ]
    pieces = [step.audio for messages in steps for step in messages if step.HasField("audio")]
    assert [piece.first_byte for piece in pieces] == [0, FRAME_BYTES, 2 * FRAME_BYTES]
    assert all(len(piece.pcm) == FRAME_BYTES for piece in pieces)
    assert steps[-1][-1].commit.bytes == 3 * FRAME_BYTES


@pytest.mark.parametrize(("first", "groups", "needed"), [(0, 3, 4), (3, 3, 7), (6, 6, 13), (36, 2, 38)])
def test_a_chunk_is_due_when_the_groups_that_it_needs_are(first: int, groups: int, needed: int) -> None:
    chunk = AnswerAudio(first_sample=first * GROUP_SAMPLES, pcm=bytes(2 * groups * GROUP_SAMPLES))
    assert Script(40, 38).groups_for(chunk) == needed


def test_only_what_was_due_in_the_interval_counts() -> None:
    assert within([(0.9, 1.0), (1.0, 2.0), (1.9, 3.0), (2.0, 4.0)], 1.0, 2.0) == [2.0, 3.0]


class Answering(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    """Tells each committed question one chunk and a manifest; the second one fails."""

    async def Converse(self, requests: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        turn = -1
        async for request in requests:
            match request.WhichOneof("step"):
                case "open":
                    yield pb.ConverseResponse(opened=pb.ConversationOpened(session_id="s"))
                case "turn":
                    turn += 1
                    event = pb.TurnEvent(turn_id=f"t{turn}", opened=pb.TurnOpened())
                    yield pb.ConverseResponse(turn=event)
                case "commit" if turn == 1:
                    failed = pb.TurnFailed(reason="UNAVAILABLE")
                    yield pb.ConverseResponse(turn=pb.TurnEvent(turn_id=f"t{turn}", failed=failed))
                case "commit":
                    audio = AnswerAudio(pcm=bytes(2 * GROUP_SAMPLES))
                    yield pb.ConverseResponse(turn=pb.TurnEvent(turn_id=f"t{turn}", audio=audio))
                    manifest = pb.TurnManifest()
                    yield pb.ConverseResponse(turn=pb.TurnEvent(turn_id=f"t{turn}", manifest=manifest))


@asynccontextmanager
async def serving(servicer: Any) -> AsyncIterator[str]:
    server = grpc.aio.server()
    orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def test_a_session_asks_by_the_clock_and_notes_what_came() -> None:
    async def talk() -> Record:
        record = Record()
        async with serving(Answering()) as address:
            begin = time.monotonic()
            await Session(SCRIPT, record).run(address, begin, begin + 3 * SCRIPT.cycle)
        return record

    record = asyncio.run(talk())
    assert (record.asked, record.answered) == (3, 2)
    assert record.failures == {"UNAVAILABLE": 1}
    assert [due - record.frames[0][0] for due, _ in record.frames[:3]] == pytest.approx([0.0, 0.12, 0.24])
    assert len(record.frames) == 9
    # two groups behind each question's last frame, the first and the third
    assert [due - record.frames[0][0] for due, _ in record.chunks] == pytest.approx([0.48, 1.92])


def test_a_session_whose_call_is_refused_says_so() -> None:
    async def talk() -> Record:
        record = Record()
        async with serving(orchestrator_pb2_grpc.OrchestratorServiceServicer()) as address:
            begin = time.monotonic()
            await Session(SCRIPT, record).run(address, begin, begin + SCRIPT.cycle)
        return record

    failures = asyncio.run(talk()).failures
    # INTERNAL is what gRPC makes of any status that meets a write
    ended = {"a call ended UNIMPLEMENTED", "a call ended INTERNAL"} & set(failures)
    assert [failures[how] for how in ended] == [1]
    assert not set(failures) - ended - {"a call ended early"}


def test_a_process_runs_until_the_block_ends() -> None:
    words = (
        "import os, time; print('hm'); print(os.environ['SAID'], os.getpid(), flush=True); time.sleep(600)"
    )
    command = (sys.executable, "-c", words)
    with running(command, lambda line: line.split()[1:] or None, {"SAID": "here"}) as (pid,):
        os.kill(int(pid), 0)
        assert processor_seconds(int(pid)) >= 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_a_process_that_ends_too_soon_is_told_with_its_last_lines() -> None:
    command = (sys.executable, "-c", "raise SystemExit('no port')")
    with pytest.raises(RuntimeError, match="no port"), running(command, ready_in):
        pass


def test_an_error_knows_what_the_process_beneath_it_had_said() -> None:
    fault = '{"level": "error", "event": "fault"}'
    words = "import sys, time; print(sys.argv[1]); print('up', flush=True); time.sleep(600)"
    command = (sys.executable, "-c", words, fault)
    with pytest.raises(KeyError) as raised, running(command, lambda line: line if line == "up" else None):
        raise KeyError("turn")
    assert raised.value.__notes__ == [f"what it ran on had said:\n{fault}"]


@pytest.mark.parametrize(
    ("line", "address"),
    [
        (
            '{"event": "ready", "addresses": {"orchestrator": "a:1"}, "metrics": {"orchestrator": "a:2"}, '
            '"pids": {"llm": 7}, "redis": "r"}',
            "a:1",
        ),
        ('{"event": "listening", "address": "a:1"}', None),
        ("llm | not ready", None),
    ],
)
def test_the_ready_line_of_a_stack_is_understood(line: str, address: str | None) -> None:
    stack = ready_in(line)
    assert (stack.address if stack else None) == address


def test_what_an_edge_adds_is_the_difference_of_its_percentiles() -> None:
    edge = Edge("gRPC, unary", bare=Spread(9, 0.001, 0.003), ours=Spread(9, 0.0015, 0.002))
    assert edge.added == pytest.approx((0.0005, -0.001))
    assert table([edge]).splitlines()[1].split()[-2:] == ["0.500", "-1.000"]

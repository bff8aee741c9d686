"""Requests that are repeated, refused, or meant to do harm; and replays."""

import asyncio

import grpc.aio
import pytest
from orchestrator_cases import (
    ALICE,
    CANCELLED,
    FORMAT,
    PATIENCE,
    Talking,
    ask,
    asking,
    hear,
    metadata,
    nothing_left,
    one,
    pcm,
    refused,
    replica,
)

from aqaa.rpc.status import from_rpc_error
from aqaa.v1 import orchestrator_pb2 as pb
from aqaa.v1.audio_pb2 import AudioEncoding, AudioFormat
from tests.stages import StubStages


async def test_a_repeated_request_attaches_to_its_turn(server):
    stages = StubStages()
    async with (
        stages.serving() as address,
        replica(server.url, address) as first,
        replica(server.url, address) as second,
    ):
        told = await ask(first, asking(request_id="again"))
        again = await ask(second, asking(request_id="again"))
        assert (again.turn_id, again.whole) == (told.turn_id, told.whole)
        other = await ask(second, asking(request_id="other"))
        assert other.turn_id != told.turn_id
        assert len(stages.prompts) == 2
        await nothing_left(stages, first, second)


@pytest.mark.parametrize("point", [("tokenizer", 4), ("tokenizer-end", 0), ("llm-commit", 0), ("llm", 9)])
async def test_a_question_that_broke_is_asked_again_elsewhere(server, point):
    """The client's answer to a front that dies while it listens: the whole question, the same name."""
    stages = StubStages()
    async with (
        stages.serving() as address,
        replica(server.url, address) as first,
        replica(server.url, address) as second,
    ):
        undisturbed = await ask(first)
        held = stages.faults.hold(*point)
        call = first.stub.Ask(asking(request_id="again"), metadata=metadata(), timeout=PATIENCE)
        told = await hear(call, until="opened")
        await held.reached.wait()
        again = asyncio.create_task(ask(second, asking(request_id="again")))
        assert await refused(hear(call, told)) == ("SUPERSEDED", grpc.StatusCode.ABORTED)
        held.release()
        assert (await again).whole == undisturbed.whole
        assert (await again).turn_id == told.turn_id
        await nothing_left(stages, first, second)


async def test_overload_is_refused_with_a_delay(server):
    stages = StubStages(slots=1)
    async with one(server.url, stages) as made:
        held = stages.faults.hold("llm", 5)
        call = made.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
        told = await hear(call, until="text")
        await held.reached.wait()
        for _ in range(5):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await hear(made.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE))
            error = from_rpc_error(caught.value)
            assert (error.reason, error.retry_after) == ("CAPACITY", 1.0)
        talking = await Talking(made).begin()
        await talking.question(pcm(0.3))
        assert (await talking.hear("failed")).failed.reason == "CAPACITY"
        held.release()
        assert (await hear(call, told)).manifest is not None
        await talking.end()
        assert made.sample("aqaa_turns_refused_total", reason="CAPACITY") == 6
        await nothing_left(stages, made)


FLOATS = AudioFormat(encoding=AudioEncoding.AUDIO_ENCODING_PCM_F32LE, sample_rate_hz=16000, channels=1)
HOSTILE = {
    "no sound": ({"pcm": b""}, "INVALID_REQUEST"),
    "half a sample": ({"pcm": b"\0" * 333}, "INVALID_REQUEST"),
    "half a frame": (
        {"pcm": b"\0" * 330, "format": AudioFormat(encoding=1, sample_rate_hz=16000, channels=2)},
        "INVALID_REQUEST",
    ),
    "too many bytes": ({"pcm": bytes(4 * 2**20 + 2)}, "INVALID_REQUEST"),
    "too long": ({"pcm": bytes(31 * 32000)}, "INVALID_AUDIO"),
    "not a number": ({"pcm": b"\0\0\xc0\x7f" * 999, "format": FLOATS}, "INVALID_AUDIO"),
    "no encoding": ({"format": AudioFormat(sample_rate_hz=16000, channels=1)}, "INVALID_REQUEST"),
    "six channels": (
        {"format": AudioFormat(encoding=1, sample_rate_hz=16000, channels=6)},
        "INVALID_REQUEST",
    ),
    "a slow rate": ({"format": AudioFormat(encoding=1, sample_rate_hz=4000, channels=1)}, "INVALID_REQUEST"),
    "a long name": ({"request_id": "x" * 65}, "INVALID_REQUEST"),
    "a key for a session": ({"session_id": "aqaa:{acme.x}:meta"}, "INVALID_REQUEST"),
    "a session of nobody": ({"session_id": "x" * 26}, "NOT_FOUND"),
    "a hot sampler": ({"options": pb.TurnOptions(sampling={"text_temperature": 3})}, "INVALID_REQUEST"),
    "no sampler": ({"options": pb.TurnOptions(sampling={"audio_top_p": float("nan")})}, "INVALID_REQUEST"),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_hostile_questions_leave_no_trace(server, case):
    stages = StubStages()
    given, reason = HOSTILE[case]
    async with one(server.url, stages) as made:
        request = pb.AskRequest(**({"format": FORMAT, "pcm": pcm(0.3)} | given))
        assert (await refused(hear(made.stub.Ask(request, metadata=metadata()))))[0] == reason
        assert not await made.orchestrator.shared.log.link.command("KEYS", "aqaa:{*")
        assert stages.open_calls == 0


async def test_a_replay_is_the_same_sound(server):
    stages = StubStages()
    async with one(server.url, stages, replay=True) as made:
        told = await ask(made)
        request = pb.ReplayRequest(session_id=told.opened.session_id, turn_id=told.turn_id)
        again = await hear(made.stub.Replay(request, metadata=metadata(ALICE)))
        assert again.whole == told.whole
        await nothing_left(stages, made)


@pytest.mark.parametrize(("token", "kind", "count", "chunks"), [(3, "text", 2, 0), (12, "audio", 2, 2)])
async def test_a_replay_of_a_cancelled_turn_is_what_had_left(server, token, kind, count, chunks):
    stages = StubStages()
    async with one(server.url, stages, replay=True) as made:
        held = stages.faults.hold("llm", token)
        call = made.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
        told = await hear(call, until=kind, count=count)
        await held.reached.wait()
        ids = {"session_id": told.opened.session_id, "turn_id": told.turn_id}
        await made.stub.Cancel(pb.CancelRequest(**ids), metadata=metadata())
        told = await hear(call, told)
        assert (told.manifest.reason, len(told.chunks)) == (CANCELLED, chunks)
        held.release()
        again = await hear(made.stub.Replay(pb.ReplayRequest(**ids), metadata=metadata()))
        assert again.whole == told.whole
        await nothing_left(stages, made)


async def test_replays_are_off_by_default(server):
    async with one(server.url) as made:
        told = await ask(made)
        request = pb.ReplayRequest(session_id=told.opened.session_id, turn_id=told.turn_id)
        assert (await refused(hear(made.stub.Replay(request, metadata=metadata()))))[0] == "FORBIDDEN"

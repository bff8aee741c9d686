"""A broken stream is taken up again on another replica: every sample once, in order, bit for bit."""

import grpc.aio
import pytest
from orchestrator_cases import (
    ALICE,
    BOB,
    CANCELLED,
    PATIENCE,
    STOP,
    Told,
    ask,
    asking,
    hear,
    metadata,
    nothing_left,
    refused,
    replica,
    until,
)

from aqaa.v1 import orchestrator_pb2 as pb
from aqaa.v1.tokens_pb2 import StartMode
from tests.stages import Plan, StubStages

WRITTEN = pb.TurnOptions(seed=7, start_mode=StartMode.START_MODE_TEXT)


def resume(on, request, caller=ALICE):
    return on.stub.Resume(request, metadata=metadata(caller), timeout=PATIENCE)


@pytest.mark.parametrize("kind", ["question_committed", "segment_start", "text", "audio", "transcript"])
async def test_a_call_that_broke_goes_on_elsewhere(server, kind):
    stages = StubStages()
    async with (
        stages.serving() as address,
        # no text waits for more of it: so many events come each time
        replica(server.url, address, text_interval_seconds=0) as first,
        replica(server.url, address, text_interval_seconds=0) as second,
    ):
        undisturbed = await ask(first)
        for count in range(1, undisturbed.order.count(kind) + 1):
            call = first.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
            told = await hear(call, until=kind, count=count)
            call.cancel()
            told = await hear(resume(second, told.resuming), told)
            assert told.whole == undisturbed.whole
            assert told.transcript == undisturbed.transcript
        await nothing_left(stages, first, second)
        assert second.sample("aqaa_turn_resumes_total", outcome="OK") == undisturbed.order.count(kind)


async def test_a_turn_is_resumed_again_and_again(server):
    stages = StubStages()
    async with stages.serving() as address, replica(server.url, address) as first:
        undisturbed = await ask(first)
        async with replica(server.url, address) as second:
            call = first.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
            told = await hear(call, until="audio")
            for on in (second, first, second, first):
                call.cancel()
                call = resume(on, told.resuming)
                told = await hear(call, told, until="audio")
            told = await hear(call, told)
            assert told.whole == undisturbed.whole
            await nothing_left(stages, first, second)


async def test_the_call_before_ends_as_superseded(server):
    stages = StubStages()
    async with (
        stages.serving() as address,
        replica(server.url, address) as first,
        replica(server.url, address) as second,
    ):
        undisturbed = await ask(first)
        held = stages.faults.hold("vocoder", 2)
        old = first.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
        told = await hear(old, until="audio", count=2)
        new = resume(second, told.resuming)
        await new.read()
        assert await refused(hear(old, told)) == ("SUPERSEDED", grpc.StatusCode.ABORTED)
        held.release()
        again = await hear(resume(second, told.resuming), told)
        assert again.whole == undisturbed.whole
        await nothing_left(stages, first, second)


async def test_a_turn_that_is_over_is_told_again(server):
    stages = StubStages()
    async with stages.serving() as address, replica(server.url, address) as made:
        told = await ask(made)
        again = await hear(resume(made, Told(opened=told.opened, turn_id=told.turn_id).resuming))
        assert again.whole == told.whole
        last = pb.ResumeRequest(
            session_id=told.opened.session_id,
            turn_id=told.turn_id,
            last_sequence=told.manifest.chunks,
            next_sample=told.manifest.samples,
            text=[pb.TextReceived(segment=s, bytes=len(t.encode())) for s, t in told.texts.items()],
        )
        events = [response.event.WhichOneof("event") async for response in resume(made, last)]
        assert events == ["opened", "question_committed", "transcript", "manifest"]
        await nothing_left(stages, made)


async def test_text_without_sound_goes_on_by_bytes(server):
    stages = StubStages(plan=Plan(segments=((9, 0),)))
    options = pb.TurnOptions(seed=7, start_mode=pb.TurnOptions(start_mode=3).start_mode)
    async with stages.serving() as address, replica(server.url, address, text_interval_seconds=0) as made:
        undisturbed = await ask(made, asking(options=options))
        assert undisturbed.order.count("text") == 9
        assert undisturbed.manifest.chunks == 0
        assert [s.text for s in undisturbed.manifest.segments] == [undisturbed.texts[0]]
        for count in range(1, 10):
            call = made.stub.Ask(asking(options=options), metadata=metadata(), timeout=PATIENCE)
            told = await hear(call, until="text", count=count)
            call.cancel()
            told = await hear(resume(made, told.resuming), told)
            assert told.whole == undisturbed.whole
        await nothing_left(stages, made)


async def test_text_received_in_part_is_completed(server):
    stages = StubStages()
    async with stages.serving() as address, replica(server.url, address) as made:
        told = await ask(made)
        text = told.texts[0].encode()
        for received in range(len(text) + 1):
            if received < len(text) and text[received] & 0xC0 == 0x80:
                continue  # inside a character
            request = told.resuming
            request.text[0].bytes = received
            came = [r.event.text async for r in resume(made, request) if r.event.HasField("text")]
            assert text[:received] + b"".join(t.text.encode() for t in came) == text
            if came:
                assert came[0].first_byte == received


async def test_a_log_that_is_behind_its_caller_is_made_up_for(server):
    """The log lost records of chunks that had left: they are made again, and not sent twice."""
    stages = StubStages()
    async with stages.serving() as address, replica(server.url, address) as made:
        told = await ask(made)
        link = made.orchestrator.shared.log.link
        turn = f"aqaa:{{acme.{told.opened.session_id}}}:{told.turn_id}"
        entries = await link.command("XRANGE", f"{turn}:delivery", "-", "+")
        for kept in (3, 1):
            for entry, _ in entries[kept:]:
                await link.command("XDEL", f"{turn}:delivery", entry)
            last = entries[kept - 1][1][b"h"]
            await link.command("HSET", f"{turn}:state", "last:delivery", kept, "hash:delivery", last)
            # a stream refuses numbers below its last one: a promoted replica has another stream
            raw = await link.command("XRANGE", f"{turn}:delivery", "-", "+")
            await link.command("DEL", f"{turn}:delivery")
            for entry, fields in raw:
                await link.command(
                    "XADD", f"{turn}:delivery", entry, *(x for pair in fields.items() for x in pair)
                )
            request = told.resuming
            request.last_sequence = 4
            request.next_sample = told.chunks[4].first_sample
            chunks = [r.event.audio async for r in resume(made, request) if r.event.HasField("audio")]
            assert chunks == [told.chunks[4]]


async def test_records_that_are_trimmed_are_done_without(server):
    stages = StubStages(plan=Plan(segments=((4, 30), (3, 30))))
    async with stages.serving() as address, replica(server.url, address) as made:
        told = await ask(made)
        link = made.orchestrator.shared.log.link
        key = f"aqaa:{{acme.{told.opened.session_id}}}:{told.turn_id}:delivery"
        for first in (3, 8):
            await link.command("XTRIM", key, "MINID", f"0-{first}")
            for have in range(len(told.chunks) + 1):
                request = told.resuming
                request.last_sequence = have
                request.next_sample = sum(len(chunk.pcm) // 2 for chunk in told.chunks[:have])
                events = [response.event async for response in resume(made, request)]
                assert [e.audio for e in events if e.HasField("audio")] == told.chunks[have:]
                assert events[-1].manifest == told.manifest


async def test_a_cancelled_turn_is_told_to_have_ended(server):
    stages = StubStages()
    async with stages.serving() as address, replica(server.url, address) as made:
        held = stages.faults.hold("vocoder", 2)
        call = made.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
        told = await hear(call, until="audio", count=2)
        call.cancel()
        ids = {"session_id": told.opened.session_id, "turn_id": told.turn_id}
        response = await made.stub.Cancel(pb.CancelRequest(**ids), metadata=metadata())
        assert response.reason == CANCELLED
        held.release()
        events = [r.event async for r in resume(made, told.resuming)]
        assert [e.WhichOneof("event") for e in events] == ["opened", "manifest"]
        assert events[-1].manifest.reason == CANCELLED
        assert events[-1].manifest.samples == len(told.sound) // 2
        await nothing_left(stages, made)


async def test_what_cannot_be_resumed_is_refused(server):
    stages = StubStages()
    async with stages.serving() as address, replica(server.url, address) as made:
        told = await ask(made)
        good = told.resuming

        async def refusal(caller=ALICE, **wrong):
            request = pb.ResumeRequest()
            request.CopyFrom(good)
            request.MergeFrom(pb.ResumeRequest(**wrong))
            return await refused(hear(resume(made, request, caller)))

        invalid = ("INVALID_REQUEST", grpc.StatusCode.INVALID_ARGUMENT)
        missing = ("NOT_FOUND", grpc.StatusCode.NOT_FOUND)
        assert await refusal(next_sample=17) == invalid
        assert await refusal(last_sequence=3) == invalid
        assert await refusal(last_sequence=99) == invalid
        assert await refusal(turn_id="x" * 26) == missing
        assert await refusal(session_id="x" * 26) == missing
        assert await refusal(turn_id="{}:meta") == invalid
        assert await refusal(BOB) == missing
        again = await hear(resume(made, Told(opened=told.opened, turn_id=told.turn_id).resuming))
        assert again.whole == told.whole
        await nothing_left(stages, made)


async def test_a_caller_who_never_comes_back_frees_the_slot(server):
    stages = StubStages()
    async with stages.serving() as address, replica(server.url, address, resume_seconds=0.05) as made:
        held = stages.faults.hold("llm", 8)
        call = made.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
        told = await hear(call, until="text")
        await held.reached.wait()
        call.cancel()
        await until(lambda: stages.held == 0)
        await nothing_left(stages, made)
        request = pb.GetSessionRequest(session_id=told.opened.session_id)
        session = await made.stub.GetSession(request, metadata=metadata())
        assert [turn.reason for turn in session.turns] == [CANCELLED]


async def test_a_completed_turn_whose_caller_is_gone_gives_its_place_back(server):
    """Its tokens are complete, so no slot is kept for it; its caller may still come back for its sound."""
    stages = StubStages(slots=1)
    async with stages.serving() as address, replica(server.url, address) as made:
        undisturbed = await ask(made)
        log = made.orchestrator.shared.log
        held = stages.faults.hold("vocoder", 2)
        call = made.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
        told = await hear(call, until="audio", count=2)
        await held.reached.wait()
        turn = log.session("acme", told.opened.session_id).turn(told.turn_id)

        async def completed():
            return (await log.state(turn, str(ALICE))).phase.terminal

        async def given_back():
            return not await log.capacity.live()

        await until(completed)
        assert await log.capacity.live() == 1  # a stage still works for it
        call.cancel()
        await until(given_back)
        assert (await ask(made, asking(options=WRITTEN))).manifest.reason == STOP
        held.release()
        assert (await hear(resume(made, told.resuming), told)).whole == undisturbed.whole
        await nothing_left(stages, made)

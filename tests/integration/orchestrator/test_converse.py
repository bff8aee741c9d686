"""Conversations: questions while they are spoken, barge-in, what the next turn knows, slips of the client."""

import asyncio

import grpc.aio
import pytest
from orchestrator_cases import (
    ALICE,
    BOB,
    CANCELLED,
    FORMAT,
    PATIENCE,
    STOP,
    Talking,
    Told,
    hear,
    metadata,
    nothing_left,
    one,
    pcm,
    refused,
    replica,
)

from aqaa.v1 import orchestrator_pb2 as pb
from aqaa.v1.audio_pb2 import AudioEncoding, AudioFormat, QuestionAudio
from tests.stages import GROUP_SAMPLES, Plan, StubStages


async def test_two_turns_and_what_the_second_knows(server):
    stages = StubStages()
    async with one(server.url, stages) as made:
        talking = await Talking(made).begin()
        await talking.question(pcm(0.7))
        first = await talking.hear("manifest")
        assert first.manifest.reason == STOP
        assert first.opened.session_id == talking.session_id
        await talking.question(pcm(0.5, seed=1))
        second = await talking.hear("manifest")
        await talking.end()
        known = [(message.role, message.text) for message in stages.prompts[-1].history]
        assert known == [(2, first.transcript), (3, "".join(first.texts.values()))]
        assert not stages.prompts[0].history
        session = await made.stub.GetSession(
            pb.GetSessionRequest(session_id=talking.session_id), metadata=metadata()
        )
        assert [turn.turn_id for turn in session.turns] == [first.turn_id, second.turn_id]
        assert [turn.heard_estimated for turn in session.turns] == [False, False]
        assert [turn.samples for turn in session.turns] == [15 * GROUP_SAMPLES] * 2
        await nothing_left(stages, made)


async def test_the_backbone_hears_the_question_while_it_is_spoken(server):
    stages = StubStages()
    async with one(server.url, stages) as made:
        heard = stages.faults.hold("llm-prompt", 3)
        talking = await Talking(made).begin()
        await talking.question(pcm(0.72), commit=False)
        await heard.reached.wait()
        heard.release()
        await talking.say(commit=pb.CommitQuestion(bytes=len(pcm(0.72))))
        assert (await talking.hear("manifest")).committed == 6
        await talking.end()
        await nothing_left(stages, made)


async def test_cuts_of_the_question_change_nothing(server):
    async with one(server.url) as made:
        answers = []
        for step in (98, 998, 3840, 40000):
            talking = await Talking(made).begin()
            await talking.question(pcm(0.3), step=step)
            answers.append((await talking.hear("manifest")).whole)
            await talking.end()
        assert answers == [answers[0]] * 4


async def test_the_tokenizer_and_the_log_get_a_question_by_the_hop(server):
    answers, entries = [], []
    for piece in (0.12, 0.48):
        stages = StubStages(together=True)
        async with one(server.url, stages, question_piece_seconds=piece) as made:
            talking = await Talking(made).begin()
            await talking.question(pcm(1.92), step=640)
            answers.append((await talking.hear("manifest")).whole)
            entries.append(made.sample("aqaa_log_appends_total", stream="query", outcome="OK"))
            await talking.end()
    assert answers[0] == answers[1]
    assert entries[1] <= 4 + 1  # the last one is the question's end


PHASES = {
    "the question": ("llm-prompt", 2),
    "before its end": ("tokenizer-end", 0),
    "before the first text": ("llm-commit", 0),
    "text": ("llm", 3),
    "sound": ("vocoder", 2),
    "the transcript": ("llm-transcript", 0),
}


async def brought_to(phase, held, made, talking):
    """A turn in one of the phases, held there."""
    await talking.question(pcm(0.7), commit=phase != "the question")
    await held.reached.wait()
    told = await talking.hear("opened")
    if phase == "sound":  # its tokens are complete: it is heard no further all the same
        await talking.hear("audio")
        await talking.hear("audio")
        link = made.orchestrator.shared.log.link
        state = f"aqaa:{{acme.{talking.session_id}}}:{told.turn_id}:state"
        while await link.command("HGET", state, "phase") != b"completed":
            await asyncio.sleep(0.005)
    return told


@pytest.mark.parametrize("phase", PHASES)
async def test_barge_in(server, phase):
    stages = StubStages()
    async with one(server.url, stages) as made:
        held = stages.faults.hold(*PHASES[phase])
        talking = await Talking(made).begin()
        told = await brought_to(phase, held, made, talking)
        await talking.say(cancel=pb.CancelTurn(turn_id=told.turn_id, played_samples=len(told.sound) // 2))
        if phase == "the question":
            await talking.say(commit=pb.CommitQuestion(bytes=len(pcm(0.7))))
        told = await talking.hear("manifest")
        assert told.manifest.reason == CANCELLED
        held.release()
        await talking.question(pcm(0.4, seed=2), seed=9)
        assert (await talking.hear("manifest")).manifest.reason == STOP
        await talking.end()
        await nothing_left(stages, made)


@pytest.mark.parametrize("phase", PHASES)
async def test_new_speech_is_a_barge_in(server, phase):
    """With one slot, which the turn that is spoken over holds."""
    stages = StubStages(slots=1)
    async with one(server.url, stages) as made:
        held = stages.faults.hold(*PHASES[phase])
        talking = await Talking(made).begin()
        told = await brought_to(phase, held, made, talking)
        if phase == "the question":
            await talking.say(commit=pb.CommitQuestion(bytes=len(pcm(0.7))))
        sound = pcm(0.4, seed=2)
        await talking.question(sound, commit=False, seed=9)
        assert (await talking.hear("manifest")) is told
        assert told.manifest.reason == CANCELLED
        held.release()
        await talking.say(commit=pb.CommitQuestion(bytes=len(sound)))
        assert (await talking.hear("manifest")).manifest.reason == STOP
        await talking.end()
        await nothing_left(stages, made)


async def test_new_speech_silences_what_is_told_by_another_call(server):
    stages = StubStages()
    async with (
        stages.serving() as address,
        replica(server.url, address) as made,
        replica(server.url, address) as other,
    ):
        held = stages.faults.hold("llm", 6)
        talking = await Talking(made).begin()
        await talking.question(pcm(0.5))
        await held.reached.wait()
        told = await talking.hear("text")
        asked = pb.ResumeRequest(session_id=talking.session_id, turn_id=told.turn_id)
        resumed = other.stub.Resume(asked, metadata=metadata(), timeout=PATIENCE)
        assert (await talking.hear("failed")).failed.reason == "SUPERSEDED"
        await talking.question(pcm(0.4, seed=2), commit=False)
        assert (await hear(resumed)).manifest.reason == CANCELLED
        held.release()
        await talking.say(commit=pb.CommitQuestion(bytes=len(pcm(0.4))))
        assert (await talking.hear("manifest")).manifest.reason == STOP
        await talking.end()
        await nothing_left(stages, made, other)


async def test_a_question_that_is_said_again_silences_nothing_but_what_came_before_it(server):
    stages = StubStages()
    async with one(server.url, stages) as made:
        broken = await Talking(made).begin()
        await broken.question(pcm(0.5), commit=False, request_id="again")
        told = await broken.hear("opened")
        broken.call.cancel()
        talking = await Talking(made).begin(broken.session_id)
        await talking.question(pcm(0.5), request_id="again")
        again = await talking.hear("manifest")
        assert (again.turn_id, again.manifest.reason) == (told.turn_id, STOP)
        await talking.end()
        await nothing_left(stages, made)


@pytest.mark.parametrize("how", ["cancel", "speech"])
async def test_history_keeps_what_was_heard(server, how):
    stages = StubStages()
    async with one(server.url, stages) as made:
        held = stages.faults.hold("llm", 20)  # inside the second segment's text
        talking = await Talking(made).begin()
        await talking.question(pcm(0.7))
        for _ in range(3):
            told = await talking.hear("audio")
        await held.reached.wait()
        played = 5 * GROUP_SAMPLES
        await talking.say(played=pb.Played(turn_id=told.turn_id, samples=played))
        if how == "cancel":
            await talking.say(cancel=pb.CancelTurn(turn_id=told.turn_id, played_samples=played))
            assert (await talking.hear("manifest")).manifest.reason == CANCELLED
        await talking.question(pcm(0.4, seed=2), commit=False)
        if how == "speech":
            assert (await talking.hear("manifest")).manifest.reason == CANCELLED
        held.release()
        await talking.say(commit=pb.CommitQuestion(bytes=len(pcm(0.4))))
        await talking.hear("manifest")
        session = await made.stub.GetSession(
            pb.GetSessionRequest(session_id=talking.session_id), metadata=metadata()
        )
        kept = session.turns[0]
        assert kept.heard_estimated
        assert kept.answer_text.startswith(kept.heard_text)
        assert 0 < len(kept.heard_text) <= len(told.texts[0]) / 2 + 1
        assert [message.text for message in stages.prompts[-1].history] == [kept.heard_text]
        await talking.end()
        await nothing_left(stages, made)


async def test_a_cancel_from_elsewhere_ends_the_turn(server):
    stages = StubStages()
    async with one(server.url, stages) as made:
        held = stages.faults.hold("llm", 6)
        call = made.stub.Ask(
            pb.AskRequest(format=FORMAT, pcm=pcm(0.5)), metadata=metadata(), timeout=PATIENCE
        )
        told = await hear(call, until="text")
        await held.reached.wait()
        ids = {"session_id": told.opened.session_id, "turn_id": told.turn_id}
        response = await made.stub.Cancel(pb.CancelRequest(**ids), metadata=metadata())
        assert response.reason == CANCELLED
        assert (await hear(call, told)).manifest.reason == CANCELLED
        again = await made.stub.Cancel(pb.CancelRequest(**ids), metadata=metadata())
        assert again.reason == CANCELLED
        held.release()
        await nothing_left(stages, made)


async def test_a_turn_that_is_over_cannot_be_cancelled(server):
    """It stays completed; but what its caller says it has heard is kept."""
    stages = StubStages()
    async with one(server.url, stages) as made:
        talking = await Talking(made).begin()
        await talking.question(pcm(0.7))
        told = await talking.hear("manifest")
        ids = {"session_id": talking.session_id, "turn_id": told.turn_id}
        response = await made.stub.Cancel(pb.CancelRequest(**ids), metadata=metadata())
        assert response.reason == STOP

        async def heard():
            request = pb.GetSessionRequest(session_id=talking.session_id)
            session = await made.stub.GetSession(request, metadata=metadata())
            assert [turn.reason for turn in session.turns] == [STOP]
            return session.turns[0].heard_text

        assert await heard() == "".join(told.texts.values())
        response = await made.stub.Cancel(
            pb.CancelRequest(**ids, played_samples=10 * GROUP_SAMPLES), metadata=metadata()
        )
        assert response.reason == STOP
        assert await heard() == told.texts[0]
        await talking.end()
        await nothing_left(stages, made)


async def test_a_turn_that_the_conversation_does_not_have_is_left_out(server):
    stages = StubStages()
    async with one(server.url, stages) as made:
        talking = await Talking(made).begin()
        for turn_id in ("x" * 26, "nonsense"):
            await talking.say(played=pb.Played(turn_id=turn_id, samples=5))
        await talking.say(cancel=pb.CancelTurn(turn_id="x" * 26))
        await talking.question(pcm(0.7))
        assert (await talking.hear("manifest")).manifest.reason == STOP
        await talking.end()
        assert len(made.lines("played names a turn that the conversation does not have")) == 2
        assert len(made.lines("cancel names a turn that there is not")) == 1
        await nothing_left(stages, made)


async def test_the_frontier_follows_what_was_played(server):
    stages = StubStages()
    stages.plan.segments = ((4, 60),)
    async with one(server.url, stages, lookahead_seconds=2.4) as made:
        talking = await Talking(made).begin()
        await talking.question(pcm(0.4))
        told = await talking.hear("opened")
        while told.manifest is None:  # whoever acknowledges at once is never waited for
            response = await talking.call.read()
            told.add(response.turn)
            if told.order[-1] == "audio":
                samples = len(told.sound) // 2
                await talking.say(played=pb.Played(turn_id=told.turn_id, samples=samples))
        assert told.manifest.segments[0].groups == 60
        assert stages.frontiers == sorted(set(stages.frontiers))
        assert stages.frontiers
        await talking.end()
        await nothing_left(stages, made)


async def test_records_of_what_was_heard_are_dropped(server):
    """And what was heard is known all the same, from the log alone, by a front that did not tell it."""
    stages = StubStages(plan=Plan(segments=((3, 12), (2, 12), (4, 36))))
    last, done = stages.faults.hold("vocoder", 4), stages.faults.hold("vocoder-done", 2)
    async with (
        stages.serving() as address,
        replica(server.url, address) as made,
        replica(server.url, address) as other,
    ):
        talking = await Talking(made).begin()
        await talking.question(pcm(0.4))
        told = Told()
        while len(told.sound) // 2 < 48 * GROUP_SAMPLES:
            told = await talking.hear("audio")
        samples = len(told.sound) // 2
        await talking.say(played=pb.Played(turn_id=told.turn_id, samples=samples))
        log, turn = made.orchestrator.shared.log, f"aqaa:{{acme.{talking.session_id}}}:{told.turn_id}"
        while await log.link.command("HGET", f"{turn}:state", "played_samples") != b"%d" % samples:
            await asyncio.sleep(0.005)
        last.release()
        told = await talking.hear("audio")
        kept = [entry for entry, _ in await log.link.command("XRANGE", f"{turn}:delivery", "-", "+")]
        assert kept == [b"0-10", b"0-11"]  # of the third segment: where the second one begins is forgotten
        await talking.say(cancel=pb.CancelTurn(turn_id=told.turn_id, played_samples=20 * GROUP_SAMPLES))
        told = await talking.hear("manifest")
        request = pb.GetSessionRequest(session_id=talking.session_id)
        done.release()
        for replica_ in (made, other):
            session = await replica_.stub.GetSession(request, metadata=metadata())
            assert session.turns[0].heard_text.startswith(told.texts[0])
        await talking.end()
        await nothing_left(stages, made, other)


def opening(session_id="", **given):
    return {"open": pb.OpenConversation(session_id=session_id, format=given.get("format", FORMAT))}


def sound(first_byte=0, data=b"\0\0" * 4000):
    return {"audio": QuestionAudio(first_byte=first_byte, pcm=data)}


TURN = {"turn": pb.OpenTurn(options=pb.TurnOptions(seed=1))}
FLOATS = AudioFormat(encoding=AudioEncoding.AUDIO_ENCODING_PCM_F32LE, sample_rate_hz=16000, channels=1)
SLIPS = {
    "nothing but audio": [sound()],
    "opened twice": [opening(), opening()],
    "an empty step": [opening(), {}],
    "audio without a turn": [opening(), sound()],
    "commit without a turn": [opening(), {"commit": pb.CommitQuestion()}],
    "a turn inside a turn": [opening(), TURN, TURN],
    "a gap": [opening(), TURN, sound(), sound(8002)],
    "an overlap": [opening(), TURN, sound(), sound(7998)],
    "half a sample": [opening(), TURN, sound(data=b"\0\0\0")],
    "no sample": [opening(), TURN, sound(data=b"")],
    "too much at once": [opening(), TURN, sound(data=bytes(2**20 + 2))],
    "another number of bytes": [opening(), TURN, sound(), {"commit": pb.CommitQuestion(bytes=7998)}],
    "a question without sound": [opening(), TURN, {"commit": pb.CommitQuestion(bytes=0)}],
    "the end inside a question": [opening(), TURN, sound()],
    "no format": [opening(format=AudioFormat())],
    "a rate that nobody has": [
        opening(format=AudioFormat(encoding=FORMAT.encoding, sample_rate_hz=192000, channels=1))
    ],
    "a name that is no session": [opening(session_id="{}")],
    "a seed of no use": [opening(), {"turn": pb.OpenTurn(options={"sampling": {"audio_top_p": 7}})}],
    "a name of a request": [opening(), {"turn": pb.OpenTurn(request_id="a b")}],
}


@pytest.mark.parametrize("slip", SLIPS)
async def test_a_slip_of_the_client_ends_the_call(server, slip):
    stages = StubStages()
    async with one(server.url, stages, resume_seconds=0.01) as made:
        talking = Talking(made)

        async def talk():
            for step in SLIPS[slip]:
                await talking.say(**step)
            await talking.call.done_writing()
            while await talking.call.read() is not grpc.aio.EOF:
                pass
            raise grpc.aio.AioRpcError(await talking.call.code(), None, None)

        async def status():
            try:
                await talk()
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                assert await talking.call.code() is grpc.StatusCode.INVALID_ARGUMENT

        await status()
        await nothing_left(stages, made)
        keys = await made.orchestrator.shared.log.link.command("KEYS", "aqaa:{*:state")
        assert len(keys) <= 1


async def test_what_a_turn_fails_with_leaves_the_conversation(server):
    stages = StubStages()
    async with one(server.url, stages, question_seconds=0.5) as made:
        talking = Talking(made)
        await talking.say(**opening(format=FLOATS))
        await talking.call.read()
        await talking.say(**TURN)
        await talking.say(**sound(data=bytes(20000)))
        await talking.say(**sound(20000, bytes(20000)))
        told = await talking.hear("failed")
        assert (told.failed.reason, told.failed.resumable) == ("INVALID_AUDIO", False)
        await talking.say(commit=pb.CommitQuestion(bytes=40000))
        await talking.say(**TURN)
        await talking.say(**sound(data=bytes(20000)))
        await talking.say(commit=pb.CommitQuestion(bytes=20000))
        assert (await talking.hear("manifest")).manifest.reason == STOP
        await talking.say(**TURN)
        await talking.say(**sound(data=b"\0\0\xc0\x7f" * 100))
        told = await talking.hear("failed")
        assert told.failed.reason == "INVALID_AUDIO"
        await talking.say(commit=pb.CommitQuestion(bytes=400))
        await talking.end()
        await nothing_left(stages, made)


async def test_a_question_slower_than_speech_is_given_up(server):
    stages = StubStages()
    given = {"question_lag_seconds": 0.5, "question_idle_seconds": PATIENCE}
    async with one(server.url, stages, **given) as made:
        talking, given_up, piece = await Talking(made).begin(), asyncio.Event(), pcm(0.01)

        async def drip():
            await talking.say(**TURN)
            at = 0
            while not given_up.is_set():
                await talking.say(**sound(at, piece))
                at += len(piece)
                await asyncio.sleep(0.05)
            await talking.say(commit=pb.CommitQuestion(bytes=at))

        dripping = asyncio.create_task(drip())
        told = await talking.hear("failed")
        given_up.set()
        await dripping
        assert (told.failed.reason, told.failed.resumable) == ("DEADLINE", False)
        assert "behind real time, expected at most 0.5 s" in told.failed.message
        await talking.end()
        await nothing_left(stages, made)


async def test_another_callers_session_does_not_exist(server):
    stages = StubStages()
    async with one(server.url, stages) as made:
        talking = await Talking(made).begin()
        await talking.question(pcm(0.3))
        told = await talking.hear("manifest")
        await talking.end()
        ids = {"session_id": talking.session_id, "turn_id": told.turn_id}
        missing = ("NOT_FOUND", grpc.StatusCode.NOT_FOUND)
        bob, stub = metadata(BOB), made.stub
        assert (
            await refused(stub.GetSession(pb.GetSessionRequest(session_id=ids["session_id"]), metadata=bob))
            == missing
        )
        assert await refused(stub.Cancel(pb.CancelRequest(**ids), metadata=bob)) == missing
        assert await refused(hear(stub.Resume(pb.ResumeRequest(**ids), metadata=bob))) == missing
        assert await refused(hear(stub.Replay(pb.ReplayRequest(**ids), metadata=bob))) in (
            missing,
            ("FORBIDDEN", grpc.StatusCode.PERMISSION_DENIED),
        )
        asked = pb.AskRequest(session_id=ids["session_id"], format=FORMAT, pcm=pcm(0.3))
        assert await refused(hear(stub.Ask(asked, metadata=bob))) == missing
        theirs = Talking(made, BOB)
        await theirs.say(**opening(ids["session_id"]))
        assert await refused(theirs.call.read()) == missing
        assert (await hear(stub.Ask(asked, metadata=metadata(ALICE)))).manifest.reason == STOP
        await nothing_left(stages, made)

"""Callers who mean harm: each gets a typed refusal with its field, and the next good caller an answer."""

import asyncio
import re
import struct

import grpc
import grpc.aio
import pytest

from aqaa.rpc.caller import Caller
from aqaa.v1 import orchestrator_pb2 as pb
from aqaa.v1.audio_pb2 import AudioFormat, QuestionAudio
from tests.faults.hostile_cases import SERVICE, conversing, orchestrator, refused, turn_log
from tests.integration.orchestrator.orchestrator_cases import (
    ALICE,
    FORMAT,
    PATIENCE,
    Told,
    asking,
    hear,
    metadata,
    pcm,
)
from tests.stages import StubStages

BAD = grpc.StatusCode.INVALID_ARGUMENT
STRANGE = grpc.StatusCode.NOT_FOUND
FLOATS = AudioFormat(encoding=2, sample_rate_hz=16000, channels=1)


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def front(runner, tmp_path_factory):
    """One process for all of them: it has to outlive every one."""
    with turn_log(tmp_path_factory.mktemp("valkey")) as url:
        serving = orchestrator(url, StubStages(), replay=True, question_idle_seconds=0.3)
        made = runner.run(serving.__aenter__())
        yield made
        runner.run(made.at_rest())
        runner.run(serving.__aexit__(None, None, None))


def of_format(**given):
    return {"format": AudioFormat(**({"encoding": 1, "sample_rate_hz": 16000, "channels": 1} | given))}


def with_options(**given):
    return {"options": pb.TurnOptions(**given)}


def sampled(**given):
    """And the fields that are at fault."""
    return with_options(sampling=given), [f"options.sampling.{name}" for name in given]


FORMAT_FIELDS = ["format.encoding", "format.sample_rate_hz", "format.channels"]


QUESTIONS = {
    "nothing at all": ({"format": None, "pcm": b""}, FORMAT_FIELDS),
    "no sound": ({"pcm": b""}, ["pcm"]),
    "half a sample": ({"pcm": b"\0" * 333}, ["pcm"]),
    "half a frame": ({"pcm": b"\0" * 330, **of_format(channels=2)}, ["pcm"]),
    "three quarters of a float": ({"pcm": b"\0" * 403, "format": FLOATS}, ["pcm"]),
    "a byte too many": ({"pcm": bytes(4 * 2**20 + 2)}, ["pcm"]),
    "no encoding": (of_format(encoding=0), ["format.encoding"]),
    "encoding of the future": (of_format(encoding=77), ["format.encoding"]),
    "negative encoding": (of_format(encoding=-1), ["format.encoding"]),
    "no rate": (of_format(sample_rate_hz=0), ["format.sample_rate_hz"]),
    "slow rate": (of_format(sample_rate_hz=7999), ["format.sample_rate_hz"]),
    "fast rate": (of_format(sample_rate_hz=48001), ["format.sample_rate_hz"]),
    "largest rate": (of_format(sample_rate_hz=2**32 - 1), ["format.sample_rate_hz"]),
    "no channel": (of_format(channels=0), ["format.channels"]),
    "a choir": (of_format(channels=2**32 - 1), ["format.channels"]),
    "long request_id": ({"request_id": "x" * 65}, ["request_id"]),
    "huge request_id": ({"request_id": "x" * 2**20}, ["request_id"]),
    "request_id of two lines": ({"request_id": "a\nSET x y"}, ["request_id"]),
    "request_id with NUL": ({"request_id": "a\0b"}, ["request_id"]),
    "request_id with a space": ({"request_id": "a b"}, ["request_id"]),
    "request_id of other letters": ({"request_id": "ïd"}, ["request_id"]),
    "start mode": (with_options(start_mode=99), ["options.start_mode"]),
    "hot": sampled(text_temperature=2.01),
    "cold": sampled(linguistic_temperature=-0.01),
    "endless": sampled(semantic_temperature=float("inf")),
    "no number": sampled(audio_top_p=float("nan")),
    "no nucleus": sampled(audio_top_p=0.0),
}  # fmt: skip


@pytest.mark.parametrize("case", QUESTIONS)
def test_a_question_out_of_range_is_refused_by_field(runner, front, case):
    given, fields = QUESTIONS[case]

    async def scene():
        before = await front.keys()
        request = pb.AskRequest(**({"format": FORMAT, "pcm": pcm(0.3)} | given))
        found = await refused(front.stub.Ask(request, metadata=metadata()))
        assert (found.code, found.reason, list(found.fields)) == (BAD, "INVALID_REQUEST", fields)
        assert await front.keys() == before
        await front.answered()

    runner.run(scene())


SOUNDS = {
    "not a number": (FLOATS, struct.pack("<f", float("nan")) * 4000),
    "one infinity": (FLOATS, struct.pack("<f", 0.1) * 4000 + struct.pack("<f", float("inf"))),
    "a long question": (FORMAT, bytes(31 * 32000)),
}


@pytest.mark.parametrize("case", SOUNDS)
def test_sound_that_cannot_be_used_is_its_own_fault(runner, front, case):
    """In a conversation it ends that turn alone."""
    sound_format, sound = SOUNDS[case]

    async def scene():
        request = pb.AskRequest(format=sound_format, pcm=sound)
        found = await refused(front.stub.Ask(request, metadata=metadata()))
        assert (found.code, found.reason) == (BAD, "INVALID_AUDIO")
        pieces = [sound[at : at + 2**19] for at in range(0, len(sound), 2**19)]
        call = await conversing(
            front,
            pb.ConverseRequest(open=pb.OpenConversation(format=sound_format)),
            pb.ConverseRequest(turn=pb.OpenTurn()),
            *(
                pb.ConverseRequest(audio=QuestionAudio(first_byte=i * 2**19, pcm=piece))
                for i, piece in enumerate(pieces)
            ),
            pb.ConverseRequest(commit=pb.CommitQuestion(bytes=len(sound))),
            pb.ConverseRequest(turn=pb.OpenTurn()),
            pb.ConverseRequest(audio=QuestionAudio(pcm=bytes(32000))),
            pb.ConverseRequest(commit=pb.CommitQuestion(bytes=32000)),
        )
        await call.done_writing()
        events = [response.turn async for response in call][1:]
        failed = [event.failed.reason for event in events if event.HasField("failed")]
        told = [event.manifest.samples for event in events if event.HasField("manifest")]
        assert failed == ["INVALID_AUDIO"]
        assert len(told) == 1
        assert told[0]

    runner.run(scene())


IDS = [
    "x", "X" * 26, "a" * 25, "a" * 27, "a" * 26 + "\n", "\n" + "a" * 25, "aqaa:{acme.x}:meta", "{" * 26,
    "a}" * 13, "a*?[^]" + "a" * 20, "a\0" * 13, "\u0661" * 26, "\u212a" * 26, "../" * 8 + "aa", "a" * 2**20,
]  # fmt: skip


@pytest.mark.parametrize("name", IDS, ids=lambda name: ascii(name)[:32])
def test_what_is_no_id_is_refused_everywhere(runner, front, name):
    good = "a" * 26

    async def scene():
        stub, given = front.stub, {"metadata": metadata()}
        opening = pb.ConverseRequest(open=pb.OpenConversation(session_id=name, format=FORMAT))
        ending = pb.ConverseRequest(cancel=pb.CancelTurn(turn_id=name))
        begun = pb.ConverseRequest(open=pb.OpenConversation(format=FORMAT))
        calls = [
            (stub.Ask(asking(session_id=name), **given), "session_id"),
            (await conversing(front, opening), "session_id"),
            (await conversing(front, begun, ending), "turn_id"),
            (stub.GetSession(pb.GetSessionRequest(session_id=name), **given), "session_id"),
        ]
        for method, request in (
            (stub.Resume, pb.ResumeRequest), (stub.Cancel, pb.CancelRequest), (stub.Replay, pb.ReplayRequest)
        ):  # fmt: skip
            calls.append((method(request(session_id=name, turn_id=good), **given), "session_id"))
            calls.append((method(request(session_id=good, turn_id=name), **given), "turn_id"))
        for call, field in calls:
            found = await refused(call)
            assert (found.code, found.reason, found.fields) == (BAD, "INVALID_REQUEST", (field,))
            assert len(found.details) < 200
        await front.answered()

    runner.run(scene())


def test_a_request_id_of_braces_is_a_name_like_any_other(runner, front):
    async def scene():
        name = "aqaa:{acme.request.x}:*?[a]"
        told = await front.answered(request_id=name)
        assert (await front.answered(request_id=name)).turn_id == told.turn_id
        assert not [key for key in await front.keys() if b"*" in key or key.count(b"{") != 1]

    runner.run(scene())


OPEN = pb.ConverseRequest(open=pb.OpenConversation(format=FORMAT))
TURN = pb.ConverseRequest(turn=pb.OpenTurn())
SAID = pb.ConverseRequest(audio=QuestionAudio(pcm=bytes(3200)))


def audio(first_byte, sound):
    return pb.ConverseRequest(audio=QuestionAudio(first_byte=first_byte, pcm=sound))


def commit(count):
    return pb.ConverseRequest(commit=pb.CommitQuestion(bytes=count))


def played(turn_id, samples=0):
    return pb.ConverseRequest(played=pb.Played(turn_id=turn_id, samples=samples))


STEPS = {
    "nothing opened": ([TURN], ()),
    "sound first": ([SAID], ()),
    "opened twice": ([OPEN, OPEN], ()),
    "an empty step": ([OPEN, pb.ConverseRequest()], ()),
    "sound without a turn": ([OPEN, SAID], ()),
    "a commit without a turn": ([OPEN, commit(0)], ()),
    "two questions at once": ([OPEN, TURN, TURN], ()),
    "a commit of nothing": ([OPEN, TURN, commit(0)], ()),
    "a commit of more": ([OPEN, TURN, SAID, commit(3202)], ()),
    "a commit of 2**64 - 1": ([OPEN, TURN, SAID, commit(2**64 - 1)], ()),
    "a gap": ([OPEN, TURN, SAID, audio(3202, b"\0\0")], ("audio.first_byte",)),
    "an overlap": ([OPEN, TURN, SAID, audio(3198, b"\0\0")], ("audio.first_byte",)),
    "no sound": ([OPEN, TURN, audio(0, b"")], ("audio.pcm",)),
    "half a sample": ([OPEN, TURN, audio(0, b"\0" * 3201)], ("audio.pcm",)),
    "a large piece": ([OPEN, TURN, audio(0, bytes(2**20 + 2))], ("audio.pcm",)),
    "a hot turn": (
        [OPEN, pb.ConverseRequest(turn=pb.OpenTurn(options={"sampling": {"text_temperature": 9}}))],
        ("options.sampling.text_temperature",),
    ),
    "a long name": (
        [OPEN, pb.ConverseRequest(turn=pb.OpenTurn(request_id="x" * 10**6))],
        ("request_id",),
    ),
}


@pytest.mark.parametrize("case", STEPS)
def test_a_step_that_cannot_stand_there_ends_its_call_alone(runner, front, case):
    steps, fields = STEPS[case]

    async def scene():
        found = await refused(await conversing(front, *steps))
        assert (found.code, found.reason, found.fields) == (BAD, "INVALID_REQUEST", fields)
        await front.answered()

    runner.run(scene())


def test_more_played_than_was_sent_is_refused(runner, front):
    async def scene():
        call = await conversing(front, OPEN, TURN, SAID, commit(3200))
        told = Told()
        while told.manifest is None:
            response = await call.read()
            if response.HasField("turn"):
                told.add(response.turn)
        await call.write(played(told.turn_id, told.manifest.samples))
        await call.write(played(told.turn_id, told.manifest.samples + 1))
        found = await refused(call)
        assert (found.code, found.reason) == (BAD, "INVALID_REQUEST")

    runner.run(scene())


def test_a_question_that_is_never_said_to_its_end_is_given_up(runner, front):
    """Slow callers: nothing after the first sound; nothing but the opening keeps no place."""

    async def scene():
        call = await conversing(front, OPEN, TURN, SAID)
        failed = [r.turn.failed async for r in _responses(call, until="failed") if r.turn.HasField("failed")]
        assert [one.reason for one in failed] == ["DEADLINE"]
        call.cancel()
        await front.at_rest()
        await front.answered()

    runner.run(scene())


async def _responses(call, until):
    while (response := await call.read()) is not grpc.aio.EOF:
        yield response
        if response.turn.WhichOneof("event") == until:
            return


def test_a_message_beyond_the_limit_is_refused(runner, front):
    """By gRPC itself, without a reason: clients know it by the missing ErrorInfo. Nothing of it is kept."""

    async def scene():
        size = 32 * 2**20
        before = front.resident
        for each in (5 * 2**20, size, size, size):
            found = await refused(front.stub.Ask(asking(bytes(each)), metadata=metadata()))
            assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "")
            assert "larger than max" in found.details
        assert front.resident - before < 2 * size  # what is on its way when it is refused
        await front.answered()

    runner.run(scene())


@pytest.mark.parametrize("raw", [b"\xff" * 64, b"\x22\xff\xff\xff\xff\x0f", b"\0" * 10**6], ids=len)
def test_bytes_that_are_no_message_are_refused(runner, front, raw):
    async def scene():
        given, channel = metadata(), front.channel
        talking = channel.stream_stream(f"{SERVICE}/Converse")(metadata=given, timeout=PATIENCE)
        await talking.write(raw)
        calls = [channel.unary_stream(f"{SERVICE}/{name}")(raw, metadata=given) for name in STREAMS]
        single = channel.unary_unary(f"{SERVICE}/Cancel")(raw, metadata=given)
        for call in (*calls, single, talking):
            found = await refused(call)
            assert (found.code, found.reason) == (BAD, "INVALID_REQUEST")
        await front.answered()

    runner.run(scene())


STREAMS = ("Ask", "Resume", "Replay")

CALLERS = {
    "nobody": ([], "FORBIDDEN", ()),
    "two at once": ([("x-aqaa-caller", "acme"), ("x-aqaa-caller", "other")], "INVALID_REQUEST", 1),
    "empty": ([("x-aqaa-caller", "")], "INVALID_REQUEST", 1),
    "capitals": ([("x-aqaa-caller", "ACME")], "INVALID_REQUEST", 1),
    "a key": ([("x-aqaa-caller", "acme}:{other")], "INVALID_REQUEST", 1),
    "a path": ([("x-aqaa-caller", "acme/../other")], "INVALID_REQUEST", 1),
    "a slash": ([("x-aqaa-caller", "acme/")], "INVALID_REQUEST", 1),
    "a glob": ([("x-aqaa-caller", "acme/*")], "INVALID_REQUEST", 1),
    "a list": ([("x-aqaa-caller", "acme,other")], "INVALID_REQUEST", 1),
    "a long name": ([("x-aqaa-caller", "a" * 4000)], "INVALID_REQUEST", 1),
    "other headers": (
        [("x-aqaa-tenant", "acme"), ("x-forwarded-user", "acme/alice"), ("authorization", "Bearer acme")],
        "FORBIDDEN",
        (),
    ),
    "binary": ([("x-aqaa-caller-bin", b"acme")], "FORBIDDEN", ()),
}  # fmt: skip


@pytest.mark.parametrize("case", CALLERS)
def test_who_does_not_say_who_he_is_gets_nothing(runner, front, case):
    given, reason, fields = CALLERS[case]
    fields = ("metadata.x-aqaa-caller",) if fields else ()

    async def scene():
        stub = front.stub
        ids = {"session_id": "a" * 26, "turn_id": "a" * 26}
        calls = [
            stub.Ask(asking(), metadata=given),
            stub.Resume(pb.ResumeRequest(**ids), metadata=given),
            stub.Cancel(pb.CancelRequest(**ids), metadata=given),
            stub.GetSession(pb.GetSessionRequest(session_id="a" * 26), metadata=given),
            stub.Replay(pb.ReplayRequest(**ids), metadata=given),
            await conversing(front, given=given),
        ]
        for call in calls:
            found = await refused(call)
            assert (found.reason, found.fields) == (reason, fields)
            assert "acme" not in found.details
        await front.answered()

    runner.run(scene())


NOISE = {
    "a trace of nobody": [("traceparent", "00-" + "0" * 32 + "-" + "0" * 16 + "-01")],
    "a broken trace": [("traceparent", "}{" * 200)],
    "two traces": [("traceparent", "00-" + "a" * 32 + "-" + "b" * 16 + "-01")] * 2,
    "a foreign trailer": [("grpc-status-details-bin", b"\xff" * 64)],
}


@pytest.mark.parametrize("case", NOISE)
def test_other_metadata_changes_nothing(runner, front, case):
    async def scene():
        undisturbed = await front.answered()
        call = front.stub.Ask(asking(), metadata=[*metadata(), *NOISE[case]], timeout=PATIENCE)
        assert (await hear(call)).whole == undisturbed.whole

    runner.run(scene())


def test_metadata_beyond_the_limit_is_refused(runner, front):
    async def scene():
        given = [*metadata(), *((f"x-{i}", "y" * 1000) for i in range(60))]
        found = await refused(front.stub.Ask(asking(), metadata=given))
        assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert found.reason == ""
        await front.answered()

    runner.run(scene())


INTRUDERS = [
    Caller("acme"), Caller("acme", "bob"), Caller("acme", "Alice"), Caller("acme", "alice."), Caller("other"),
    Caller("other", "alice"), Caller("acme-alice"),
]  # fmt: skip


@pytest.mark.parametrize("intruder", INTRUDERS, ids=str)
def test_another_callers_session_does_not_exist(runner, front, intruder):
    """In every call, and in the very words that are said of a session that never was."""

    async def scene():
        told = await front.answered(request_id=f"mine-{intruder}")
        session, turn, nobody = told.opened.session_id, told.turn_id, "z" * 26

        def calls(session, turn):
            stub, given = front.stub, {"metadata": metadata(intruder)}
            ids = {"session_id": session, "turn_id": turn}
            return [
                stub.Ask(asking(session_id=session), **given),
                stub.Resume(pb.ResumeRequest(**ids, last_sequence=1, next_sample=8640), **given),
                stub.Resume(pb.ResumeRequest(**ids), **given),
                stub.Cancel(pb.CancelRequest(**ids, played_samples=1), **given),
                stub.GetSession(pb.GetSessionRequest(session_id=session), **given),
                stub.Replay(pb.ReplayRequest(**ids), **given),
            ]

        async def opened(session):
            opening = pb.ConverseRequest(open=pb.OpenConversation(session_id=session, format=FORMAT))
            return await conversing(front, opening, given=metadata(intruder))

        owned = pb.GetSessionRequest(session_id=session)
        kept = await front.stub.GetSession(owned, metadata=metadata())
        before = await front.keys()
        for mine, none in zip(
            [*calls(session, turn), await opened(session)],
            [*calls(nobody, nobody), await opened(nobody)],
            strict=True,
        ):
            found, nothing = await refused(mine), await refused(none)
            assert (found.code, found.reason, found.fields) == (STRANGE, "NOT_FOUND", ())
            said, heard = (re.sub(r"[a-z0-9]{26}", "ID", one.details) for one in (found, nothing))
            assert said == heard
        await ignored(front, intruder, turn)
        assert await front.stub.GetSession(owned, metadata=metadata()) == kept
        other = await hear(
            front.stub.Ask(
                asking(pcm(0.5, seed=5), request_id=f"mine-{intruder}"), metadata=metadata(intruder)
            )
        )
        assert other.opened.session_id != session
        assert other.sound != told.sound
        await front.answered(ALICE, session_id=session)
        assert {key for key in before if session.encode() in key} <= await front.keys()

    runner.run(scene())


async def ignored(front, caller, turn):
    """What a conversation says of a turn that is not its own changes nothing and is not answered."""
    cancel = pb.ConverseRequest(cancel=pb.CancelTurn(turn_id=turn, played_samples=1))
    call = await conversing(front, OPEN, cancel, played(turn, 1), given=metadata(caller))
    await call.done_writing()
    assert (await call.read()).HasField("opened")
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK

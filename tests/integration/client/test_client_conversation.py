"""Conversations: questions arrive whole and answers come whole, whatever becomes of the call for both."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from client_cases import RATE, SESSION, Fault, Script, in_loop, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from aqaa.client import AnswerAudio, EndReason, Manifest, Patience, TurnOpened
from aqaa.errors import (
    Cancelled,
    CapacityError,
    Draining,
    Forbidden,
    InvalidAudio,
    InvalidRequest,
    LogLost,
    Unavailable,
)

QUESTION = np.linspace(-0.5, 0.5, 4000, dtype=np.float32)
SCRIPT = Script()
EVENTS = len(SCRIPT.events())


async def said(conversation, question=QUESTION, pieces=4, **given):
    """A turn whose question is over."""
    turn = await conversation.turn(**given)
    for piece in np.array_split(question, pieces):
        await turn.push(piece)
    await turn.commit()
    return turn


@asynccontextmanager
async def conversing(*faults, **told):
    """A scripted orchestrator and a conversation with it."""
    async with serving(*faults, **told) as served, served.client.converse(16000) as conversation:
        yield served, conversation


def questions(served) -> list[bytes]:
    return list(served.orchestrator.questions.values())


@in_loop
async def test_a_turn_is_a_question_and_its_answer():
    async with conversing() as (served, conversation):
        assert conversation.session_id == SESSION
        turn = await said(conversation, request_id="r1")
        np.testing.assert_array_equal(await turn.pcm(), SCRIPT.pcm)
        assert (turn.text, turn.opened.sample_rate) == (SCRIPT.text, RATE)
        assert served.orchestrator.questions == {"r1": QUESTION.tobytes()}
        assert served.orchestrator.steps[:3] == ["open", "turn", "audio"]
        assert served.orchestrator.steps[-1] == "commit"
    assert turn.question == b""
    assert [name for name, _ in served.orchestrator.calls] == ["Converse"]


@in_loop
async def test_questions_may_be_int16_and_travel_as_such():
    pcm = np.arange(-100, 100, dtype=np.int16)
    async with serving() as served, served.client.converse(8000, dtype=np.int16) as conversation:
        await (await said(conversation, pcm)).pcm()
        assert questions(served) == [pcm.tobytes()]


@in_loop
async def test_a_long_question_is_sent_in_pieces_of_whole_samples():
    pcm = np.zeros(300_000, np.float32)
    async with serving() as served, served.client.converse(48000) as conversation:
        await (await said(conversation, pcm, pieces=1)).pcm()
        assert questions(served) == [pcm.tobytes()]
        assert served.orchestrator.steps.count("audio") == 5


@in_loop
async def test_many_turns_of_one_conversation():
    async with serving() as served, served.client.converse(16000, session_id=SESSION) as conversation:
        for _ in range(3):
            np.testing.assert_array_equal(await (await said(conversation)).pcm(), SCRIPT.pcm)
        assert questions(served) == [QUESTION.tobytes()] * 3


@in_loop
async def test_what_stands_in_the_wrong_place_is_refused():
    async with conversing() as (_, conversation):
        turn = await conversation.turn()
        with pytest.raises(InvalidRequest, match="last question"):
            await conversation.turn()
        with pytest.raises(InvalidAudio, match="empty"):
            await turn.commit()
        with pytest.raises(InvalidAudio, match="shape"):
            await turn.push(np.zeros((3, 2)))
        await turn.push(QUESTION)
        await turn.commit()
        with pytest.raises(InvalidRequest, match="over"):
            await turn.push(QUESTION)
        with pytest.raises(InvalidRequest, match="over"):
            await turn.commit()
        await turn.pcm()
    with pytest.raises(InvalidRequest, match="closed"):
        await conversation.turn()


@in_loop
async def test_a_conversation_that_is_refused_raises_when_it_is_entered():
    no = Fault("door", error=Forbidden("not here"))
    async with serving(no) as served:
        with pytest.raises(Forbidden, match="not here"):
            async with served.client.converse(16000):
                pass


@in_loop
async def test_a_conversation_waits_for_its_place_in_bounds():
    full = Fault("door", error=CapacityError("full", retry_after=2.0))
    async with (
        serving(full, Fault("door", error=Draining("going"))) as served,
        served.client.converse(16000) as conversation,
    ):
        np.testing.assert_array_equal(await (await said(conversation)).pcm(), SCRIPT.pcm)
        assert served.waits.seconds[0] >= 2.0
    async with serving(*[full] * 9, patience=Patience(attempts=3)) as served:
        with pytest.raises(CapacityError):
            async with served.client.converse(16000):
                pass
        assert len(served.orchestrator.calls) == 3


@pytest.mark.parametrize("after", range(1, 6))
@in_loop
async def test_a_question_is_said_again_from_its_beginning_until_it_is_safe(after):
    async with (
        serving(Fault("deaf", after), Fault("deaf", after)) as served,
        served.client.converse(16000) as conversation,
    ):
        turn = await said(conversation, request_id="r1")
        np.testing.assert_array_equal(await turn.pcm(), SCRIPT.pcm)
        assert served.orchestrator.questions == {"r1": QUESTION.tobytes()}


@pytest.mark.parametrize("after", range(1, EVENTS))
@in_loop
async def test_an_answer_goes_on_when_the_conversation_breaks(after):
    async with conversing(Fault("drop", after)) as (served, conversation):
        turn = await said(conversation)
        np.testing.assert_array_equal(await turn.pcm(), SCRIPT.pcm)
        calls = [name for name, _ in served.orchestrator.calls]
        assert calls == (["Converse", "Converse"] if after < 2 else ["Converse", "Resume"])
        # and the next turn opens another call
        np.testing.assert_array_equal(await (await said(conversation)).pcm(), SCRIPT.pcm)


@in_loop
async def test_a_turn_that_failed_and_may_be_mended_is_resumed():
    async with (
        serving(Fault("error", 8, error=Unavailable("vocoder"))) as served,
        served.client.converse(16000) as conversation,
    ):
        np.testing.assert_array_equal(await (await said(conversation)).pcm(), SCRIPT.pcm)
        assert len(served.orchestrator.named("Converse")) == 1


@in_loop
async def test_a_turn_that_failed_for_good_raises_why_and_the_conversation_goes_on():
    async with (
        serving(Fault("fatal", 8, error=LogLost("gone"))) as served,
        served.client.converse(16000) as conversation,
    ):
        turn = await said(conversation)
        with pytest.raises(LogLost, match="gone"):
            await turn.pcm()
        assert conversation.linked


@in_loop
async def test_a_question_that_found_no_place_is_asked_again():
    async with (
        serving(Fault("fatal", 1, error=CapacityError("full"))) as served,
        served.client.converse(16000) as conversation,
    ):
        turn = await said(conversation, request_id="r1")
        np.testing.assert_array_equal(await turn.pcm(), SCRIPT.pcm)
        assert len(served.orchestrator.named("Converse")) == 2
        assert max(served.waits.seconds) >= 1.0


@in_loop
async def test_a_conversation_that_cannot_be_had_again_fails_its_question_and_not_the_next():
    drops = [Fault("deaf", 2), *[Fault("door", error=Draining("going"))] * 2]
    async with (
        serving(*drops, patience=Patience(attempts=3)) as served,
        served.client.converse(16000) as conversation,
    ):
        turn = await said(conversation)
        with pytest.raises(Draining):
            await turn.pcm()
        with pytest.raises(Draining):
            await turn.push(QUESTION)
        np.testing.assert_array_equal(await (await said(conversation)).pcm(), SCRIPT.pcm)


@in_loop
async def test_barge_in_silences_the_answer_and_the_next_question_follows():
    async with conversing(hold=8) as (served, conversation):
        turn = await said(conversation)
        heard = [await anext(turn) for _ in range(7)]
        assert sum(isinstance(event, AnswerAudio) for event in heard) == 1
        assert await turn.cancel(played_samples=120) is EndReason.CANCELLED
        assert [type(event) async for event in turn] == [Manifest]
        ((_, request),) = [call for call in served.orchestrator.calls if call[0] == "CancelTurn"]
        assert (request.turn_id, request.played_samples) == (SCRIPT.turn_id(), 120)
        served.orchestrator.cancelled.clear()
        np.testing.assert_array_equal(await (await said(conversation)).pcm(), SCRIPT.pcm)


@in_loop
async def test_an_answer_that_newer_speech_has_ended_is_over():
    async with conversing(hold=8) as (served, conversation):
        turn = await said(conversation)
        for _ in range(7):
            await anext(turn)
        served.orchestrator.cancelled.set()
        served.orchestrator.go.set()
        *_, last = [event async for event in turn]
        assert last.reason is EndReason.CANCELLED
        assert served.orchestrator.named("Resume") == []


@in_loop
async def test_a_turn_that_the_server_never_heard_of_is_cancelled_at_once():
    async with conversing() as (served, conversation):
        turn = await conversation.turn()
        assert await turn.cancel() is EndReason.CANCELLED
        with pytest.raises(Cancelled):
            await anext(turn)
        np.testing.assert_array_equal(await (await said(conversation)).pcm(), SCRIPT.pcm)
        assert served.orchestrator.named("Cancel") == []


@in_loop
async def test_a_question_that_is_cancelled_midway_is_ended_and_another_may_follow():
    async with conversing() as (served, conversation):
        turn = await conversation.turn()
        await turn.push(QUESTION)
        assert isinstance(await anext(turn), TurnOpened)
        served.orchestrator.hold = 0  # it is answered only once it is cancelled
        assert await turn.cancel() is EndReason.CANCELLED
        served.orchestrator.hold = None
        served.orchestrator.cancelled.clear()
        np.testing.assert_array_equal(await (await said(conversation)).pcm(), SCRIPT.pcm)


@in_loop
async def test_an_answer_on_its_own_call_is_cancelled_by_a_call():
    async with conversing(Fault("drop", 5), hold=8) as (served, conversation):
        turn = await said(conversation)
        for _ in range(7):
            await anext(turn)
        assert await turn.cancel(played_samples=7) is EndReason.CANCELLED
        (request,) = served.orchestrator.named("Cancel")
        assert request.played_samples == 7
        served.orchestrator.go.set()
        assert [type(event) async for event in turn] == [Manifest]


@in_loop
async def test_what_was_played_is_told_and_never_of_another_call():
    async with conversing(hold=9) as (served, conversation):
        turn = await said(conversation)
        for _ in range(8):
            await anext(turn)
        await turn.played(100)
        await turn.played(240)
        with pytest.raises(ValueError, match="as received"):
            await turn.played(721)
        served.orchestrator.go.set()
        await turn.pcm()
        while 240 not in served.orchestrator.played:
            await asyncio.sleep(0)
        assert served.orchestrator.played in ([100, 240], [240])
    async with conversing(Fault("drop", 8)) as (served, conversation):
        turn = await said(conversation)
        await turn.pcm()
        other = await said(conversation)
        await turn.played(100)
        await other.pcm()
        assert served.orchestrator.played == []


@in_loop
async def test_a_player_is_asked_how_far_it_is():
    class Speaker:
        played_samples = 0

    speaker = Speaker()
    patient = Patience(answer_seconds=1e9)  # the clock runs while acknowledgements pause
    async with conversing(patience=patient) as (served, conversation):
        turn = await said(conversation, player=speaker)
        async for event in turn:
            if isinstance(event, AnswerAudio):
                speaker.played_samples += len(event.pcm)
        while len(SCRIPT.pcm) not in served.orchestrator.played:
            await asyncio.sleep(0)
        assert served.orchestrator.played == sorted(set(served.orchestrator.played))


@in_loop
async def test_a_silent_conversation_is_left_for_another_call():
    patience = Patience(idle_seconds=2.0)
    async with (
        serving(Fault("hang", 8), patience=patience) as served,
        served.client.converse(16000) as conversation,
    ):
        turn = await said(conversation)
        np.testing.assert_array_equal(await turn.pcm(), SCRIPT.pcm)
        assert len(served.orchestrator.named("Resume")) == 1
    async with (
        serving(Fault("hang", 1), patience=patience) as served,
        served.client.converse(16000) as conversation,
    ):  # before the question is safe
        turn = await said(conversation, request_id="r1")
        np.testing.assert_array_equal(await turn.pcm(), SCRIPT.pcm)
        assert len(served.orchestrator.named("Converse")) == 2


@in_loop
async def test_a_conversation_that_closes_leaves_nothing_running():
    async with serving(hold=8) as served:
        conversation = served.client.converse(16000)
        async with conversation:
            turn = await said(conversation)
            for _ in range(8):
                await anext(turn)
        with pytest.raises(Cancelled, match="closed"):
            await turn.pcm()
        running = [task for task in asyncio.all_tasks() if "aqaa/client/" in repr(task)]
        assert running == []


CODES = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED]
FAULTS = st.one_of(
    st.builds(Fault, st.sampled_from(["drop", "deaf"]), st.integers(1, EVENTS), code=st.sampled_from(CODES)),
    st.builds(Fault, st.just("error"), st.integers(2, EVENTS), error=st.just(Unavailable("away"))),
)


@settings(max_examples=12, deadline=None)
@given(st.lists(FAULTS, max_size=5), st.integers(1, 6))
def test_whatever_befalls_a_conversation_question_and_answer_arrive_whole(faults, pieces):
    @in_loop
    async def talk() -> None:
        async with conversing(*faults) as (served, conversation):
            for name in ("r1", "r2"):
                turn = await said(conversation, pieces=pieces, request_id=name)
                heard = []
                async for event in turn:  # nothing is damaged: no error
                    heard += [event.pcm] if isinstance(event, AnswerAudio) else []
                np.testing.assert_array_equal(np.concatenate(heard), SCRIPT.pcm)
                assert served.orchestrator.questions[name] == QUESTION.tobytes()

    talk()

"""Asking: whatever becomes of the calls, the sound handed out is the sound that was made, or an error."""

import asyncio

import grpc
import numpy as np
import pytest
from client_cases import RATE, SESSION, Fault, Script, in_loop, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from aqaa.client import (
    AnswerAudio,
    AnswerText,
    EndReason,
    Manifest,
    Patience,
    Position,
    QuestionCommitted,
    SegmentStarted,
    StartMode,
    Transcript,
    TurnOpened,
    TurnOptions,
)
from aqaa.errors import (
    AqaaError,
    CapacityError,
    Deadline,
    DeliveryBroken,
    Draining,
    InvalidAudio,
    InvalidRequest,
    LogLost,
    NotFound,
    Superseded,
    Unavailable,
)
from aqaa.v1 import audio_pb2, tokens_pb2

QUESTION = np.linspace(-0.5, 0.5, 4000, dtype=np.float32)
SCRIPT = Script()
EVENTS = len(SCRIPT.events())

CODES = [
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
]


@in_loop
async def test_an_answer_has_every_event_once_and_its_sound_bit_for_bit():
    async with serving() as served:
        answer = served.client.ask(QUESTION, 16000)
        events = [event async for event in answer]
    kinds = [type(event) for event in events]
    assert kinds[:3] == [TurnOpened, QuestionCommitted, Transcript]
    assert kinds[3:] == [
        *(SegmentStarted, AnswerText, AnswerText, AnswerAudio, AnswerAudio, AnswerAudio),
        *(SegmentStarted, AnswerText, AnswerText, AnswerAudio, AnswerAudio, Manifest),
    ]
    assert (answer.text, answer.manifest.text) == (SCRIPT.text, SCRIPT.text)
    np.testing.assert_array_equal(await answer.pcm(), SCRIPT.pcm)
    chunk = events[6]
    assert (chunk.sequence, chunk.first_sample, chunk.sample_rate, chunk.seconds) == (1, 0, RATE, 0.01)
    assert chunk.samples.dtype == np.float32
    assert answer.manifest.reason is EndReason.STOP
    assert answer.opened.sample_rate == RATE
    assert (answer.resumed, served.waits.seconds) == (0, [])


@in_loop
async def test_the_request_says_what_was_asked_and_how():
    options = TurnOptions(seed=7, start_mode=StartMode.TEXT, text_temperature=0.0, omit_transcript=True)
    stereo = np.array([[1, -2], [3, -4]], np.int16)
    async with serving() as served:
        await served.client.ask(QUESTION, 48000, session_id=SESSION, request_id="r1", options=options).pcm()
        await served.client.ask(stereo, 8000).pcm()
        first, second = served.orchestrator.named("Ask")
    assert (first.session_id, first.request_id, first.pcm) == (SESSION, "r1", QUESTION.tobytes())
    assert first.format.encoding == audio_pb2.AUDIO_ENCODING_PCM_F32LE
    assert (first.format.sample_rate_hz, first.format.channels) == (48000, 1)
    assert (first.options.seed, first.options.start_mode) == (7, tokens_pb2.START_MODE_TEXT)
    assert first.options.sampling.text_temperature == 0
    assert first.options.sampling.HasField("text_temperature")
    assert not first.options.sampling.HasField("audio_top_p")
    assert first.options.omit_transcript
    assert second.format.encoding == audio_pb2.AUDIO_ENCODING_PCM_S16LE
    assert (second.format.channels, second.pcm) == (2, stereo.tobytes())
    assert 1 <= len(second.request_id) <= 64
    assert not second.options.HasField("seed")


@in_loop
async def test_a_question_that_cannot_be_sent_is_refused_before_any_call():
    async with serving() as served:
        for audio, rate in (
            (QUESTION, 7999),
            (QUESTION, 48001),
            (QUESTION, None),
            (QUESTION[:0], 16000),
            (np.zeros((4, 3)), 16000),
            (np.zeros(4, np.int32), 16000),
            (np.array([0.0, np.nan]), 16000),
            (np.zeros(1_100_000), 48000),
        ):
            with pytest.raises(InvalidAudio):
                served.client.ask(audio, rate)
        with pytest.raises(InvalidRequest, match="65 characters"):
            served.client.ask(QUESTION, 16000, request_id="r" * 65)
        assert served.orchestrator.calls == []


@pytest.mark.parametrize("after", range(EVENTS))
@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
@in_loop
async def test_a_call_that_drops_after_any_event_is_taken_up_again(after, code):
    async with serving(Fault("drop", after, code=code)) as served:
        answer = served.client.ask(QUESTION, 16000)
        np.testing.assert_array_equal(await answer.pcm(), SCRIPT.pcm)
        calls = [name for name, _ in served.orchestrator.calls]
    assert calls == (["Ask", "Ask"] if after < 2 else ["Ask", "Resume"])  # until committed, or from there on
    assert answer.text == SCRIPT.text
    assert answer.resumed == 1
    assert served.waits.seconds == [0.2]


@in_loop
async def test_a_repeated_question_has_the_same_id_and_sound_and_resume_says_what_came():
    drops = Fault("drop", 1), Fault("drop", 8), Fault("drop", 3)
    async with serving(*drops) as served:
        answer = served.client.ask(QUESTION, 16000)
        np.testing.assert_array_equal(await answer.pcm(), SCRIPT.pcm)
        asks, resumes = served.orchestrator.named("Ask"), served.orchestrator.named("Resume")
    assert asks[0] == asks[1]
    assert asks[0].request_id
    assert (resumes[0].session_id, resumes[0].turn_id) == (SESSION, SCRIPT.turn_id())
    assert (resumes[0].last_sequence, resumes[0].next_sample) == (2, 240 + 480)
    assert [(text.segment, text.bytes) for text in resumes[0].text] == [(0, len("Hello, wörld.".encode()))]


@in_loop
async def test_the_question_is_kept_until_it_is_committed_and_no_longer():
    async with serving() as served:
        answer = served.client.ask(QUESTION, 16000)
        while not isinstance(await anext(answer), QuestionCommitted):
            assert answer._first is not None
        assert answer._first is None
        await answer.aclose()


@pytest.mark.parametrize("error", [Unavailable("away"), Draining("going")], ids=lambda error: error.reason)
@in_loop
async def test_what_the_service_calls_unavailable_is_tried_again(error):
    async with serving(Fault("error", 0, error=error), Fault("error", 5, error=error)) as served:
        np.testing.assert_array_equal(await served.client.ask(QUESTION, 16000).pcm(), SCRIPT.pcm)
    assert len(served.waits.seconds) == 2


@in_loop
async def test_overload_is_waited_out_for_as_long_as_it_asks():
    full = Fault("error", 0, error=CapacityError("full", retry_after=3.0))
    async with serving(full, full) as served:
        np.testing.assert_array_equal(await served.client.ask(QUESTION, 16000).pcm(), SCRIPT.pcm)
    assert all(seconds >= 3.0 for seconds in served.waits.seconds)
    assert len(served.waits.seconds) == 2


@in_loop
async def test_a_turn_that_was_let_in_and_found_no_place_is_over():
    async with serving(Fault("error", 3, error=CapacityError("no runner", retry_after=2.0))) as served:
        with pytest.raises(CapacityError) as found:
            await served.client.ask(QUESTION, 16000).pcm()
        assert len(served.orchestrator.calls) == 1
    assert found.value.retry_after == 2.0


@in_loop
async def test_overload_that_outlasts_the_deadline_is_told_at_once():
    full = Fault("error", 0, error=CapacityError("full", retry_after=30.0))
    async with serving(full, patience=Patience(answer_seconds=20)) as served:
        with pytest.raises(CapacityError) as found:
            await served.client.ask(QUESTION, 16000).pcm()
    assert found.value.retry_after == 30.0
    assert served.waits.seconds == []


@in_loop
async def test_attempts_end_and_pauses_grow_to_their_bound():
    patience = Patience(attempts=6, first_wait=0.5, longest_wait=2.0)
    async with serving(*[Fault("drop", 0)] * 9, patience=patience) as served:
        answer = served.client.ask(QUESTION, 16000)
        with pytest.raises(Unavailable):
            await answer.pcm()
        with pytest.raises(Unavailable):  # and it stays so
            await anext(answer)
        assert len(served.orchestrator.calls) == 6
    assert served.waits.seconds == [0.5, 1.0, 2.0, 2.0, 2.0]


@in_loop
async def test_each_attempt_that_brings_something_gives_new_ones():
    # the first chunk, then the second one alone, then nothing that had not come before
    drops = [Fault("drop", 7), Fault("drop", 5), Fault("drop", 3)]
    async with serving(*drops, patience=Patience(attempts=2)) as served:
        answer = served.client.ask(QUESTION, 16000)
        with pytest.raises(Unavailable) as found:
            await answer.pcm()
    assert found.value.metadata["missing"] == "chunk:3,sample:720"
    assert len(served.orchestrator.calls) == 3


@in_loop
async def test_a_stream_without_manifest_is_an_error_once_the_attempts_end():
    ends = [Fault("end", EVENTS - 1), *[Fault("end", 4)] * 9]
    async with serving(*ends, patience=Patience(attempts=3)) as served:
        answer = served.client.ask(QUESTION, 16000)
        with pytest.raises(DeliveryBroken, match="manifest") as found:
            await answer.pcm()
    assert found.value.metadata["missing"] == f"chunk:6,sample:{len(SCRIPT.pcm)}"
    assert answer.manifest is None


@in_loop
async def test_a_missing_manifest_is_fetched_by_resume():
    async with serving(Fault("end", EVENTS - 1)) as served:
        np.testing.assert_array_equal(await served.client.ask(QUESTION, 16000).pcm(), SCRIPT.pcm)


@pytest.mark.parametrize("kind", ["corrupt", "roll", "skip"])
@in_loop
async def test_a_violated_contract_says_what_is_missing(kind):
    async with serving(Fault(kind, 7)) as served:  # the second chunk
        answer = served.client.ask(QUESTION, 16000)
        with pytest.raises(DeliveryBroken) as found:
            await answer.pcm()
    assert found.value.metadata["missing"] == "chunk:2,sample:240"
    assert "from sample 240 on" in str(found.value)
    assert answer.position.next_sample == 240
    assert len(served.orchestrator.calls) == 1


@in_loop
async def test_an_answer_can_be_taken_up_elsewhere_from_its_position():
    async with serving(Fault("corrupt", 7)) as served:
        answer = served.client.ask(QUESTION, 16000)
        with pytest.raises(DeliveryBroken):
            await answer.pcm()
        rest = await served.client.resume(answer.position).pcm()
        again = await served.client.resume(Position(SESSION, SCRIPT.turn_id())).pcm()
    np.testing.assert_array_equal(rest, SCRIPT.pcm[240:])
    np.testing.assert_array_equal(again, SCRIPT.pcm)


@in_loop
async def test_a_turn_of_somebody_else_is_not_found():
    async with serving() as served:
        with pytest.raises(NotFound):
            await served.client.resume(Position(SESSION, "x" * 26)).pcm()
    assert served.waits.seconds == []


@in_loop
async def test_a_stream_gives_way_quietly_to_a_newer_one_of_this_client():
    superseded = Fault("error", 8, error=Superseded("taken over"))
    async with serving(superseded, hold=8) as served:
        old = served.client.ask(QUESTION, 16000)
        heard = [await anext(old) for _ in range(8)]
        new = served.client.resume(old.position)
        served.orchestrator.go.set()
        assert [event async for event in old] == []
        assert old.superseded
        with pytest.raises(Superseded):
            await old.pcm()
        rest = await new.pcm()
    first = np.concatenate([event.pcm for event in heard if isinstance(event, AnswerAudio)])
    np.testing.assert_array_equal(np.concatenate([first, rest]), SCRIPT.pcm)
    assert len(served.orchestrator.calls) == 2


@in_loop
async def test_a_stream_that_breaks_does_not_take_the_turn_back_from_a_newer_one():
    async with serving(Fault("drop", 8), hold=8) as served:
        old = served.client.ask(QUESTION, 16000)
        for _ in range(8):
            await anext(old)
        new = served.client.resume(old.position)
        served.orchestrator.go.set()
        assert [event async for event in old] == []
        assert old.superseded
        await new.pcm()
    assert len(served.orchestrator.calls) == 2


@in_loop
async def test_a_stream_that_somebody_else_took_over_says_so():
    async with serving(Fault("error", 8, error=Superseded("taken over"))) as served:
        with pytest.raises(Superseded):
            await served.client.ask(QUESTION, 16000).pcm()
    assert len(served.orchestrator.calls) == 1


@in_loop
async def test_a_call_that_hangs_is_given_up_and_taken_up_again():
    async with serving(Fault("hang", 8), patience=Patience(idle_seconds=2.0)) as served:
        answer = served.client.ask(QUESTION, 16000)
        np.testing.assert_array_equal(await answer.pcm(), SCRIPT.pcm)


@in_loop
async def test_an_answer_has_a_deadline():
    async with serving(Fault("hang", 8), patience=Patience(answer_seconds=3.0)) as served:
        with pytest.raises(Deadline) as found:
            await served.client.ask(QUESTION, 16000).pcm()
    assert found.value.metadata["missing"] == "chunk:3,sample:720"


@in_loop
async def test_a_consumer_that_is_cancelled_loses_nothing():
    async with serving(hold=8) as served:
        answer = served.client.ask(QUESTION, 16000)
        heard = [await anext(answer) for _ in range(8)]
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(answer)
        served.orchestrator.go.set()
        heard += [event async for event in answer]
        np.testing.assert_array_equal(await answer.pcm(), SCRIPT.pcm)
    assert len(heard) == EVENTS
    assert answer.resumed == 0


@in_loop
async def test_an_answer_has_one_consumer_at_a_time():
    async with serving(hold=0) as served:
        answer = served.client.ask(QUESTION, 16000)
        first = asyncio.ensure_future(anext(answer))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one consumer"):
            await anext(answer)
        served.orchestrator.go.set()
        assert isinstance(await first, TurnOpened)


@in_loop
async def test_cancel_silences_the_answer_and_tells_what_was_heard():
    async with serving(hold=8) as served:
        answer = served.client.ask(QUESTION, 16000)
        for _ in range(7):
            await anext(answer)
        assert await answer.cancel(played_samples=100) is EndReason.CANCELLED
        served.orchestrator.go.set()
        rest = [event async for event in answer]
        (request,) = served.orchestrator.named("Cancel")
    assert [type(event) for event in rest] == [Manifest]
    assert answer.manifest.reason is EndReason.CANCELLED
    assert (request.turn_id, request.played_samples) == (SCRIPT.turn_id(), 100)


@in_loop
async def test_cancel_before_anything_is_read_waits_for_the_turn_to_open():
    async with serving() as served:
        answer = served.client.ask(QUESTION, 16000)
        assert await answer.cancel() is EndReason.CANCELLED
        (request,) = served.orchestrator.named("Cancel")
    assert not request.HasField("played_samples")


@in_loop
async def test_a_turn_that_failed_raises_why():
    script = Script(reason=tokens_pb2.END_REASON_FAILED)
    async with serving(Fault("error", EVENTS, error=LogLost("the log is gone")), script=script) as served:
        answer = served.client.ask(QUESTION, 16000)
        with pytest.raises(LogLost, match="the log is gone"):
            await answer.pcm()
        with pytest.raises(AqaaError, match="could not be completed"):
            await served.client.ask(QUESTION, 16000).pcm()
    assert answer.manifest.reason is EndReason.FAILED


@in_loop
async def test_replay_is_made_again_from_its_beginning_and_gives_nothing_twice():
    async with serving(Fault("drop", 8), Fault("drop", 10)) as served:
        replay = served.client.replay(SESSION, SCRIPT.turn_id())
        np.testing.assert_array_equal(await replay.pcm(), SCRIPT.pcm)
        assert [name for name, _ in served.orchestrator.calls] == ["Replay"] * 3


@in_loop
async def test_sessions_are_told():
    async with serving() as served:
        session = await served.client.session(SESSION)
        assert await served.client.cancel(SESSION, "t", played_samples=3) is EndReason.CANCELLED
        with pytest.raises(NotFound):
            await served.client.session("other")
    (turn,) = session.turns
    assert (turn.heard_text, turn.heard_estimated, turn.reason) == ("Hel", True, EndReason.STOP)


@in_loop
async def test_a_client_that_closes_closes_what_it_has_opened():
    async with serving(hold=4) as served:
        answer = served.client.ask(QUESTION, 16000)
        await anext(answer)
        await served.client.aclose()
        assert [event async for event in answer] == []
        with pytest.raises(DeliveryBroken):
            await answer.pcm()


DAMAGE = ["corrupt", "roll", "skip"]
FAULTS = st.builds(
    Fault,
    st.sampled_from(["drop", "error", "end", "repeat", "rewind", *DAMAGE]),
    st.integers(0, EVENTS),
    code=st.sampled_from(CODES),
    error=st.sampled_from([Unavailable("away"), Draining("going"), CapacityError("full", retry_after=1.0)]),
)
SCRIPTS = st.builds(
    lambda pieces, seed: Script(
        tuple(texts for texts, _ in pieces), tuple(sizes for _, sizes in pieces), seed
    ),
    st.lists(
        st.tuples(
            st.lists(st.text("aé語 ", min_size=1, max_size=4), max_size=3).map(tuple),
            st.lists(st.integers(1, 700), max_size=4).map(tuple),
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(0, 99),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(FAULTS, max_size=5), SCRIPTS)
def test_whatever_befalls_the_calls_the_sound_is_exact_or_an_error_is_raised(faults, script):
    @in_loop
    async def ask() -> None:
        async with serving(*faults, script=script) as served:
            answer = served.client.ask(QUESTION, 16000)
            heard, texts, error = [], [], None
            try:
                async for event in answer:
                    if isinstance(event, AnswerAudio):
                        heard.append(event.pcm)
                    if isinstance(event, AnswerText):
                        texts.append(event.text)
            except AqaaError as raised:
                error = raised
        pcm = np.concatenate([np.empty(0, np.int16), *heard])
        np.testing.assert_array_equal(pcm, script.pcm[: len(pcm)])  # never wrong, never doubled
        assert script.text.startswith("".join(texts)) or error
        if error is None:
            assert len(pcm) == len(script.pcm)
            assert "".join(texts) == script.text
            assert answer.manifest.samples == len(pcm)
        else:
            # damage is beyond repair, and so is the end of a turn that was let in; breaks alone are mended
            beyond = [fault for fault in faults if fault.kind in DAMAGE or type(fault.error) is CapacityError]
            assert beyond, error

    ask()

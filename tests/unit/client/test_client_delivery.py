"""The delivery contract: what is given was checked, and what is missing is named."""

import google_crc32c
import numpy as np
import pytest

from aqaa.client.delivery import Delivery, Position
from aqaa.client.events import (
    AnswerAudio,
    AnswerText,
    Codes,
    EndReason,
    Manifest,
    SegmentStarted,
    TextIds,
    TurnOpened,
    TurnTokens,
    manifest_of,
)
from aqaa.errors import DeliveryBroken
from aqaa.v1 import orchestrator_pb2, tokens_pb2
from aqaa.v1.audio_pb2 import AnswerAudio as AudioMessage
from aqaa.v1.orchestrator_pb2 import AnswerText as TextMessage
from aqaa.v1.orchestrator_pb2 import QuestionCommitted, SegmentSummary, TurnEvent, TurnManifest
from aqaa.v1.orchestrator_pb2 import TurnOpened as OpenedMessage

TURN = "t" * 26
FIRST, SECOND = b"\1\0\2\0", b"\3\0"
STOP, CANCELLED = tokens_pb2.END_REASON_STOP, tokens_pb2.END_REASON_CANCELLED


def opened(turn_id: str = TURN, **fields: object) -> TurnEvent:
    said = {"session_id": "s", "sample_rate_hz": 24000, "bundle_digest": "b", "seed": 1, **fields}
    return TurnEvent(turn_id=turn_id, opened=OpenedMessage(**said))


def chunk(sequence: int, pcm: bytes, first_sample: int, before: bytes = b"", **fields: object) -> TurnEvent:
    said = {
        "sequence": sequence,
        "first_sample": first_sample,
        "pcm": pcm,
        "crc32c": google_crc32c.value(pcm),
        "turn_crc32c": google_crc32c.value(before + pcm),
        **fields,
    }
    return TurnEvent(turn_id=TURN, audio=AudioMessage(**said))


def text(piece: str, first_byte: int, segment: int = 0) -> TurnEvent:
    return TurnEvent(turn_id=TURN, text=TextMessage(segment=segment, text=piece, first_byte=first_byte))


def start(segment: int) -> TurnEvent:
    return TurnEvent(turn_id=TURN, segment_start=tokens_pb2.SegmentStart(segment=segment, style="soft"))


def manifest(chunks: int, samples: int, pcm: bytes, reason: int = STOP, **fields: object) -> TurnEvent:
    crc = google_crc32c.value(pcm)
    made = TurnManifest(reason=reason, chunks=chunks, samples=samples, turn_crc32c=crc, **fields)
    return TurnEvent(turn_id=TURN, manifest=made)


def taken(*events: TurnEvent, start: Position | None = None) -> Delivery:
    delivery = Delivery(start)
    for event in events:
        delivery.take(event)
    return delivery


def test_chunks_become_read_only_samples_with_their_place():
    delivery = taken(opened(), chunk(1, FIRST, 0))
    event = delivery.take(chunk(2, SECOND, 2, FIRST))
    assert isinstance(event, AnswerAudio)
    assert (event.sequence, event.first_sample, event.sample_rate) == (2, 2, 24000)
    np.testing.assert_array_equal(event.pcm, [3])
    with pytest.raises(ValueError, match="read-only"):
        event.pcm[0] = 1


@pytest.mark.parametrize(
    "event",
    [
        chunk(3, SECOND, 2, FIRST),  # a chunk is missing
        chunk(0, SECOND, 2, FIRST),
        chunk(2, SECOND, 3, FIRST),  # samples are missing
        chunk(2, SECOND, 1, FIRST),  # samples overlap
        chunk(2, SECOND, 2, FIRST, crc32c=1),
        chunk(2, SECOND, 2, FIRST, turn_crc32c=1),
        chunk(2, b"\1\0\2", 2, FIRST),  # half a sample
        manifest(2, 3, FIRST + SECOND),
        manifest(1, 3, FIRST),
        manifest(1, 2, SECOND),
        manifest(0, 0, b"", CANCELLED),
        TurnEvent(turn_id="x" * 26, transcript=tokens_pb2.Transcript(text="x")),
        opened("x" * 26),
        opened(sample_rate_hz=16000),
        start(1),
    ],
    ids=lambda event: event.WhichOneof("event"),
)
def test_whatever_does_not_follow_is_refused_with_what_is_missing(event):
    delivery = taken(opened(), chunk(1, FIRST, 0))
    with pytest.raises(DeliveryBroken) as found:
        delivery.take(event)
    assert found.value.metadata["missing"] == "chunk:2,sample:2"
    assert "after chunk 1, 2 samples" in str(found.value)
    assert delivery.position.next_sample == 2


def test_nothing_is_given_twice():
    delivery = Delivery()
    events = [opened(), start(0), text("ab", 0), chunk(1, FIRST, 0), manifest(1, 2, FIRST, segments=[
        SegmentSummary(segment=0, text="ab")])]  # fmt: skip
    given = [delivery.take(event) for event in [*events[:4], *events[:4], events[4], events[4]]]
    kinds = [type(event) for event in given if event is not None]
    assert kinds == [TurnOpened, SegmentStarted, AnswerText, AnswerAudio, Manifest]


def test_the_question_is_committed_once():
    delivery = taken(opened())
    assert not delivery.committed
    committed = TurnEvent(turn_id=TURN, question_committed=QuestionCommitted(groups=4))
    assert delivery.take(committed).groups == 4
    assert delivery.committed
    assert delivery.take(committed) is None


def test_of_overlapping_text_only_what_is_new_is_given():
    delivery = taken(opened(), text("a語", 0))
    assert delivery.take(text("語é", 1)) == AnswerText(0, "é")
    assert delivery.take(text("x", 0, segment=2)) == AnswerText(2, "x")
    with pytest.raises(DeliveryBroken) as found:
        delivery.take(text("z", 7))
    assert found.value.metadata["missing"] == "text:0:6"
    with pytest.raises(DeliveryBroken):  # other text than before: cut inside a character
        delivery.take(text("語語語", 2))


def test_a_manifest_with_other_text_is_refused():
    for said, summary in (("ab", "abc"), ("abc", "ab"), ("ab", "ac")):
        delivery = taken(opened(), text(said, 0))
        with pytest.raises(DeliveryBroken) as found:
            delivery.take(manifest(0, 0, b"", segments=[SegmentSummary(segment=0, text=summary)]))
        assert found.value.metadata["missing"] == f"text:0:{len(said)}"


def test_of_a_turn_that_was_cut_off_the_end_need_not_have_come():
    delivery = taken(opened(), chunk(1, FIRST, 0))
    made = delivery.take(manifest(2, 3, FIRST + SECOND, CANCELLED))
    assert isinstance(made, Manifest)
    assert made.reason is EndReason.CANCELLED


def test_nothing_comes_before_the_turn_is_open():
    with pytest.raises(DeliveryBroken, match="not opened"):
        Delivery().take(chunk(1, FIRST, 0))
    with pytest.raises(DeliveryBroken, match="not opened"):
        Delivery(Position("s", TURN)).take(chunk(1, FIRST, 0))


def test_it_goes_on_from_a_position():
    position = taken(opened(), start(0), text("é", 0), chunk(1, FIRST, 0)).position
    assert position == Position("s", TURN, 1, 2, google_crc32c.value(FIRST), {0: 2})
    request = position.message()
    assert (request.session_id, request.turn_id, request.last_sequence, request.next_sample) == (
        "s",
        TURN,
        1,
        2,
    )
    assert [(part.segment, part.bytes) for part in request.text] == [(0, 2)]
    delivery = taken(opened(), text("éa", 0), chunk(1, FIRST, 0), chunk(2, SECOND, 2, FIRST), start=position)
    ended = manifest(2, 3, FIRST + SECOND, segments=[SegmentSummary(segment=0, text="éa")])
    assert isinstance(delivery.take(ended), Manifest)
    assert position.text == {0: 2}  # unchanged


def test_a_turn_that_was_lost_before_it_began_may_be_another_one():
    delivery = taken(opened())
    assert delivery.take(opened("x" * 26)).turn_id == "x" * 26


def test_events_of_a_newer_service_are_passed_over():
    delivery = taken(opened())
    assert delivery.take(TurnEvent(turn_id=TURN)) is None


def test_tokens_come_with_the_manifest_in_the_order_of_writing():
    groups = tokens_pb2.AudioGroups(linguistic=[1, 2], semantic=[3, 4, 5])
    answer = [
        tokens_pb2.AnswerPiece(segment_start=tokens_pb2.SegmentStart()),
        tokens_pb2.AnswerPiece(text=tokens_pb2.TextRun(text="so", token_ids=[9, 8])),
        tokens_pb2.AnswerPiece(groups=groups),
        tokens_pb2.AnswerPiece(segment_end=tokens_pb2.SegmentEnd(groups=1)),
        tokens_pb2.AnswerPiece(end=tokens_pb2.AnswerEnd(tokens=10, text_tokens=2, groups=1)),
    ]
    told = orchestrator_pb2.TurnTokens(question=groups, answer=answer)
    manifest = manifest_of(orchestrator_pb2.TurnManifest(tokens=told))
    codes = Codes((1, 2), (3, 4, 5))
    assert manifest.tokens == TurnTokens(codes, (TextIds((9, 8)), codes), 10)
    assert manifest_of(orchestrator_pb2.TurnManifest()).tokens is None

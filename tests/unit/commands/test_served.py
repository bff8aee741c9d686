"""What the services' events become: the facts that the pipeline gives."""

import numpy as np

from aqaa.client import (
    AnswerAudio,
    AnswerText,
    Codes,
    EndReason,
    Manifest,
    QuestionCommitted,
    Segment,
    SegmentStarted,
    TextIds,
    Transcript,
    TurnOpened,
    TurnTokens,
)
from aqaa.commands.served import Hearing
from aqaa.present.terminal import answer_record
from aqaa.tokens.classes import TokenClass

RATE = 24000
QUESTION = np.zeros(3840, np.float32)
TOKENS = TurnTokens(
    question=Codes((1, 2, 3, 4), (5, 6, 7, 8, 9, 10)),
    answer=(TextIds((50, 51)), Codes((11, 12), (13, 14, 15)), TextIds((52,)), Codes((16, 17), (18, 19, 20))),
    written=18,
)


def heard(*events, manifest):
    """Each event comes a second after the one before."""
    clock = iter(range(100))
    hearing = Hearing(QUESTION, lambda: next(clock))
    for event in (*events, manifest):
        hearing.take(event)
    return hearing.answer(RATE)


def sound(sequence, first, *values):
    return AnswerAudio(sequence, 0, first, RATE, np.array(values, np.int16))


def whole(**changes):
    segments = (Segment(0, "", "It is", 1, 0, 3), Segment(1, "soft", "four.", 1, 3, 1))
    return Manifest(**{"reason": EndReason.STOP, "chunks": 2, "samples": 4, "crc32c": 0, "segments": segments,
                       "tokens": TOKENS, **changes})  # fmt: skip


def test_texts_sound_segments_and_tokens():
    answer = heard(
        TurnOpened("s", "t", RATE, "b", 1),
        QuestionCommitted(2),
        SegmentStarted(0, ""),
        AnswerText(0, "It is"),
        sound(1, 0, 0, 16384, -32768),
        sound(2, 3, 32767),
        Transcript("What is two plus two?"),
        manifest=whole(),
    )
    assert (answer.question_text, answer.answer_text) == ("What is two plus two?", "It is four.")
    assert answer.pcm.tolist() == [0, 0.5, -1, 32767 / 32768]
    assert answer.question_pcm is QUESTION
    assert answer_record(answer)["segments"] == [
        {"style": None, "text": "It is", "groups": 1, "start_seconds": 0.0, "end_seconds": 0.0},
        {"style": "soft", "text": "four.", "groups": 1, "start_seconds": 0.0, "end_seconds": 0.0},
    ]
    assert [(part.start_sample, part.end_sample) for part in answer.segments] == [(0, 3), (3, 4)]
    assert answer.tokens == {"question": 10, "text": 3, "linguistic": 4, "semantic": 6, "markers": 5}
    assert answer.question_tokens == (1, 2, 5, 6, 7, 3, 4, 8, 9, 10)
    text, word, tone = TokenClass.TEXT, TokenClass.LINGUISTIC, TokenClass.SEMANTIC
    assert answer.answer_tokens[:8] == (
        (50, text), (51, text), (11, word), (12, word), (13, tone), (14, tone), (15, tone), (52, text),
    )  # fmt: skip


def test_moments_are_the_first_of_each_kind_and_the_last_of_the_sound():
    answer = heard(
        QuestionCommitted(2),
        AnswerText(0, "It"),
        AnswerText(0, " is"),
        sound(1, 0, 1, 2),
        sound(2, 2, 3, 4),
        Transcript("What?"),
        manifest=whole(),
    )
    times = answer.timeline
    assert (times.heard, times.thought, times.first_audio, times.done) == (1, 2, 4, 5)
    assert answer.ttfa_seconds == 4
    assert answer.rtf == 5 / (4 / RATE)


def test_an_answer_without_sound_has_its_end_for_all_of_it():
    answer = heard(QuestionCommitted(2), manifest=whole(segments=(), chunks=0, samples=0))
    assert (answer.timeline.first_audio, answer.timeline.done) == (2, 2)
    assert (answer.answer_text, answer.rtf, len(answer.pcm)) == ("", 0.0, 0)

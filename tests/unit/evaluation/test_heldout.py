"""The held-out lists: kept as drawn, and nothing in them that training has asked or said."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from aqaa.audio.decode import write_wav
from evaluation.heldout import (
    SETS,
    Question,
    Recordings,
    draw,
    read_texts,
    shares,
    training_texts,
    wording,
    write_texts,
)
from evaluation.judge import normalise
from training.domain import TEST_SHARES, domain, sentence_split
from training.voices import KOKORO_ENGLISH, KOKORO_FOREIGN, KOKORO_JAPANESE, RESERVED

SPLITS = sorted(SETS)


@pytest.fixture(scope="module", params=SPLITS)
def questions(request: pytest.FixtureRequest) -> list[Question]:
    return read_texts(request.param)


def test_the_kept_lists_are_drawn_again(tmp_path: Path) -> None:
    for split in SPLITS:
        assert list(draw(SETS[split])) == read_texts(split)
        write_texts(split, tmp_path)
        assert read_texts(split, tmp_path) == read_texts(split)


def test_the_test_set_is_large_and_has_the_asked_shares() -> None:
    questions = read_texts("test")
    counts = Counter(question.kind for question in questions)
    assert len(questions) >= 600
    for kind, share in TEST_SHARES.items():
        assert counts[kind] / len(questions) == pytest.approx(share, abs=0.01)
    rest = [count for kind, count in counts.items() if kind not in TEST_SHARES]
    assert max(rest) - min(rest) <= 1


def test_no_question_and_no_wording_of_training_is_asked(questions: list[Question]) -> None:
    known = training_texts()
    asked = {normalise(question.question) for question in questions}
    assert len(asked) == len(questions)
    assert not asked & known.questions
    assert not {wording(question) for question in asked} & known.wordings


def test_every_word_asked_occurs_in_training(questions: list[Question]) -> None:
    assert {word for q in questions for word in normalise(q.question).split()} <= training_texts().words


def test_repeat_sentences_are_unseen_and_seen_flags_are_true(questions: list[Question]) -> None:
    known = training_texts().sentences
    for question in questions:
        sentences = [normalise(spoken.text) for spoken in question.answer]
        assert question.seen == all(sentence in known for sentence in sentences)
        if question.kind == "repeat":
            assert not question.seen
            assert sentence_split(sentences[0]) != "train"


def test_dev_and_test_share_no_question() -> None:
    texts = [{normalise(q.question) for q in read_texts(split)} for split in ("dev", "test")]
    assert not texts[0] & texts[1]


def test_the_voices_are_reserved_ones(questions: list[Question]) -> None:
    (voice,) = {question.voice for question in questions}
    assert voice in RESERVED
    assert voice not in KOKORO_ENGLISH + KOKORO_FOREIGN + KOKORO_JAPANESE


def test_a_beginning_of_the_list_is_a_fair_sample(questions: list[Question]) -> None:
    assert [question.index for question in questions] == list(range(len(questions)))
    few = Counter(question.kind for question in questions[:100])
    for kind, count in shares(100).items():
        assert few[kind] == pytest.approx(count, abs=10)
    assert len({question.speed for question in questions[:5]}) == 5


@pytest.mark.parametrize(
    ("question", "masked"),
    [
        ("what is twenty one plus three", "what is # plus #"),
        ("give me the color of the sky", "give me the color of *"),
        ("say this the big red bird sees a cat", "say this @"),
        ("the little house is at the station please say it in a low voice", "@ please say it ~"),
        ("how heavy is the camel", "how heavy is the *"),
    ],
)
def test_a_wording_is_a_question_without_what_fills_it(question: str, masked: str) -> None:
    assert wording(question) == masked


def test_punctuation_does_not_hide_a_trained_wording() -> None:
    # A lead-in and a core of training make a held core: "tell me, which day …" sounds like it.
    assert "!tell me which {unit} comes {side} {x}" in domain()["wordings"]["neighbour"]["held"]
    assert wording(normalise("Tell me which month comes after May.")) in training_texts().wordings


def test_only_missing_recordings_are_made(tmp_path: Path) -> None:
    recordings, (first, second) = Recordings("dev", tmp_path), read_texts("dev")[:2]
    recordings.folder.mkdir(parents=True)
    pcm = np.linspace(-0.5, 0.5, 8000, dtype=np.float32)
    write_wav(recordings.folder / first.recording, pcm, 16000)
    assert recordings.missing([first, second]) == [second]
    assert recordings.read(first).sample_rate == 16000
    recordings.render([first])  # nothing is missing: no teacher is loaded

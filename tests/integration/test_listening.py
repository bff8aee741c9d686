"""The bundled model answers what it hears: the same groups in another order, and it is right by chance alone;
a sound that is no speech, and it does not know.

``questions/``: recordings of the first held-out questions with a sentence to say again, in a voice that was
never learnt from; the number is the question's.
"""

from pathlib import Path

import numpy as np
import pytest

from aqaa.audio.decode import Audio, read_audio
from aqaa.engine.pipeline import Pipeline
from evaluation.heldout import read_texts
from evaluation.shuffled import ShuffleResult, compare

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline.load(ROOT / "models" / "nano")


@pytest.fixture(scope="module")
def result(pipeline):
    questions = {question.index: question for question in read_texts("test")}
    recordings = sorted(Path(__file__).with_name("questions").glob("*.flac"))
    asked = [(questions[int(path.stem)], read_audio(path)) for path in recordings]
    return ShuffleResult.of(compare(pipeline, asked, seed=0))


def test_questions_are_answered_as_they_were_said(result):
    assert result.ordered.n == 16
    assert result.ordered.value >= 0.75


def test_in_another_order_answers_fall_to_chance(result):
    assert result.at_chance(result.shuffled)


def test_with_the_groups_of_all_questions_mixed_answers_fall_to_chance(result):
    assert result.at_chance(result.dealt)


SECONDS = np.arange(2.5 * 16000) / 16000
SOUNDS = {
    "muted": np.zeros(len(SECONDS)),
    "hiss": 0.05 * np.random.default_rng(1).standard_normal(len(SECONDS)),
    "tone": 0.3 * np.sin(2 * np.pi * 440 * SECONDS),
    "chord": sum(0.1 * np.sin(2 * np.pi * hz * SECONDS) for hz in (220.0, 277.2, 329.6)),
    "mains hum": 0.2 * np.sign(np.sin(2 * np.pi * 50 * SECONDS)),
    "clicks": 0.8 * (np.arange(len(SECONDS)) % 4000 == 0),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_what_is_no_speech_is_not_known(pipeline, name):
    answer = pipeline.ask(Audio(SOUNDS[name].astype(np.float32), 16000), seed=1)
    assert answer.answer_text == "I do not know that yet."

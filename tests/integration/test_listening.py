"""The bundled model answers what it hears: the same groups in another order, and it is right by chance alone.

``questions/``: recordings of the first held-out questions with a sentence to say again, in a voice that was
never learnt from; the number is the question's.
"""

from pathlib import Path

import pytest

from aqaa.audio.decode import read_audio
from aqaa.engine.pipeline import Pipeline
from evaluation.heldout import read_texts
from evaluation.shuffled import ShuffleResult, compare

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def result():
    questions = {question.index: question for question in read_texts("test")}
    recordings = sorted(Path(__file__).with_name("questions").glob("*.flac"))
    asked = [(questions[int(path.stem)], read_audio(path)) for path in recordings]
    return ShuffleResult.of(compare(Pipeline.load(ROOT / "models" / "nano"), asked, seed=0))


def test_questions_are_answered_as_they_were_said(result):
    assert result.ordered.n == 16
    assert result.ordered.value >= 0.75


def test_in_another_order_answers_fall_to_chance(result):
    assert result.at_chance(result.shuffled)


def test_with_the_groups_of_all_questions_mixed_answers_fall_to_chance(result):
    assert result.at_chance(result.dealt)

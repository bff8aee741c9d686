"""Questions, a pipeline that knows some of them, and ears that cost nothing."""

import numpy as np
import pytest
from evaluation_cases import FakePipeline, make_question, speak
from numpy.typing import NDArray

from aqaa.audio.decode import Audio
from evaluation.heldout import Question
from evaluation.nano import Ears
from training.domain import Spoken


@pytest.fixture
def asked() -> list[tuple[Question, Audio]]:
    """Four questions of different lengths; the pipeline fixture knows the first three."""
    questions = [
        make_question(0, "color", "What color is coal?", Spoken("Coal is black.")),
        make_question(1, "arithmetic", "What is one plus two?", Spoken("One plus two is three.")),
        make_question(
            2, "style", "Say the cat sees a dog, first slowly, then softly.",
            Spoken("The cat sees a dog.", "slow"), Spoken("The cat sees a dog.", "soft"), seen=False,
        ),
        make_question(3, "style", "Say the dog is old, in a high voice.", Spoken("The dog is old.", "high")),
    ]  # fmt: skip
    return [(q, Audio(np.full(1920 * (8 + q.index), 0.1, np.float32), 16000)) for q in questions]


@pytest.fixture
def pipeline(asked: list[tuple[Question, Audio]]) -> FakePipeline:
    """Right on the first and the third, wrong about the second, at a loss with the fourth."""
    made = {len(audio.samples): speak(q.question, q.answer) for q, audio in asked[:3]}
    made[len(asked[1][1].samples)] = speak("What is one plus three?", (Spoken("One plus two is four."),))
    return FakePipeline(made)


@pytest.fixture
def ears() -> Ears:
    """Hears the first answer in every sound; finds all sounds alike."""

    def hears(pcm: NDArray[np.float32], rate: int) -> str:
        return "Coal is black." if len(pcm) else ""

    return Ears(hears, lambda pcm, rate: 3.0)

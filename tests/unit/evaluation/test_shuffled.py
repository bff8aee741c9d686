"""The shuffled control: groups move whole, and what depends on their order falls to chance."""

import numpy as np
from evaluation_cases import CountingTokenizer, FakePipeline, make_question
from hypothesis import given
from hypothesis import strategies as st

from aqaa.audio.decode import Audio
from evaluation.heldout import Question
from evaluation.shuffled import ShuffledTokenizer, chance, compare, shuffle_groups
from training.domain import Spoken


@given(st.integers(0, 40), st.integers(0, 2**32))
def test_every_group_stays_whole(groups: int, seed: int) -> None:
    codes_GN = np.arange(groups * 5).reshape(groups, 5)
    shuffled = shuffle_groups(codes_GN, np.random.default_rng(seed))
    assert sorted(map(tuple, shuffled.tolist())) == sorted(map(tuple, codes_GN.tolist()))


def test_a_shuffled_stream_keeps_everything_for_the_end() -> None:
    stream = ShuffledTokenizer(CountingTokenizer(), np.random.default_rng(0)).stream()
    for _ in range(10):
        assert stream.push(np.zeros(3840, np.float32)).shape == (0, 5)
    groups = stream.finish()
    assert sorted(groups[:, 0]) == list(range(20))
    assert groups[:, 0].tolist() != list(range(20))


def test_chance_is_the_commonest_answer() -> None:
    answers = ["Blue.", "Red.", "blue", "Green."]
    questions = [make_question(k, "color", f"Question {k}?", Spoken(text)) for k, text in enumerate(answers)]
    assert chance(questions) == 0.5


def test_order_is_what_the_pipeline_goes_by(
    pipeline: FakePipeline, asked: list[tuple[Question, Audio]]
) -> None:
    known = [asked[0], asked[2]]
    listening = pipeline.tokenizer
    result = compare(pipeline, known, seed=1)
    assert (result.ordered.value, result.shuffled.value, result.chance) == (1.0, 0.0, 0.5)
    assert result.at_chance
    assert pipeline.tokenizer is listening

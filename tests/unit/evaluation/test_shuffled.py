"""The shuffled control: groups move whole, and what depends on their order falls to chance."""

import numpy as np
from evaluation_cases import CountingTokenizer, FakePipeline, make_question
from hypothesis import given
from hypothesis import strategies as st

from aqaa.audio.decode import Audio
from evaluation.heldout import Question
from evaluation.metrics import rate
from evaluation.shuffled import (
    RearrangedTokenizer,
    ShuffleResult,
    chance,
    compare,
    deal_groups,
    shuffle_groups,
)
from training.domain import Spoken


@given(st.integers(0, 40), st.integers(0, 2**32))
def test_every_group_stays_whole(groups: int, seed: int) -> None:
    codes_GN = np.arange(groups * 5).reshape(groups, 5)
    shuffled = shuffle_groups(codes_GN, np.random.default_rng(seed))
    assert sorted(map(tuple, shuffled.tolist())) == sorted(map(tuple, codes_GN.tolist()))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 2**32))
def test_groups_are_dealt_out_whole_and_as_many_to_each(counts: list[int], seed: int) -> None:
    groups = np.split(np.arange(sum(counts) * 5).reshape(-1, 5), np.cumsum(counts)[:-1])
    dealt = deal_groups(groups, np.random.default_rng(seed))
    assert [len(rows) for rows in dealt] == counts
    assert sorted(map(tuple, np.concatenate(dealt).tolist())) == list(
        map(tuple, np.concatenate(groups).tolist())
    )


def test_a_rearranged_stream_keeps_everything_for_the_end() -> None:
    def shuffle(groups: np.ndarray) -> np.ndarray:
        return shuffle_groups(groups, np.random.default_rng(0))

    stream = RearrangedTokenizer(CountingTokenizer(), shuffle).stream()
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
    result = ShuffleResult.of(compare(pipeline, known, seed=1))
    assert (result.ordered.value, result.shuffled.value, result.chance) == (1.0, 0.0, 0.5)
    assert result.dealt.value == 0.0
    assert result.at_chance(result.shuffled)
    assert result.at_chance(result.dealt)
    assert not result.at_chance(rate([True] * 20))
    assert pipeline.tokenizer is listening

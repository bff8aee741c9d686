"""Rates, word error rates and their intervals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.metrics import mean, rate, word_error_rate, word_errors

WORDS = st.lists(st.sampled_from(["red", "green", "blue"]), max_size=6).map(" ".join)


def test_the_wilson_interval_is_the_published_one() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20.
    for right, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        found = rate([True] * right + [False] * (n - right))
        assert found.value == pytest.approx(right / n)
        assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@given(st.lists(st.booleans(), min_size=1))
def test_the_interval_holds_the_rate(verdicts: list[bool]) -> None:
    found = rate(verdicts)
    assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize(
    ("reference", "heard", "errors"),
    [
        ("the sky is blue", "The sky is blue.", 0),
        ("the sky is blue", "this guy is blue", 2),
        ("the sky is blue", "sky is very blue", 2),
        ("the sky is blue", "", 4),
        ("", "hello there", 2),
        ("nine minus four is five", "9 - 4 = 5", 0),
    ],
)
def test_word_errors(reference: str, heard: str, errors: int) -> None:
    assert word_errors(reference, heard)[0] == errors


@given(WORDS, WORDS, WORDS)
def test_word_errors_are_a_distance(one: str, two: str, three: str) -> None:
    def between(a: str, b: str) -> int:
        return word_errors(a, b)[0]

    assert between(one, two) == between(two, one)
    assert (between(one, two) == 0) == (one == two)
    assert between(one, three) <= between(one, two) + between(two, three)


def test_the_error_rate_weighs_words_not_sentences() -> None:
    pairs = [("one two three four five six seven eight nine", "one two three four five six seven eight nine")]
    pairs += [("ten", "eleven")]
    found = word_error_rate(pairs)
    assert found.value == pytest.approx(0.1)
    assert found.low <= found.value <= found.high
    assert found == word_error_rate(pairs)


def test_the_mean_and_its_interval_shrink_onto_the_truth() -> None:
    values = np.random.default_rng(0).normal(3.0, 0.5, 400)
    found = mean(values.tolist())
    assert found.low < 3.0 < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.2)


def test_nothing_measured_is_not_a_number() -> None:
    for nothing in (rate([]), word_error_rate([]), mean([])):
        assert nothing.n == 0
        assert math.isnan(nothing.value)

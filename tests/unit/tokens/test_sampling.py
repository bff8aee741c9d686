import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqaa.errors import AqaaError
from aqaa.tokens import (
    Choice,
    Domain,
    IdLayout,
    Repetition,
    Rule,
    Sampler,
    SamplingSettings,
    TokenClass,
    uniform,
)

LAYOUT = IdLayout(audio_base=100, linguistic_codes=8, semantic_codes=16)
TEXT = Choice(TokenClass.TEXT, ((10, 13), (20, 25)))
LINGUISTIC = Choice(TokenClass.LINGUISTIC, (LAYOUT.linguistic_range,))
SEMANTIC = Choice(TokenClass.SEMANTIC, (LAYOUT.semantic_range,))
END = Choice(TokenClass.AUDIO_END, ((5, 6),))
TEXT_IDS = [10, 11, 12, 20, 21, 22, 23, 24]

HOT = Rule(temperature=1.0)
logits = st.lists(
    st.sampled_from([-math.inf, -3.0, -1.0, 0.0, 0.5, 0.5, 2.0]) | st.floats(-6, 6, width=32),
    min_size=1,
    max_size=40,
).filter(lambda values: max(values) > -math.inf)
rules = st.builds(
    Rule,
    temperature=st.floats(0.05, 3),
    top_p=st.floats(0.05, 1),
    top_k=st.integers(0, 12),
)


def f32(values) -> np.ndarray:
    return np.array(values, np.float32)


def plainly(values: np.ndarray, rule: Rule, draw: float) -> tuple[int, set[int]]:
    """The definition, without a short cut: sort all rows, cut, add up, invert."""
    scaled = (values.astype(np.float64) - values.max()) / rule.temperature
    weights = np.exp(scaled)
    order = sorted(range(len(weights)), key=lambda row: (-weights[row], row))
    order = order[: rule.top_k or len(order)]
    total, kept, summed = sum(weights[row] for row in order), [], 0.0
    for row in order:
        kept.append(row)
        summed += weights[row]
        if summed >= rule.top_p * total - 1e-12:
            break
    target, summed = draw * sum(weights[row] for row in kept), 0.0
    for row in sorted(kept):
        summed += weights[row]
        if summed > target:
            return row, set(kept)
    return sorted(kept)[-1], set(kept)


def test_greedy_takes_the_lowest_of_equal_ids_across_ranges():
    sampler = Sampler(SamplingSettings(), LAYOUT)
    assert sampler.choose(0, [(TEXT, f32([0, 1, 0, 3, 3, 0, 0, 3]))]) == 20


@given(logits, rules, st.integers(0, 2**64 - 1), st.integers(0, 10**6))
def test_a_draw_is_the_inverse_of_the_kept_rows(values, rule, seed, index):
    choice = Choice(TokenClass.TEXT, ((3, 3 + len(values)),))
    drawn = Sampler(SamplingSettings(seed=seed, text=rule), LAYOUT).choose(index, [(choice, f32(values))])
    expected, kept = plainly(f32(values), rule, uniform(seed, Domain.TOKEN, index, 1))
    assert drawn - 3 in kept
    assert values[drawn - 3] > -math.inf
    # summation order may move an edge by one rounding; nothing else may differ
    assert drawn - 3 == expected or rule.top_p < 1


@pytest.mark.parametrize("spread", [0.0, 0.3, 4.0])
@pytest.mark.parametrize("rule", [Rule(1.0, 0.9), Rule(0.7, 0.5, 300), Rule(1.0, 1.0, 50), Rule(1.0, 0.999)])
def test_large_classes_are_cut_as_small_ones(spread, rule):
    """With thousands of rows, and with all of them equal, the short cuts keep to the definition."""
    values = f32(np.random.default_rng(5).normal(size=3000) * spread)
    choice = Choice(TokenClass.TEXT, ((0, 3000),))
    for index in range(20):
        sampler = Sampler(SamplingSettings(seed=3, text=rule), LAYOUT)
        expected, _ = plainly(values, rule, uniform(3, Domain.TOKEN, index, 1))
        assert sampler.choose(index, [(choice, values)]) == expected


def test_draws_follow_the_distribution():
    values = f32([0.0, 1.0, -1.0, 2.0, -math.inf, 0.5, 0.0, 0.0])
    sampler = Sampler(SamplingSettings(seed=9, text=HOT), LAYOUT)
    drawn = Counter(sampler.choose(index, [(TEXT, values)]) for index in range(20_000))
    expected = np.exp(values) / np.exp(values).sum()
    for token_id, share in zip(TEXT_IDS, expected, strict=True):
        assert drawn[token_id] / 20_000 == pytest.approx(share, abs=0.012)


def test_the_class_is_chosen_by_its_whole_mass():
    # one end token at 1.0 beats each linguistic id, but not the eight of them together
    scored = [(LINGUISTIC, f32([0.0] * 8)), (END, f32([1.0]))]
    assert Sampler(SamplingSettings(), LAYOUT).choose(0, scored) == 100
    assert Sampler(SamplingSettings(mode="union"), LAYOUT).choose(0, scored) == 5


def test_class_draws_follow_the_masses():
    scored = [(TEXT, f32([0.0] * 8)), (LINGUISTIC, f32([0.5] * 8)), (END, f32([2.0]))]
    sampler = Sampler(SamplingSettings(seed=4, decision=HOT), LAYOUT)
    drawn = Counter(sampler.choose(index, scored) for index in range(20_000))
    masses = {10: 8.0, 100: 8 * math.exp(0.5), 5: math.exp(2.0)}
    for token_id, mass in masses.items():
        assert drawn[token_id] / 20_000 == pytest.approx(mass / sum(masses.values()), abs=0.012)


def test_class_and_token_draws_are_apart():
    """The token inside a class does not depend on the draw that chose the class."""
    settings = SamplingSettings(seed=12, text=HOT, decision=HOT)
    sampler = Sampler(settings, LAYOUT)
    alone = [sampler.choose(index, [(TEXT, f32([0.0] * 8))]) for index in range(200)]
    both = [sampler.choose(index, [(TEXT, f32([0.0] * 8)), (END, f32([0.0]))]) for index in range(200)]
    assert 5 in both
    assert all(one == other for one, other in zip(alone, both, strict=True) if other != 5)


def test_union_draws_among_all_rows_in_order_of_their_ids():
    scored = [(TEXT, f32([0.0, 3, 1, -1, 2, 0, 0, 1])), (END, f32([1.0])), (LINGUISTIC, f32([0.5] * 8))]
    ids = [5, *TEXT_IDS, *range(100, 108)]
    values = f32([1.0, 0, 3, 1, -1, 2, 0, 0, 1, *[0.5] * 8])
    rule = Rule(0.8, 0.9)
    for index in range(100):
        sampler = Sampler(SamplingSettings(seed=2, mode="union", union=rule), LAYOUT)
        expected, _ = plainly(values, rule, uniform(2, Domain.TOKEN, index, 1))
        assert sampler.choose(index, scored) == ids[expected]


def test_a_draw_depends_on_seed_and_index_alone():
    values = f32(np.random.default_rng(0).normal(size=16))
    settings = SamplingSettings(seed=21, semantic=HOT)
    first = [Sampler(settings, LAYOUT).choose(index, [(SEMANTIC, values)]) for index in range(50)]
    sampler = Sampler(settings, LAYOUT)
    assert [sampler.choose(index, [(SEMANTIC, values)]) for index in reversed(range(50))] == first[::-1]
    other = Sampler(replace(settings, seed=22), LAYOUT)
    assert [other.choose(index, [(SEMANTIC, values)]) for index in range(50)] != first


REPETITION = Repetition(window=4, limit=2)
FALLING = f32(np.arange(16)[::-1])


def repeated(repetition: Repetition, history: list[int], choice: Choice = SEMANTIC) -> int:
    size = choice.ranges[0][1] - choice.ranges[0][0]
    sampler = Sampler(SamplingSettings(repetition=repetition), LAYOUT)
    return sampler.choose(0, [(choice, FALLING[:size])], history) - choice.ranges[0][0]


def test_a_code_is_barred_once_it_stands_too_often_in_the_window():
    zero, one = LAYOUT.semantic_ids([0, 1]).tolist()
    assert repeated(REPETITION, [zero]) == 0
    assert repeated(REPETITION, [zero, one, zero]) == 1
    assert repeated(REPETITION, [zero, zero, one, one, one]) == 0
    assert repeated(REPETITION, [zero, zero, one, one]) == 2


def test_codebooks_have_windows_of_their_own():
    linguistic, semantic = LAYOUT.linguistic_ids([0]).tolist(), LAYOUT.semantic_ids([0]).tolist()
    assert repeated(REPETITION, linguistic * 4) == 0
    assert repeated(REPETITION, linguistic * 4, LINGUISTIC) == 1
    assert repeated(REPETITION, semantic * 2 + linguistic * 9) == 1


def test_silence_is_exempt_until_it_has_lasted():
    quiet = Repetition(window=4, limit=2, silence_semantic=frozenset({0, 3}), silence_window=6)
    zero, three, nine = LAYOUT.semantic_ids([0, 3, 9]).tolist()
    assert repeated(quiet, [zero] * 5) == 0
    assert repeated(quiet, [zero] * 6) == 1
    assert repeated(quiet, [zero, three] * 3) == 1
    assert repeated(quiet, [nine] + [zero] * 5) == 0


def test_text_is_never_barred_and_a_codebook_never_wholly():
    text = Sampler(SamplingSettings(repetition=REPETITION), LAYOUT)
    assert text.choose(0, [(TEXT, FALLING[:8])], [10, 10, 10, 10]) == 10
    narrow = Choice(TokenClass.LINGUISTIC, ((100, 101),))
    tiny = IdLayout(audio_base=100, linguistic_codes=1, semantic_codes=1)
    sampler = Sampler(SamplingSettings(repetition=Repetition(4, 1)), tiny)
    assert sampler.choose(0, [(narrow, f32([0.0]))], [100, 100]) == 100


def test_the_callers_logits_are_left_alone():
    values = FALLING.copy()
    settings = SamplingSettings(repetition=REPETITION)
    assert Sampler(settings, LAYOUT).choose(0, [(SEMANTIC, values)], [108, 108]) == 109
    assert np.array_equal(values, FALLING)


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
@pytest.mark.parametrize("rule", [Rule(), HOT])
def test_logits_that_are_no_numbers_are_an_error(bad, rule):
    settings = SamplingSettings(text=rule, decision=rule)
    with pytest.raises(AqaaError, match="token 7"):
        Sampler(settings, LAYOUT).choose(7, [(TEXT, f32([bad] * 8))])
    if math.isnan(bad):
        with pytest.raises(AqaaError, match="token 7"):
            Sampler(settings, LAYOUT).choose(7, [(TEXT, f32([0, bad] + [0] * 6)), (END, f32([0.0]))])


def test_no_choice_and_too_many_logits_are_errors():
    with pytest.raises(AqaaError, match="no choice"):
        Sampler(SamplingSettings(), LAYOUT).choose(0, [])
    with pytest.raises(AqaaError, match="one logit for each id"):
        Sampler(SamplingSettings(), LAYOUT).choose(0, [(TEXT, f32([0] * 8 + [1]))])


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Rule(temperature=-1), "temperature"),
        (lambda: Rule(temperature=math.nan), "temperature"),
        (lambda: Rule(top_p=0), "top_p"),
        (lambda: Rule(top_k=-1), "top_k"),
        (lambda: SamplingSettings(seed=-1), "seed"),
        (lambda: SamplingSettings(mode="best"), "mode"),  # type: ignore[arg-type]
        (lambda: Repetition(0, 1), "window"),
        (lambda: Repetition(1, 0), "limit"),
        (lambda: Repetition(1, 1, silence_window=-1), "silence_window"),
    ],
)
def test_settings_name_what_is_wrong_with_them(make, word):
    with pytest.raises(ValueError, match=word):
        make()

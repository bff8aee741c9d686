"""Words cut out of clips: where they lie, how they are spelled, how they are joined."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.cutups import FADE, LEAST, Word, align, cut_up, joined, quietest, spelling
from training.phonemes import BLANK


def collapsed(path: tuple[int, ...]) -> list[int]:
    return [k for k, before in zip(path, (BLANK, *path), strict=False) if k not in (before, BLANK)]


@given(
    seed=st.integers(0, 1000), positions=st.integers(1, 6), phonemes=st.lists(st.integers(1, 2), max_size=3)
)
def test_alignment_is_the_likeliest_path_of_all(seed: int, positions: int, phonemes: list[int]) -> None:
    scores = np.log(np.random.default_rng(seed).dirichlet(np.ones(3), positions)).astype(np.float32)
    paths = [path for path in product(range(3), repeat=positions) if collapsed(path) == phonemes]
    if not phonemes or not paths:
        if phonemes:
            with pytest.raises(ValueError, match=f"{positions} positions for {len(phonemes)} phonemes"):
                align(scores, phonemes)
        return
    best = max(paths, key=lambda path: sum(scores[t, k] for t, k in enumerate(path)))
    spans = align(scores, phonemes)
    for (first, last), phoneme in zip(spans, phonemes, strict=True):
        assert set(best[first : last + 1]) == {phoneme}
    assert sum(last - first + 1 for first, last in spans) == sum(k != BLANK for k in best)


def test_a_cut_moves_to_the_quiet_place_and_no_further_than_it_may() -> None:
    pcm = np.ones(16000, np.float32)
    pcm[8000:8200] = 0
    assert 8000 <= quietest(pcm, 8300) <= 8200
    assert abs(quietest(pcm, 12000) - 12000) <= 640


def test_a_first_word_is_small_unless_it_is_a_name() -> None:
    small = spelling(["Tell me the capital of France.", "France is big. Please tell me."])
    assert small == {"Tell": "tell", "France": "France", "Please": "please"}


def word(text: str, level: float = 0.1, samples: int = 4000) -> Word:
    return Word(np.full(samples, level, np.float32), text, text)


def test_parts_come_to_one_level_and_none_is_lost() -> None:
    sound = joined([word("a", 0.01).pcm, word("b", 0.4).pcm], np.random.default_rng(0))
    assert 8000 - FADE <= len(sound) <= 8000 + 1600
    quiet, loud = sound[FADE:3000], sound[-3000:-FADE]
    assert np.sqrt(np.mean(quiet**2)) == pytest.approx(np.sqrt(np.mean(loud**2)), rel=1e-3)


def test_joining_leaves_the_words_as_they_were() -> None:
    kept = word("a")
    joined([kept.pcm, kept.pcm], np.random.default_rng(0))
    assert (kept.pcm == np.float32(0.1)).all()


@given(seed=st.integers(0, 500))
def test_a_cut_up_says_the_words_that_it_names(seed: int) -> None:
    clips = [[word("one"), word("two"), word("three")], [word("four", samples=LEAST)]]
    taken, sound = cut_up(clips, np.random.default_rng(seed))
    assert 3 <= len(taken) <= 9
    said = sum(len(one.pcm) for one in taken)
    assert said - FADE * len(taken) <= len(sound) <= said + 1600 * len(taken)

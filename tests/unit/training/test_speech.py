"""What is drawn how often, and where speech begins and ends."""

import numpy as np
import pytest

from training.speech import evenness, trim


class TestEvenness:
    def test_a_text_is_drawn_by_its_rarest_word(self):
        texts = ["The cat sees the dog."] * 99 + ["The dog, a cat?"]
        # "sees" is in 99 texts, "a" in one.
        assert evenness(texts).tolist() == pytest.approx([1.0] * 99 + [99**0.5])

    def test_no_text_is_drawn_more_often_than_is_allowed(self):
        assert evenness(["Yes."] * 9999 + ["Yes, no."], most=7.0)[-1] == 7.0

    def test_where_all_words_are_as_frequent_each_text_is_drawn_once(self):
        assert evenness(["One two.", "Two one."]).tolist() == [1.0, 1.0]


def test_silence_is_trimmed_but_for_what_is_kept():
    pcm = np.zeros(32000, np.int16)
    pcm[8000:9000] = 10_000
    assert len(trim(pcm)) == 1000 + 2 * 1280 - 1
    assert len(trim(pcm, keep=0)) == 999

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqaa.errors import InvalidToken
from aqaa.tokens import IdLayout

PUBLIC = IdLayout(audio_base=65536, vocab_size=74752)


def test_public_ranges():
    assert PUBLIC.text_range == (0, 65536)
    assert PUBLIC.linguistic_range == (65536, 66560)
    assert PUBLIC.semantic_range == (66560, 70656)
    assert PUBLIC.audio_range == (65536, 70656)


def test_vocab_size_defaults_to_the_last_code():
    assert IdLayout(audio_base=700).vocab_size == 700 + 1024 + 4096


@given(st.lists(st.integers(0, 1023)), st.lists(st.integers(0, 4095)))
def test_codes_survive_ids_and_strings(linguistic, semantic):
    ids = np.concatenate([PUBLIC.linguistic_ids(linguistic), PUBLIC.semantic_ids(semantic)])
    assert PUBLIC.linguistic_code(ids[: len(linguistic)]).tolist() == linguistic
    assert PUBLIC.semantic_code(ids[len(linguistic) :]).tolist() == semantic
    assert PUBLIC.from_string(PUBLIC.to_string(ids)).tolist() == ids.tolist()


@pytest.mark.parametrize(
    ("call", "values", "parts"),
    [
        ("linguistic_ids", [0, 1024], ["position 1", "1024", "[0, 1024)"]),
        ("semantic_ids", [-1], ["position 0", "-1", "[0, 4096)"]),
        ("linguistic_code", [66560], ["position 0", "66560", "[65536, 66560)"]),
        ("semantic_code", [66559], ["66559", "[66560, 70656)"]),
        ("audio_codes", [65536, 65535], ["position 1", "65535", "[65536, 70656)"]),
        ("check", [3, 70656], ["position 1", "70656", "[0, 70656)"]),
        ("check", [2.5], ["float64", "integers"]),
    ],
)
def test_an_illegal_value_is_named_with_its_place_and_range(call, values, parts):
    with pytest.raises(InvalidToken) as error:
        getattr(PUBLIC, call)(values)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "text", ["<audio_1> <audio_2>", "x", "<audio_1><audio_", "<audio_-1>", "<audio_5120>"]
)
def test_a_string_that_is_not_audio_is_refused(text):
    with pytest.raises(InvalidToken, match="expected"):
        PUBLIC.from_string(text)


def test_shapes_are_kept():
    assert PUBLIC.linguistic_ids(np.zeros((2, 3), np.int32)).shape == (2, 3)
    assert PUBLIC.semantic_ids([]).shape == (0,)


@pytest.mark.parametrize(
    "fields",
    [{"audio_base": 0}, {"audio_base": 8, "semantic_codes": 0}, {"audio_base": 8, "vocab_size": 100}],
)
def test_an_impossible_layout_is_refused(fields):
    with pytest.raises(ValueError, match="expected at least"):
        IdLayout(**fields)

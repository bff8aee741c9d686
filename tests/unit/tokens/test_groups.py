import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqaa.errors import InvalidToken
from aqaa.tokens import IdLayout, Ratios, merge, split

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/merge/cases.json").read_text())
LAYOUT = IdLayout(GOLDEN["offset"], GOLDEN["linguistic_size"], GOLDEN["semantic_size"], 74752)
PUBLIC = Ratios(text=10, linguistic=2, semantic=3, groups=3)


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_golden_merge(case):
    ids = merge(case["vq02"], case["vq06"], LAYOUT, PUBLIC)
    assert ids.tolist() == case["merged_ids"]
    assert LAYOUT.to_string(ids) == case["string"]
    assert LAYOUT.from_string(case["string"]).tolist() == case["merged_ids"]
    linguistic, semantic = split(ids, LAYOUT, PUBLIC)
    assert linguistic.tolist() == case["vq02"][: 2 * case["groups"]]
    assert semantic.tolist() == case["vq06"][: 3 * case["groups"]]


@given(
    st.integers(0, 3),
    st.integers(0, 3),
    st.lists(st.integers(0, 1023), max_size=30),
    st.lists(st.integers(0, 4095), max_size=30),
)
def test_any_ratio_merges_and_splits(linguistic, semantic, ling, sem):
    if linguistic + semantic == 0:
        return
    ratios = Ratios(text=10, linguistic=linguistic, semantic=semantic, groups=1)
    ids = merge(ling, sem, LAYOUT, ratios)
    count = ratios.group_count(len(ling), len(sem))
    assert len(ids) == count * ratios.group_size
    back = split(ids, LAYOUT, ratios)
    assert (back[0].tolist(), back[1].tolist()) == (ling[: count * linguistic], sem[: count * semantic])


def test_split_refuses_an_open_group():
    with pytest.raises(InvalidToken, match="4 audio ids, expected whole groups of 5"):
        split([65536, 65536, 66560, 66560], LAYOUT, PUBLIC)


def test_split_names_the_id_in_the_wrong_place():
    with pytest.raises(InvalidToken, match=r"position 1: id 66561, expected \[65536, 66560\)"):
        split([65536, 66561, 66560, 66560, 66560], LAYOUT, PUBLIC)


def test_merge_refuses_codes_with_two_axes():
    with pytest.raises(InvalidToken, match="one axis"):
        merge([[1, 2]], [[1, 2, 3]], LAYOUT, PUBLIC)


@pytest.mark.parametrize(
    "fields",
    [
        {"text": -1, "linguistic": 2, "semantic": 3, "groups": 3},
        {"text": 10, "linguistic": -2, "semantic": 3, "groups": 3},
        {"text": 10, "linguistic": 0, "semantic": 0, "groups": 3},
        {"text": 10, "linguistic": 2, "semantic": 3, "groups": 0},
    ],
)
def test_impossible_ratios_are_refused(fields):
    with pytest.raises(ValueError, match="expected"):
        Ratios(**fields)

import pytest

from aqaa.tokens import ClassRanges, IdLayout, TokenClass
from aqaa.tokens.classes import ranges_of

LAYOUT = IdLayout(20, 2, 3, vocab_size=30)


def make(**changes) -> ClassRanges:
    fields = {"text": ((6, 9), (10, 20)), "audio_start": 4, "audio_end": 5, "eot": 3, "styles": (9,)}
    return ClassRanges(LAYOUT, **(fields | changes))


def test_every_id_has_at_most_one_class():
    ranges = make()
    found = {token_id: ranges.class_of(token_id) for token_id in range(-1, 31)}
    assert [token_id for token_id, kind in found.items() if kind is None] == [-1, 0, 1, 2, *range(25, 31)]
    for token_class in TokenClass:
        ids = [i for low, high in ranges.of(token_class) for i in range(low, high)]
        assert ids == [token_id for token_id, kind in found.items() if kind is token_class]
    assert found[9] is TokenClass.STYLE
    assert found[21] is TokenClass.LINGUISTIC
    assert found[22] is TokenClass.SEMANTIC


@pytest.mark.parametrize(
    "changes",
    [
        {"text": ((6, 10),)},
        {"text": ((10, 20), (6, 9))},
        {"text": ((6, 6),)},
        {"text": ((6, 21),)},
        {"audio_start": 5},
        {"eot": 22},
        {"styles": (30,)},
    ],
)
def test_classes_that_share_ids_or_leave_the_vocabulary_are_refused(changes):
    with pytest.raises(ValueError, match="range"):
        make(**changes)


def test_ranges_join_neighbours():
    assert ranges_of([5, 3, 4, 9, 9]) == ((3, 6), (9, 10))
    assert ranges_of([]) == ()

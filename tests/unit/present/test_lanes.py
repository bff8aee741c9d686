"""A token is drawn when it sounds."""

import pytest

from aqaa.present.lanes import answer_lanes, question_lanes
from aqaa.tokens.classes import TokenClass
from aqaa.tokens.groups import Ratios

RATIOS = Ratios(text=10, linguistic=2, semantic=3, groups=3)
GROUP = 0.12


def group(first: int) -> list[tuple[int, TokenClass]]:
    linguistic = [(first + place, TokenClass.LINGUISTIC) for place in range(2)]
    return linguistic + [(first + place, TokenClass.SEMANTIC) for place in range(3)]


def test_question_tokens_fill_its_groups_side_by_side() -> None:
    lanes = question_lanes(range(10), RATIOS, GROUP)
    assert [cell.token for cell in lanes[TokenClass.LINGUISTIC]] == [0, 1, 5, 6]
    assert [cell.token for cell in lanes[TokenClass.SEMANTIC]] == [2, 3, 4, 7, 8, 9]
    assert lanes[TokenClass.LINGUISTIC][2].start == pytest.approx(GROUP)
    assert lanes[TokenClass.SEMANTIC][4].start == pytest.approx(GROUP + 0.04)
    assert TokenClass.TEXT not in lanes


def test_text_stands_where_the_audio_after_it_begins() -> None:
    block = [(token, TokenClass.TEXT) for token in range(10)] + [
        code for _ in range(3) for code in group(600)
    ]
    tail = [(50, TokenClass.TEXT), *group(700), *group(700)]
    lanes = answer_lanes(
        [(5, TokenClass.AUDIO_START), *block, *tail, (6, TokenClass.AUDIO_END)], RATIOS, GROUP
    )
    text = lanes[TokenClass.TEXT]
    assert text[0].start == 0.0
    assert text[9].start + text[9].seconds == pytest.approx(3 * GROUP)
    assert text[10].start == pytest.approx(3 * GROUP)
    assert text[10].seconds == pytest.approx(3 * GROUP / 10)
    for token_class in (TokenClass.LINGUISTIC, TokenClass.SEMANTIC):
        last = lanes[token_class][-1]
        assert last.start + last.seconds == pytest.approx(5 * GROUP)


def test_an_answer_of_text_alone_has_a_text_lane() -> None:
    lanes = answer_lanes([(40, TokenClass.TEXT), (41, TokenClass.TEXT), (3, TokenClass.EOT)], RATIOS, GROUP)
    assert [cell.token for cell in lanes[TokenClass.TEXT]] == [40, 41]
    assert lanes[TokenClass.SEMANTIC] == []

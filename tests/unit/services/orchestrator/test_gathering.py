"""What is one entry of the log: nothing waits that someone could use, and nothing is lost or turned round."""

from hypothesis import given
from hypothesis import strategies as st

from aqaa.v1.tokens_pb2 import AnswerEnd, AnswerPiece, AudioGroups, SegmentEnd, SegmentStart, TextRun
from services.orchestrator.gathering import Gathering
from services.orchestrator.groups import count

SIZES, CONTEXT, INTERVAL = (3, 3, 6, 12), 1, 0.04


def group(i: int) -> AnswerPiece:
    return AnswerPiece(groups=AudioGroups(first_group=i, linguistic=[i, i], semantic=[i, i, i]))


def word(i: int) -> AnswerPiece:
    return AnswerPiece(text=TextRun(text=f"{i} ", token_ids=[i]))


def start(segment: int) -> AnswerPiece:
    return AnswerPiece(segment_start=SegmentStart(segment=segment))


def left(gathering: Gathering, pieces: list[AnswerPiece], now: float = 0.0) -> list[int]:
    """Groups in each entry, 0 for any other."""
    return [count(entry.groups) for piece in pieces for entry in gathering.add(piece, now)]


def test_groups_wait_for_the_tile_that_they_complete_and_no_longer() -> None:
    gathering = Gathering(SIZES, CONTEXT, INTERVAL)
    assert left(gathering, [start(0), *map(group, range(37))]) == [0, 4, 3, 6, 12, 12]
    assert gathering.waiting == 0
    assert left(gathering, [group(37), AnswerPiece(segment_end=SegmentEnd(groups=38))]) == [1, 0]
    assert left(gathering, [start(1), *map(group, range(4))]) == [0, 4]


def test_who_goes_on_with_an_answer_knows_the_tile_it_is_in() -> None:
    gathering = Gathering(SIZES, CONTEXT, INTERVAL)
    gathering.begin([start(0), *map(group, range(5))])
    assert left(gathering, [*map(group, range(5, 13))]) == [2, 6]
    assert left(gathering, [group(13)]) == []
    gathering.begin([start(0), *map(group, range(5))])
    assert gathering.waiting == 0
    assert left(gathering, [group(5), group(6)]) == [2]


def test_no_group_waits_while_nobody_has_said_how_sound_is_made() -> None:
    assert left(Gathering(SIZES, None, INTERVAL), [start(0), group(0), group(1)]) == [0, 1, 1]


def test_the_first_text_leaves_at_once_and_more_waits_its_interval() -> None:
    gathering = Gathering(SIZES, CONTEXT, INTERVAL)
    assert gathering.due is None
    assert [entry.text.text for entry in gathering.add(word(0), 7.0)] == ["0 "]
    assert gathering.add(word(1), 7.01) == []
    assert gathering.due == 7.0 + INTERVAL
    assert gathering.add(word(2), 7.02) == []
    assert [entry.text.text for entry in gathering.flush(7.04)] == ["1 2 "]
    assert gathering.due is None


@given(st.lists(st.sampled_from(["word", "group", "end", "flush"]), max_size=60), st.booleans())
def test_an_answer_is_the_same_joined_or_not(kinds: list[str], known: bool) -> None:
    gathering = Gathering(SIZES, CONTEXT if known else None, INTERVAL)
    given_pieces, entries, groups, segment, now = [start(0)], [], 0, 0, 0.0
    entries += gathering.add(start(0), now)
    for i, kind in enumerate(kinds):
        now += 0.015
        pieces = []
        if kind == "flush":
            entries += gathering.flush(now)
        elif kind == "end":
            segment += 1
            pieces = [AnswerPiece(segment_end=SegmentEnd(groups=groups)), start(segment)]
            groups = 0
        elif kind == "group":
            pieces, groups = [group(groups)], groups + 1
        else:
            pieces = [word(i)]
        given_pieces += pieces
        for piece in pieces:
            entries += gathering.add(piece, now)
    last = AnswerPiece(end=AnswerEnd(groups=groups))
    entries += gathering.add(last, now)
    assert flat(entries) == flat([*given_pieces, last])
    assert gathering.flush(now) == []


def flat(pieces: list[AnswerPiece]) -> list[object]:
    """Text by token and sound by code, so that joined and single pieces compare."""
    found: list[object] = []
    for piece in pieces:
        if piece.HasField("text"):
            found += piece.text.token_ids
        elif piece.HasField("groups"):
            found += [("group", code) for code in piece.groups.linguistic[::2]]
        else:
            found.append(piece.SerializeToString())
    return found

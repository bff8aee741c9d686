import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqaa.errors import GrammarError
from aqaa.tokens import (
    Answer,
    AnswerEnd,
    AnswerParser,
    Caps,
    ClassRanges,
    Grammar,
    Group,
    IdLayout,
    Ratios,
    Segment,
    SegmentEnd,
    SegmentStart,
    TextRun,
    lay_out,
    parse,
)

RANGES = ClassRanges(IdLayout(50, 4, 6), ((10, 20),), audio_start=5, audio_end=6, eot=3, styles=(7, 8))
GRAMMAR = Grammar(RANGES, Ratios(10, 2, 3, 3), Caps(9, 9, 9, 99, 999))
GROUP = (50, 51, 54, 55, 56)

text_ids = st.integers(10, 19)
groups = st.tuples(*[st.integers(50, 53)] * 2, *[st.integers(54, 59)] * 3)


@st.composite
def segments(draw) -> Segment:
    text = draw(st.lists(text_ids, min_size=1, max_size=35))
    least = (len(text) - 1) // 10 * 3 + 1
    spoken = draw(st.lists(groups, min_size=least, max_size=least + 6))
    return Segment(tuple(text), tuple(spoken), draw(st.none() | st.sampled_from([7, 8])))


answers = st.lists(segments(), min_size=1, max_size=3).map(Answer.spoken)


@given(answers)
def test_what_is_laid_out_parses_back(answer):
    assert parse(GRAMMAR, lay_out(GRAMMAR, answer)) == answer


@given(answers)
def test_blocks_are_filled_in_order(answer):
    """Ten text tokens, three groups, while text lasts: the written layout, without the table."""
    expected = []
    for segment in answer.segments:
        text, spoken = list(segment.text), list(segment.groups)
        expected.append(5)
        expected += [] if segment.style is None else [segment.style]
        while text:
            expected += text[:10]
            del text[:10]
            count = 3 if text else len(spoken)
            expected += [token_id for group in spoken[:count] for token_id in group]
            del spoken[:count]
        expected.append(6)
    assert lay_out(GRAMMAR, answer) == [*expected, 3]


@given(answers, st.lists(st.integers(1, 12)))
def test_streamed_events_tell_the_whole_answer(answer, cuts):
    ids = lay_out(GRAMMAR, answer)
    parser, events = AnswerParser(GRAMMAR), []
    for cut in [*cuts, len(ids)]:
        events += parser.push(ids[:cut])
        del ids[:cut]
    assert parser.finished
    assert isinstance(events[-1], AnswerEnd)
    for number, segment in enumerate(answer.segments):
        assert SegmentStart(number, segment.style) in events
        assert SegmentEnd(number, len(segment.groups)) in events
        text = [i for e in events if isinstance(e, TextRun) and e.segment == number for i in e.ids]
        assert tuple(text) == segment.text
        told = [event for event in events if isinstance(event, Group) and event.segment == number]
        assert tuple(group.ids for group in told) == segment.groups
        assert [group.index for group in told] == list(range(len(told)))


def test_events_come_as_soon_as_they_are_sure():
    parser = AnswerParser(GRAMMAR)
    assert parser.push([5]) == []
    assert parser.push([7]) == []
    assert parser.push([10, 11]) == [SegmentStart(0, 7), TextRun((10, 11), 0)]
    assert parser.push(GROUP[:4]) == []
    assert parser.push(GROUP[4:]) == [Group(0, 0, GROUP)]
    assert parser.push([6, 3]) == [SegmentEnd(0, 1), AnswerEnd()]


def test_a_text_only_answer_has_no_segments():
    assert parse(GRAMMAR, [10, 11, 3]) == Answer((10, 11))
    assert lay_out(GRAMMAR, Answer((10, 11))) == [10, 11, 3]


@pytest.mark.parametrize(
    ("task", "answer", "ids"),
    [
        ("transcript", Answer((10,)), [10, 3]),
        ("speak", Answer.spoken([Segment((), (GROUP, GROUP), 8)]), [5, 8, *GROUP, *GROUP, 6, 3]),
        ("continue", Answer.spoken([Segment((), (GROUP,))]), [*GROUP, 3]),
    ],
)
def test_the_other_tasks_have_layouts_of_their_own(task, answer, ids):
    assert lay_out(GRAMMAR, answer, task) == ids
    assert parse(GRAMMAR, ids, task) == answer


def test_text_that_outlasts_its_speech_cannot_be_laid_out():
    with pytest.raises(GrammarError, match=r"part 0 .* 1 TEXT"):
        lay_out(GRAMMAR, Answer.spoken([Segment((10,) * 11, (GROUP,) * 2)]))
    with pytest.raises(GrammarError, match="allows TEXT"):
        lay_out(GRAMMAR, Answer.spoken([Segment((10,), ())]))


@pytest.mark.parametrize(
    "ids",
    [[], [5, 10, *GROUP], [5, 10, *GROUP, 6], [5, 10, *GROUP[:3]], [10]],
    ids=lambda ids: f"{len(ids)} ids",
)
def test_an_unfinished_sequence_is_refused(ids):
    with pytest.raises(GrammarError, match="expected EOT"):
        parse(GRAMMAR, ids)


def test_a_group_that_does_not_close_is_refused():
    with pytest.raises(GrammarError):
        parse(GRAMMAR, [5, 10, *GROUP[:4], 6, 3])
    with pytest.raises(GrammarError, match="segment 0 ends with 2 linguistic and 2 semantic codes"):
        parse(GRAMMAR, [5, 10, *GROUP[:4], 6, 3], "free")


def test_free_order_is_sorted_by_range():
    six_nine = [5, 7, 10, 11, 50, 50, 51, 51, 54, 54, 54, 55, 55, 55, 6, 12, 3]
    first, second = (50, 50, 54, 54, 54), (51, 51, 55, 55, 55)
    expected = Answer((10, 11, 12), (Segment((10, 11), (first, second), 7),))
    assert parse(GRAMMAR, six_nine, "free") == expected


def test_free_order_needs_no_markers():
    assert parse(GRAMMAR, [*GROUP, 10, 3], "free") == Answer((10,), (Segment((10,), (GROUP,)),))
    assert parse(GRAMMAR, [5, 6, 5, *GROUP, 5, *GROUP, 3], "free").segments == (
        Segment((), ()),
        Segment((), (GROUP,)),
        Segment((), (GROUP,)),
    )
    assert parse(GRAMMAR, [7, 10, 6, 3], "free") == Answer((10,))

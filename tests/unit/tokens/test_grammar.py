import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqaa.errors import GrammarError
from aqaa.tokens import Caps, ClassRanges, Grammar, IdLayout, Ratios, TokenClass, parse
from aqaa.tokens.table import TASKS

RANGES = ClassRanges(
    IdLayout(50, 4, 6, 70), ((10, 20), (22, 30)), audio_start=5, audio_end=6, eot=3, styles=(7, 20)
)

ratios = st.builds(
    Ratios,
    text=st.none() | st.integers(0, 4),
    linguistic=st.integers(0, 2),
    semantic=st.integers(1, 3),
    groups=st.integers(1, 3),
)
caps = st.builds(
    Caps,
    groups_base=st.integers(1, 6),
    groups_per_text=st.floats(0, 2),
    segments=st.integers(1, 3),
    text=st.integers(1, 12),
    tokens=st.integers(12, 90),
)


def wander(automaton, rng, least_ending: bool = False) -> list[int]:
    """A random legal walk to the end; ``least_ending`` leaves a segment only where it must."""
    ids = []
    while not automaton.finished:
        choices = list(automaton.choices)
        if least_ending:
            going_on = [c for c in choices if c.token_class not in (TokenClass.AUDIO_END, TokenClass.EOT)]
            choices = going_on or choices
        low, high = rng.choice(rng.choice(choices).ranges)
        ids.append(rng.randrange(low, high))
        automaton.push(ids[-1])
    return ids


@given(
    ratios,
    caps,
    st.sampled_from(["answer", "transcript", "speak", "continue"]),
    st.booleans(),
    st.integers(0),
)
def test_walks_under_caps_end_and_parse(ratio, cap, task, least_ending, seed):
    grammar = Grammar(RANGES, ratio, cap)
    automaton = grammar.start(task=task, spoken_text=5)
    ids = wander(automaton, random.Random(seed), least_ending)
    assert len(ids) <= cap.tokens
    answer = parse(grammar, ids, task)
    assert len(answer.segments) <= cap.segments
    assert len(answer.text) <= cap.text
    if task in ("answer", "speak"):
        for segment in answer.segments:
            allowed = cap.groups(len(segment.text) if task == "answer" else 5)
            assert 1 <= len(segment.groups) <= allowed
    if least_ending:
        assert automaton.finish_reason == "length"


@given(st.sampled_from(TASKS), st.integers(0), st.integers(2, 60))
def test_a_budget_of_tokens_is_kept(task, seed, budget):
    grammar = Grammar(RANGES, Ratios(3, 2, 3, 1), Caps(9, 9, 9, 99, 999))
    try:
        automaton = grammar.start(task=task, max_tokens=budget)
    except GrammarError:
        assert budget < 8  # audio_start, a group, audio_end, EOT
        return
    length = len(wander(automaton, random.Random(seed), least_ending=True))
    assert length == budget if task in ("transcript", "free") else length <= budget
    assert automaton.finish_reason == "length"


@given(st.sampled_from(TASKS), st.integers(0), st.booleans())
def test_masks_admit_exactly_what_push_accepts(task, seed, capped):
    grammar = Grammar(RANGES, Ratios(2, 1, 2, 2), Caps(2, 1, 2, 5, 40))
    automaton = grammar.start(task=task, capped=capped)
    rng = random.Random(seed)
    for _ in range(rng.randrange(30)):
        if automaton.finished:
            break
        low, high = rng.choice(rng.choice(automaton.choices).ranges)
        automaton.push(rng.randrange(low, high))
    mask = RANGES.mask(automaton.choices)
    for token_id in range(RANGES.layout.vocab_size):
        fork = automaton.copy()
        if mask[token_id]:
            assert fork.push(token_id) is RANGES.class_of(token_id)
        else:
            with pytest.raises(GrammarError):
                fork.push(token_id)
    assert mask.any() != automaton.finished


@given(st.integers(0), st.integers(0))
def test_a_copy_goes_its_own_way(seed, other_seed):
    grammar = Grammar(RANGES, Ratios(2, 1, 2, 2), Caps(2, 1, 2, 5, 40))
    automaton = grammar.start(start_mode="speech")
    for token_id in (5, 10, 50, 54, 54):
        automaton.push(token_id)
    copy = automaton.copy()
    wander(copy, random.Random(other_seed))
    assert list(automaton.history) == [50, 54, 54]
    assert not automaton.finished
    assert wander(automaton.copy(), random.Random(seed)) == wander(automaton, random.Random(seed))


def test_equal_states_share_their_choices(grammar):
    one, other = grammar.start(), grammar.start()
    assert one.choices is other.choices
    for token_id in (5, 10, 50):
        one.push(token_id)
    for token_id in (5, 10, 11, 51):
        other.push(token_id)
    assert one.choices is other.choices
    assert [choice.token_class for choice in one.choices] == [TokenClass.LINGUISTIC]
    assert one.choices[0].ranges == ((50, 54),)
    assert one.choices[0].size == 4


def test_history_is_the_audio_of_the_open_segment(grammar):
    automaton = grammar.start()
    for token_id in (5, 7, 10, 50, 51, 54, 55, 56):
        automaton.push(token_id)
    assert list(automaton.history) == [50, 51, 54, 55, 56]
    automaton.push(6)
    assert list(automaton.history) == []


def test_an_illegal_id_names_state_id_and_what_was_legal(grammar):
    automaton = grammar.start()
    automaton.push(5)
    with pytest.raises(GrammarError) as error:
        automaton.push(50)
    for part in ("token 1", "id 50", "LINGUISTIC", "'opened'", "TEXT, STYLE"):
        assert part in str(error.value)
    assert automaton.state == "opened"
    with pytest.raises(GrammarError, match="id 65 \\(no class\\)"):
        automaton.push(65)


def test_nothing_follows_the_end(grammar):
    automaton = grammar.start(start_mode="text")
    assert automaton.finish_reason is None
    automaton.push(10)
    automaton.push(3)
    assert automaton.finished
    assert automaton.finish_reason == "stop"
    assert automaton.choices == ()
    with pytest.raises(GrammarError, match="expected nothing"):
        automaton.push(3)


def test_a_cap_on_groups_closes_the_segment_and_the_answer():
    grammar = Grammar(RANGES, Ratios(10, 2, 3, 3), Caps(1, 0.5, 5, 50, 500))
    automaton = grammar.start()
    for token_id in (5, 10, 10, *[50, 50, 54, 54, 54] * 2):
        automaton.push(token_id)
    for expected in (6, 3):
        (choice,) = automaton.choices
        assert choice.ranges == ((expected, expected + 1),)
        automaton.push(expected)
    assert automaton.finish_reason == "length"


def test_a_cap_on_text_lets_the_speech_of_what_was_said_go_on():
    grammar = Grammar(RANGES, Ratios(10, 2, 3, 3), Caps(9, 1, 5, 2, 500))
    automaton = grammar.start()
    for token_id in (5, 10, 10):
        automaton.push(token_id)
    assert [choice.token_class for choice in automaton.choices] == [TokenClass.LINGUISTIC]
    for token_id in (50, 50, 54, 54, 54):
        automaton.push(token_id)
    assert {choice.token_class for choice in automaton.choices} == {
        TokenClass.LINGUISTIC,
        TokenClass.AUDIO_END,
    }
    automaton.push(6)
    assert [choice.token_class for choice in automaton.choices] == [TokenClass.EOT]


def test_an_answer_below_its_caps_stops_of_itself(grammar):
    automaton = grammar.start()
    for token_id in (5, 10, 50, 50, 54, 54, 54, 6, 3):
        automaton.push(token_id)
    assert automaton.finish_reason == "stop"


def test_a_bundle_without_styles_offers_none():
    bare = ClassRanges(IdLayout(50, 4, 6), ((10, 20),), audio_start=5, audio_end=6, eot=3)
    automaton = Grammar(bare, Ratios(10, 2, 3, 3), Caps(9, 9, 9, 9, 99)).start()
    automaton.push(5)
    assert [choice.token_class for choice in automaton.choices] == [TokenClass.TEXT]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "sing"}, "expected one of answer, transcript"),
        ({"task": "speak", "start_mode": "text"}, "expected one of auto"),
        ({"start_mode": "loud"}, "expected one of auto, speech, text"),
        ({"start_mode": "speech", "max_tokens": 8}, "8 tokens for task 'answer', expected at least 9"),
    ],
)
def test_a_start_that_cannot_be_is_refused(grammar, options, words):
    with pytest.raises(GrammarError, match=words):
        grammar.start(**options)


@pytest.mark.parametrize("key", ["groups_base", "groups_per_text", "segments", "text", "tokens"])
def test_a_cap_that_allows_nothing_is_refused(key):
    fields = {"groups_base": 1, "groups_per_text": 1.0, "segments": 1, "text": 1, "tokens": 1}
    with pytest.raises(ValueError, match=key):
        Caps(**(fields | {key: -1}))

"""Answers as pieces: every token is in them, once, and an answer goes on from any of them."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqaa.bundle import Bundle
from aqaa.tokens.classes import TokenClass
from services.llm.language import Language
from services.llm.pieces import PieceWriter, tokens_of

LANGUAGE = Language.load(Bundle.open(Path(__file__).parents[4] / "models" / "nano"))
GRAMMAR = LANGUAGE.grammar
BYTES = LANGUAGE.text.piece_id("<0x80>"), LANGUAGE.text.piece_id("<0xFF>") + 1
TASKS = ("answer", "speak", "continue", "transcript")


@st.composite
def answers(draw, task):
    """A legal answer, its bytes and styles as odd as may be."""
    automaton = GRAMMAR.start(task=task, max_tokens=120)
    ids = []
    while not automaton.finished:
        choice = draw(st.sampled_from(automaton.choices))
        low, high = draw(st.sampled_from(choice.ranges))
        if choice.token_class is TokenClass.TEXT and draw(st.booleans()):
            low, high = BYTES  # where characters break
        ids.append(draw(st.integers(low, high - 1)))
        automaton.push(ids[-1])
    return ids


def written(task, ids, *, taken=(), runs=None):
    """All pieces but the end, the tokens handed in singly or in runs."""
    writer = PieceWriter(LANGUAGE, task, "auto")
    given = writer.take_up(taken)
    assert list(given) == ids[: len(given)]
    rest, pieces = ids[len(given) :], []
    while rest:
        size = 1 if runs is None else next(runs)
        pieces += writer.push(rest[:size])
        rest = rest[size:]
    return writer, pieces


@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_an_answer_goes_on_behind_any_piece(task, data):
    ids = data.draw(answers(task))
    writer, pieces = written(task, ids)
    cut = data.draw(st.integers(0, len(pieces)))
    again, rest = written(task, ids, taken=pieces[:cut])
    assert pieces[:cut] + rest == pieces
    assert again.end("stop") == writer.end("stop")


@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_pieces_hold_every_token_in_order_for_any_runs(task, data):
    ids = data.draw(answers(task))
    sizes = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    _, singly = written(task, ids)
    writer, pieces = written(task, ids, runs=iter(sizes * len(ids)))
    # what ends the sound of `continue` has no piece of its own
    without = {GRAMMAR.ranges.eot} | ({GRAMMAR.ranges.audio_end} if task == "continue" else set())
    assert list(tokens_of(LANGUAGE, task, pieces)) == [i for i in ids if i not in without]
    text = "".join(piece.text.text for piece in pieces)
    assert text == "".join(piece.text.text for piece in singly)
    end = writer.end("length").end
    assert end.tokens == len(ids)
    assert end.groups == sum(len(piece.groups.semantic) // 3 for piece in pieces)
    assert end.text_tokens == sum(len(piece.text.token_ids) for piece in pieces)


def test_a_character_that_is_not_whole_waits_for_its_last_byte():
    euro = [LANGUAGE.text.piece_id(f"<0x{byte:02X}>") for byte in "€".encode()]
    eot = GRAMMAR.ranges.eot
    writer = PieceWriter(LANGUAGE, "answer", "text")
    runs = [(p.text.text, list(p.text.token_ids)) for i in euro for p in writer.push([i])]
    assert runs == [("", euro[:1]), ("", euro[1:2]), ("€", euro[2:])]
    broken = PieceWriter(LANGUAGE, "answer", "text")
    pieces = [*broken.push(euro[:2]), *broken.push([eot])]
    assert [(p.text.text, list(p.text.token_ids)) for p in pieces] == [("", euro[:2]), ("\ufffd", [])]
    assert tokens_of(LANGUAGE, "answer", pieces) == tuple(euro[:2])

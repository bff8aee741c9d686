"""The tables against the written grammar: productions that generate, tables that recognise."""

from itertools import product

import pytest

from aqaa.tokens import Ratios, TokenClass
from aqaa.tokens.table import ILLEGAL, TASKS, Table, build

LETTER = dict(zip("TLSAZYE", TokenClass, strict=True))  # Z ends audio, Y is a style, E ends the turn
TINY = Ratios(text=2, linguistic=1, semantic=1, groups=2)
ALL_RATIOS = [
    TINY,
    Ratios(text=10, linguistic=2, semantic=3, groups=3),
    Ratios(text=1, linguistic=0, semantic=1, groups=1),
    Ratios(text=3, linguistic=2, semantic=0, groups=1),
    Ratios(text=0, linguistic=1, semantic=2, groups=1),
    Ratios(text=None, linguistic=2, semantic=3, groups=1),
]


def segments(ratios: Ratios, longest: int) -> set[str]:
    """audio_start style? block* tail audio_end, by the productions of the design."""
    group = "L" * ratios.linguistic + "S" * ratios.semantic
    many = [group * count for count in range(1, longest // len(group) + 1)]
    if ratios.text == 0:
        bodies = set(many)
    elif ratios.text is None:
        bodies = {"T" * text + groups for text in range(1, longest) for groups in many}
    else:
        block = "T" * ratios.text + group * ratios.groups
        tails = {"T" * text + groups for text in range(ratios.text + 1) for groups in many} | {""}
        blocks = [block * count for count in range(longest // len(block) + 1)]
        bodies = {blocks_ + tail for blocks_, tail in product(blocks, tails)}
    bodies = {
        body for body in bodies if "L" * ratios.linguistic in body and (ratios.text == 0 or "T" in body)
    }
    return {f"A{style}{body}Z" for style in ("", "Y") for body in bodies - {""} if len(body) <= longest - 3}


def language(task: str, ratios: Ratios, longest: int) -> set[str]:
    """Every legal sequence of at most ``longest`` tokens."""
    group = "L" * ratios.linguistic + "S" * ratios.semantic
    texts = {"T" * count + "E" for count in range(1, longest)}
    if task == "transcript":
        legal = texts
    elif task == "continue":
        legal = {group * n + end for n in range(1, longest) for end in ("E", "ZE")}
    elif task == "speak":
        legal = {
            segment + "E" for segment in segments(Ratios(0, ratios.linguistic, ratios.semantic, 1), longest)
        }
    else:
        one = segments(ratios, longest)
        spoken, latest = set(one), set(one)
        while latest:
            latest = {a + b for a in latest for b in one if len(a) + len(b) < longest}
            spoken |= latest
        legal = texts | {answer + "E" for answer in spoken}
    return {sequence for sequence in legal if len(sequence) <= longest}


def walk(table: Table, sequence: str) -> int:
    state = table.starts["auto"]
    for letter in sequence:
        state = table.next[state][LETTER[letter]]
        if state == ILLEGAL:
            break
    return state


def accepted(table: Table, longest: int) -> set[str]:
    """Every sequence of at most ``longest`` tokens that the table takes to its end."""
    found: set[str] = set()
    open_ends = {"": table.starts["auto"]}
    for _ in range(longest):
        grown = {}
        for sequence, state in open_ends.items():
            for letter, token_class in LETTER.items():
                after = table.next[state][token_class]
                if after == table.done:
                    found.add(sequence + letter)
                elif after != ILLEGAL:
                    grown[sequence + letter] = after
        open_ends = grown
    return found


@pytest.mark.parametrize("task", ["answer", "transcript", "speak", "continue"])
@pytest.mark.parametrize("ratios", [ALL_RATIOS[0], *ALL_RATIOS[2:]])
def test_the_table_accepts_the_grammar_and_nothing_else(task, ratios):
    longest = 17 if ratios is TINY else 13
    assert accepted(build(task, ratios), longest) == language(task, ratios, longest)


def test_the_public_ratios_accept_blocks_and_tails():
    table = build("answer", ALL_RATIOS[1])
    block, group = "T" * 10 + "LLSSS" * 3, "LLSSS"
    for legal in [
        f"AT{group}ZE",
        f"AY{'T' * 10}{group}ZE",
        f"A{block}ZE",
        f"A{block}{group * 4}ZE",
        f"A{block}TTT{group}ZE",
        f"A{block}{block}{'T' * 10}{group}{group}ZA{block}ZE",
        "TTTE",
    ]:
        assert walk(table, legal) == table.done, legal
    for illegal in [
        "E",
        "AZE",
        f"A{group}ZE",
        "A" + "T" * 11,
        f"A{'T' * 9}{group}T",
        f"A{'T' * 10}{group}T",
        f"A{block}{group}T",
        f"A{block}TZ",
        "AYY",
        "ATL" + "S",
        "ATLLSSZ",
        f"AT{group}E",
        "TA",
    ]:
        assert walk(table, illegal) == ILLEGAL, illegal


def test_start_modes_mask_the_first_step():
    table = build("answer", TINY)
    first = {mode: table.legal[state] for mode, state in table.starts.items()}
    text, speech = 1 << TokenClass.TEXT, 1 << TokenClass.AUDIO_START
    assert first == {"auto": text | speech, "speech": speech, "text": text}


def test_free_admits_every_class_until_the_end():
    table = build("free", TINY)
    assert table.legal[table.starts["auto"]] == sum(1 << c for c in TokenClass)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("ratios", ALL_RATIOS)
def test_every_state_reaches_the_end_by_its_distance(task, ratios):
    table = build(task, ratios)
    assert len(set(table.names)) == len(table.names)
    assert table.legal[table.done] == 0
    for state in range(len(table.names)):
        steps = 0
        while state != table.done:
            state = min((after for after in table.next[state] if after >= 0), key=lambda a: table.distance[a])
            steps += 1
            assert steps <= len(table.names)


def test_the_published_form_names_every_state():
    table = build("answer", TINY)
    lines = table.markdown().splitlines()
    assert len(lines) == len(table.names) + 2
    assert lines[2].startswith("| start | text |")

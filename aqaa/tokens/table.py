"""The answer grammar as data: one table of state × token class → state for each task.

Masks, parser, training layout and tests read these tables; nothing else knows which token may follow which.

    answer     := segment+ EOT | text+ EOT
    segment    := audio_start style? block* tail audio_end
    block      := text{T} group{K}                    T, K: Ratios.text, Ratios.groups
    tail       := text{0,T} group+ | ε                ε only after a block; a segment has text and a group
    group      := linguistic{L} semantic{S}           L, S: Ratios.linguistic, Ratios.semantic
    transcript := text+ EOT
    speak      := audio_start style? group+ audio_end EOT
    continue   := group+ audio_end? EOT
    free       := any class, until EOT
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from aqaa.tokens.classes import TokenClass
from aqaa.tokens.groups import Ratios

Task = Literal["answer", "transcript", "speak", "continue", "free"]
StartMode = Literal["auto", "speech", "text"]
TASKS: tuple[Task, ...] = get_args(Task)
START_MODES: tuple[StartMode, ...] = get_args(StartMode)

TEXT, LINGUISTIC, SEMANTIC, AUDIO_START, AUDIO_END, STYLE, EOT = TokenClass

Rows = dict[str, dict[TokenClass, str]]
ILLEGAL = -1


@dataclass(frozen=True)
class Table:
    """One automaton. ``next[state][token_class]`` is the state that follows, or ILLEGAL (-1)."""

    task: Task
    names: tuple[str, ...]
    next: tuple[tuple[int, ...], ...]
    starts: Mapping[StartMode, int]
    done: int

    @cached_property
    def legal(self) -> tuple[int, ...]:
        """For each state the legal classes as a bit set: bit c stands for TokenClass(c)."""
        return tuple(sum(1 << c for c, after in enumerate(row) if after != ILLEGAL) for row in self.next)

    @cached_property
    def distance(self) -> tuple[int, ...]:
        """For each state the fewest tokens that reach the end; ``len(names)`` where none does."""
        unreached = len(self.names)
        distance = [0 if state == self.done else unreached for state in range(unreached)]
        for _ in range(unreached):
            for state, row in enumerate(self.next):
                reach = [distance[after] + 1 for after in row if after != ILLEGAL]
                distance[state] = min([distance[state], *reach])
        return tuple(distance)

    def markdown(self) -> str:
        """The table for documents: one row a state, one column a class."""
        head = ["state", *(token_class.name for token_class in TokenClass)]
        body = [
            [name, *("" if after == ILLEGAL else self.names[after] for after in row)]
            for name, row in zip(self.names, self.next, strict=True)
        ]
        return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body]) + "\n"


def build(task: Task, ratios: Ratios) -> Table:
    """The table of a task under the given ratios."""
    rows: Rows = {}
    starts: dict[StartMode, str] = {"auto": "start"}
    if task == "answer":
        _segment(rows, ratios, text=ratios.text)
        rows["between"] = {AUDIO_START: "opened", EOT: "done"}
        rows["start"] = {AUDIO_START: "opened", TEXT: "text"}
        rows["start speech"] = {AUDIO_START: "opened"}
        rows["start text"] = {TEXT: "text"}
        rows["text"] = {TEXT: "text", EOT: "done"}
        starts |= {"speech": "start speech", "text": "start text"}
    elif task == "transcript":
        rows["start"] = {TEXT: "text"}
        rows["text"] = {TEXT: "text", EOT: "done"}
    elif task == "speak":
        _segment(rows, ratios, text=0)
        rows["between"] = {EOT: "done"}
        rows["start"] = {AUDIO_START: "opened"}
    elif task == "continue":
        rows["start"] = _groups(rows, ratios, "tail", closed={AUDIO_END: "between", EOT: "done"})
        rows["between"] = {EOT: "done"}
    else:
        rows["start"] = dict.fromkeys(TokenClass, "start") | {EOT: "done"}
    return _indexed(task, rows, starts)


def _segment(rows: Rows, ratios: Ratios, text: int | None) -> None:
    """Adds the states of one segment, from ``opened`` to ``between``."""
    closed = {AUDIO_END: "between"}
    tail = _groups(rows, ratios, "tail", closed)
    if text == 0:
        first = tail
    elif text is None:
        first = {TEXT: "said"}
        rows["said"] = {TEXT: "said", **tail}
    else:
        first = {TEXT: "said 1"}
        # Back to front: a group leads to the next of its block, the last one to new text or to the tail.
        onward = {**first, **tail}
        for number in range(ratios.groups, 0, -1):
            onward = _group(rows, ratios, f"group {number}", closed={**onward, **closed})
        for spoken in range(1, text):
            rows[f"said {spoken}"] = {TEXT: f"said {spoken + 1}", **tail}
        rows[f"said {text}"] = onward
    rows["opened"] = {STYLE: "styled", **first}
    rows["styled"] = first


def _group(rows: Rows, ratios: Ratios, name: str, closed: dict[TokenClass, str]) -> dict[TokenClass, str]:
    """Adds the states inside one group; returns the transition that enters it."""
    codes = [LINGUISTIC] * ratios.linguistic + [SEMANTIC] * ratios.semantic
    places = [f"{name} code {place}" for place in range(1, len(codes))] + [f"{name} closed"]
    for place, code, after in zip(places, codes[1:], places[1:], strict=False):
        rows[place] = {code: after}
    rows[places[-1]] = closed
    return {codes[0]: places[0]}


def _groups(rows: Rows, ratios: Ratios, name: str, closed: dict[TokenClass, str]) -> dict[TokenClass, str]:
    """Adds the states of ``group+``; returns the transition that enters it."""
    entry = _group(rows, ratios, name, closed)
    rows[f"{name} closed"] = {**entry, **closed}
    return entry


def _indexed(task: Task, rows: Rows, starts: Mapping[StartMode, str]) -> Table:
    rows["done"] = {}
    number: dict[str, int] = {}

    def visit(name: str) -> None:
        """Numbers the states depth first, in about the order in which a sequence meets them."""
        if name not in number:
            number[name] = len(number)
            for after in rows[name].values():
                visit(after)

    for name in starts.values():
        visit(name)
    following = tuple(
        tuple(number[rows[name][c]] if c in rows[name] else ILLEGAL for c in TokenClass) for name in number
    )
    entries = {mode: number[name] for mode, name in starts.items()}
    return Table(task, tuple(number), following, entries, number["done"])

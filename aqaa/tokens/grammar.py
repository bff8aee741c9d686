"""Which token may come next: the automaton that every engine masks with and every parser checks with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from aqaa.errors import GrammarError
from aqaa.tokens.classes import Choice, Choices, ClassRanges, TokenClass
from aqaa.tokens.groups import Ratios
from aqaa.tokens.table import START_MODES, TASKS, StartMode, Table, Task, build

FinishReason = Literal["stop", "length"]

_TEXT = 1 << TokenClass.TEXT
_AUDIO_START = 1 << TokenClass.AUDIO_START
_CODES = 1 << TokenClass.LINGUISTIC | 1 << TokenClass.SEMANTIC


@dataclass(frozen=True)
class Caps:
    """How long an answer may grow before the grammar ends it. Bundles set them above what training has shown.

    A segment with n text tokens holds at most ``groups_base + groups_per_text * n`` groups. ``segments``,
    ``text`` and ``tokens`` count over the whole answer; ``tokens`` includes markers and EOT.
    """

    groups_base: int
    groups_per_text: float
    segments: int
    text: int
    tokens: int

    def __post_init__(self) -> None:
        for key in fields(self):
            value, least = getattr(self, key.name), 0 if key.name == "groups_per_text" else 1
            if not value >= least:
                raise ValueError(f"cap {key.name} is {value}, expected at least {least}")

    def groups(self, text: int) -> int:
        """Groups allowed in a segment with this many text tokens."""
        return self.groups_base + math.floor(self.groups_per_text * text)


class Grammar:
    """The automata of one bundle.

    >>> automaton = grammar.start(task="answer", start_mode="speech")
    >>> while not automaton.finished:
    ...     automaton.push(pick_one_of(automaton.choices))
    """

    def __init__(self, ranges: ClassRanges, ratios: Ratios, caps: Caps) -> None:
        self.ranges = ranges
        self.ratios = ratios
        self.caps = caps
        self.tables: dict[Task, Table] = {task: build(task, ratios) for task in TASKS}
        self._available = sum(1 << c for c in TokenClass if ranges.of(c))
        self._choices: dict[int, Choices] = {}

    def start(
        self,
        *,
        task: Task = "answer",
        start_mode: StartMode = "auto",
        max_tokens: int | None = None,
        spoken_text: int | None = None,
        capped: bool = True,
    ) -> "Automaton":
        """The automaton of one new sequence.

        ``start_mode`` chooses between a spoken and a text-only answer and applies to ``answer`` alone.
        ``max_tokens`` lowers the cap on all tokens (EOT included). ``spoken_text`` is the number of text
        tokens in the prompt of a ``speak`` task and sets its cap on groups. ``capped=False`` is for parsers.
        Raises GrammarError for an unknown task or mode, or where ``max_tokens`` leaves no legal sequence.
        """
        if task not in self.tables:
            raise GrammarError(f"task {task!r}, expected one of {', '.join(TASKS)}")
        table = self.tables[task]
        if start_mode not in table.starts:
            expected = ", ".join(mode for mode in START_MODES if mode in table.starts)
            raise GrammarError(f"start_mode {start_mode!r} for task {task!r}, expected one of {expected}")
        tokens = self.caps.tokens if max_tokens is None else min(max_tokens, self.caps.tokens)
        shortest = table.distance[table.starts[start_mode]]
        if capped and tokens < shortest:
            raise GrammarError(f"{tokens} tokens for task {task!r}, expected at least {shortest}")
        caps = self.caps if capped else None
        return Automaton(self, table, table.starts[start_mode], caps, tokens, spoken_text)

    def legal_choices(self, classes: int) -> Choices:
        """The choices of a bit set of classes; the same set gives the same object."""
        classes &= self._available
        if classes not in self._choices:
            self._choices[classes] = tuple(
                Choice(token_class, self.ranges.of(token_class))
                for token_class in TokenClass
                if classes >> token_class & 1
            )
        return self._choices[classes]


class Automaton:
    """The grammar's state of one sequence.

    ``choices`` are the legal classes and their ids; equal sets of legal classes are the same object, so
    engines may group rows by identity. ``push`` accepts one id. ``finish_reason`` is ``length`` where a cap
    took a choice away on the way to the end, else ``stop``. Each sequence has its own; ``copy`` forks one.
    """

    __slots__ = (
        "_caps",
        "_codes",
        "_curtailed",
        "_grammar",
        "_legal",
        "_pushed",
        "_segment_text",
        "_segments",
        "_spoken_text",
        "_state",
        "_table",
        "_text",
        "_tokens",
        "choices",
    )

    choices: Choices

    def __init__(
        self,
        grammar: Grammar,
        table: Table,
        state: int,
        caps: Caps | None,
        tokens: int,
        spoken_text: int | None,
    ) -> None:
        self._grammar = grammar
        self._table = table
        self._state = state
        self._caps = caps
        self._tokens = tokens
        self._spoken_text = spoken_text
        self._curtailed = False
        self._pushed = self._text = self._segment_text = self._segments = 0
        self._codes: list[int] = []
        self._legal = 0
        self._settle()

    @property
    def state(self) -> str:
        """The name of the table's state, for messages."""
        return self._table.names[self._state]

    @property
    def finished(self) -> bool:
        return self._state == self._table.done

    @property
    def finish_reason(self) -> FinishReason | None:
        if not self.finished:
            return None
        return "length" if self._curtailed else "stop"

    @property
    def history(self) -> Sequence[int]:
        """Audio ids of the open segment, oldest first: what the sampler's repetition window looks at."""
        return self._codes

    def push(self, token_id: int) -> TokenClass:
        """Takes one id and returns its class. Raises GrammarError that names state, id and legal classes."""
        token_class = self._grammar.ranges.class_of(token_id)
        if token_class is None or not self._legal >> token_class & 1:
            legal = ", ".join(choice.token_class.name for choice in self.choices) or "nothing"
            kind = "no class" if token_class is None else token_class.name
            raise GrammarError(
                f"token {self._pushed} is id {token_id} ({kind}) in state {self.state!r} "
                f"of task {self._table.task!r}, expected {legal}"
            )
        self._state = self._table.next[self._state][token_class]
        self._pushed += 1
        if token_class is TokenClass.LINGUISTIC or token_class is TokenClass.SEMANTIC:
            self._codes.append(token_id)
        elif token_class is TokenClass.TEXT:
            self._text += 1
            self._segment_text += 1
        elif token_class is TokenClass.AUDIO_START or token_class is TokenClass.AUDIO_END:
            self._segments += token_class is TokenClass.AUDIO_START
            self._segment_text = 0
            self._codes = []
        self._settle()
        return token_class

    def copy(self) -> "Automaton":
        """An independent automaton in the same state."""
        other = object.__new__(Automaton)
        for name in Automaton.__slots__:
            setattr(other, name, getattr(self, name))
        other._codes = list(self._codes)
        return other

    def _settle(self) -> None:
        """Works out what may follow: the table's row, less what the caps forbid."""
        legal = self._table.legal[self._state]
        if self._caps is not None:
            allowed = legal & ~self._barred(self._caps)
            self._curtailed |= allowed != legal
            legal = allowed
        self._legal = legal
        self.choices = self._grammar.legal_choices(legal)

    def _barred(self, caps: Caps) -> int:
        """Classes that a cap rules out now.

        The shortest way to the end (Table.distance) is never among them: a cap ends a sequence, it never
        traps one.
        """
        barred = 0
        if self._curtailed or self._segments >= caps.segments:
            barred |= _AUDIO_START
        if self._text >= caps.text:
            barred |= _TEXT | _AUDIO_START
        groups = self._group_cap(caps)
        if groups is not None and len(self._codes) >= groups * self._grammar.ratios.group_size:
            barred |= _TEXT | _CODES
        left, distance = self._tokens - self._pushed, self._table.distance
        if left <= len(distance):
            for token_class, after in enumerate(self._table.next[self._state]):
                if after >= 0 and distance[after] >= left:
                    barred |= 1 << token_class
        return barred

    def _group_cap(self, caps: Caps) -> int | None:
        if self._table.task == "answer":
            return caps.groups(self._segment_text)
        if self._table.task == "speak" and self._spoken_text is not None:
            return caps.groups(self._spoken_text)
        return None

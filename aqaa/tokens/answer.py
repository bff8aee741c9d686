"""An answer as segments of text and groups: read from ids, whole or streamed, and laid out for training."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from aqaa.errors import GrammarError
from aqaa.tokens.classes import TokenClass
from aqaa.tokens.grammar import Grammar
from aqaa.tokens.table import StartMode, Task


@dataclass(frozen=True)
class Segment:
    """Speech in one voice state: its text ids, its groups of audio ids, the id of its style piece."""

    text: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    style: int | None = None


@dataclass(frozen=True)
class Answer:
    """All text ids of an answer in order, and its segments; a text-only answer has none."""

    text: tuple[int, ...]
    segments: tuple[Segment, ...] = ()

    @classmethod
    def spoken(cls, segments: Iterable[Segment]) -> "Answer":
        """The answer that these segments make."""
        segments = tuple(segments)
        return cls(tuple(token_id for segment in segments for token_id in segment.text), segments)


@dataclass(frozen=True)
class TextRun:
    """Text ids in a row; ``segment`` is None outside segments."""

    ids: tuple[int, ...]
    segment: int | None


@dataclass(frozen=True)
class SegmentStart:
    """A segment begins; told with its first text or code, when its style is known."""

    segment: int
    style: int | None


@dataclass(frozen=True)
class Group:
    """One whole group of audio ids, linguistic ones first; ``index`` counts within the segment."""

    segment: int
    index: int
    ids: tuple[int, ...]


@dataclass(frozen=True)
class SegmentEnd:
    """A segment is over and had this many groups."""

    segment: int
    groups: int


@dataclass(frozen=True)
class AnswerEnd:
    """The end-of-turn token has come."""


Event = TextRun | SegmentStart | Group | SegmentEnd | AnswerEnd


class AnswerParser:
    """Reads an answer as it is generated.

    ``push`` takes any number of ids and returns what they complete; text ids in a row make one run, codes are
    told by whole groups. In ``free`` order, codes are sorted by range and paired into groups, and a segment
    begins with its marker or its first code. Raises GrammarError at an illegal id, and where a segment ends
    in an open group.
    """

    def __init__(self, grammar: Grammar, task: Task = "answer", start_mode: StartMode = "auto") -> None:
        self._automaton = grammar.start(task=task, start_mode=start_mode, capped=False)
        self._ratios = grammar.ratios
        self._segment = -1
        self._open = False
        self._told = False
        self._style: int | None = None
        self._linguistic: deque[int] = deque()
        self._semantic: deque[int] = deque()
        self._groups = 0

    @property
    def finished(self) -> bool:
        return self._automaton.finished

    @property
    def state(self) -> str:
        """The name of the automaton's state."""
        return self._automaton.state

    def push(self, ids: Iterable[int]) -> list[Event]:
        events: list[Event] = []
        for token_id in ids:
            self._push(int(token_id), events)
        return events

    def _push(self, token_id: int, events: list[Event]) -> None:
        token_class = self._automaton.push(token_id)
        if token_class is TokenClass.TEXT:
            self._tell_start(events)
            segment = self._segment if self._open else None
            last = events[-1] if events else None
            if isinstance(last, TextRun) and last.segment == segment:
                events[-1] = TextRun((*last.ids, token_id), segment)
            else:
                events.append(TextRun((token_id,), segment))
        elif token_class is TokenClass.LINGUISTIC or token_class is TokenClass.SEMANTIC:
            if not self._open:
                self._start()
            self._tell_start(events)
            linguistic = token_class is TokenClass.LINGUISTIC
            (self._linguistic if linguistic else self._semantic).append(token_id)
            self._tell_group(events)
        elif token_class is TokenClass.AUDIO_START:
            self._end(events)
            self._start()
        elif token_class is TokenClass.STYLE:
            if self._open and not self._told:
                self._style = token_id
        else:
            self._end(events)
            if token_class is TokenClass.EOT:
                events.append(AnswerEnd())

    def _start(self) -> None:
        self._segment += 1
        self._open, self._told, self._style, self._groups = True, False, None, 0

    def _tell_start(self, events: list[Event]) -> None:
        if self._open and not self._told:
            self._told = True
            events.append(SegmentStart(self._segment, self._style))

    def _tell_group(self, events: list[Event]) -> None:
        ratios = self._ratios
        if len(self._linguistic) < ratios.linguistic or len(self._semantic) < ratios.semantic:
            return
        ids = [self._linguistic.popleft() for _ in range(ratios.linguistic)]
        ids += [self._semantic.popleft() for _ in range(ratios.semantic)]
        events.append(Group(self._segment, self._groups, tuple(ids)))
        self._groups += 1

    def _end(self, events: list[Event]) -> None:
        if not self._open:
            return
        if self._linguistic or self._semantic:
            raise GrammarError(
                f"segment {self._segment} ends with {len(self._linguistic)} linguistic and "
                f"{len(self._semantic)} semantic codes beyond its last whole group, expected groups of "
                f"{self._ratios.linguistic} + {self._ratios.semantic}"
            )
        self._tell_start(events)
        events.append(SegmentEnd(self._segment, self._groups))
        self._open = False


def parse(
    grammar: Grammar, ids: Iterable[int], task: Task = "answer", start_mode: StartMode = "auto"
) -> Answer:
    """A whole sequence, EOT included, as an answer. Raises GrammarError when it is illegal or unfinished."""
    parser = AnswerParser(grammar, task, start_mode)
    text: list[int] = []
    spoken: dict[int, list[int]] = {}
    groups: dict[int, list[tuple[int, ...]]] = {}
    styles: dict[int, int | None] = {}
    for event in parser.push(ids):
        if isinstance(event, TextRun):
            text += event.ids
            if event.segment is not None:
                spoken[event.segment] += event.ids
        elif isinstance(event, SegmentStart):
            spoken[event.segment], groups[event.segment] = [], []
            styles[event.segment] = event.style
        elif isinstance(event, Group):
            groups[event.segment].append(event.ids)
    if not parser.finished:
        raise GrammarError(f"the sequence stops in state {parser.state!r} of task {task!r}, expected EOT")
    segments = (Segment(tuple(spoken[i]), tuple(groups[i]), styles[i]) for i in sorted(styles))
    return Answer(tuple(text), tuple(segments))


# Where several classes are legal: text as early as the grammar lets it, and an end only when nothing is left.
_PREFERENCE = (
    TokenClass.AUDIO_START,
    TokenClass.STYLE,
    TokenClass.TEXT,
    TokenClass.LINGUISTIC,
    TokenClass.SEMANTIC,
    TokenClass.AUDIO_END,
    TokenClass.EOT,
)


def lay_out(grammar: Grammar, answer: Answer, task: Task = "answer") -> list[int]:
    """The ids of an answer, EOT included, interleaved as the grammar's blocks ask: a training target.

    ``parse`` gives the answer back. ``transcript`` takes an answer without segments, ``continue`` one segment
    without its markers. Raises GrammarError where no legal sequence exists, for example when a segment
    has fewer groups than its blocks of text need.
    """
    ranges, ratios = grammar.ranges, grammar.ratios
    parts: list[dict[TokenClass, deque[int]]] = []
    for segment in answer.segments:
        part = {TokenClass.TEXT: deque(segment.text)}
        part[TokenClass.LINGUISTIC] = deque(i for group in segment.groups for i in group[: ratios.linguistic])
        part[TokenClass.SEMANTIC] = deque(i for group in segment.groups for i in group[ratios.linguistic :])
        if task != "continue":
            part[TokenClass.AUDIO_START] = deque([ranges.audio_start])
            part[TokenClass.AUDIO_END] = deque([ranges.audio_end])
        if segment.style is not None:
            part[TokenClass.STYLE] = deque([segment.style])
        parts.append(part)
    if not answer.segments:
        parts.append({TokenClass.TEXT: deque(answer.text)})
    parts.append({TokenClass.EOT: deque([ranges.eot])})

    automaton = grammar.start(task=task, capped=False)
    ids: list[int] = []
    for number, part in enumerate(parts):
        while any(part.values()):
            legal = {choice.token_class for choice in automaton.choices}
            following = next((c for c in _PREFERENCE if c in legal and part.get(c)), None)
            if following is None:
                left = ", ".join(f"{len(queue)} {c.name}" for c, queue in part.items() if queue)
                raise GrammarError(
                    f"part {number} of the answer cannot be laid out: {left} left in state "
                    f"{automaton.state!r} of task {task!r}, which allows {', '.join(c.name for c in legal)}"
                )
            ids.append(part[following].popleft())
            automaton.push(ids[-1])
    return ids

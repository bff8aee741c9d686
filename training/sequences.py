"""Training sequences of the backbone: prompts, targets, who sees whom, and which classes were legal.

One packed sequence holds a question once and both of its continuations, the spoken answer and the
transcript, each blind to the other and counting its positions on from the question.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aqaa.tokens.answer import Answer, Segment, lay_out
from aqaa.tokens.classes import ClassRanges, TokenClass
from aqaa.tokens.grammar import Caps, Grammar
from aqaa.tokens.groups import Ratios
from aqaa.tokens.ids import IdLayout
from aqaa.tokens.prompt import PromptBuilder, PromptTemplate
from aqaa.tokens.table import Task
from aqaa.tokens.text import TextVocabulary
from training.domain import Spoken
from training.tokens import STYLES, GroupTable

Ints = NDArray[np.int64]
TEMPLATE = PromptTemplate("<s>", "<|BOT|>", "<|EOT|>", content_prefix=True)
SHORT = 10
"""Groups below which a question, whatever the order of its pieces, may well be understood."""
CAPS = Caps(groups_base=40, groups_per_text=6.0, segments=3, text=64, tokens=900)


class Language:
    """The token language of nano: vocabulary, layout, grammar, prompts."""

    def __init__(self, text_model: Path) -> None:
        self.text = TextVocabulary.load(text_model, controls=STYLES)
        self.layout = IdLayout(audio_base=self.text.size, vocab_size=-(-(self.text.size + 5120) // 64) * 64)
        self.style_ids = {name.strip("<|>"): self.text.piece_id(name) for name in STYLES}
        self.ranges = ClassRanges(
            self.layout,
            text=self.text.text_ranges,
            audio_start=self.text.piece_id("<audio_start>"),
            audio_end=self.text.piece_id("<audio_end>"),
            eot=self.text.piece_id("<|EOT|>"),
            styles=tuple(sorted(self.style_ids.values())),
        )
        self.grammar = Grammar(self.ranges, Ratios(text=10, linguistic=2, semantic=3, groups=3), CAPS)
        self.prompts = PromptBuilder(TEMPLATE, self.text, self.layout)

    def audio_ids(self, groups: NDArray[np.int16]) -> Ints:
        """(G, 5) codes to (G, 5) ids."""
        ids = groups.astype(np.int64)
        ids[:, :2] += self.layout.audio_base
        ids[:, 2:] += self.layout.audio_base + self.layout.linguistic_codes
        return ids

    @cached_property
    def low(self) -> int:
        """Text, markers and linguistic ids lie below this one, semantic ids above."""
        return self.layout.semantic_range[0]


@dataclass(frozen=True)
class Target:
    """A continuation: its marker (given), its ids (to be learned), the legal classes of each (bit sets)."""

    marker: Ints
    ids: Ints
    legal: Ints
    given: int = 0  # leading ids that the caller forces and the model need not predict (a style of `speak`)


@dataclass
class Sequence:
    """Inputs (``ids``, ``positions``, ``branch``) and what follows each: ``target`` (-1: none), ``legal``."""

    ids: Ints
    positions: Ints
    branch: Ints
    target: Ints
    legal: Ints


class Targets:
    """Lays out continuations and remembers them: layouts are pure functions of texts and codes."""

    def __init__(self, language: Language, spoken: dict[Spoken, int], groups: GroupTable) -> None:
        self.language, self.spoken, self.groups = language, spoken, groups
        self._known: dict[object, Target] = {}

    def answer(self, answer: tuple[Spoken, ...]) -> Target:
        return self._once(
            ("answer", answer), "answer", lambda: Answer.spoken(self._segment(s) for s in answer)
        )

    def written(self, answer: tuple[Spoken, ...]) -> Target:
        """The answer as text alone (AQTA). That it is text is the caller's wish: nothing to decide there."""
        ids = tuple(i for spoken in answer for i in self.language.text.encode(spoken.text))
        target = self._once(("written", answer), "answer", lambda: Answer(ids))
        target.legal[0] = 1 << TokenClass.TEXT
        return target

    def transcript(self, text: str) -> Target:
        ids = tuple(self.language.text.encode(text))
        return self._once(("transcript", text), "transcript", lambda: Answer(ids))

    def speak(self, spoken: Spoken) -> Target:
        whole = self._segment(spoken)
        silent = Segment((), whole.groups, whole.style)
        return self._once(
            ("speak", spoken), "speak", lambda: Answer.spoken([silent]), given=1 + (whole.style is not None)
        )

    def rest(self, spoken: Spoken, start: int) -> Target:
        whole = self._segment(spoken)
        return self._once(
            ("continue", spoken, start),
            "continue",
            lambda: Answer.spoken([Segment((), whole.groups[start:])]),
        )

    def _segment(self, spoken: Spoken) -> Segment:
        ids = self.language.audio_ids(self.groups[self.spoken[spoken]])
        style = None if spoken.style is None else self.language.style_ids[spoken.style]
        return Segment(tuple(self.language.text.encode(spoken.text)), tuple(map(tuple, ids.tolist())), style)

    def _once(self, key: object, task: Task, make, given: int = 0) -> Target:  # type: ignore[no-untyped-def]
        if key not in self._known:
            ids = lay_out(self.language.grammar, make(), task)
            automaton = self.language.grammar.start(task=task, capped=False)
            legal = []
            for token_id in ids:
                legal.append(sum(1 << choice.token_class for choice in automaton.choices))
                automaton.push(token_id)
            marker = np.array(self.language.prompts.marker(task), np.int64)
            self._known[key] = Target(marker, np.array(ids, np.int64), np.array(legal, np.int64), given)
        return self._known[key]


def pack(prefix: Ints, branches: list[Target]) -> Sequence:
    """A shared prefix and its continuations, the first in branch 1, the next in branch 2 …"""
    ids, positions, branch = [prefix], [np.arange(len(prefix))], [np.zeros(len(prefix), np.int64)]
    target, legal = [np.full(len(prefix), -1)], [np.zeros(len(prefix), np.int64)]
    for number, part in enumerate(branches, 1):
        whole = np.concatenate((part.marker, part.ids[:-1]))
        ids.append(whole)
        positions.append(len(prefix) + np.arange(len(whole)))
        branch.append(np.full(len(whole), number))
        start = len(part.marker) - 1
        goal, classes = np.full(len(whole), -1), np.zeros(len(whole), np.int64)
        goal[start + part.given :] = part.ids[part.given :]
        classes[start:] = part.legal
        target.append(goal)
        legal.append(classes)
    return Sequence(
        *(np.concatenate(rows).astype(np.int64) for rows in (ids, positions, branch, target, legal))
    )


def neighbours(centroids: NDArray[np.float32], count: int = 64) -> Ints:
    """(codes, count): the codes nearest to each code's centroid, nearest first, itself left out."""
    squares = (centroids**2).sum(1)
    distance = squares[:, None] - 2 * centroids @ centroids.T + squares
    np.fill_diagonal(distance, -np.inf)
    return distance.argsort(1)[:, 1 : count + 1]


def pieces(groups: Ints, rng: np.random.Generator) -> list[Ints]:
    """Two or three groups each, a quarter or a third of a second; the last may have one.

    ``evaluation.shuffled`` mixes single groups: that is never taught.
    """
    cuts = np.cumsum(rng.integers(2, 4, len(groups)))
    return np.split(groups, cuts[cuts < len(groups)])


def mixed(parts: list[Ints], rng: np.random.Generator) -> Ints:
    """The parts in another order than they had."""
    order = np.arange(len(parts))
    while len(parts) > 1 and (order == np.arange(len(parts))).all():
        order = rng.permutation(len(parts))
    return np.concatenate([parts[k] for k in order])


class Questions:
    """Prompts of spoken questions, with codes spoilt as an unseen voice would spoil them.

    ``near``: the linguistic codes that lie near each one, nearest first. Of aligned renderings of one text by
    two voices two linguistic codes in three differ, and their ranks are spread evenly over the octaves.
    """

    def __init__(self, language: Language, table: GroupTable, near: Ints) -> None:
        self.language, self.table, self.near = language, table, near
        sounds = table.groups[:, 2:].astype(np.int64)
        self.semantic_pool = sounds.ravel()
        words = table.groups[:, :2].astype(np.int64)
        self.linguistic_pool = words.ravel()

    def prefix(self, row: int, rng: np.random.Generator) -> Ints:
        """The question of one tokenisation, its codes spoilt."""
        return self.asked(self.spoilt(self.table[row], rng))

    def disordered(self, row: int, rng: np.random.Generator) -> Ints:
        """The question of one tokenisation out of order, its codes spoilt: backwards, or its pieces mixed,
        or some of them among pieces of other questions. Of ``SHORT`` groups or more."""
        groups, way = self.table[row], rng.random()
        if way < 0.2:
            groups = groups[::-1]
        elif way < 0.6:
            groups = mixed(pieces(groups, rng), rng)
        else:
            others = [self.table[int(rng.integers(len(self.table)))] for _ in range(3)]
            every = [piece for one in (groups, *others) for piece in pieces(one, rng)]
            groups = mixed(every, rng)[: len(groups)]
        return self.asked(self.spoilt(groups, rng))

    def asked(self, groups: Ints) -> Ints:
        return audio_prefix(self.language, self.language.audio_ids(groups).ravel().tolist())

    def spoilt(
        self, groups: NDArray[np.int16], rng: np.random.Generator, *, replace_all: float = 0.3
    ) -> Ints:
        """(G, 5) codes: with probability ``replace_all`` every semantic one becomes a random one, else some
        do; of the linguistic ones some become a near one, a few any."""
        groups = groups.astype(np.int64)
        words, sounds = groups[:, :2], groups[:, 2:]
        if rng.random() < replace_all:
            sounds[...] = rng.choice(self.semantic_pool, sounds.shape)
        else:
            hit = rng.random(sounds.shape) < rng.uniform(0.0, 0.25)
            sounds[hit] = rng.choice(self.semantic_pool, int(hit.sum()))
        hit = rng.random(words.shape) < rng.uniform(0.0, 0.40)
        rank = self.near.shape[1] ** rng.random(int(hit.sum()))
        words[hit] = self.near[words[hit], rank.astype(np.int64) - 1]
        hit = rng.random(words.shape) < rng.uniform(0.0, 0.10)
        words[hit] = rng.choice(self.linguistic_pool, int(hit.sum()))
        return groups


def answer_prefix(language: Language) -> Ints:
    """What stands before an answer that no question asked for (the interleaved stage)."""
    return np.array([language.text.piece_id("<s>")], np.int64)


def audio_prefix(language: Language, ids: list[int]) -> Ints:
    """A spoken question, before any task's marker."""
    prompts = language.prompts
    return np.array(prompts.opening() + ids + prompts.closing, np.int64)


def text_prefix(language: Language, text: str) -> Ints:
    prompts = language.prompts
    return np.array(prompts.opening() + prompts.content(text) + prompts.closing, np.int64)

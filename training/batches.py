"""What the backbone learns from: one method for each kind of work, each draws a batch of it.

A batch holds packed sequences of like length, so that little of it is padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aqaa.models.nano_semantic import ScalarQuantizer
from training.domain import Spoken, domain, training_items
from training.sequences import (
    SHORT,
    Language,
    Questions,
    Sequence,
    Targets,
    answer_prefix,
    audio_prefix,
    neighbours,
    pack,
    text_prefix,
)
from training.speech import corpus_at, evenness
from training.tokens import GroupTable

LEVELS = (8, 8, 8, 8)
PADDING = 9  # the branch that nothing sees but itself
SMALL_TALK = "small talk"
OFTEN = {"calendar": 3, "count": 2, SMALL_TALK: 2, "opposite": 2}
"""How often a recorded question of these kinds is drawn: what nano gets wrong although it heard it."""
FACTS = {"arithmetic": 40, "calendar": 20, "count": 12, "opposite": 8, "capital": 4, "color": 4, "style": 6,
         "unknown": 4, SMALL_TALK: 2}  # fmt: skip


@dataclass(frozen=True)
class BatchConfig:
    """``slips`` is the largest share of an answer's codes that the model reads back otherwise than it should
    have said them."""

    tokens: int = 4096  # positions a batch, padding included
    slips: float = 0.15
    text_answers: float = 0.3  # share of turns that also learn their answer as text alone
    nonspeech: float = 0.3  # share of what is not understood that never was speech
    facts: int = 60_000  # questions in writing, drawn apart from those that were recorded
    facts_seed: int = 55


def one_level_apart() -> Tensor:
    """(4096, 8): the semantic codes one step of one level away from each one, or itself where levels end."""
    digits = ScalarQuantizer(LEVELS)
    values = ((digits.decode(torch.arange(4096)) + 1) * 3.5).round().long()
    near = []
    for k in range(len(LEVELS)):
        for step in (-1, 1):
            other = values.clone()
            other[:, k] = (other[:, k] + step).clamp(0, 7)
            near.append((other * digits.radix).sum(-1))
    return torch.stack(near, 1)


def collate(rows: list[Sequence]) -> dict[str, Tensor]:
    size = -(-max(len(r.ids) for r in rows) // 16) * 16
    out = {}
    for name, fill in (("ids", 0), ("positions", 0), ("branch", 0), ("target", -1), ("legal", 0)):
        table = np.full((len(rows), size), fill, np.int64)
        for k, row in enumerate(rows):
            table[k, : len(row.ids)] = getattr(row, name)
        if name in ("positions", "branch"):
            for k, row in enumerate(rows):  # padding sees itself and is seen by none
                table[k, len(row.ids) :] = 0 if name == "positions" else PADDING
        out[name] = torch.from_numpy(table)
    return out


class Batches:
    """Draws packed batches of one kind of work each, sequences of like length together."""

    def __init__(self, folder: Path, config: BatchConfig, centroids: Tensor) -> None:
        corpus, _ = corpus_at(str(folder))
        self.config = config
        self.language = Language(folder / "text.model")
        self.items = corpus.items
        self.spoken = corpus.spoken
        self.answers = GroupTable(folder / "tokens" / "answers.npz")
        table = GroupTable(*sorted((folder / "tokens").glob("questions-*.npz")))
        self.item_of = table.items
        near_words = neighbours(centroids.numpy())
        self.nonspeech = GroupTable(folder / "tokens" / "nonspeech.npz")
        self.questions = Questions(self.language, table, near_words)
        self.near = (near_words[:, :8], one_level_apart().numpy())
        self.targets = Targets(self.language, corpus.row, self.answers)
        answer_groups = np.diff(self.answers.offsets)
        spoken_back = [sum(answer_groups[corpus.row[s]] for s in item.answer) for item in self.items]
        asked, answered = np.diff(table.offsets), np.array(spoken_back)[self.item_of]
        often = np.array([OFTEN.get(item.kind, 1) for item in self.items])[self.item_of]
        rows = np.repeat(np.arange(len(asked)), often)
        mixed = np.random.default_rng(0).uniform(0, 4, len(rows))
        by_length = rows[np.argsort((asked + answered)[rows] + mixed, kind="stable")]
        self.by_length = by_length[answered[by_length] > 0]  # cut-ups are heard and not answered
        self.by_question = rows[np.argsort(asked[rows] + mixed / 4, kind="stable")]
        often = evenness([spoken.text for spoken in self.spoken]).round().astype(np.int64)
        rows = np.repeat(np.arange(len(self.spoken)), often)
        mixed = np.random.default_rng(1).uniform(0, 2, len(rows))
        self.by_answer = rows[np.argsort(answer_groups[rows] + mixed, kind="stable")]
        small_talk = np.array([item.kind == SMALL_TALK for item in self.items])[self.item_of]
        self.rows_of_small_talk = self.by_length[small_talk[self.by_length]]
        lost = ~small_talk & (asked >= SHORT)  # out of order they cannot be understood
        self.rows_to_garble = self.by_question[lost[self.by_question]]
        self.unknown = (Spoken(domain()["unknown"]),)
        self.facts = training_items(config.facts, config.facts_seed, FACTS)
        self.by_fact = np.argsort([len(fact.question) for fact in self.facts], kind="stable")

    def filled(self, order: np.ndarray, make, rng: np.random.Generator) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
        """As many sequences of like length as fit into a batch."""
        start = int(rng.integers(0, len(order)))
        rows: list[Sequence] = []
        while True:
            row = make(int(order[(start + len(rows)) % len(order)]))
            longest = max([len(row.ids), *(len(r.ids) for r in rows)])
            if rows and longest * (len(rows) + 1) > self.config.tokens:
                return collate(rows)
            rows.append(row)

    def turns(self, rng: np.random.Generator) -> dict[str, Tensor]:
        return self._turns(self.by_length, rng)

    def small_talk(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Turns of small talk alone, which is short and most like what is garbled."""
        return self._turns(self.rows_of_small_talk, rng)

    def _turns(self, order: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        def make(row: int) -> Sequence:
            item = self.items[self.item_of[row]]
            branches = [self.targets.answer(item.answer), self.targets.transcript(item.question)]
            if rng.random() < self.config.text_answers:
                branches.append(self.targets.written(item.answer))
            return pack(self.questions.prefix(row, rng), branches)

        return self.filled(order, make, rng)

    def hearing(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """What was asked and what is the answer, both in writing: twice the questions for the same positions,
        where a model still mishears more than it misspeaks."""

        def make(row: int) -> Sequence:
            item = self.items[self.item_of[row]]
            branches = [self.targets.transcript(item.question)]
            if item.answer:
                branches.append(self.targets.written(item.answer))
            return pack(self.questions.prefix(row, rng), branches)

        return self.filled(self.by_question, make, rng)

    def written(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """A question in writing, answered in speech: facts and voice without the labour of hearing."""

        def make(row: int) -> Sequence:
            item = self.items[self.item_of[row]]
            return pack(text_prefix(self.language, item.question), [self.targets.answer(item.answer)])

        return self.filled(self.by_length, make, rng)

    def recalling(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """A question in writing, answered in writing: a hundred facts for the positions of fifteen turns."""

        def make(row: int) -> Sequence:
            fact = self.facts[row]
            return pack(text_prefix(self.language, fact.question), [self.targets.written(fact.answer)])

        return self.filled(self.by_fact, make, rng)

    def transcripts(self, rng: np.random.Generator) -> dict[str, Tensor]:
        def make(row: int) -> Sequence:
            text = self.items[self.item_of[row]].question
            return pack(self.questions.prefix(row, rng), [self.targets.transcript(text)])

        return self.filled(self.by_question, make, rng)

    def garbled(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """What cannot be understood, questions out of order and sounds that are no speech: nano says so."""
        answer = self.targets.answer(self.unknown)

        def make(row: int) -> Sequence:
            if rng.random() < self.config.nonspeech:
                heard = self.nonspeech[int(rng.integers(len(self.nonspeech)))]
                return pack(self.questions.asked(self.questions.spoilt(heard, rng)), [answer])
            return pack(self.questions.disordered(row, rng), [answer])

        return self.filled(self.rows_to_garble, make, rng)

    def interleaved(self, rng: np.random.Generator) -> dict[str, Tensor]:
        prefix = answer_prefix(self.language)
        return self.filled(
            self.by_answer, lambda row: pack(prefix, [self.targets.answer((self.spoken[row],))]), rng
        )

    def continuing(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """The beginning of an answer's speech as the question, the rest of it as the answer."""

        def make(row: int) -> Sequence:
            groups = self.answers[row]
            start = int(rng.integers(1, len(groups)))
            heard = self.language.audio_ids(groups[:start]).ravel().tolist()
            return pack(audio_prefix(self.language, heard), [self.targets.rest(self.spoken[row], start)])

        return self.filled(self.by_answer, make, rng)

    def speaking(self, rng: np.random.Generator) -> dict[str, Tensor]:
        def make(row: int) -> Sequence:
            spoken = self.spoken[row]
            return pack(text_prefix(self.language, spoken.text), [self.targets.speak(spoken)])

        return self.filled(self.by_answer, make, rng)

    def draw(self, shares: dict[str, float], rng: np.random.Generator) -> dict[str, Tensor]:
        name = rng.choice(list(shares), p=list(shares.values()))
        batch: dict[str, Tensor] = getattr(self, str(name))(rng)
        self.slip(batch, rng)
        return batch

    def slip(self, batch: dict[str, Tensor], rng: np.random.Generator) -> None:
        """Makes some codes that continuations have said so far near ones; what is to be said next stays.

        A model that has read back nothing but right codes loses its place in the text after a wrong one.
        """
        ids, spoken = batch["ids"].numpy(), (batch["branch"].numpy() % PADDING) > 0
        share = rng.uniform(0, self.config.slips, (len(ids), 1))
        hit = spoken & (rng.random(ids.shape) < share)
        layout = self.language.layout
        for (first, end), near in zip(
            (layout.linguistic_range, layout.semantic_range), self.near, strict=True
        ):
            codes = hit & (ids >= first) & (ids < end)
            others = rng.integers(0, near.shape[1], int(codes.sum()))
            ids[codes] = first + near[ids[codes] - first, others]

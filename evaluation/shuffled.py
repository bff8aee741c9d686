"""The control: the same questions with their groups elsewhere; a model that listens must fail on them.

    python -m evaluation.shuffled --bundle models/nano --split test --n 200

*Shuffled*, every token of a question stays, only their order in time is lost: who looked questions up by
their sounds would go on being right. *Dealt*, the groups of all the questions are mixed and dealt out again,
as many to each as it had: nothing is left of a question but its length, its place and its seed.

All questions are judged together, and two groups of them apart. Where a sentence is to be said again, the
answer hangs on many words in their order. Elsewhere a few words tell it, and the three or four groups of
120 ms of a short word still sound like it wherever they lie ("lemon" among the sounds of "which color").
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.progress import track

from aqaa.audio.decode import Audio
from evaluation.heldout import Question, Recordings, read_texts
from evaluation.judge import normalise
from evaluation.metrics import Estimate, rate

KINDS = {
    "a sentence": ("repeat", "style"),
    "a few words": ("arithmetic", "calendar", "capital", "color", "count", "opposite"),
}
"""What the answer hangs on. Left out: what is not known, for to noise "I do not know that yet" is the right
answer; and small talk, for a greeting is too short to lose its order."""

Groups = NDArray[Any]


class AnswerText(Protocol):
    @property
    def answer_text(self) -> str: ...


class Asks(Protocol):
    """What is needed of the pipeline: it listens through ``tokenizer``, which can be changed."""

    tokenizer: Any

    def ask(self, audio: Audio, *, seed: int = 0) -> AnswerText: ...


def shuffle_groups(groups_GN: Groups, rng: np.random.Generator) -> Groups:
    """The (G, N) groups of a question in random order; the codes of a group stay together."""
    return np.asarray(rng.permutation(groups_GN, axis=0))


def deal_groups(groups: Sequence[Groups], rng: np.random.Generator) -> list[Groups]:
    """All groups of all questions mixed and dealt out again, as many to each question as it had."""
    mixed = shuffle_groups(np.concatenate(groups), rng)
    return np.split(mixed, np.cumsum([len(rows) for rows in groups])[:-1])


class RearrangedTokenizer:
    """A tokenizer whose streams give nothing until the end, then what ``rearrange`` makes of the groups."""

    def __init__(self, tokenizer: Any, rearrange: Callable[[Groups], Groups]) -> None:
        self._tokenizer, self._rearrange = tokenizer, rearrange

    def stream(self) -> RearrangedStream:
        return RearrangedStream(self._tokenizer.stream(), self._rearrange)


class RearrangedStream:
    def __init__(self, stream: Any, rearrange: Callable[[Groups], Groups]) -> None:
        self._stream, self._rearrange = stream, rearrange
        self._heard: list[Groups] = []

    def push(self, pcm: ArrayLike) -> Groups:
        self._heard.append(self._stream.push(pcm))
        return self._heard[-1][:0]

    def finish(self) -> Groups:
        return self._rearrange(np.concatenate([*self._heard, self._stream.finish()]))


@dataclass(frozen=True)
class Verdict:
    """Whether a question's answer was right: groups in order, shuffled in each question, dealt out anew."""

    question: Question
    ordered: bool
    shuffled: bool
    dealt: bool


@dataclass(frozen=True)
class ShuffleResult:
    """Rates of right answers in each order, and by chance."""

    ordered: Estimate
    shuffled: Estimate
    dealt: Estimate
    chance: float

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> ShuffleResult:
        return cls(
            rate([verdict.ordered for verdict in verdicts]),
            rate([verdict.shuffled for verdict in verdicts]),
            rate([verdict.dealt for verdict in verdicts]),
            chance([verdict.question for verdict in verdicts]),
        )

    def at_chance(self, found: Estimate) -> bool:
        """Whether the 95 % interval of a rate reaches down to chance."""
        return found.low <= self.chance


def chance(questions: Sequence[Question]) -> float:
    """How often the commonest right answer is right: what an answer given without listening can reach."""
    counts = Counter(normalise(question.answer_text) for question in questions)
    return max(counts.values()) / len(questions)


def compare(pipeline: Asks, asked: Sequence[tuple[Question, Audio]], seed: int) -> list[Verdict]:
    """Asks each question three times: as it was said, with its groups shuffled, with groups dealt to it."""
    heard: dict[int, Groups] = {}

    def in_order(index: int, groups: Groups) -> Groups:
        heard[index] = groups
        return groups

    def shuffled(index: int, groups: Groups) -> Groups:
        return shuffle_groups(groups, np.random.default_rng([seed, index]))

    ordered = answered_right(pipeline, asked, in_order)
    dealt = dict(zip(heard, deal_groups(list(heard.values()), np.random.default_rng(seed)), strict=True))
    rearranged = (
        answered_right(pipeline, asked, shuffled),
        answered_right(pipeline, asked, lambda index, _: dealt[index]),
    )
    questions = [question for question, _ in asked]
    return [Verdict(*row) for row in zip(questions, ordered, *rearranged, strict=True)]


def answered_right(
    pipeline: Asks, asked: Sequence[tuple[Question, Audio]], rearrange: Callable[[int, Groups], Groups]
) -> list[bool]:
    """Whether each answer's text is right where the model hears ``rearrange(question.index, groups)``."""
    listening = pipeline.tokenizer
    verdicts = []
    for question, audio in track(asked, "asking"):
        pipeline.tokenizer = RearrangedTokenizer(listening, partial(rearrange, question.index))
        try:
            answer = pipeline.ask(audio, seed=question.index)
        finally:
            pipeline.tokenizer = listening
        verdicts.append(normalise(answer.answer_text) == normalise(question.answer_text))
    return verdicts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m evaluation.shuffled", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("models/nano"))
    parser.add_argument("--split", choices=("test", "dev"), default="test")
    parser.add_argument("--n", type=int, default=200, help="questions, from the beginning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads", type=int, default=2, help="of the teacher; a pass of the bundle takes one"
    )
    given = parser.parse_args(arguments)

    from aqaa.engine.pipeline import Pipeline

    every = tuple(kind for kinds in KINDS.values() for kind in kinds)
    recordings = Recordings(given.split)
    questions = [q for q in read_texts(given.split) if q.kind in every][: given.n]
    recordings.render(questions, given.threads)
    asked = [(question, recordings.read(question)) for question in questions]
    verdicts = compare(Pipeline.load(given.bundle), asked, given.seed)
    for hangs_on, kinds in ({"either": every} | KINDS).items():
        result = ShuffleResult.of([verdict for verdict in verdicts if verdict.question.kind in kinds])
        print(f"the answer hangs on {hangs_on} ({', '.join(kinds)}): chance {result.chance:.1%}")
        arms = {"in order": result.ordered, "shuffled": result.shuffled, "dealt": result.dealt}
        for name, found in arms.items():
            verdict = "at" if result.at_chance(found) else "above"
            print(
                f"  {name:9s} {found.value:6.1%} right ({found.low:.1%} to {found.high:.1%}), n {found.n}: "
                f"{verdict} chance"
            )


if __name__ == "__main__":
    main()

"""The control: the same questions with their groups in another order; a model that listens must fail on them.

    python -m evaluation.shuffled --bundle models/nano --split test --n 100

Every token stays, only their order in time is lost. A model that looked questions up by their sounds, or
played back recordings, would go on being right.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.progress import track

from aqaa.audio.decode import Audio
from evaluation.heldout import Question, Recordings, read_texts
from evaluation.judge import normalise
from evaluation.metrics import Estimate, rate

LEFT_OUT = ("unknown", "small talk")
"""To noise "I do not know that yet" is the right answer; and a greeting is too short to lose its order."""

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


class ShuffledTokenizer:
    """A tokenizer whose streams give nothing until the end, and then every group in random order."""

    def __init__(self, tokenizer: Any, rng: np.random.Generator) -> None:
        self._tokenizer, self._rng = tokenizer, rng

    def stream(self) -> ShuffledStream:
        return ShuffledStream(self._tokenizer.stream(), self._rng)


class ShuffledStream:
    def __init__(self, stream: Any, rng: np.random.Generator) -> None:
        self._stream, self._rng = stream, rng
        self._heard: list[Groups] = []

    def push(self, pcm: ArrayLike) -> Groups:
        self._heard.append(self._stream.push(pcm))
        return self._heard[-1][:0]

    def finish(self) -> Groups:
        return shuffle_groups(np.concatenate([*self._heard, self._stream.finish()]), self._rng)


@dataclass(frozen=True)
class ShuffleResult:
    """Answer texts right in the true order and shuffled, and the best that a deaf answer could be."""

    ordered: Estimate
    shuffled: Estimate
    chance: float

    @property
    def at_chance(self) -> bool:
        """Whether the 95 % interval of the shuffled rate reaches down to chance."""
        return self.shuffled.low <= self.chance


def chance(questions: Sequence[Question]) -> float:
    """How often the commonest right answer is right: what an answer given without listening can reach."""
    counts = Counter(normalise(question.answer_text) for question in questions)
    return max(counts.values()) / len(questions)


def compare(pipeline: Asks, asked: Sequence[tuple[Question, Audio]], seed: int) -> ShuffleResult:
    """Asks each question twice: as it was said, and with its groups shuffled."""
    ordered: list[bool] = []
    shuffled: list[bool] = []
    listening = pipeline.tokenizer
    for question, audio in track(asked, "asking in order and shuffled"):
        rng = np.random.default_rng([seed, question.index])
        for verdicts, ears in ((ordered, listening), (shuffled, ShuffledTokenizer(listening, rng))):
            pipeline.tokenizer = ears
            try:
                answer = pipeline.ask(audio, seed=question.index)
            finally:
                pipeline.tokenizer = listening
            verdicts.append(normalise(answer.answer_text) == normalise(question.answer_text))
    return ShuffleResult(rate(ordered), rate(shuffled), chance([question for question, _ in asked]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m evaluation.shuffled", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("models/nano"))
    parser.add_argument("--split", choices=("test", "dev"), default="test")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads", type=int, default=2, help="of the teacher; a pass of the bundle takes one"
    )
    given = parser.parse_args(arguments)

    from aqaa.engine.pipeline import Pipeline

    recordings = Recordings(given.split)
    questions = [q for q in read_texts(given.split) if q.kind not in LEFT_OUT][: given.n]
    recordings.render(questions, given.threads)
    asked = [(question, recordings.read(question)) for question in questions]
    result = compare(Pipeline.load(given.bundle), asked, given.seed)
    for name, found in (("in order", result.ordered), ("shuffled", result.shuffled)):
        print(f"{name:9s} {found.value:6.1%} right ({found.low:.1%} to {found.high:.1%}), n {found.n}")
    print(f"chance    {result.chance:6.1%}: {'reached' if result.at_chance else 'not reached'} by shuffling")


if __name__ == "__main__":
    main()

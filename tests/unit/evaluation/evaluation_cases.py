"""A pipeline that was taught a few answers: what the tests of the evaluation ask."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aqaa.audio.decode import Audio
from aqaa.errors import CapacityError
from evaluation.heldout import Question
from training.domain import Spoken

RATE = 24000
SHAPES = {
    None: (1.0, 0.1, 200.0),
    "slow": (1.4, 0.1, 200.0),
    "soft": (1.0, 0.03, 200.0),
    "high": (1.0, 0.1, 260.0),
}


def tone(style: str | None) -> NDArray[np.float32]:
    """Speech-like sound whose duration, level and pitch say which style it is."""
    seconds, level, f0 = SHAPES[style]
    time = np.arange(round(seconds * RATE)) / RATE
    wave = sum(np.cos(2 * np.pi * f0 * h * time) / h for h in range(1, 9))
    return np.asarray(wave * (level / np.sqrt(np.mean(wave**2))), np.float32)


@dataclass(frozen=True)
class FakeSegment:
    style: str | None
    text: str
    start_sample: int
    end_sample: int


@dataclass(frozen=True, eq=False)
class FakeAnswer:
    question_text: str
    answer_text: str
    pcm: NDArray[np.float32]
    segments: tuple[FakeSegment, ...]
    sample_rate: int = RATE
    ttfa_seconds: float = 0.3
    rtf: float = 0.4


def speak(question: str, answer: tuple[Spoken, ...]) -> FakeAnswer:
    sounds = [tone(spoken.style) for spoken in answer]
    edges = np.cumsum([0] + [len(sound) for sound in sounds]).tolist()
    segments = tuple(
        FakeSegment(s.style, s.text, a, b) for s, a, b in zip(answer, edges[:-1], edges[1:], strict=True)
    )
    text = " ".join(spoken.text for spoken in answer)
    return FakeAnswer(question, text, np.concatenate(sounds) if sounds else np.zeros(0, np.float32), segments)


class CountingTokenizer:
    """One group of five codes, the hop's number, for every 120 ms."""

    def stream(self) -> CountingStream:
        return CountingStream()


class CountingStream:
    def __init__(self) -> None:
        self._groups = 0

    def push(self, pcm: NDArray[np.float32]) -> NDArray[np.int64]:
        first, self._groups = self._groups, self._groups + len(pcm) // 1920
        return np.repeat(np.arange(first, self._groups)[:, None], 5, axis=1)

    def finish(self) -> NDArray[np.int64]:
        return np.zeros((0, 5), np.int64)


@dataclass
class FakePipeline:
    """Answers recordings it knows by their length, if it hears their groups in order."""

    answers: dict[int, FakeAnswer]
    tokenizer: object = field(default_factory=CountingTokenizer)
    said: list[str] = field(default_factory=list)

    def ask(self, audio: Audio, *, seed: int = 0) -> FakeAnswer:
        if len(audio.samples) not in self.answers:
            raise CapacityError("no free slot")
        ears = self.tokenizer.stream()  # type: ignore[attr-defined]
        pieces = [ears.push(audio.samples[at : at + 3840]) for at in range(0, len(audio.samples), 3840)]
        heard = np.concatenate([*pieces, ears.finish()])
        if (np.diff(heard[:, 0]) < 0).any():
            return speak("mumble", (Spoken("I do not know that yet."),))
        return self.answers[len(audio.samples)]

    def say(self, text: str, *, seed: int = 0, style: str | None = None) -> FakeAnswer:
        self.said.append(text)
        return speak("", (Spoken(text, style),))


def make_question(index: int, kind: str, text: str, *answer: Spoken, seen: bool = True) -> Question:
    return Question(index, kind, text, answer, seen, "jm_kumo", 1.0)

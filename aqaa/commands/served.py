"""An answer that came from the services, as ``aqaa ask`` shows it: the same facts as in one process."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aqaa.audio.pcm import from_bytes
from aqaa.client import (
    AnswerAudio,
    AnswerText,
    Codes,
    Event,
    Manifest,
    QuestionCommitted,
    TextIds,
    Transcript,
    TurnTokens,
)
from aqaa.errors import Unsupported
from aqaa.tokens.classes import TokenClass

Pcm = NDArray[np.float32]
Typed = tuple[int, TokenClass]

_PAIR, _TRIPLE = 2, 3
"""Linguistic and semantic codes of a group, as the contract says."""


@dataclass(frozen=True)
class Segment:
    """As ``aqaa.present.answer.Segment``."""

    style: str | None
    text: str
    groups: int
    start_sample: int
    end_sample: int


@dataclass(frozen=True)
class Timeline:
    """Seconds from the question's last sample handed in, and with it its first, to what came back."""

    heard: float = 0.0
    thought: float = 0.0
    first_audio: float = 0.0
    done: float = 0.0


@dataclass(frozen=True, eq=False)
class ServedAnswer:
    """As ``aqaa.present.answer.Answer``. Codes stand for the backbone's ids of sound, which only its bundle
    knows; markers are counted and not listed.
    """

    question_text: str
    answer_text: str
    pcm: Pcm
    sample_rate: int
    segments: Sequence[Segment]
    timeline: Timeline
    question_pcm: Pcm
    question_tokens: Sequence[int]
    answer_tokens: Sequence[Typed]
    tokens: Mapping[str, int]
    ttfa_seconds: float
    rtf: float


@dataclass
class Hearing:
    """Takes the events of one answer, and notes when they came.

    hearing = Hearing(question_pcm, time.perf_counter)
    async for event in stream:
        hearing.take(event)
    answer = hearing.answer(sample_rate)
    """

    question_pcm: Pcm
    clock: Callable[[], float]
    _marks: dict[str, float] = field(default_factory=dict)
    _sound: list[bytes] = field(default_factory=list)
    _transcript: str = ""
    _manifest: Manifest | None = None

    def __post_init__(self) -> None:
        self._began = self.clock()

    def take(self, event: Event) -> None:
        """The next event."""
        now = self.clock() - self._began
        match event:
            case QuestionCommitted():
                self._marks.setdefault("heard", now)
            case AnswerText():
                self._marks.setdefault("thought", now)
            case AnswerAudio():
                self._marks.setdefault("first_audio", now)
                self._marks["done"] = now
                self._sound.append(event.pcm.tobytes())
            case Transcript():
                self._transcript = event.text
            case Manifest():
                self._marks.setdefault("first_audio", now)
                self._marks.setdefault("done", now)
                self._manifest = event

    def answer(self, sample_rate: int) -> ServedAnswer:
        """All of it, behind its last event; ``sample_rate`` in Hz, of its sound.

        Raises:
            Unsupported: the tokens have not come.
        """
        manifest = self._manifest
        assert manifest is not None
        if (tokens := manifest.tokens) is None:
            raise Unsupported("the stack does not tell an answer's tokens; is it of another version?")
        timeline = Timeline(**self._marks)
        pcm = from_bytes(b"".join(self._sound), "s16le")
        return ServedAnswer(
            question_text=self._transcript,
            answer_text=" ".join(segment.text for segment in manifest.segments),
            pcm=pcm,
            sample_rate=sample_rate,
            segments=tuple(
                Segment(
                    segment.style or None,
                    segment.text,
                    segment.groups,
                    segment.first_sample,
                    segment.first_sample + segment.samples,
                )
                for segment in manifest.segments
            ),
            timeline=timeline,
            question_pcm=self.question_pcm,
            question_tokens=tuple(token for token, _ in _typed(tokens.question)),
            answer_tokens=tuple(typed for run in tokens.answer for typed in _typed(run)),
            tokens=_counts(tokens),
            ttfa_seconds=timeline.first_audio,
            rtf=timeline.done / (len(pcm) / sample_rate) if len(pcm) else 0.0,
        )


def _typed(run: TextIds | Codes) -> Iterator[Typed]:
    """Tokens with their classes, group by group."""
    if isinstance(run, TextIds):
        yield from ((token, TokenClass.TEXT) for token in run.ids)
        return
    for group in range(len(run.linguistic) // _PAIR):
        yield from ((code, TokenClass.LINGUISTIC) for code in run.linguistic[group * _PAIR :][:_PAIR])
        yield from ((code, TokenClass.SEMANTIC) for code in run.semantic[group * _TRIPLE :][:_TRIPLE])


def _counts(tokens: TurnTokens) -> dict[str, int]:
    """By kind, as the pipeline counts them."""
    kinds = [kind for run in tokens.answer for _, kind in _typed(run)]
    return {
        "question": len(tokens.question.linguistic) + len(tokens.question.semantic),
        "text": kinds.count(TokenClass.TEXT),
        "linguistic": kinds.count(TokenClass.LINGUISTIC),
        "semantic": kinds.count(TokenClass.SEMANTIC),
        "markers": tokens.written - len(kinds),
    }

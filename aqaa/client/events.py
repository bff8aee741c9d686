"""What happens in a turn, as a caller of the client sees it: frozen, and free of gRPC."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from aqaa.v1 import orchestrator_pb2, tokens_pb2

Int16 = npt.NDArray[np.int16]
Float32 = npt.NDArray[np.float32]

FULL_SCALE: Final = 32768
"""Of 16-bit PCM on the wire: what -1.0 is, as in files."""


class EndReason(StrEnum):
    """Why nothing follows."""

    STOP = "stop"
    """The answer was complete."""
    LENGTH = "length"
    """A cap of the bundle closed it in good order."""
    CANCELLED = "cancelled"
    """The caller, or newer speech, took it back."""
    FAILED = "failed"
    """It could not be completed. A stream raises the error after this."""


@dataclass(frozen=True)
class TurnOpened:
    """The turn was let in. ``sample_rate`` in Hz, of its sound."""

    session_id: str
    turn_id: str
    sample_rate: int
    bundle_digest: str
    seed: int


@dataclass(frozen=True)
class QuestionCommitted:
    """The question is safe in the log: ``groups`` of 120 ms. The client has dropped its sound."""

    groups: int


@dataclass(frozen=True)
class SegmentStarted:
    """What follows is said in ``style``, one of the bundle's, or empty."""

    segment: int
    style: str


@dataclass(frozen=True)
class AnswerText:
    """More of a segment's text, to be appended to what came before."""

    segment: int
    text: str


@dataclass(frozen=True, eq=False)
class AnswerAudio:
    """More of the answer's sound: ``pcm`` (n,) int16, mono, bit for bit as it was made, not writable.

    ``sequence`` counts the turn's chunks from 1, ``first_sample`` its samples from 0.
    """

    sequence: int
    segment: int
    first_sample: int
    sample_rate: int
    pcm: Int16

    @property
    def samples(self) -> Float32:
        """The same (n,), float32, ±1."""
        return as_float(self.pcm)

    @property
    def seconds(self) -> float:
        return len(self.pcm) / self.sample_rate


@dataclass(frozen=True)
class Transcript:
    """The question as the model heard it."""

    text: str


@dataclass(frozen=True)
class Segment:
    """A segment as it was: ``groups`` of 120 ms, ``samples`` from ``first_sample`` of the turn on."""

    segment: int
    style: str
    text: str
    groups: int
    first_sample: int
    samples: int


@dataclass(frozen=True)
class Codes:
    """Whole groups of 120 ms, each two ``linguistic`` and three ``semantic`` codes, both counted from 0."""

    linguistic: tuple[int, ...]
    semantic: tuple[int, ...]


@dataclass(frozen=True)
class TextIds:
    """Text tokens that follow one another."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class TurnTokens:
    """The question as the tokenizer heard it, and the answer's text and sound in the order of writing.

    ``written``: tokens of the whole answer, markers included; 0 for one that was cut off.
    """

    question: Codes
    answer: tuple[TextIds | Codes, ...]
    written: int


@dataclass(frozen=True)
class Manifest:
    """What the turn had, to the last sample; its last event. ``crc32c`` is of all its PCM; ``tokens`` come if
    ``TurnOptions.with_tokens`` asks for them."""

    reason: EndReason
    chunks: int
    samples: int
    crc32c: int
    segments: tuple[Segment, ...]
    tokens: TurnTokens | None = None

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)


Event = TurnOpened | QuestionCommitted | SegmentStarted | AnswerText | AnswerAudio | Transcript | Manifest


class TurnPhase(StrEnum):
    """Where a turn stands."""

    OPEN = "open"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class TurnSummary:
    """A turn of a session. ``heard_text`` is what later turns know of the answer."""

    turn_id: str
    phase: TurnPhase
    reason: EndReason | None
    question_text: str
    answer_text: str
    heard_text: str
    heard_estimated: bool
    samples: int


@dataclass(frozen=True)
class Session:
    """A session and its turns, oldest first."""

    session_id: str
    turns: tuple[TurnSummary, ...]


def as_float(pcm: Int16) -> Float32:
    """(n,) 16-bit PCM of the wire as float32, ±1."""
    return pcm.astype(np.float32) / np.float32(FULL_SCALE)


_REASONS: Final = {
    tokens_pb2.END_REASON_STOP: EndReason.STOP,
    tokens_pb2.END_REASON_LENGTH: EndReason.LENGTH,
    tokens_pb2.END_REASON_CANCELLED: EndReason.CANCELLED,
}
_PHASES: Final = {
    orchestrator_pb2.TURN_PHASE_OPEN: TurnPhase.OPEN,
    orchestrator_pb2.TURN_PHASE_RUNNING: TurnPhase.RUNNING,
}


def reason_of(value: tokens_pb2.EndReason.ValueType) -> EndReason:
    """A reason of the wire; one that this client does not know is a failure."""
    return _REASONS.get(value, EndReason.FAILED)


def manifest_of(message: orchestrator_pb2.TurnManifest) -> Manifest:
    return Manifest(
        reason=reason_of(message.reason),
        chunks=message.chunks,
        samples=message.samples,
        crc32c=message.turn_crc32c,
        segments=tuple(
            Segment(part.segment, part.style, part.text, part.groups, part.first_sample, part.samples)
            for part in message.segments
        ),
        tokens=_tokens_of(message.tokens) if message.HasField("tokens") else None,
    )


def _tokens_of(message: orchestrator_pb2.TurnTokens) -> TurnTokens:
    answer: list[TextIds | Codes] = []
    written = 0
    for piece in message.answer:
        match piece.WhichOneof("piece"):
            case "text":
                answer.append(TextIds(tuple(piece.text.token_ids)))
            case "groups":
                answer.append(_codes_of(piece.groups))
            case "end":
                written = piece.end.tokens
    return TurnTokens(_codes_of(message.question), tuple(answer), written)


def _codes_of(groups: tokens_pb2.AudioGroups) -> Codes:
    return Codes(tuple(groups.linguistic), tuple(groups.semantic))


def session_of(message: orchestrator_pb2.GetSessionResponse) -> Session:
    return Session(message.session_id, tuple(_summary(turn) for turn in message.turns))


def _summary(turn: orchestrator_pb2.TurnSummary) -> TurnSummary:
    phase = _PHASES.get(turn.phase, TurnPhase.ENDED)
    return TurnSummary(
        turn_id=turn.turn_id,
        phase=phase,
        reason=reason_of(turn.reason) if phase is TurnPhase.ENDED else None,
        question_text=turn.question_text,
        answer_text=turn.answer_text,
        heard_text=turn.heard_text,
        heard_estimated=turn.heard_estimated,
        samples=turn.samples,
    )

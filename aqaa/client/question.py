"""What is asked: numpy PCM as the bytes of a request, and how it is to be answered."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from aqaa.audio.pcm import to_s16le
from aqaa.client.events import FULL_SCALE
from aqaa.errors import InvalidAudio
from aqaa.v1 import audio_pb2, orchestrator_pb2, tokens_pb2

MIN_RATE: Final = 8000
MAX_RATE: Final = 48000

MAX_ASK_BYTES: Final = 4 * 2**20
"""Of a question that is asked whole."""

MAX_PIECE_BYTES: Final = 2**18
"""Of a piece of a question. The contract allows 1 MiB; smaller ones let other messages pass between."""


class Recording(Protocol):
    """Sound that knows its rate, for example ``aqaa.audio.decode.Audio``: ``samples`` (n,), ±1."""

    @property
    def samples(self) -> npt.NDArray[Any]: ...
    @property
    def sample_rate(self) -> int: ...


class StartMode(StrEnum):
    """How an answer may begin."""

    AUTO = "auto"
    SPEECH = "speech"
    TEXT = "text"


@dataclass(frozen=True)
class TurnOptions:
    """How a turn is to be answered; None leaves it to the server and its bundle.

    Temperatures from 0 (takes the likeliest) to 2; ``audio_top_p`` above 0 and at most 1. The same question
    with the same ``seed`` has the same answer. ``with_tokens``: the manifest holds the turn's tokens.
    """

    seed: int | None = None
    start_mode: StartMode = StartMode.SPEECH
    omit_transcript: bool = False
    with_tokens: bool = False
    text_temperature: float | None = None
    linguistic_temperature: float | None = None
    semantic_temperature: float | None = None
    audio_top_p: float | None = None

    def message(self) -> orchestrator_pb2.TurnOptions:
        """As the contract writes it."""
        return orchestrator_pb2.TurnOptions(
            seed=self.seed,
            start_mode=_START_MODES[self.start_mode],
            sampling=tokens_pb2.Sampling(
                text_temperature=self.text_temperature,
                linguistic_temperature=self.linguistic_temperature,
                semantic_temperature=self.semantic_temperature,
                audio_top_p=self.audio_top_p,
            ),
            omit_transcript=self.omit_transcript,
            with_tokens=self.with_tokens,
        )


DEFAULT_OPTIONS: Final = TurnOptions()

_START_MODES: Final = {
    StartMode.AUTO: tokens_pb2.START_MODE_AUTO,
    StartMode.SPEECH: tokens_pb2.START_MODE_SPEECH,
    StartMode.TEXT: tokens_pb2.START_MODE_TEXT,
}


@dataclass(frozen=True)
class PcmFormat:
    """What a question's bytes mean: float32 or int16 samples, ``sample_rate`` in Hz, 1 or 2 channels.

    Raises:
        InvalidAudio: a rate or a number of channels out of range.
    """

    sample_rate: int
    channels: int = 1
    floating: bool = True

    def __post_init__(self) -> None:
        if not MIN_RATE <= self.sample_rate <= MAX_RATE:
            raise InvalidAudio(f"sample rate {self.sample_rate} Hz, expected {MIN_RATE} to {MAX_RATE} Hz")
        if self.channels not in (1, 2):
            raise InvalidAudio(f"{self.channels} channels, expected (n,) or (n, 2) samples")

    @classmethod
    def of(cls, pcm: npt.NDArray[Any], sample_rate: int) -> "PcmFormat":
        """The format that keeps every bit of ``pcm``, (n,) or (n, channels)."""
        channels = 1 if pcm.ndim == 1 else pcm.shape[-1]
        return cls(sample_rate, channels, floating=pcm.dtype.kind == "f")

    @property
    def frame_bytes(self) -> int:
        """Of one sample of all channels."""
        return (4 if self.floating else 2) * self.channels

    def message(self) -> audio_pb2.AudioFormat:
        """As the contract writes it."""
        encoding = audio_pb2.AUDIO_ENCODING_PCM_F32LE if self.floating else audio_pb2.AUDIO_ENCODING_PCM_S16LE
        return audio_pb2.AudioFormat(
            encoding=encoding, sample_rate_hz=self.sample_rate, channels=self.channels
        )

    def encode(self, pcm: npt.ArrayLike) -> bytes:
        """(n,) or (n, channels) PCM, floating (±1) or int16, as bytes of this format.

        Raises:
            InvalidAudio: another shape or type, or samples that are not finite.
        """
        array = np.asarray(pcm)
        if not (array.dtype.kind == "f" or array.dtype == np.int16):
            raise InvalidAudio(f"PCM of {array.dtype}, expected floating point within ±1 or int16")
        if array.ndim not in (1, 2) or (1 if array.ndim == 1 else array.shape[1]) != self.channels:
            raise InvalidAudio(f"PCM of shape {array.shape}, expected (n,) or (n, {self.channels})")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InvalidAudio("PCM holds NaN or infinity, expected finite samples")
        if self.floating:
            if array.dtype == np.int16:
                array = array.astype(np.float32) / np.float32(FULL_SCALE)
            return np.ascontiguousarray(array, "<f4").tobytes()
        if array.dtype.kind == "f":
            return to_s16le(array.ravel())
        return np.ascontiguousarray(array, "<i2").tobytes()


def recorded(audio: "Recording | npt.ArrayLike", sample_rate: int | None) -> tuple[npt.NDArray[Any], int]:
    """The samples and the rate of what was given.

    Raises:
        InvalidAudio: an array without a rate.
    """
    if hasattr(audio, "samples") and hasattr(audio, "sample_rate"):
        return np.asarray(audio.samples), int(audio.sample_rate)
    if sample_rate is None:
        raise InvalidAudio("an array of samples does not say its rate, expected sample_rate=")
    return np.asarray(audio), sample_rate

"""PCM as bytes on the wire: the one place that turns them into float samples and back."""

from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from aqaa.audio.frames import Float32, as_pcm

Encoding = Literal["s16le", "f32le"]
"""Little-endian, 16 bit signed integers or 32 bit floats; channels interleaved."""

SAMPLE_BYTES: Final[dict[Encoding, int]] = {"s16le": 2, "f32le": 4}

_SCALE = np.float32(32768.0)


def from_bytes(raw: bytes, encoding: Encoding, channels: int = 1) -> Float32:
    """Mono (n,) float32, nominally ±1: what reading a file of these samples gives; channels are averaged.

    Raises ValueError if ``raw`` is not whole samples of all channels.
    """
    size = SAMPLE_BYTES[encoding] * channels
    if len(raw) % size:
        raise ValueError(f"{len(raw)} bytes, expected a multiple of {size}")
    if encoding == "s16le":
        samples = np.frombuffer(raw, "<i2").astype(np.float32) / _SCALE
    else:
        samples = np.frombuffer(raw, "<f4").astype(np.float32)
    if channels == 1:
        return samples
    mixed: Float32 = samples.reshape(-1, channels).mean(axis=1, dtype=np.float32)
    return mixed


def to_s16(samples: npt.ArrayLike) -> npt.NDArray[np.int16]:
    """Finite (n,) float PCM as 16 bit integers, rounded to the nearest, clipped at full scale."""
    scaled: Float32 = np.clip(np.rint(as_pcm(samples) * _SCALE), -32768, 32767)
    return scaled.astype(np.int16)


def to_s16le(samples: npt.ArrayLike) -> bytes:
    """``to_s16`` as bytes, little-endian."""
    return to_s16(samples).astype("<i2").tobytes()

"""Sliding frames over PCM, for a whole signal or one that arrives in pieces."""

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

BLOCK = 256
"""Frames that a feature computes at a time: large enough to vectorise, small enough to stay in cache."""


def as_pcm(pcm: npt.ArrayLike) -> Float32:
    """``pcm`` as (n,) float32. Raises ValueError unless it is one-dimensional floating point, mono, ±1."""
    array = np.asarray(pcm)
    if array.ndim != 1 or array.dtype.kind != "f":
        raise ValueError(f"PCM must be a float array of shape (n,), got {array.dtype} of shape {array.shape}")
    return array.astype(np.float32, copy=False)


def count_frames(samples: int, length: int, hop: int) -> int:
    """How many whole frames of ``length`` samples, ``hop`` apart, lie inside ``samples``."""
    return 0 if samples < length else 1 + (samples - length) // hop


def split_frames(signal: Float32, length: int, hop: int) -> Float32:
    """The whole frames of ``signal`` (n,): a read-only view of shape (frames, length)."""
    if len(signal) < length:
        return np.empty((0, length), np.float32)
    return np.lib.stride_tricks.sliding_window_view(signal, length)[::hop]


class FrameBuffer:
    """Keeps the samples that frames still to come will need, and no others.

    ``push`` returns the samples that hold every frame completed by this piece (and no more), so
    ``split_frames`` of what comes back gives each frame once, in order, whatever the chunking.
    """

    def __init__(self, length: int, hop: int) -> None:
        if not 1 <= hop <= length:
            raise ValueError(f"frames of {length} samples cannot be {hop} apart: expected 1 <= hop <= length")
        self._length, self._hop = length, hop
        self._pending: Float32 = np.empty(0, np.float32)

    def push(self, pcm: Float32) -> Float32:
        """Take (n,) float32; give the (m,) float32 that holds the frames now complete, m = 0 if none."""
        held: Float32 = np.concatenate([self._pending, pcm])
        consumed = count_frames(len(held), self._length, self._hop) * self._hop
        self._pending = held[consumed:].copy()
        return held[: consumed - self._hop + self._length] if consumed else held[:0]

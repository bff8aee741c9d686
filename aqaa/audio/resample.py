"""Sample rate conversion: soxr for the product, of a stream too; upstream's sinc kernel for parity."""

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import soxr

from aqaa.audio.frames import Float32, Float64, as_pcm, split_frames


def resample(pcm: npt.ArrayLike, from_rate: int, to_rate: int) -> Float32:
    """Convert a whole signal: (n,) float PCM to (round(n * to_rate / from_rate),) float32.

    Bit-equal to ``StreamResampler`` for any chunking. Equal rates return the samples unchanged.
    """
    stream = StreamResampler(from_rate, to_rate)
    return np.concatenate([stream.push(pcm), stream.flush()])


class StreamResampler:
    """``resample`` of a signal that arrives in pieces (soxr, quality HQ).

    Output comes in bursts and lags the input by 10 to 120 ms, more at lower input rates; ``flush`` gives
    what is left.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        if from_rate <= 0 or to_rate <= 0:
            raise ValueError(f"sample rates must be positive, got {from_rate} and {to_rate} Hz")
        same = from_rate == to_rate
        self._soxr = (
            None if same else soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")
        )

    def push(self, pcm: npt.ArrayLike) -> Float32:
        """Take (n,) float PCM, n >= 0; give the (m,) float32 samples that are ready, m >= 0."""
        samples = as_pcm(pcm)
        return samples.copy() if self._soxr is None else self._convert(samples, last=False)

    def flush(self) -> Float32:
        """End of the signal: the remaining (m,) samples. The stream cannot be pushed to again."""
        nothing = np.empty(0, np.float32)
        return nothing if self._soxr is None else self._convert(nothing, last=True)

    def _convert(self, samples: Float32, last: bool) -> Float32:
        assert self._soxr is not None
        converted: Float32 = self._soxr.resample_chunk(np.ascontiguousarray(samples), last=last)
        return converted


_WIDTH = 6  # zero crossings on each side
_ROLLOFF = 0.99  # of the lower Nyquist frequency
_BLOCK = 4096  # kernel positions computed at a time


def sinc_resample(pcm: npt.ArrayLike, from_rate: int, to_rate: int) -> Float32:
    """Convert a whole signal as ``torchaudio.transforms.Resample`` does with its defaults.

    Hann-windowed sinc, width 6, roll-off 0.99; computed in float64. (n,) float PCM to
    (ceil(n * to_rate / from_rate),) float32. For parity with upstream; ``resample`` is the better filter.
    """
    samples = as_pcm(pcm)
    divisor = math.gcd(from_rate, to_rate)
    step, phases = from_rate // divisor, to_rate // divisor
    if step == phases:
        return samples
    kernel, width = _sinc_kernel(step, phases)
    # One window of input for each `step` samples; it gives one output sample a phase.
    windows = split_frames(np.pad(samples, (width, width + step)), 2 * width + step, step)
    out = np.empty((len(windows), phases), np.float32)
    for start in range(0, len(windows), _BLOCK):
        out[start : start + _BLOCK] = windows[start : start + _BLOCK].astype(np.float64) @ kernel
    return out.reshape(-1)[: -(-len(samples) * phases // step)]


@lru_cache(maxsize=16)
def _sinc_kernel(step: int, phases: int) -> tuple[Float64, int]:
    """The filter, (2 * width + step, phases), for outputs ``step / phases`` inputs apart; and width."""
    cutoff = min(step, phases) * _ROLLOFF / step  # in units of the input rate
    width = math.ceil(_WIDTH / cutoff)
    taps = np.arange(-width, width + step)[:, None]
    distance = np.clip(cutoff * (taps - np.arange(phases) * step / phases), -_WIDTH, _WIDTH)
    kernel: Float64 = cutoff * np.sinc(distance) * np.cos(np.pi * distance / (2 * _WIDTH)) ** 2
    return kernel, width

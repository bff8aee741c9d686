"""Level: the peak of a whole file, as upstream, or the peak so far, as a stream must."""

import numpy as np
import numpy.typing as npt

from aqaa.audio.frames import Float32, as_pcm

_TARGET = np.float32(0.999)
_FLOOR = np.float32(0.01)  # a quieter signal is not raised further: it is noise


def peak_normalize(pcm: npt.ArrayLike) -> Float32:
    """``pcm / max(peak, 0.01) * 0.999``: (n,) float to (n,) float32 (upstream ``energy_norm_fn``).

    Looks at the whole signal, so it belongs to offline chains only.
    """
    samples = as_pcm(pcm)
    peak = np.max(np.abs(samples), initial=_FLOOR)
    scaled: Float32 = (samples / peak) * _TARGET
    return scaled


class CausalGain:
    """Divide each hop by the largest peak heard so far, this hop included.

    The gain changes only at multiples of ``hop`` samples from sample 0, so the output is the same, bit for
    bit, for any chunking; it never grows, and nothing leaves ±0.999. Once the loudest sample has passed it
    equals ``peak_normalize``.
    """

    def __init__(self, hop: int) -> None:
        if hop < 1:
            raise ValueError(f"the hop of a gain must be at least one sample, got {hop}")
        self._hop = hop
        self._peak = _FLOOR
        self._pending: Float32 = np.empty(0, np.float32)

    def push(self, pcm: npt.ArrayLike) -> Float32:
        """Take (n,) float PCM, n >= 0; give the whole hops that it completes, (k * hop,) float32."""
        held: Float32 = np.concatenate([self._pending, as_pcm(pcm)])
        whole = len(held) // self._hop * self._hop
        self._pending = held[whole:].copy()
        return self._scale(held[:whole].reshape(-1, self._hop))

    def flush(self) -> Float32:
        """End of the signal: the last, partial hop, (m,) float32 with m < hop."""
        rest, self._pending = self._pending, self._pending[:0]
        return self._scale(rest[None]) if len(rest) else rest

    def _scale(self, hops: Float32) -> Float32:
        peaks = np.maximum.accumulate(np.append(self._peak, np.abs(hops).max(axis=1, initial=0)))
        self._peak = peaks[-1]
        scaled: Float32 = (hops / peaks[1:, None]) * _TARGET
        return scaled.reshape(-1)


def causal_gain(pcm: npt.ArrayLike, hop: int) -> Float32:
    """``CausalGain`` of a whole signal: (n,) float to (n,) float32."""
    stream = CausalGain(hop)
    return np.concatenate([stream.push(pcm), stream.flush()])

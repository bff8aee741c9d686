"""Low frame rate: seven fbank frames become one of 60 ms, normalised, in the chunks that Paraformer sees.

Upstream: FunASR ``WavFrontendOnline`` (m = 7, n = 6) as Step-Audio's linguistic tokenizer drives it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aqaa.audio.fbank import PARAFORMER, FbankOptions, StreamingFbank
from aqaa.audio.frames import Float32


@dataclass(frozen=True)
class LfrOptions:
    """Each output frame stacks ``m`` fbank frames, ``n`` apart; the first frame of the signal is preceded by
    (m - 1) / 2 copies of itself. ``chunk`` output frames (240 ms) go to the encoder together."""

    m: int = 7
    n: int = 6
    chunk: int = 4

    def __post_init__(self) -> None:
        if self.m < 1 or self.m % 2 == 0 or not 1 <= self.n <= self.m or self.chunk < 1:
            raise ValueError(f"LFR needs an odd m >= 1, 1 <= n <= m and a chunk >= 1, got {self}")


PARAFORMER_LFR = LfrOptions()


@dataclass(frozen=True, eq=False)
class Cmvn:
    """Normalisation after stacking: ``(x + shift) * scale``; both (d,) float32."""

    shift: Float32
    scale: Float32

    def __call__(self, x_TD: Float32) -> Float32:
        return (x_TD + self.shift) * self.scale


def read_cmvn(path: str | Path) -> Cmvn:
    """Read Kaldi's text ``am.mvn``: the vectors of <AddShift> and <Rescale>, in this order.

    Raises ValueError if either vector is missing, or if their lengths differ.
    """
    text = Path(path).read_text(encoding="utf-8")
    vectors = []
    for component in ("AddShift", "Rescale"):
        found = re.search(rf"<{component}>[^\[]*\[([^\]]*)\]", text)
        if found is None:
            raise ValueError(f"{path} has no <{component}> vector: it is not a Kaldi am.mvn text file")
        vectors.append(np.array(found[1].split(), dtype=np.float32))
    shift, scale = vectors
    if shift.shape != scale.shape:
        raise ValueError(f"{path}: <AddShift> has {len(shift)} values but <Rescale> has {len(scale)}")
    return Cmvn(shift, scale)


def lfr(fbank: Float32, options: LfrOptions = PARAFORMER_LFR) -> Float32:
    """Stack the frames of a whole signal: (T, d) float32 to (L, m * d) float32.

    The end follows the streaming reference: see ``StreamingLfr.flush``.
    """
    stream = StreamingLfr(options, fbank.shape[1])
    return np.concatenate([stream.push(fbank), stream.flush()])


class StreamingLfr:
    """``lfr`` of fbank frames that arrive in pieces: the same rows for any chunking."""

    def __init__(self, options: LfrOptions = PARAFORMER_LFR, n_mels: int = 80) -> None:
        self.options = options
        self._rows: Float32 = np.empty((0, n_mels), np.float32)  # those that later windows will use
        self._emitted = 0

    def push(self, fbank: Float32) -> Float32:
        """Take (k, n_mels) frames, k >= 0; give the (l, m * n_mels) windows that they complete."""
        m, n = self.options.m, self.options.n
        if not len(self._rows):  # only before the first frame, as n <= m
            self._rows = np.repeat(fbank[:1], (m - 1) // 2, axis=0)
        rows = np.concatenate([self._rows, fbank])
        count = max(0, (len(rows) - m) // n + 1)
        self._rows = rows[count * n :].copy()
        self._emitted += count
        return self._windows(rows, count)

    def flush(self) -> Float32:
        """End of the signal: (0 or 1, m * n_mels), a last window padded with copies of the last frame.

        The reference works in chunks of ``chunk`` windows and asks two things of a last, partial chunk:
        that it holds one whole window by itself (so a tail of less than 880 samples gives nothing), and
        that the centre of the padded window lies inside the signal.
        """
        m = self.options.m
        rows = self._rows
        if self._emitted % self.options.chunk == 0 or len(rows) <= (m - 1) // 2:
            return self._windows(rows, 0)
        self._rows = rows[:0]
        return self._windows(np.concatenate([rows, np.repeat(rows[-1:], m - len(rows), axis=0)]), 1)

    def _windows(self, rows: Float32, count: int) -> Float32:
        index = self.options.n * np.arange(count)[:, None] + np.arange(self.options.m)
        return rows[index].reshape(count, self.options.m * rows.shape[1])


class LinguisticFrontend:
    """PCM in, normalised encoder input out, one array for each 240 ms chunk of the reference.

    Upstream keeps whole chunks of ``chunk`` frames while the signal goes on; the last may be shorter, and
    a signal that ends on a chunk edge (a multiple of 3840 samples) has no extra last chunk.

        frontend = LinguisticFrontend(read_cmvn("am.mvn"))
        for piece in pcm_pieces:                       # any sizes, 16 kHz float, ±1
            for chunk_TD in frontend.push(piece): ...  # (4, 560) float32
        for chunk_TD in frontend.flush(): ...          # at most one, (1..4, 560)
    """

    def __init__(
        self, cmvn: Cmvn, fbank: FbankOptions = PARAFORMER, lfr_options: LfrOptions = PARAFORMER_LFR
    ) -> None:
        width = lfr_options.m * fbank.n_mels
        if cmvn.shift.shape != (width,):
            raise ValueError(f"CMVN has {cmvn.shift.size} values, the stacked features have {width}")
        self._cmvn = cmvn
        self._fbank = StreamingFbank(fbank)
        self._lfr = StreamingLfr(lfr_options, fbank.n_mels)
        self._held: Float32 = np.empty((0, width), np.float32)

    def push(self, pcm: npt.ArrayLike) -> list[Float32]:
        """Take (n,) float PCM, n >= 0; give the chunks that it completes, each (chunk, m * n_mels)."""
        ready = self._cmvn(self._lfr.push(self._fbank.push(pcm)))
        held = np.concatenate([self._held, ready])
        size = self._lfr.options.chunk
        whole = len(held) // size * size
        self._held = held[whole:].copy()
        return [held[start : start + size] for start in range(0, whole, size)]

    def flush(self) -> list[Float32]:
        """End of the signal: the last chunk, if there is one. The front end cannot be pushed to again."""
        last = np.concatenate([self._held, self._cmvn(self._lfr.flush())])
        self._held = self._held[:0]
        return [last] if len(last) else []

"""Whisper's log-mel: of a whole piece, as upstream, and a causal form of it that a stream can compute."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from aqaa.audio.frames import Float32, Float64, FrameBuffer, as_pcm
from aqaa.audio.mel import MelSpectrogram, slaney_mel_basis

_CLAMP = 1e-10  # under the logarithm


@dataclass(frozen=True)
class LogMelOptions:
    """Sizes in samples; 25 ms frames every 10 ms at 16 kHz by default.

    ``floor``, for the causal form only, is the lowest log10 power that is told apart from silence. Whisper
    takes the loudest value of the piece minus 8; speech normalised to ±1 peaks near 1.5.
    """

    rate: int = 16000
    n_fft: int = 400
    hop: int = 160
    n_mels: int = 128
    floor: float = -6.5

    def __post_init__(self) -> None:
        if self.n_fft % 2 or not 1 <= self.hop <= self.n_fft // 2 or self.n_mels < 1:
            raise ValueError(f"log-mel needs an even n_fft, a hop of 1..n_fft / 2 and a mel bin, got {self}")


WHISPER = LogMelOptions()


def whisper_log_mel(pcm: npt.ArrayLike, options: LogMelOptions = WHISPER) -> Float32:
    """Upstream ``whisper.log_mel_spectrogram``: (n,) float at 16 kHz to (n // hop, n_mels) float32.

    Frames are centred, the ends reflected; values are clamped at the piece's maximum - 8, so a frame
    depends on the whole piece. Raises ValueError if the piece is too short to be reflected.
    """
    samples = as_pcm(pcm)
    edge = options.n_fft // 2
    if len(samples) <= edge:
        raise ValueError(f"whisper's log-mel needs more than {edge} samples, got {len(samples)}")
    frames = len(samples) // options.hop
    log = _log10(_spectrogram(options)(np.pad(samples, edge, mode="reflect"))[:frames])
    return _scale(log, float(log.max()) - 8.0)


def causal_log_mel(pcm: npt.ArrayLike, options: LogMelOptions = WHISPER) -> Float32:
    """``CausalLogMel`` of a whole signal: (n,) float to (n // hop, n_mels) float32."""
    stream = CausalLogMel(options)
    return np.concatenate([stream.push(pcm), stream.flush()])


class CausalLogMel:
    """Whisper's log-mel without a look at the future, of a signal that arrives in pieces.

    Frame t is centred on sample ``t * hop`` and depends on the ``n_fft`` samples around it only: zeros
    stand before the start and after the end, and the floor is fixed. The rows are the same, bit for bit,
    for any chunking. State: fewer than ``n_fft + hop`` samples.
    """

    def __init__(self, options: LogMelOptions = WHISPER) -> None:
        self.options = options
        self._buffer = FrameBuffer(options.n_fft, options.hop)
        self._buffer.push(np.zeros(options.n_fft // 2, np.float32))
        self._samples = self._frames = 0

    def push(self, pcm: npt.ArrayLike) -> Float32:
        """Take (n,) float PCM, n >= 0; give the (k, n_mels) float32 frames that it completes."""
        samples = as_pcm(pcm)
        self._samples += len(samples)
        return self._compute(samples)

    def flush(self) -> Float32:
        """End of the signal: the (k, n_mels) frames whose window reaches past it."""
        missing = self._samples // self.options.hop - self._frames
        return self._compute(np.zeros(self.options.n_fft // 2, np.float32))[:missing]

    def _compute(self, samples: Float32) -> Float32:
        log = _log10(_spectrogram(self.options)(self._buffer.push(samples)))
        self._frames += len(log)
        return _scale(log, self.options.floor)


def _log10(mel: Float64) -> Float64:
    log: Float64 = np.log10(np.maximum(mel, _CLAMP))
    return log


def _scale(log: Float64, floor: float) -> Float32:
    scaled: Float64 = (np.maximum(log, floor) + 4.0) / 4.0
    return scaled.astype(np.float32)


@lru_cache(maxsize=8)
def _spectrogram(options: LogMelOptions) -> MelSpectrogram:
    basis = slaney_mel_basis(options.rate, options.n_fft, options.n_mels, 0.0, options.rate / 2)
    return MelSpectrogram(basis, options.hop, options.n_fft)

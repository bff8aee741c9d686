"""Kaldi-compatible log-mel filter banks, of a whole signal or of a stream, bit for bit the same."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from aqaa.audio.frames import BLOCK, Float32, Float64, FrameBuffer, as_pcm, split_frames
from aqaa.audio.mel import MelProjection, kaldi_mel_basis

_LOG_FLOOR = float(np.finfo(np.float32).eps)  # Kaldi's floor under the logarithm


@dataclass(frozen=True)
class FbankOptions:
    """What ``kaldi_fbank`` computes. Dither is always 0: the same PCM gives the same features.

    ``scale`` multiplies PCM of ±1 first: 32768 for Paraformer's front end, 1 for CAM++ x-vectors.
    ``high_hz`` None is the Nyquist frequency.
    """

    rate: int = 16000
    frame_ms: float = 25.0
    hop_ms: float = 10.0
    n_mels: int = 80
    low_hz: float = 20.0
    high_hz: float | None = None
    window: Literal["hamming", "povey"] = "povey"
    preemphasis: float = 0.97
    scale: float = 1.0

    def __post_init__(self) -> None:
        nyquist = self.rate / 2
        high = nyquist if self.high_hz is None else self.high_hz
        if not 0 <= self.low_hz < high <= nyquist:
            raise ValueError(f"fbank band {self.low_hz}..{high} Hz must lie inside 0..{nyquist} Hz")
        if self.frame_samples < 2 or self.hop_samples < 1 or self.n_mels < 1:
            raise ValueError(f"fbank needs frames of >= 2 samples, a hop >= 1 and a mel bin, got {self}")
        if self.window not in ("hamming", "povey"):
            raise ValueError(f"fbank window {self.window!r} is neither 'hamming' nor 'povey'")

    @property
    def frame_samples(self) -> int:
        return int(self.rate * self.frame_ms / 1000)

    @property
    def hop_samples(self) -> int:
        return int(self.rate * self.hop_ms / 1000)

    @property
    def n_fft(self) -> int:
        """Frame length rounded up to a power of two."""
        return 1 << (self.frame_samples - 1).bit_length()


PARAFORMER = FbankOptions(window="hamming", scale=32768.0)
"""The front end of the linguistic tokenizer (upstream ``WavFrontendOnline``)."""

CAMPPLUS = FbankOptions()
"""The front end of the x-vector network (``torchaudio.compliance.kaldi.fbank`` defaults, 80 bins)."""


def kaldi_fbank(pcm: npt.ArrayLike, options: FbankOptions) -> Float32:
    """Log-mel energies of the frames that fit wholly inside ``pcm`` (Kaldi's ``snip_edges``).

    ``pcm``: (n,) float at ``options.rate``, ±1. Returns (T, n_mels) float32, natural logarithm, with
    T = 1 + (n - frame) // hop, or 0 when shorter than one frame. Computed in float64.
    """
    return _Fbank.of(options)(as_pcm(pcm))


def xvector_features(pcm: npt.ArrayLike) -> Float32:
    """What CAM++ sees: fbank of (n,) float PCM at 16 kHz minus its mean over time, (T, 80) float32."""
    fbank = kaldi_fbank(pcm, CAMPPLUS)
    return fbank - fbank.mean(axis=0, dtype=np.float64).astype(np.float32) if len(fbank) else fbank


class StreamingFbank:
    """``kaldi_fbank`` of a signal that arrives in pieces.

    The rows that ``push`` returns, put together, equal ``kaldi_fbank`` of the whole signal bit for bit,
    for any chunking. State: fewer samples than one frame and a hop.
    """

    def __init__(self, options: FbankOptions) -> None:
        self.options = options
        self._fbank = _Fbank.of(options)
        self._buffer = FrameBuffer(options.frame_samples, options.hop_samples)

    def push(self, pcm: npt.ArrayLike) -> Float32:
        """Take (n,) float PCM, n >= 0; give the (k, n_mels) float32 rows that it completes."""
        return self._fbank(self._buffer.push(as_pcm(pcm)))

    def flush(self) -> Float32:
        """End of the signal. Always (0, n_mels): Kaldi drops the samples of an unfinished frame."""
        return self._fbank(np.empty(0, np.float32))


class _Fbank:
    """The tables of one ``FbankOptions``, and the computation."""

    @staticmethod
    @lru_cache(maxsize=8)
    def of(options: FbankOptions) -> "_Fbank":
        return _Fbank(options)

    def __init__(self, options: FbankOptions) -> None:
        self._options = options
        self._window = _window(options.window, options.frame_samples)
        high = options.rate / 2 if options.high_hz is None else options.high_hz
        basis = kaldi_mel_basis(options.rate, options.n_fft, options.n_mels, options.low_hz, high)
        self._mel = MelProjection(basis)

    def __call__(self, pcm: Float32) -> Float32:
        options = self._options
        frames = split_frames(pcm, options.frame_samples, options.hop_samples)
        mel = np.empty((len(frames), options.n_mels), np.float32)
        for start in range(0, len(frames), BLOCK):
            power = self._power(frames[start : start + BLOCK].astype(np.float64))
            mel[start : start + BLOCK] = np.log(np.maximum(self._mel(power), _LOG_FLOOR))
        return mel

    def _power(self, frames: Float64) -> Float64:
        """(T, frame) samples, overwritten, to the (T, n_fft // 2 + 1) power spectrum."""
        frames *= self._options.scale
        frames -= frames.mean(axis=1, keepdims=True)
        # The sample before a frame counts as equal to its first.
        before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        frames -= self._options.preemphasis * before
        frames *= self._window
        spectrum = np.fft.rfft(frames, self._options.n_fft, axis=1)
        power: Float64 = spectrum.real**2 + spectrum.imag**2
        return power


def _window(kind: str, length: int) -> Float64:
    turns = np.cos(2 * np.pi * np.arange(length) / (length - 1))
    window: Float64 = 0.54 - 0.46 * turns if kind == "hamming" else (0.5 - 0.5 * turns) ** 0.85
    return window

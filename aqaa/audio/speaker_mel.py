"""The mel that vocoders are trained on: matcha's log magnitude mel, at any rate and hop."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from aqaa.audio.frames import Float32, as_pcm
from aqaa.audio.mel import MelSpectrogram, slaney_mel_basis


@dataclass(frozen=True)
class MelOptions:
    """Sizes in samples and Hz. The defaults are the public vocoder's ``feat_extractor`` (22.05 kHz)."""

    rate: int = 22050
    n_fft: int = 1024
    hop: int = 256
    window: int = 1024
    n_mels: int = 80
    low_hz: float = 0.0
    high_hz: float = 8000.0

    def __post_init__(self) -> None:
        if not 0 <= self.low_hz < self.high_hz <= self.rate / 2:
            raise ValueError(
                f"mel band {self.low_hz}..{self.high_hz} Hz must lie inside 0..{self.rate / 2} Hz"
            )
        if self.n_fft % 2 or not 1 <= self.hop <= self.n_fft or not 1 <= self.window <= self.n_fft:
            raise ValueError(
                f"mel needs an even n_fft, and a hop and a window of 1..n_fft samples, got {self}"
            )
        if self.n_mels < 1:
            raise ValueError(f"mel needs at least one bin, got n_mels = {self.n_mels}")


SPEAKER_MEL = MelOptions()


def mel_spectrogram(pcm: npt.ArrayLike, options: MelOptions = SPEAKER_MEL) -> Float32:
    """Natural-log mel of a whole signal: (n,) float at ``options.rate`` to (n // hop, n_mels) float32.

    Upstream ``matcha.utils.audio.mel_spectrogram`` with ``center=False``: the signal is reflected by
    (n_fft - hop) / 2 at both ends, magnitudes are clamped at 1e-5 before the logarithm. Raises ValueError
    if the signal is too short to be reflected.
    """
    samples = as_pcm(pcm)
    edge = (options.n_fft - options.hop) // 2
    if len(samples) <= edge:
        raise ValueError(
            f"a mel with n_fft {options.n_fft} needs more than {edge} samples, got {len(samples)}"
        )
    mel = _spectrogram(options)(np.pad(samples, edge, mode="reflect"))
    log: Float32 = np.log(np.maximum(mel, 1e-5)).astype(np.float32)
    return log


@lru_cache(maxsize=8)
def _spectrogram(options: MelOptions) -> MelSpectrogram:
    basis = slaney_mel_basis(options.rate, options.n_fft, options.n_mels, options.low_hz, options.high_hz)
    return MelSpectrogram(basis, options.hop, options.window, magnitude=True)

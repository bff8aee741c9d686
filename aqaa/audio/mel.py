"""Mel filter banks (Kaldi's and Slaney's) and spectra whose rows never depend on their neighbours."""

import numpy as np

from aqaa.audio.frames import BLOCK, Float32, Float64, split_frames


def kaldi_mel_basis(rate: int, n_fft: int, n_mels: int, low_hz: float, high_hz: float) -> Float64:
    """Triangles with straight edges on the mel axis, 1127 ln(1 + f / 700): (n_mels, n_fft // 2 + 1).

    The last column, the Nyquist bin, is zero, as in Kaldi's ``MelBanks``.
    """
    low, high = (1127.0 * np.log1p(hz / 700.0) for hz in (low_hz, high_hz))
    step = (high - low) / (n_mels + 1)
    centres = low + step * np.arange(1, n_mels + 1)[:, None]
    mels = 1127.0 * np.log1p(rate / n_fft * np.arange(n_fft // 2) / 700.0)
    triangles = np.maximum(0.0, 1.0 - np.abs(mels - centres) / step)
    return np.pad(triangles, ((0, 0), (0, 1)))


def slaney_mel_basis(rate: int, n_fft: int, n_mels: int, low_hz: float, high_hz: float) -> Float64:
    """Triangles of unit area with straight edges on the frequency axis: (n_mels, n_fft // 2 + 1).

    The mel axis is that of Slaney's Auditory Toolbox (linear to 1 kHz, logarithmic above), which librosa,
    whisper and matcha use.
    """
    edges = _slaney_to_hz(np.linspace(_hz_to_slaney(low_hz), _hz_to_slaney(high_hz), n_mels + 2))
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = np.arange(n_fft // 2 + 1) * (rate / n_fft)
    triangles = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))
    basis: Float64 = np.maximum(0.0, triangles) * (2.0 / (right - left))
    return basis


_KNEE_HZ, _KNEE_MEL = 1000.0, 15.0  # 200/3 Hz a mel up to here
_LOG_STEP = np.log(6.4) / 27.0  # above: 27 mels for a factor of 6.4


def _hz_to_slaney(hz: float) -> float:
    if hz < _KNEE_HZ:
        return hz * 3.0 / 200.0
    return float(_KNEE_MEL + np.log(hz / _KNEE_HZ) / _LOG_STEP)


def _slaney_to_hz(mel: Float64) -> Float64:
    above = _KNEE_HZ * np.exp(_LOG_STEP * (mel - _KNEE_MEL))
    return np.where(mel < _KNEE_MEL, mel * 200.0 / 3.0, above)


class MelProjection:
    """``spectrum @ basis.T`` where each row is bit-equal however many rows are projected together.

    A BLAS product rounds differently for different row counts, and a stream would then differ from the
    whole signal. A mel filter is narrow, so the sum over its few bins is done one bin at a time for all
    rows and filters at once: elementwise, hence the same in any batch.
    """

    def __init__(self, basis: Float64) -> None:
        """``basis``: (n_mels, bins); filters must be contiguous bands, as every mel filter is."""
        first = np.argmax(basis > 0, axis=1)
        width = int(np.max(np.count_nonzero(basis, axis=1), initial=1))
        first = np.minimum(first, basis.shape[1] - width)
        self._bins = first + np.arange(width)[:, None]
        self._weights = np.take_along_axis(basis, self._bins.T, axis=1).T.copy()
        if np.count_nonzero(self._weights) != np.count_nonzero(basis):
            raise ValueError("a mel filter is not one contiguous band of bins")
        self.n_mels = len(basis)

    def __call__(self, spectrum: Float64) -> Float64:
        """(frames, bins) float64 to (frames, n_mels) float64."""
        mel = np.zeros((len(spectrum), self.n_mels))
        for bins, weights in zip(self._bins, self._weights, strict=True):
            mel += spectrum[:, bins] * weights
        return mel


def hann(length: int) -> Float64:
    """The periodic Hann window, (length,)."""
    window: Float64 = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    return window


class MelSpectrogram:
    """Mel bands of Hann-windowed frames, before any logarithm; a row depends on its own frame only.

    Bands are of power, or of magnitude ``sqrt(power + 1e-9)`` (matcha). A window shorter than the FFT
    stands in its middle.
    """

    def __init__(self, basis: Float64, hop: int, window: int, magnitude: bool = False) -> None:
        self.n_fft = 2 * (basis.shape[1] - 1)
        self.hop = hop
        left = (self.n_fft - window) // 2
        self._window = np.pad(hann(window), (left, self.n_fft - window - left))
        self._project = MelProjection(basis)
        self._magnitude = magnitude

    def __call__(self, pcm: Float32) -> Float64:
        """The frames that fit wholly inside (n,) float32 PCM: (T, n_mels) float64."""
        frames = split_frames(pcm, self.n_fft, self.hop)
        mel = np.empty((len(frames), self._project.n_mels))
        for start in range(0, len(frames), BLOCK):
            spectrum = np.fft.rfft(frames[start : start + BLOCK] * self._window, axis=1)
            bins = spectrum.real**2 + spectrum.imag**2
            mel[start : start + BLOCK] = self._project(np.sqrt(bins + 1e-9) if self._magnitude else bins)
        return mel

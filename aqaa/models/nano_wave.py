"""Nano's wave head: mel frames to 24 kHz sound by a pulse train, two filters and one inverse STFT.

A trunk of ConvNeXt blocks reads the mel and gives, for every 10 ms frame, F0 and voicing, a complex filter
for the harmonics and the level of the noise in every bin. A band-limited pulse train at F0 goes through the
first, Gaussian noise through the second, and overlap-add makes the wave: a source-filter vocoder whose
filter is learned (after hibari's student vocoder and NSF, Wang et al. 2019; inverse STFT as in Vocos).

Frame t is centred on sample ``hop · t + hop / 2``. The samples of a hop depend on at most ``frames_before``
mel frames before it and ``frames_ahead`` after, and on the phase of the pulses, which is carried.

Shape letters: B batch, T frames, M mel bins, K spectrum bins, N samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from aqaa.models.convnext import ConvNeXtBlock
from aqaa.models.source import increments

_TO_RADIANS = 2 * math.pi / 2.0**64


@dataclass(frozen=True)
class NanoWaveConfig:
    """Sizes of the head: rates in Hz, ``hop`` and ``n_fft`` in samples, ``ahead`` in frames a layer.

    mean, scale  bring the natural-log mel near unit variance
    floor        natural logarithm of the quietest mel value: what stands before the start and after the end
    max_hz       pulses hold no harmonic above it
    """

    sample_rate: int = 24000
    hop: int = 240
    n_fft: int = 960
    n_mels: int = 80
    dim: int = 256
    blocks: int = 6
    kernel: int = 7
    ahead: int = 2
    mean: float = -5.0
    scale: float = 2.5
    max_hz: float = 11000.0
    f0_reference: float = 180.0
    floor: float = math.log(1e-5)

    @property
    def bins(self) -> int:
        """Bins of the spectrum."""
        return self.n_fft // 2 + 1

    @property
    def overlap(self) -> int:
        """Frames on each side of a hop whose windows reach into it; their own pulses reach as far again."""
        return self.n_fft // self.hop // 2

    @property
    def frames_ahead(self) -> int:
        """Mel frames after a hop that it depends on: through the network, the windows, F0 of their pulses."""
        return (self.blocks + 1) * self.ahead + 2 * self.overlap

    @property
    def frames_before(self) -> int:
        """Mel frames before a hop that it depends on."""
        return (self.blocks + 1) * (self.kernel - 1 - self.ahead) + 2 * self.overlap


class Parts(NamedTuple):
    """What the trunk says of each frame.

    log_f0, voicing     (B, T): natural logarithm of F0 over the reference, and a logit
    harmonic, rotation  (B, T, K): log-magnitude of the harmonics' filter, and its phase in half turns, -1 … 1
    noise               (B, T, K): log-magnitude of the noise
    """

    log_f0: Tensor
    voicing: Tensor
    harmonic: Tensor
    rotation: Tensor
    noise: Tensor


class NanoWave(nn.Module):
    """The trunk and what turns its parts into sound; noise and pulses are arguments."""

    window: Tensor

    def __init__(self, config: NanoWaveConfig) -> None:
        super().__init__()
        self.config = config
        self.inp = nn.Conv1d(config.n_mels, config.dim, config.kernel)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(config.dim, kernel=config.kernel, ahead=config.ahead) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.dim)
        self.pitch = nn.Linear(config.dim, 2)
        self.out = nn.Linear(config.dim, 3 * config.bins)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)

    def forward(self, mel_BTM: Tensor) -> Parts:
        """Natural-log mel frames to the parts of each; frames near either end lack context."""
        c = self.config
        x = ((mel_BTM - c.mean) / c.scale).transpose(1, 2)
        x = self.inp(F.pad(x, (c.kernel - 1 - c.ahead, c.ahead))).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        pitch = self.pitch(x)
        harmonic, rotation, noise = self.out(x).chunk(3, -1)
        return Parts(pitch[..., 0], pitch[..., 1], harmonic, torch.tanh(rotation), noise)

    def f0(self, parts: Parts) -> Tensor:
        """F0 in Hz, (B, T), 0 where unvoiced."""
        hertz = self.config.f0_reference * parts.log_f0.clamp(-2.0, 2.0).exp()
        return torch.where(parts.voicing > 0, hertz, 0.0)

    def analyse(self, wave_BN: Tensor) -> Tensor:
        """Windowed spectra of frames that lie wholly inside: (B, N) to (B, T, K), frame 0 from sample 0."""
        spectrum: Tensor = torch.fft.rfft(wave_BN.unfold(1, self.config.n_fft, self.config.hop) * self.window)
        return spectrum

    def render(self, parts: Parts, pulses_BN: Tensor, noise_BTK2: Tensor) -> Tensor:
        """The wave of T frames with whole windows, (B, hop · (T - 1) + n_fft).

        Its ends lack the neighbours' overlap.

        ``pulses_BN`` spans the same samples; ``noise_BTK2`` is standard normal (real, imaginary).
        """
        spectrum = self.filtered(parts, pulses_BN) + torch.view_as_complex(noise_BTK2) * level(parts.noise)
        return self.overlap_add(spectrum)

    def filtered(self, parts: Parts, pulses_BN: Tensor) -> Tensor:
        """The harmonic part of the spectrum, (B, T, K) complex."""
        source = self.analyse(pulses_BN) * (2.0 / self.config.n_fft)
        return source * torch.polar(level(parts.harmonic), math.pi * parts.rotation)

    def overlap_add(self, spectrum_BTK: Tensor) -> Tensor:
        """Inverse transforms of T frames added into one wave, (B, hop · (T - 1) + n_fft).

        A spectrum is in amplitudes: that of a windowed wave times 2 / n_fft gives the wave back, where frames
        overlap fully (squared Hann windows a hop apart add up to 0.375 · n_fft / hop).
        """
        c = self.config
        frames: Tensor = torch.fft.irfft(spectrum_BTK, c.n_fft)
        frames = frames * self.window * (c.hop / 0.75)
        batch, count, _ = frames.shape
        parts = c.n_fft // c.hop
        out = frames.new_zeros(batch, count + parts - 1, c.hop)
        for k in range(parts):
            out[:, k : k + count] += frames[:, :, k * c.hop : (k + 1) * c.hop]
        return out.flatten(1)


def level(log_magnitude: Tensor) -> Tensor:
    """A bounded magnitude."""
    return log_magnitude.clamp(max=7.0).exp()


def sample_f0(
    f0_T: NDArray[np.float32], first: int, count: int, config: NanoWaveConfig
) -> NDArray[np.float64]:
    """F0 in Hz of ``count`` samples from ``first`` on (frame 0 begins at sample 0), 0 where unvoiced.

    Linear between voiced neighbours. A voiced frame next to an unvoiced one keeps its F0 up to the middle
    between them; beyond the frames the edge holds.
    """
    where = (np.arange(first, first + count) + 0.5) / config.hop - 0.5
    low = np.floor(where).astype(np.int64)
    share = where - low
    last = len(f0_T) - 1
    a = f0_T[np.clip(low, 0, last)].astype(np.float64)
    b = f0_T[np.clip(low + 1, 0, last)].astype(np.float64)
    near = np.where(share < 0.5, a, b)
    return np.where((a > 0) & (b > 0), a + (b - a) * share, near)


def pulse_train(
    f0_N: NDArray[np.float64], phase: int, at: int, config: NanoWaveConfig
) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
    """Every harmonic of F0 below ``max_hz`` at unit amplitude, and each sample's phase in turns of 2^-64.

    ``phase`` is the phase of sample ``at``. Samples before it are reached by going back, which integers allow
    exactly. Sum of cos(h t) for h = 1 … H in closed form: sin((H + 1/2) t) / (2 sin(t/2)) - 1/2.
    Raises ValueError for an F0 beyond half the sample rate.
    """
    steps = np.cumsum(increments(f0_N, config.sample_rate), dtype=np.uint64)
    turns = steps - steps[at] + np.uint64(phase)
    angle = turns.view(np.int64).astype(np.float64) * _TO_RADIANS
    voiced = f0_N > 0
    harmonics = np.floor(config.max_hz / np.where(voiced, f0_N, config.max_hz))
    half = np.sin(0.5 * angle)
    flat = np.abs(half) < 1e-4
    train = np.sin((harmonics + 0.5) * angle) / np.where(flat, 1.0, 2 * half) - 0.5
    train = np.where(flat, harmonics, train)
    return np.where(voiced, train, 0.0).astype(np.float32), turns

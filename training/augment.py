"""What happens to a question between a mouth and the tokenizer: room, noise, level, colour, shift.

Everything is drawn from the generator passed in; a batch is changed as a whole, on float32 PCM at 16 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.nn import functional as F

RATE = 16000


@dataclass(frozen=True)
class AugmentConfig:
    """Probabilities a clip, and ranges.

    ``speed`` is that of a tape: below 1 a voice is slower, deeper, and its vocal tract longer.
    """

    room: float = 0.3
    noise: float = 0.6
    snr_db: tuple[float, float] = (8.0, 40.0)
    level_db: tuple[float, float] = (-24.0, 0.0)
    colour: float = 0.6
    colour_db: float = 8.0
    warp: float = 0.4
    warp_range: float = 0.09
    masks: int = 2
    tail_seconds: float = 0.0
    speed: float = 0.0
    speed_range: tuple[float, float] = (0.85, 1.15)


@lru_cache(maxsize=1)
def noises() -> Tensor:
    """(48, 8 s) of stationary and slowly pulsing noise, white to brown, RMS 1."""
    rng = np.random.default_rng(77)
    n = 8 * RATE
    hz = np.fft.rfftfreq(n, 1 / RATE)
    out = []
    for kind in range(48):
        slope = rng.uniform(0.0, 2.0)
        shape = 1.0 / np.maximum(hz, 40.0) ** (slope / 2)
        if kind % 3 == 0:
            low, width = rng.uniform(50, 4000), rng.uniform(0.5, 2.0)
            shape = shape * np.exp(-0.5 * (np.log(np.maximum(hz, 1) / low) / width) ** 2)
        wave = np.fft.irfft(shape * np.exp(2j * np.pi * rng.random(len(hz))), n)
        if kind % 4 == 1:
            wave = wave * (1.0 + 0.8 * np.sin(2 * np.pi * rng.uniform(0.3, 4.0) * np.arange(n) / RATE))
        out.append(wave / np.sqrt(np.mean(wave**2)))
    return torch.from_numpy(np.stack(out).astype(np.float32))


def room(pcm_BN: Tensor, rng: np.random.Generator) -> Tensor:
    """Convolves each row with an exponentially decaying noise tail after its direct sound."""
    batch, n = pcm_BN.shape
    tail = 4800
    decay = torch.from_numpy(rng.uniform(0.08, 0.5, (batch, 1)).astype(np.float32))
    time = torch.arange(tail) / RATE
    response = torch.from_numpy(rng.standard_normal((batch, tail)).astype(np.float32)) * torch.exp(
        -6.9 * time / decay
    )
    level = torch.from_numpy(rng.uniform(0.1, 0.6, (batch, 1)).astype(np.float32))
    response = response * level / response.square().sum(1, keepdim=True).sqrt()
    response[:, :24] = 0.0
    response[:, 0] = 1.0
    size = 1 << (n + tail - 1).bit_length()
    wet = torch.fft.irfft(torch.fft.rfft(pcm_BN, size) * torch.fft.rfft(response, size), size)
    return wet[:, :n]


def waveforms(
    clips: list[np.ndarray], config: AugmentConfig, rng: np.random.Generator, shift: bool = True
) -> tuple[Tensor, Tensor]:
    """Clips (float32, about ±1) to a padded batch (B, N) and the samples of each, in whole 120 ms groups.

    With ``shift`` up to 0.4 s of near silence comes before a clip, so that group edges fall anywhere, and up
    to ``config.tail_seconds`` after it.
    """
    if config.speed:
        clips = [tape(clip, config, rng) for clip in clips]
    lead = [int(rng.integers(0, 6400)) if shift else 0 for _ in clips]
    tail = [int(rng.integers(0, round(config.tail_seconds * RATE) + 1)) if shift else 0 for _ in clips]
    lengths = [-(-(p + len(c) + q + 960) // 1920) * 1920 for p, c, q in zip(lead, clips, tail, strict=True)]
    out = torch.zeros(len(clips), max(lengths))
    for row, (pad, pcm) in enumerate(zip(lead, clips, strict=True)):
        out[row, pad : pad + len(pcm)] = torch.from_numpy(pcm)
    peak = out.abs().amax(1, keepdim=True).clamp(min=1e-3)
    out = out / peak
    wet = np.flatnonzero(rng.random(len(clips)) < config.room)
    if len(wet):
        out[wet] = room(out[wet], rng)
    power = out.square().sum(1) / torch.tensor([len(c) for c in clips])
    snr = rng.uniform(*config.snr_db, len(clips))
    snr = np.where(rng.random(len(clips)) < config.noise, snr, rng.uniform(45, 70, len(clips)))
    bank = noises()
    starts = rng.integers(0, bank.shape[1], len(clips))
    rows = rng.integers(0, len(bank), len(clips))
    index = (torch.from_numpy(starts)[:, None] + torch.arange(out.shape[1])) % bank.shape[1]
    noise = bank[torch.from_numpy(rows)[:, None], index]
    scale = power.sqrt() * torch.from_numpy(10.0 ** (-snr / 20)).float()
    out = out + noise * scale[:, None]
    level = torch.from_numpy(10.0 ** (rng.uniform(*config.level_db, len(clips)) / 20)).float()
    out = out / out.abs().amax(1, keepdim=True).clamp(min=1e-3) * level[:, None]
    samples = torch.tensor(lengths)
    return out * (torch.arange(out.shape[1]) < samples[:, None]), samples


def tape(pcm: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """The clip as it is, or played at another speed: with its pace move pitch and formants."""
    low, high = np.log(config.speed_range)
    speed = float(np.exp(rng.uniform(low, high)))
    if rng.random() >= config.speed:
        return pcm
    played: np.ndarray = soxr.resample(pcm, RATE * speed, RATE, quality="LQ")
    return played


def mel_colour(mel_BTF: Tensor, config: AugmentConfig, rng: np.random.Generator, db: float) -> Tensor:
    """Microphones and mouths: a smooth gain curve over frequency, and a warp of the frequency axis.

    ``db`` is what one decibel is in the mel's own unit.
    """
    batch, _, bins = mel_BTF.shape
    knots = rng.normal(0.0, config.colour_db / 2, (batch, 6)) * (rng.random((batch, 1)) < config.colour)
    curve = F.interpolate(
        torch.from_numpy(knots.astype(np.float32))[:, None], bins, mode="linear", align_corners=True
    )
    mel_BTF = mel_BTF + curve * db
    warp = 1.0 + rng.uniform(-config.warp_range, config.warp_range, batch) * (rng.random(batch) < config.warp)
    where = (torch.arange(bins) * torch.from_numpy(warp.astype(np.float32))[:, None]).clamp(max=bins - 1.001)
    low = where.long()
    share = (where - low)[:, None]
    low_BTF = low[:, None].expand(-1, mel_BTF.shape[1], -1)
    return mel_BTF.gather(2, low_BTF) * (1 - share) + mel_BTF.gather(2, low_BTF + 1) * share


def masks(mel_BTF: Tensor, config: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """SpecAugment: bands of bins and spans of frames become the clip's mean."""
    mel_BTF = mel_BTF.clone()
    mean = mel_BTF.mean((1, 2), keepdim=True)
    for row in range(len(mel_BTF)):
        for _ in range(config.masks):
            width = int(rng.integers(0, mel_BTF.shape[2] // 8))
            start = int(rng.integers(0, mel_BTF.shape[2] - width))
            mel_BTF[row, :, start : start + width] = mean[row]
            span = int(rng.integers(0, 9))
            first = int(rng.integers(0, max(1, mel_BTF.shape[1] - span)))
            mel_BTF[row, first : first + span] = mean[row]
    return mel_BTF

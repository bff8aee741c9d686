"""Sounds that are no speech: silence, noise, hum, notes, knocks. Nano shall not take them for a question."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.augment import RATE, noises

Samples = NDArray[np.float32]


def noise(n: int, rng: np.random.Generator) -> Samples:
    """White to brown, steady or slowly pulsing."""
    bank = noises().numpy()
    start = int(rng.integers(0, bank.shape[1] - n))
    return bank[int(rng.integers(len(bank))), start : start + n].copy()


def hum(n: int, rng: np.random.Generator) -> Samples:
    """A mains or motor tone: a low note with many harmonics that does not move."""
    return _note(n, rng.uniform(40, 160), rng.uniform(0.2, 1.5), rng)


def notes(n: int, rng: np.random.Generator) -> Samples:
    """One to four voices of notes, each held for 0.1 s up to the whole, plucked or steady."""
    out = np.zeros(n, np.float32)
    for _ in range(int(rng.integers(1, 5))):
        at = 0
        held = float(np.exp(rng.uniform(np.log(0.1), np.log(6.0))))
        fade, steep = rng.uniform(0.0, 6.0), rng.uniform(0.5, 3.0)
        while at < n:
            size = min(n - at, round(held * RATE))
            pitch = 440.0 * 2 ** (int(rng.integers(-24, 25)) / 12)
            decay = np.exp(-fade * np.arange(size) / RATE)
            out[at : at + size] += _note(size, pitch, steep, rng) * decay.astype(np.float32)
            at += size
    return out


def knocks(n: int, rng: np.random.Generator) -> Samples:
    """Short bursts, evenly or at random: clicks, keys, steps."""
    out = np.zeros(n, np.float32)
    at = rng.uniform(0, 0.3)
    pause, even = rng.uniform(0.08, 0.8), rng.random() < 0.5
    while round(at * RATE) < n:
        start = round(at * RATE)
        size = min(n - start, int(rng.integers(16, 1600)))
        burst = noise(size, rng) if rng.random() < 0.7 else _note(size, rng.uniform(80, 3000), 1.0, rng)
        out[start : start + size] += burst * np.exp(-6 * np.arange(size) / size).astype(np.float32)
        at += pause if even else pause * rng.uniform(0.3, 2.0)
    return out


def silence(n: int, rng: np.random.Generator) -> Samples:
    """Not one sample but 0: an input that is muted."""
    return np.zeros(n, np.float32)


KINDS: tuple[tuple[Callable[[int, np.random.Generator], Samples], float], ...] = (
    (noise, 0.35),
    (notes, 0.35),
    (hum, 0.1),
    (knocks, 0.15),
    (silence, 0.05),
)


def draw(rng: np.random.Generator) -> Samples:
    """0.6 to 6 s at 16 kHz in whole groups of 120 ms, at a peak of -66 dB to full scale, or one of the
    kinds with noise beneath."""
    n = int(rng.integers(5, 51)) * 1920
    makers, shares = zip(*KINDS, strict=True)
    pcm = makers[int(rng.choice(len(makers), p=shares))](n, rng)
    if rng.random() < 0.5:
        pcm = pcm + noise(n, rng) * np.float32(10 ** rng.uniform(-3.0, -0.5))
    peak = np.abs(pcm).max()
    level = np.float32(10 ** (-rng.uniform(0, 66) * (rng.random() < 0.7) / 20))
    return (pcm / peak * level if peak > 0 else pcm).astype(np.float32)


def _note(n: int, hz: float, steep: float, rng: np.random.Generator) -> Samples:
    """Harmonics below 7 kHz that fall with 1 / k ** steep, some of them weak."""
    harmonics = np.arange(1, max(2, min(24, int(7000 / hz))))
    weights = rng.uniform(0.1, 1.0, len(harmonics)) / harmonics**steep
    phases = rng.uniform(0, 2 * np.pi, len(harmonics))
    wave = np.sin(2 * np.pi * hz * np.outer(np.arange(n) / RATE, harmonics) + phases) @ weights
    return (wave / weights.sum()).astype(np.float32)

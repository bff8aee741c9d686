"""Stage 8: the wave head, taught by the teacher's own parts.

hibari exposes what it sums: a filtered pulse train and two noises, with the F0 and phase of the pulses. So
the harmonic filter is regressed on the harmonic sound alone, with the teacher's pulses as source, the noise
level by the likelihood of the rest, and F0 directly. A second pass trains on what the flow really makes.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from aqaa.models.nano_wave import NanoWave, NanoWaveConfig, Parts
from training import features
from training.loop import LoopConfig, fit, folder_and_threads, starting_point
from training.speech import corpus_at

NANO = NanoWaveConfig()


@dataclass(frozen=True)
class WaveTraining:
    clips: int = 3200
    crop: int = 108  # frames, of which the outer ones only give context, as in the vocoder's windows
    batch: int = 16
    supervised: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=4000, lr=1e-3, warmup=100, seed=71, clip=5.0)
    )
    continued: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=2500, lr=6e-4, warmup=50, seed=72, clip=5.0)
    )


def take_apart(folder: Path, count: int) -> None:
    """Renders every k-th answer once more in two parts (``parts.npz``)."""
    from hibari import dsp

    from training.voices import HIBARI_HOP, RATE, VOICE_STATES, Heart, speech_span

    path = folder / "parts.npz"
    if path.exists():
        return
    corpus, _ = corpus_at(str(folder))
    heart = Heart()
    rows: dict[str, list[NDArray[np.generic]]] = {"harmonic": [], "noise": [], "f0": []}
    for spoken in corpus.spoken[:: max(1, len(corpus.spoken) // count)]:
        pieces = heart.tts.phonemize(spoken.text)
        if len(pieces) != 1:
            continue
        lh, theta, ln, lr, phi, f0 = heart.shaped(pieces[0], VOICE_STATES[spoken.style])
        nothing = np.full_like(lh, -30.0)
        rng = np.random.default_rng(0)
        harmonic = dsp.synth(lh, theta, nothing, nothing, phi, f0, rng)
        noise = dsp.synth(nothing, theta, ln, lr, phi, f0, rng)
        start, stop = speech_span(harmonic + noise, RATE)
        first, last = max(0, start // HIBARI_HOP - 6), min(len(f0), -(-stop // HIBARI_HOP) + 8)
        span = slice(first * HIBARI_HOP, last * HIBARI_HOP)
        rows["harmonic"].append((np.clip(harmonic[span], -1, 1) * 32767).astype(np.int16))
        rows["noise"].append((np.clip(noise[span], -1, 1) * 32767).astype(np.int16))
        rows["f0"].append(np.concatenate(([f0[:first].sum()], [first], f0)).astype(np.float32))
    arrays = {}
    for name, values in rows.items():
        arrays[name] = np.concatenate(values)
        arrays[name + "_offsets"] = np.cumsum([0] + [len(v) for v in values])
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    os.replace(partial, path)


class Crops:
    """Random crops with their sources; the teacher's pulses are made again from its F0, phase and all."""

    def __init__(self, folder: Path, config: WaveTraining) -> None:
        data = np.load(folder / "parts.npz")
        self.parts = {name: data[name] for name in data.files}
        self.count = len(self.parts["harmonic_offsets"]) - 1
        self.config = config

    def clip(self, name: str, k: int) -> NDArray[np.generic]:
        offsets = self.parts[name + "_offsets"]
        row: NDArray[np.generic] = self.parts[name][offsets[k] : offsets[k + 1]]
        return row

    def draw(self, rng: np.random.Generator) -> dict[str, Tensor]:
        from hibari import dsp

        # Frame 0's window starts 360 samples before its hop.
        samples = self.config.crop * NANO.hop + NANO.n_fft - NANO.hop
        rows: dict[str, list[NDArray[np.float32]]] = {
            k: [] for k in ("harmonic", "noise", "pulses", "f0", "wave")
        }
        while len(rows["f0"]) < self.config.batch:
            k = int(rng.integers(self.count))
            harmonic = self.clip("harmonic", k).astype(np.float32) / 32768
            room = len(harmonic) - samples - 800
            if room <= 0:
                continue
            noise = self.clip("noise", k).astype(np.float32) / 32768
            f0 = self.clip("f0", k).astype(np.float32)
            first = int(f0[1])
            pulses = dsp.pulses(f0[2:])[first * 300 : first * 300 + len(harmonic)]
            start = 400 + int(rng.integers(room))  # of frame 0's window
            span = slice(start, start + samples)
            hop0 = start + (NANO.n_fft - NANO.hop) // 2
            frames = frame_f0_at(f0[2:], first * 300 + hop0, self.config.crop)
            gain = np.float32(10 ** (rng.uniform(-4, 2) / 20))
            rows["harmonic"].append(harmonic[span] * gain)
            rows["noise"].append(noise[span] * gain)
            rows["pulses"].append(pulses[span])
            rows["f0"].append(frames)
            whole = (harmonic + noise) * gain
            # The mel's window (1024) reaches 32 samples further than ours on each side.
            rows["wave"].append(whole[start - 32 : start + samples + 32])
        return {name: torch.from_numpy(np.stack(values)) for name, values in rows.items()}


def frame_f0_at(f0_hibari: NDArray[np.float32], first_sample: int, frames: int) -> NDArray[np.float32]:
    """F0 at frame centres ``first_sample + 240 t + 120``; where one of the two 12.5 ms frames around is
    unvoiced, that of the nearer one (0 if unvoiced)."""
    where = (first_sample + 240 * np.arange(frames) + 120) / 300 - 0.5
    low = np.clip(np.floor(where).astype(int), 0, len(f0_hibari) - 1)
    high = np.clip(low + 1, 0, len(f0_hibari) - 1)
    share = np.clip(where - low, 0, 1)
    a, b = f0_hibari[low], f0_hibari[high]
    nearest = np.where(share < 0.5, a, b)
    return np.where(
        (a > 40) & (b > 40), a * (1 - share) + b * share, np.where(nearest > 40, nearest, 0)
    ).astype(np.float32)


def crop_mel(wave_BN: Tensor) -> Tensor:
    """The vocoder's mel without padding: crops carry their own context."""
    return features.speaker_frames(wave_BN)


def compressed(spectrum: Tensor, power: float = 0.3) -> Tensor:
    """Magnitudes to a power, phases kept: what is heard, rather than what is loud."""
    magnitude = spectrum.abs().clamp(min=1e-5)
    return spectrum * magnitude ** (power - 1)


def supervised_losses(model: NanoWave, parts: Parts, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    keep = slice(NANO.frames_before, -NANO.frames_ahead)
    f0 = batch["f0"][:, keep]
    voiced = f0 > 40
    goal = model.analyse(batch["harmonic"])[:, keep]
    scale = 1.0 / (NANO.n_fft * 0.5)
    made = model.filtered(parts, batch["pulses"])[:, keep]
    complex_off = (compressed(made) - compressed(goal * scale)).abs()
    magnitude_off = (made.abs().clamp(min=1e-5) ** 0.3 - (goal.abs() * scale).clamp(min=1e-5) ** 0.3).abs()
    # Where the teacher has no pulses there is nothing to filter.
    lit = voiced[..., None].float()
    harmonic = ((complex_off + magnitude_off) * lit).sum() / (lit.sum() * goal.shape[-1]).clamp(min=1)
    power = (model.analyse(batch["noise"])[:, keep] * scale).abs().square() + 1e-10
    log_level = parts.noise[:, keep].clamp(-12, 7)
    likelihood = (power * torch.exp(-2 * log_level) / 2).clamp(max=1e3) + 2 * log_level
    pitch = (parts.log_f0[:, keep] - (f0.clamp(min=40) / NANO.f0_reference).log()).abs()[voiced].mean()
    voicing = F.binary_cross_entropy_with_logits(parts.voicing[:, keep], voiced.float())
    total = 10 * harmonic + 0.3 * likelihood.mean() + 3 * pitch + 0.5 * voicing
    return {
        "total": total,
        "harmonic": harmonic,
        "noise": likelihood.mean(),
        "pitch": pitch,
        "voicing": voicing,
    }


def train(folder: Path, config: WaveTraining = WaveTraining()) -> NanoWave:
    take_apart(folder, config.clips)
    crops = Crops(folder, config)
    torch.manual_seed(config.supervised.seed)
    model = NanoWave(NANO)

    def losses(step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        batch = crops.draw(rng)
        return supervised_losses(model, model(crop_mel(batch["wave"])), batch)

    start = starting_point(folder, "wave")
    loop = config.supervised if start is None else config.continued
    fit("wave-supervised", model, losses, loop, folder, start=start)
    return model


if __name__ == "__main__":
    train(folder_and_threads(sys.argv))

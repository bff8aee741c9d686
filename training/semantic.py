"""Stage 2: nano's semantic tokenizer.

25 codes a second out of 4096 that keep what the linguistic codes drop: level, pitch, voice colour, timing.
The encoder is trained with a decoder that must rebuild the 24 kHz mel from the codes (the speaker is given
to the decoder only), say the phonemes (CTC), and name log-energy and log-F0 of every 10 ms. Questions come
through room, noise and gain, and must give nearly the code of the clean recording; the answering voice comes
clean and at its own level, because its level is part of what it says.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from aqaa.models.convnext import ConvNeXtBlock
from aqaa.models.nano_semantic import NanoSemanticConfig, NanoSemanticEncoder
from training import augment, features, phonemes
from training.corpus import Corpus
from training.loop import LoopConfig, fit, folder_and_threads, length_batches
from training.speech import Utterance, corpus_at, questions

NANO = NanoSemanticConfig()
SLOTS = 2  # CTC positions a code
MEL_MEAN, MEL_SCALE = -5.0, 2.5  # the 24 kHz log-mel, brought near unit scale
LOW_BINS = 67  # mel bins whose band ends below 8 kHz: all that a 16 kHz question can show


@dataclass(frozen=True)
class SemanticTraining:
    seconds: float = 48.0
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=2600, lr=1.2e-3, warmup=150, seed=21))
    augment: augment.AugmentConfig = field(
        default_factory=lambda: augment.AugmentConfig(
            room=0.25, noise=0.7, snr_db=(10.0, 40.0), level_db=(-12.0, 0.0)
        )
    )
    mel: float = 3.0
    ctc: float = 0.3
    energy: float = 0.3
    pitch: float = 0.3
    consistency: float = 1.0


class SemanticDecoder(nn.Module):
    """Codes' values (B, J, K) to features (B, J, D) and the mel (B, 4 J, 80).

    The flow's token encoder starts from it.
    """

    def __init__(self, config: NanoSemanticConfig, blocks: int = 4) -> None:
        super().__init__()
        self.inp = nn.Linear(len(config.levels), config.dim)
        self.blocks = nn.ModuleList(ConvNeXtBlock(config.dim, kernel=3) for _ in range(blocks))
        self.speaker = nn.Linear(80, config.dim)
        self.mel = nn.Linear(config.dim, 4 * 80)

    def forward(self, values: Tensor, voice_B80: Tensor) -> tuple[Tensor, Tensor]:
        x = self.inp(values)
        middle = x
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == 1:
                middle = x
                x = x + self.speaker(voice_B80)[:, None]
        return middle, self.mel(x).unflatten(-1, (4, 80)).flatten(1, 2)


class SemanticAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = NanoSemanticEncoder(NANO)
        self.decoder = SemanticDecoder(NANO)
        self.ctc = nn.Linear(NANO.dim, SLOTS * phonemes.SIZE)
        self.prosody = nn.Linear(NANO.dim, 4 * 2)  # log-energy and log-F0 of each 10 ms


class AnswerClips:
    """The answering voice at both rates, with its F0 by 10 ms frames; read shard by shard, kept in memory."""

    def __init__(self, corpus: Corpus, limit: int | None = None) -> None:
        import soxr

        self.pcm24: list[NDArray[np.int16]] = []
        self.pcm16: list[NDArray[np.int16]] = []
        self.f0: list[NDArray[np.float32]] = []
        self.texts: list[str] = []
        for shard in corpus.shards("answers")[:limit]:
            for spoken, pcm, f0 in corpus.answers(shard):
                self.pcm24.append((pcm * 32767).astype(np.int16))
                self.pcm16.append((np.clip(soxr.resample(pcm, 24000, 16000), -1, 1) * 32767).astype(np.int16))
                self.f0.append(frame_f0(f0, len(pcm) // 240))
                self.texts.append(spoken.text)

    def __len__(self) -> int:
        return len(self.texts)


def frame_f0(f0_hibari: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """F0 by 12.5 ms frames to F0 at samples 240 t (24 kHz); 0 where a neighbouring frame is unvoiced."""
    where = np.arange(frames) * 240 / 300 - 0.5
    low = np.clip(np.floor(where).astype(int), 0, len(f0_hibari) - 1)
    high = np.clip(low + 1, 0, len(f0_hibari) - 1)
    share = np.clip(where - low, 0, 1)
    voiced = (f0_hibari[low] > 40) & (f0_hibari[high] > 40)
    return np.where(voiced, f0_hibari[low] * (1 - share) + f0_hibari[high] * share, 0).astype(np.float32)


def stack(rows: list[NDArray[np.int16]], multiple: int) -> Tensor:
    """PCM16 rows to a zero-padded float batch whose length is a multiple."""
    size = -(-max(map(len, rows)) // multiple) * multiple
    out = torch.zeros(len(rows), size)
    for k, row in enumerate(rows):
        out[k, : len(row)] = torch.from_numpy(row.astype(np.float32) / 32768)
    return out


def prosody_losses(predicted: Tensor, mel: Tensor, f0: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    energy = mel.exp().square().sum(-1).clamp(min=1e-4).log() / 4
    voiced = inside & (f0 > 40)
    pitch = (f0.clamp(min=40) / 180).log() * 3
    level_loss = (predicted[..., 0] - energy).abs()[inside].mean()
    pitch_loss = (
        (predicted[..., 1] - pitch).abs()[voiced].mean() if bool(voiced.any()) else predicted.sum() * 0
    )
    return level_loss, pitch_loss


class Trainer:
    def __init__(self, folder: Path, config: SemanticTraining) -> None:
        corpus, lexicon = corpus_at(str(folder))
        self.config = config
        self.model = SemanticAutoencoder()
        self.answers = AnswerClips(corpus)
        lexicon.learn(self.answers.texts)
        self.answer_phonemes = [lexicon[text] for text in self.answers.texts]
        self.questions: list[Utterance] = questions(corpus, lexicon, ("questions",))
        self.answer_batches = length_batches((len(p) / 24000 for p in self.answers.pcm24), config.seconds)
        self.question_batches = length_batches((u.seconds + 0.5 for u in self.questions), config.seconds)

    def losses(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        return self.answer_losses(rng) if step % 2 else self.question_losses(rng)

    def answer_losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        chosen = self.answer_batches[int(rng.integers(len(self.answer_batches)))]
        low = stack([self.answers.pcm16[i] for i in chosen], 1920)
        mel = features.speaker_mel(stack([self.answers.pcm24[i] for i in chosen], 2880))
        frames = torch.tensor([len(self.answers.pcm24[i]) // 240 for i in chosen])
        f0 = torch.zeros(mel.shape[:2])
        for k, i in enumerate(chosen):
            f0[k, : len(self.answers.f0[i])] = torch.from_numpy(self.answers.f0[i])
        values = self.model.encoder(features.whisper_mel(low))
        return self.reconstruct(values, mel, frames, [self.answer_phonemes[i] for i in chosen], f0, bins=80)

    def question_losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        chosen = [
            self.questions[i] for i in self.question_batches[int(rng.integers(len(self.question_batches)))]
        ]
        clean_config = augment.AugmentConfig(room=0.0, noise=0.0, level_db=(-3.0, 0.0))
        seed = int(rng.integers(1 << 31))
        clips = [u.samples for u in chosen]
        noisy, samples = augment.waveforms(clips, self.config.augment, np.random.default_rng(seed))
        clean, _ = augment.waveforms(clips, clean_config, np.random.default_rng(seed))  # the same shifts
        clean = features.causal_gain(clean)
        z_noisy = self.model.encoder(features.whisper_mel(features.causal_gain(noisy)))
        z_clean = self.model.encoder(features.whisper_mel(clean))
        up = F.interpolate(clean[:, None], scale_factor=1.5, mode="linear")[:, 0]
        mel = features.speaker_mel(up)[:, : z_clean.shape[1] * 4]
        named = self.reconstruct(
            z_clean, mel, samples // 160, [u.phonemes for u in chosen], None, bins=LOW_BINS
        )
        inside = torch.arange(z_clean.shape[1]) < (samples // 640)[:, None]
        apart = (torch.tanh(z_noisy) - torch.tanh(z_clean).detach()).abs().mean(-1)[inside].mean()
        named["total"] = named["total"] + self.config.consistency * apart
        return named | {"apart": apart}

    def reconstruct(
        self, values: Tensor, mel: Tensor, frames: Tensor, rows: list[list[int]], f0: Tensor | None, bins: int
    ) -> dict[str, Tensor]:
        c, model = self.config, self.model
        scaled = (mel - MEL_MEAN) / MEL_SCALE
        inside = torch.arange(mel.shape[1]) < frames[:, None]
        voice = (scaled * inside[..., None]).sum(1) / frames[:, None]
        middle, rebuilt = model.decoder(model.encoder.quantizer(values), voice)
        off = (rebuilt - scaled).abs()[..., :bins].mean(-1)[inside].mean()
        flat, sizes = phonemes.targets(rows)
        log_probs = model.ctc(middle).unflatten(-1, (SLOTS, phonemes.SIZE)).flatten(1, 2).log_softmax(-1)
        said = F.ctc_loss(log_probs.transpose(0, 1), flat, frames // 4 * SLOTS, sizes, zero_infinity=True)
        predicted = model.prosody(middle).unflatten(-1, (4, 2)).flatten(1, 2)
        level, pitch = prosody_losses(
            predicted, mel, torch.zeros(mel.shape[:2]) if f0 is None else f0, inside
        )
        total = c.mel * off + c.ctc * said + c.energy * level + c.pitch * pitch
        kind = "question_" if f0 is None else "answer_"
        return {
            "total": total,
            kind + "mel": off * MEL_SCALE,
            kind + "ctc": said,
            kind + "level": level,
            kind + "pitch": pitch,
        }

    def evaluate(self) -> dict[str, float]:
        """Code usage on answers, and how often a code survives −6 dB, a 10 ms shift and noise."""
        rng = np.random.default_rng(9)
        encoder = self.model.encoder
        code = lambda pcm: encoder.quantizer.encode(encoder(features.whisper_mel(pcm)))  # noqa: E731
        used = torch.zeros(NANO.codes)
        for i in rng.choice(len(self.answers), 60):
            used += torch.bincount(code(stack([self.answers.pcm16[i]], 1920))[0], minlength=NANO.codes)
        share = used / used.sum()
        report = {"perplexity": float((-(share * (share + 1e-12).log()).sum()).exp())}
        same = {"level": [], "shift": [], "noise": []}
        for i in rng.choice(len(self.questions), 40):
            pcm = stack([self.questions[i].pcm], 7680)
            pcm = pcm / pcm.abs().max() * 0.8
            clean = code(features.causal_gain(pcm))
            loud = pcm * 0.5
            moved = F.pad(pcm, (160, 0))[:, : pcm.shape[1]]
            noisy = pcm + torch.randn_like(pcm) * pcm.square().mean().sqrt() * 10 ** (-25 / 20)
            for name, other in (("level", loud), ("shift", moved), ("noise", noisy)):
                same[name].append(float((code(features.causal_gain(other)) == clean).float().mean()))
        return {k: round(v, 1) for k, v in report.items()} | {
            "same_" + k: round(float(np.mean(v)), 3) for k, v in same.items()
        }


def train(folder: Path, config: SemanticTraining = SemanticTraining()) -> SemanticAutoencoder:
    trainer = Trainer(folder, config)
    fit("semantic", trainer.model, trainer.losses, config.loop, folder, evaluate=trainer.evaluate)
    return trainer.model


if __name__ == "__main__":
    train(folder_and_threads(sys.argv))

"""Stage 1: the linguistic tokenizer.

The SANM chunk encoder learns phonemes by CTC from noisy, warped, many-voiced questions. Then 1024 k-means
centroids are put on its states, and a second pass trains encoder and centroids together *through* the
quantiser (straight-through, centroids by moving average), so that a code means a sound and not a speaker.
Step-Audio: encoder of Paraformer-online, k-means on its states (arXiv 2502.11946, section on tokenizers).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aqaa.models.linguistic import LinguisticConfig, LinguisticEncoder
from training import augment, features, phonemes
from training.loop import LoopConfig, fit, folder_and_threads, length_batches, starting_point
from training.speech import Utterance, answers, corpus_at, questions

NANO = LinguisticConfig(
    dim=256, heads=4, ff_dim=1024, blocks=5, chunk_frames=8, overlap_frames=4, look_back_chunks=4
)
SLOTS = 3  # CTC positions a 60 ms frame: up to three phonemes
CODES = 1024


@dataclass(frozen=True)
class LinguisticTraining:
    seconds: float = 72.0  # padded audio a batch
    acoustic: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=3000, lr=1.2e-3, warmup=200, seed=11)
    )
    quantised: LoopConfig = field(default_factory=lambda: LoopConfig(steps=1000, lr=3e-4, warmup=50, seed=12))
    continued: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=2500, lr=6e-4, warmup=100, muon="encoder.", seed=19)
    )
    head_steps: int = 150  # of a continued training that only its new CTC head learns from
    kokoro: float = 0.25  # share of batches, however few clips there are
    strangers: float = 0.25
    pico: float = 0.05
    cutups: float = 0.2
    augment: augment.AugmentConfig = field(
        default_factory=lambda: augment.AugmentConfig(
            speed=0.5, speed_range=(0.85, 1.18), warp=0.6, warp_range=0.11, colour=0.7
        )
    )
    kokoro_augment: augment.AugmentConfig = field(
        default_factory=lambda: augment.AugmentConfig(
            speed=0.7, speed_range=(0.82, 1.2), warp=0.6, warp_range=0.11, colour=0.7
        )
    )
    commitment: float = 0.1


class Listener(nn.Module):
    """Encoder, optional quantiser, and a CTC head that only training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = LinguisticEncoder(NANO)
        width = NANO.dim
        self.head = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.GELU()
        )
        self.mix = nn.Conv1d(width, width, 5, padding=2)
        self.out = nn.Linear(width, SLOTS * phonemes.SIZE)
        self.register_buffer("centroids", torch.zeros(CODES, width))
        self.register_buffer("count", torch.ones(CODES))
        self.quantise = False
        self.commitment = torch.zeros(())
        self.register_buffer("shift", torch.zeros(560))
        self.register_buffer("scale", torch.ones(560))

    def states(self, fbank_BTF: Tensor, lengths: Tensor, offset: int | Tensor = 0) -> Tensor:
        x = (features.lfr(fbank_BTF) + self.shift) * self.scale
        states: Tensor = self.encoder(x, lengths.clamp(max=x.shape[1]), offset)
        return states

    def codes(self, states: Tensor) -> Tensor:
        flat = states.detach().flatten(0, -2)
        found = (flat @ self.centroids.T).mul_(-2).add_(self.centroids.square().sum(1)).argmin(1)
        return found.view(states.shape[:-1])

    def forward(self, fbank_BTF: Tensor, lengths: Tensor, offset: int | Tensor = 0) -> Tensor:
        """CTC logits (B, frames · SLOTS, phonemes)."""
        return self.heard(self.states(fbank_BTF, lengths, offset), lengths)

    def heard(self, states: Tensor, lengths: Tensor) -> Tensor:
        """CTC logits of the encoder's states, through the quantiser if there is one yet."""
        x = self.through(states, lengths) if self.quantise else states
        x = x + self.mix((x + self.head(x)).transpose(1, 2)).transpose(1, 2)
        return self.out(x).unflatten(-1, (SLOTS, phonemes.SIZE)).flatten(1, 2)

    def through(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The nearest centroid forward, the identity backward; centroids follow their states."""
        inside = torch.arange(x.shape[1]) < lengths[:, None]
        codes = self.codes(x)
        chosen = self.centroids[codes]
        self.commitment = (x - chosen).square().mean(-1)[inside].mean()
        if self.training:
            self.follow(x.detach()[inside], codes[inside])
        return x + (chosen - x).detach()

    def follow(self, states: Tensor, codes: Tensor, decay: float = 0.98) -> None:
        hits = torch.bincount(codes, minlength=CODES).float()
        sums = torch.zeros_like(self.centroids).index_add_(0, codes, states)
        total = self.centroids * self.count[:, None]
        self.count.mul_(decay).add_(hits, alpha=1 - decay)
        self.centroids.copy_((total * decay + sums * (1 - decay)) / self.count.clamp(min=1e-4)[:, None])
        dead = torch.nonzero(self.count < 0.02)[:, 0]
        if len(dead) and len(states) > len(dead):
            where = torch.randperm(len(states))[: len(dead)]
            self.centroids[dead] = states[where]
            self.count[dead] = 0.2


@dataclass(frozen=True)
class Pool:
    """Utterances, how often a batch is drawn from them, and what is done to them."""

    utterances: list[Utterance]
    share: float
    augment: augment.AugmentConfig


class Batches:
    """Augmented fbanks and phoneme targets; a batch comes from one pool and is a function of (seed, step)
    alone."""

    def __init__(self, pools: list[Pool], seconds: float) -> None:
        self.pools = [pool for pool in pools if pool.utterances]
        total = sum(pool.share for pool in self.pools)
        self.shares = [pool.share / total for pool in self.pools]
        self.batches = [
            length_batches((u.seconds + 0.5 for u in pool.utterances), seconds) for pool in self.pools
        ]

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, list[list[int]]]:
        which = int(rng.choice(len(self.pools), p=self.shares))
        pool, batches = self.pools[which], self.batches[which]
        chosen = [pool.utterances[i] for i in batches[int(rng.integers(len(batches)))]]
        pcm, samples = augment.waveforms([u.samples for u in chosen], pool.augment, rng)
        mel = features.fbank(features.causal_gain(pcm))
        mel = augment.masks(augment.mel_colour(mel, pool.augment, rng, db=np.log(10) / 10), pool.augment, rng)
        return mel, samples // 960, [u.phonemes for u in chosen]


def ctc(logits: Tensor, lengths: Tensor, rows: list[list[int]]) -> Tensor:
    flat, sizes = phonemes.targets(rows)
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(
        log_probs, flat, (lengths * SLOTS).clamp(max=logits.shape[1]), sizes, zero_infinity=True
    )


def phoneme_errors(model: Listener, utterances: list[Utterance]) -> float:
    """Phoneme error rate on clean clips, one at a time."""
    wrong = total = 0
    for u in utterances:
        pcm = F.pad(torch.from_numpy(u.samples)[None], (0, -len(u.pcm) % 1920))
        mel = features.fbank(features.causal_gain(pcm))
        logits = model(mel, torch.tensor([pcm.shape[1] // 960]))[0]
        wrong += phonemes.edit_distance(u.phonemes, phonemes.greedy(logits))
        total += len(u.phonemes)
    return wrong / total


def k_means(model: Listener, batches: Batches, rounds: int = 12, clips: int = 160) -> Tensor:
    """1024 centroids of the states of augmented speech (Lloyd's algorithm, empty cells re-seeded)."""
    rng, rows = np.random.default_rng(5), []
    with torch.inference_mode():
        for _ in range(clips):
            mel, lengths, _ = batches.draw(rng)
            states = model.states(mel, lengths)
            rows.append(states[torch.arange(states.shape[1]) < lengths[:, None]])
    data = torch.cat(rows)
    generator = torch.Generator().manual_seed(5)
    centres = data[torch.randperm(len(data), generator=generator)[:CODES]].clone()
    for _ in range(rounds):
        norm = centres.square().sum(1) / 2
        codes = torch.cat([(norm - part @ centres.T).argmin(1) for part in data.split(8192)])
        hits = torch.bincount(codes, minlength=CODES)
        sums = torch.zeros_like(centres).index_add_(0, codes, data)
        centres = sums / hits.clamp(min=1)[:, None]
        empty = torch.nonzero(hits == 0)[:, 0]
        centres[empty] = data[torch.randperm(len(data), generator=generator)[: len(empty)]]
    return centres


def pools(
    folder: Path, config: LinguisticTraining, held_out: int = 100
) -> tuple[list[Pool], list[Utterance]]:
    """What is trained on, and clips of as many texts that are not."""
    corpus, lexicon = corpus_at(str(folder))
    many = questions(corpus, lexicon, ("questions",)) + answers(corpus, lexicon, every=8)
    dev = many[:: max(1, len(many) // held_out)][:held_out]
    dev_texts = {u.text for u in dev}
    shares = {
        "kokoro": (config.kokoro, config.kokoro_augment),
        "strangers": (config.strangers, config.kokoro_augment),
        "pico": (config.pico, config.augment),
        "cutups": (config.cutups, config.kokoro_augment),
    }
    rest = 1 - sum(share for share, _ in shares.values())
    trained_on = [(many, rest, config.augment)] + [
        (questions(corpus, lexicon, (name,)), share, changes) for name, (share, changes) in shares.items()
    ]
    return [
        Pool([u for u in utterances if u.text not in dev_texts], share, changes)
        for utterances, share, changes in trained_on
    ], dev


def train(folder: Path, config: LinguisticTraining = LinguisticTraining()) -> Listener:
    trained_on, dev = pools(folder, config)
    batches = Batches(trained_on, config.seconds)
    model = Listener()
    start = starting_point(folder, "linguistic")

    def losses(step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        mel, lengths, rows = batches.draw(rng)
        offset = torch.from_numpy(rng.integers(0, 400, len(rows)))
        with torch.set_grad_enabled(start is None or step >= config.head_steps):
            states = model.states(mel, lengths, offset)
        loss = ctc(model.heard(states, lengths), lengths, rows)
        if not model.quantise:
            return {"total": loss}
        return {
            "total": loss + config.commitment * model.commitment,
            "ctc": loss,
            "commitment": model.commitment,
        }

    def evaluate() -> dict[str, float]:
        few = trained_on[1].utterances[:: max(1, len(trained_on[1].utterances) // 60)]
        return {
            "phoneme_error": round(phoneme_errors(model, dev), 4),
            "phoneme_error_kokoro": round(phoneme_errors(model, few), 4) if few else 0.0,
        }

    if start is None:
        rng = np.random.default_rng(1)
        stacked = torch.cat([features.lfr(batches.draw(rng)[0]).flatten(0, 1) for _ in range(20)])
        model.shift.copy_(-stacked.mean(0))
        model.scale.copy_(1 / stacked.std(0))
        fit("linguistic-acoustic", model, losses, config.acoustic, folder, evaluate=evaluate)
        if not (folder / "linguistic.pt").exists() and not (folder / "linguistic.checkpoint.pt").exists():
            model.centroids.copy_(k_means(model, batches))
    model.quantise = True
    loop = config.quantised if start is None else config.continued
    fit("linguistic", model, losses, loop, folder, evaluate=evaluate, evaluate_every=500, start=start)
    return model


if __name__ == "__main__":
    train(folder_and_threads(sys.argv))

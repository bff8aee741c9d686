"""Stages 5 and 6: the backbone, pre-trained on speech and text, then tuned on questions and answers.

Pre-training (Step-Audio-AQAA's stage 3 at nano's size) mixes transcription, speaking, interleaved answers
without their question, and continuation. SFT-1 is AQTA + AQTAA: each packed sequence learns the spoken
answer and the transcript of one question. Loss on responses only, taken apart as the engine samples: first
which class comes next, where the grammar leaves a choice, then which token of that class.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aqaa.models.nano_semantic import ScalarQuantizer
from aqaa.models.step1 import Step1, Step1Config, alibi_bias, branch_mask
from aqaa.tokens.classes import TokenClass
from training.batches import LEVELS, BatchConfig, Batches, one_level_apart
from training.loop import LoopConfig, fit, folder_and_threads, starting_point
from training.sequences import Language

SLOPES = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.0625, 0.0)


@dataclass(frozen=True)
class BackboneTraining:
    """``text``, ``decision``, ``linguistic``, ``semantic`` weigh the losses; ``smoothing`` is the mass that a
    semantic target gives to its eight neighbours in the scalar quantiser."""

    hidden: int = 256
    feed_forward: int = 768
    heads: int = 8
    kv_groups: int = 4
    layers: int = 6
    text: float = 3.0
    decision: float = 3.0
    linguistic: float = 1.0
    semantic: float = 0.7
    smoothing: float = 0.15
    batches: BatchConfig = field(default_factory=BatchConfig)
    pretraining: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=5000,
            lr=1.5e-3,
            warmup=300,
            final=0.4,
            weight_decay=0.05,
            betas=(0.9, 0.95),
            muon=".layers.",
            seed=51,
        )
    )
    tuning: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=9000,
            lr=1.0e-3,
            warmup=100,
            final=0.03,
            weight_decay=0.05,
            betas=(0.9, 0.95),
            muon=".layers.",
            seed=52,
        )
    )
    continued: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=3000,
            lr=8.0e-4,
            warmup=60,
            final=0.03,
            weight_decay=0.05,
            betas=(0.9, 0.95),
            muon=".layers.",
            seed=53,
        )
    )


def step1_config(language: Language, config: BackboneTraining) -> Step1Config:
    return Step1Config(
        hidden_size=config.hidden,
        intermediate_size=config.feed_forward,
        num_attention_heads=config.heads,
        num_attention_groups=config.kv_groups,
        num_hidden_layers=config.layers,
        vocab_size=language.layout.vocab_size,
        max_seq_len=2048,
        alibi_slopes=SLOPES,
    )


class CodedBackbone(nn.Module):
    """step1 whose audio rows are a free row plus what the code means: its centroid, or its four levels.

    Codes that sound alike start out alike. ``fold`` writes the sums into plain ``embed_tokens`` and
    ``lm_head``.
    """

    def __init__(self, language: Language, config: BackboneTraining, centroids: Tensor) -> None:
        super().__init__()
        self.language_low = language.low
        self.base = language.layout.audio_base
        self.step1 = Step1(step1_config(language, config))
        d = config.hidden
        for name, parameter in self.step1.named_parameters():
            if parameter.ndim > 1:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * config.layers) ** 0.5 if deep else 0.02)
        digits = ScalarQuantizer(LEVELS).decode(torch.arange(4096))
        # (4096, 32): four levels of eight
        hot = F.one_hot(((digits + 1) * 3.5).round().long(), 8).flatten(1).float()
        self.register_buffer("digits", hot, persistent=False)
        self.register_buffer(
            "centroids", F.normalize(centroids - centroids.mean(0), dim=1) * 4, persistent=False
        )
        self.levels_in, self.levels_out = (nn.Parameter(torch.randn(32, d) * 0.02) for _ in range(2))
        self.sound_in, self.sound_out = (nn.Linear(centroids.shape[1], d, bias=False) for _ in range(2))
        for layer in (self.sound_in, self.sound_out):
            nn.init.normal_(layer.weight, std=0.01)

    def structured(self, free: Tensor, sound: nn.Linear, levels: Tensor) -> Tensor:
        """The (vocab, d) table: text rows as they are, audio rows with their meaning added."""
        word = sound(self.centroids)
        colour = self.digits @ levels
        end = self.language_low + len(self.digits)
        return torch.cat((free[: self.base], free[self.base : self.language_low] + word,
                          free[self.language_low : end] + colour, free[end:]))  # fmt: skip

    def tables(self) -> tuple[Tensor, Tensor]:
        embed = self.structured(self.step1.model.embed_tokens.weight, self.sound_in, self.levels_in)
        head = self.structured(self.step1.lm_head.weight, self.sound_out, self.levels_out)
        return embed, head

    def fold(self) -> dict[str, Tensor]:
        """A plain step1 state dict."""
        state = dict(self.step1.state_dict())
        with torch.no_grad():
            state["model.embed_tokens.weight"], state["lm_head.weight"] = self.tables()
        return state

    def unfold(self, folded: dict[str, Tensor]) -> None:
        """Takes a plain step1 state dict up: its audio rows as free rows, to which nothing is added yet."""
        self.step1.load_state_dict(folded)
        with torch.no_grad():
            for part in (self.levels_in, self.levels_out, self.sound_in.weight, self.sound_out.weight):
                part.zero_()


class Loss:
    """Class decision and token losses of a packed batch."""

    def __init__(self, language: Language, config: BackboneTraining) -> None:
        self.config, self.low = config, language.low
        self.semantic_only = 1 << TokenClass.SEMANTIC
        self.low_classes = [c for c in TokenClass if c is not TokenClass.SEMANTIC]
        class_of = torch.full((language.low,), -1)
        for token_class in self.low_classes:
            for start, stop in language.ranges.of(token_class):
                class_of[start:stop] = int(token_class)
        self.class_of = class_of
        self.neighbours = one_level_apart()

    def logits(self, hidden_ND: Tensor, head: Tensor, legal_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N,) where only a semantic code can follow; (N - S, ids below those) elsewhere, (S, 4096) there."""
        sound = legal_N == self.semantic_only
        low, codes = head[: self.low], head[self.low : self.low + 4096]
        return sound, (hidden_ND[~sound] @ low.T).float(), (hidden_ND[sound] @ codes.T).float()

    def __call__(
        self, hidden_ND: Tensor, head: Tensor, target_N: Tensor, legal_N: Tensor
    ) -> dict[str, Tensor]:
        c = self.config
        sound, low, codes = self.logits(hidden_ND, head, legal_N)
        log_probs = codes.log_softmax(-1)
        code = target_N[sound] - self.low
        exact = -log_probs.gather(1, code[:, None])[:, 0]
        near = -log_probs.gather(1, self.neighbours[code]).mean(1)
        semantic = ((1 - c.smoothing) * exact + c.smoothing * near).mean()

        goal, legal = target_N[~sound], legal_N[~sound]
        scores = []
        for token_class in TokenClass:
            if token_class is TokenClass.SEMANTIC:
                scores.append(torch.full((len(low),), -torch.inf))
            else:
                scores.append(low[:, self.class_of == int(token_class)].logsumexp(1))
        by_class = torch.stack(scores, 1)
        allowed = (legal[:, None] >> torch.arange(len(TokenClass))) & 1 == 1
        decision_all = by_class.masked_fill(~allowed, -torch.inf).log_softmax(1)
        goal_class = self.class_of[goal]
        choice = allowed.sum(1) > 1
        decision = -decision_all.gather(1, goal_class[:, None])[:, 0]
        inside = by_class.gather(1, goal_class[:, None])[:, 0] - low.gather(1, goal[:, None])[:, 0]
        is_text, is_word = goal_class == int(TokenClass.TEXT), goal_class == int(TokenClass.LINGUISTIC)
        # What a batch has nothing of is not reported: it would dilute or spoil the logged means.
        parts = {"decision": decision[choice], "text": inside[is_text], "linguistic": inside[is_word]}
        named = {name: losses.mean() for name, losses in parts.items() if len(losses)}
        # Every position has its own weight, so that a batch of transcripts is no heavier than it is long.
        is_style = goal_class == int(TokenClass.STYLE)
        weight = c.text * is_text + c.linguistic * is_word + c.decision * is_style
        numerator = (c.decision * decision[choice]).sum() + (weight * inside).sum()
        denominator = c.decision * choice.sum() + weight.sum() + c.semantic * sound.sum()
        if bool(sound.any()):
            named["semantic"] = semantic
            numerator = numerator + c.semantic * semantic * sound.sum()
        if bool(is_text.any()):
            text = low[is_text].detach().masked_fill(self.class_of != int(TokenClass.TEXT), -torch.inf)
            named["text_right"] = (text.argmax(1) == goal[is_text]).float().mean()
        return {"total": numerator / denominator, **named}


PRETRAINING = {
    "transcripts": 0.25,
    "turns": 0.33,
    "written": 0.20,
    "interleaved": 0.04,
    "continuing": 0.03,
    "speaking": 0.15,
}
TUNING = {"turns": 0.42, "hearing": 0.18, "recalling": 0.05, "written": 0.09, "speaking": 0.26}


class BackboneTrainer:
    def __init__(self, folder: Path, config: BackboneTraining) -> None:
        self.folder, self.config = folder, config
        centroids = torch.load(folder / "linguistic.pt", weights_only=True)["centroids"]
        self.data = Batches(folder, config.batches, centroids)
        torch.manual_seed(config.pretraining.seed)
        self.model = CodedBackbone(self.data.language, config, centroids)
        self.loss = Loss(self.data.language, config)
        self.slopes = self.model.step1.slopes()

    def states(self, model: CodedBackbone, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(N, d) states of ``model`` where a target follows, and its head."""
        embed, head = model.tables()
        allowed = branch_mask(batch["positions"], batch["branch"])
        bias = alibi_bias(batch["positions"], allowed, self.slopes)
        hidden = model.step1(embeddings_BTD=F.embedding(batch["ids"], embed), bias_BHTS=bias)
        return hidden[batch["target"] >= 0], head

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden, head = self.states(self.model, batch)
        wanted = batch["target"] >= 0
        return self.loss(hidden, head, batch["target"][wanted], batch["legal"][wanted])

    def stage(self, name: str, shares: dict[str, float], loop: LoopConfig) -> None:
        def losses(step: int, rng: np.random.Generator) -> dict[str, Tensor]:
            return self.forward(self.data.draw(shares, rng))

        fit(name, self.model, losses, loop, self.folder)

    def run(self) -> CodedBackbone:
        start = starting_point(self.folder, "backbone")
        if start is not None:
            self.model.unfold(start)
            self.stage("sft1", TUNING, self.config.continued)
            return self.model
        self.stage("pretraining", PRETRAINING, self.config.pretraining)
        self.stage("sft1", TUNING, self.config.tuning)
        return self.model


if __name__ == "__main__":
    BackboneTrainer(folder_and_threads(sys.argv), BackboneTraining()).run()

"""Stage 7: what cannot be understood is not known, and everything else stays as it was.

The backbone learns to write "I do not know that yet." where a question is out of order or was never speech.
Beside it stands the model as SFT-1 left it, and wherever that one is right to be followed, in every answer to
what can be understood and in how the refusal sounds, the loss is the divergence from what it would have said
(learning without forgetting: Li & Hoiem, arXiv 1606.09282).
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from aqaa.tokens.classes import TokenClass
from training.backbone import TUNING, BackboneTrainer, BackboneTraining, CodedBackbone
from training.loop import LoopConfig, fit, folder_and_threads, weights_of

NEVER = -1e9
"""A logit that is never drawn, and unlike -inf can be subtracted from itself."""


@dataclass(frozen=True)
class RefusalTraining:
    """``keeping`` weighs the divergence from the model before against the likelihood of the refusal.

    ``small_talk`` is its share in what is to stay as it was, beside the work of SFT-1: of all
    that can be understood it is the likeliest to be refused.
    """

    keeping: float = 15.0
    draws: int = 3  # batches in a step of what is to stay as it was, each of one kind of work
    small_talk: float = 0.25
    tokens: int = 2048  # positions of a batch
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=240,
            lr=1e-4,
            warmup=20,
            final=0.03,
            weight_decay=0.0,
            betas=(0.9, 0.95),
            muon=".layers.",
            seed=57,
            checkpoint_every=100,
        )
    )


@dataclass(frozen=True)
class Predicted:
    """Log-probabilities among the legal ids: ``sound`` (S, 4096) where a semantic code follows, else ``low``
    (M, ids below those). ``target`` (M,) is what follows the latter, ``text`` (M,) where that is text."""

    low: Tensor
    sound: Tensor
    text: Tensor
    target: Tensor


class RefusalTrainer:
    def __init__(self, folder: Path, config: RefusalTraining, size: BackboneTraining) -> None:
        self.folder, self.config = folder, config
        batches = replace(size.batches, tokens=config.tokens)
        self.trainer = BackboneTrainer(folder, replace(size, batches=batches))
        self.model = self.trainer.model
        self.model.load_state_dict(weights_of(folder, "sft1"))
        self.before = copy.deepcopy(self.model).requires_grad_(False)
        rest = 1 - config.small_talk
        self.understood = {name: rest * share for name, share in TUNING.items()}
        self.understood["small_talk"] = config.small_talk

    def predicted(self, model: CodedBackbone, batch: dict[str, Tensor]) -> Predicted:
        loss = self.trainer.loss
        states, head = self.trainer.states(model, batch)
        wanted = batch["target"] >= 0
        target, legal = batch["target"][wanted], batch["legal"][wanted]
        sound, low, codes = loss.logits(states, head, legal)
        allowed = (legal[~sound, None] >> loss.class_of.clamp(min=0)) & 1 == 1
        low = low.masked_fill(~allowed | (loss.class_of < 0), NEVER)
        text = loss.class_of[target[~sound]] == int(TokenClass.TEXT)
        return Predicted(low.log_softmax(1), codes.log_softmax(1), text, target[~sound])

    def losses(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        data = self.trainer.data
        refused, refused_before = self.both(data.garbled(rng))
        text = refused.text
        unknown = -refused.low[text].gather(1, refused.target[text, None]).mean()
        spoken = divergence(refused, refused_before, ~text)
        pairs = (self.both(data.draw(self.understood, rng)) for _ in range(self.config.draws))
        kept = torch.stack([divergence(now, then, torch.ones_like(now.text)) for now, then in pairs]).mean()
        total = unknown + self.config.keeping * (kept + spoken)
        return {"total": total, "unknown": unknown, "spoken": spoken, "kept": kept}

    def both(self, batch: dict[str, Tensor]) -> tuple[Predicted, Predicted]:
        """What the model says of a batch, and what it said before."""
        with torch.no_grad():
            then = self.predicted(self.before, batch)
        return self.predicted(self.model, batch), then

    def run(self) -> CodedBackbone:
        fit("refusal", self.model, self.losses, self.config.loop, self.folder)
        return self.model


def divergence(now: Predicted, then: Predicted, where: Tensor) -> Tensor:
    """Mean of KL(then || now) over the positions of ``where`` and all semantic ones, in nats."""
    pairs = ((now.low[where], then.low[where]), (now.sound, then.sound))
    count = sum(len(rows) for rows, _ in pairs)
    return sum(F.kl_div(a, b, reduction="sum", log_target=True) for a, b in pairs) / count


if __name__ == "__main__":
    RefusalTrainer(folder_and_threads(sys.argv), RefusalTraining(), BackboneTraining()).run()

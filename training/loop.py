"""The training loop that every stage shares: resumable at any step, seeded by step, logged as JSON lines.

A batch is a pure function of (seed, step), so a run that is killed goes on from its last checkpoint as
the undisturbed run would have.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.muon import Muon


@dataclass(frozen=True)
class LoopConfig:
    """Optimiser and schedule: linear warm-up, then cosine from ``lr`` to ``final · lr`` over ``steps``.

    ``muon``: matrices with this in their name learn by Muon, all else by AdamW.
    """

    steps: int
    lr: float
    warmup: int = 100
    final: float = 0.05
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    muon: str = ""
    seed: int = 0
    checkpoint_every: int = 250
    log_every: int = 50

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


Losses = dict[str, Tensor]


def fit(
    name: str,
    model: nn.Module,
    losses: Callable[[int, np.random.Generator], Losses],
    config: LoopConfig,
    folder: Path,
    *,
    evaluate: Callable[[], dict[str, float]] | None = None,
    evaluate_every: int = 1000,
    start: dict[str, Tensor] | None = None,
) -> nn.Module:
    """Trains ``model`` for ``config.steps``; ``losses(step, rng)`` returns named losses, the first of which
    (``total``) is minimised and the rest logged. Leaves ``<folder>/<name>.pt`` with the finished weights.

    ``start``: some or all of the weights to begin with, where no checkpoint tells how far it is. Raises
    KeyError for a name that the model does not have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finished, checkpoint = folder / f"{name}.pt", folder / f"{name}.checkpoint.pt"
    if finished.exists():
        model.load_state_dict(torch.load(finished, weights_only=True))
        return model.eval()
    optimizers = optimizers_of(model, config)
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step = int(state["step"])
    elif start is not None:
        unknown = model.load_state_dict(start, strict=False).unexpected_keys
        if unknown:
            raise KeyError(f"{name} has no weights called {', '.join(unknown)}")
    log = Log(folder / f"{name}.jsonl")
    log.write(
        event="start", step=step, config=asdict(config), parameters=sum(p.numel() for p in model.parameters())
    )
    model.train()
    began, sums = time.monotonic(), {}
    while step < config.steps:
        torch.manual_seed(config.seed * 1_000_003 + step)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.rate(step)
        named = losses(step, np.random.default_rng([config.seed, step]))
        model.zero_grad(set_to_none=True)
        named["total"].backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        if torch.isfinite(norm):
            for optimizer in optimizers:
                optimizer.step()
        for key, value in named.items():
            sums.setdefault(key, []).append(float(value.detach()))
        step += 1
        if step % config.log_every == 0:
            means = {key: round(float(np.mean(values)), 4) for key, values in sums.items()}
            log.write(step=step, seconds=round(time.monotonic() - began, 1), lr=round(config.rate(step), 7),
                      norm=round(float(norm), 3), **means)  # fmt: skip
            sums = {}
        if step % config.checkpoint_every == 0:
            states = [optimizer.state_dict() for optimizer in optimizers]
            save(checkpoint, {"model": model.state_dict(), "optimizers": states, "step": step})
        if evaluate is not None and (step % evaluate_every == 0 or step == config.steps):
            model.eval()
            with torch.inference_mode():
                log.write(event="evaluate", step=step, **evaluate())
            model.train()
    save(finished, model.state_dict())
    checkpoint.unlink(missing_ok=True)
    return model.eval()


def optimizers_of(model: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices that ``config`` names, if any; AdamW for the rest, where norms, biases and scales
    do not decay."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    orthogonal = [p for name, p in named if config.muon and config.muon in name and p.ndim == 2]
    rest = [p for _, p in named if not any(p is q for q in orthogonal)]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
    return [adam, Muon(orthogonal, config.lr, config.weight_decay)] if orthogonal else [adam]


def save(path: Path, state: object) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


class Log:
    """JSON lines to a file and to standard output."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **fields: object) -> None:
        line = json.dumps(fields)
        print(line, flush=True)
        with self.path.open("a") as file:
            file.write(line + "\n")


def length_batches(seconds: Iterable[float], budget: float) -> list[list[int]]:
    """Indices sorted by length, cut into batches of about ``budget`` seconds of padded audio each."""
    lengths = list(seconds)
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batches: list[list[int]] = [[]]
    for index in order:
        if batches[-1] and lengths[index] * (len(batches[-1]) + 1) > budget:
            batches.append([])
        batches[-1].append(index)
    return batches


def weights_of(folder: Path, *names: str) -> dict[str, Tensor]:
    """Weights of the first of ``names`` that is finished or has a checkpoint. Raises FileNotFoundError."""
    for name in names:
        finished, checkpoint = folder / f"{name}.pt", folder / f"{name}.checkpoint.pt"
        if finished.exists():
            weights: dict[str, Tensor] = torch.load(finished, weights_only=True)
            return weights
        if checkpoint.exists():
            state: dict[str, dict[str, Tensor]] = torch.load(checkpoint, weights_only=True)
            return state["model"]
    raise FileNotFoundError(f"no weights of {' or '.join(names)} in {folder}; run that stage first")


def starting_point(folder: Path, name: str) -> dict[str, Tensor] | None:
    """The weights that ``name`` starts from, if a bundle was unpacked into ``folder``."""
    path = folder / "start" / f"{name}.pt"
    if not path.exists():
        return None
    weights: dict[str, Tensor] = torch.load(path, weights_only=True)
    return weights


def folder_and_threads(arguments: list[str]) -> Path:
    """``python -m training.<stage> [folder] [threads]``: sets torch's threads (2), gives ``work/nano``."""
    torch.set_num_threads(int(arguments[2]) if len(arguments) > 2 else 2)
    return Path(arguments[1] if len(arguments) > 1 else "work/nano")

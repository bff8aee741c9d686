"""Muon: momentum whose matrices are made orthogonal before they are applied (Jordan et al. 2024).

torch.optim.Muon rounds to bfloat16 on the way, which a processor without it does many times slower; here all
of it is float32.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)  # of the authors: singular values end between 0.7 and 1.2


class Muon(torch.optim.Optimizer):
    """For the hidden matrices of a model; all else needs another optimiser.

    An update is as large as AdamW's, about 0.2 · ``lr`` (RMS), so AdamW's rates fit (Liu et al. 2025).
    """

    def __init__(
        self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        wrong = [tuple(p.shape) for group in self.param_groups for p in group["params"] if p.ndim != 2]
        if wrong:
            raise ValueError(f"Muon is for matrices, {wrong[0]} was given")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                mean = state.setdefault("momentum", torch.zeros_like(p))
                mean.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(mean, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)


def orthogonal(matrix: Tensor, rounds: int = 5) -> Tensor:
    """About U Vᵀ of the matrix's U S Vᵀ, by Newton and Schulz's iteration."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(rounds):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x if wide else x.T

"""The one building block of nano's own modules: a ConvNeXt block over time with a bounded look-ahead.

Depth-wise convolution, LayerNorm over channels (never over time, so that a frame does not depend on how
long the signal is), two point-wise layers, and a learned residual scale (Liu et al., "A ConvNet for the
2020s", 2022; for speech: Vocos, Siuzdak 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNeXtBlock(nn.Module):
    """(B, T, D) to (B, T, D). Output t sees inputs ``t - (kernel - 1 - ahead)`` to ``t + ahead``.

    With ``condition_dim`` the norm is modulated by a condition (B, C), as in a diffusion network.
    """

    def __init__(
        self, dim: int, *, kernel: int = 7, ahead: int | None = None, expand: int = 3, condition_dim: int = 0
    ) -> None:
        super().__init__()
        self.ahead = kernel // 2 if ahead is None else ahead
        if not 0 <= self.ahead < kernel:
            raise ValueError(
                f"look-ahead is {self.ahead} frames, a kernel of {kernel} allows 0 to {kernel - 1}"
            )
        self.behind = kernel - 1 - self.ahead
        self.depthwise = nn.Conv1d(dim, dim, kernel, groups=dim)
        self.norm = nn.LayerNorm(dim, elementwise_affine=not condition_dim)
        self.expand = nn.Linear(dim, expand * dim)
        self.contract = nn.Linear(expand * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), 0.1))
        self.modulate = nn.Linear(condition_dim, 2 * dim) if condition_dim else None

    def forward(self, x_BTD: Tensor, condition_BC: Tensor | None = None) -> Tensor:
        h = F.pad(x_BTD.transpose(1, 2), (self.behind, self.ahead))
        h = self.norm(self.depthwise(h).transpose(1, 2))
        if self.modulate is not None and condition_BC is not None:
            gain, shift = self.modulate(condition_BC)[:, None].chunk(2, -1)
            h = h * (1 + gain) + shift
        out: Tensor = x_BTD + self.scale * self.contract(F.gelu(self.expand(h)))
        return out

"""Nano's semantic tokenizer: a convolutional encoder with a bounded look-ahead and a scalar-quantised code.

The public semantic encoder attends to up to 30 s in both directions and cannot stream. This one stands
beside it behind the same role: 16 kHz audio to 25 codes a second out of 4096. Its code is finite scalar
quantisation (Mentzer et al., 2023): four numbers of eight levels each, so that near codes sound alike.

Shape letters: B batch, T mel frames (100 a second), J codes (25 a second), D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aqaa.models.convnext import ConvNeXtBlock

MEL_FRAMES_PER_CODE = 4


@dataclass(frozen=True)
class NanoSemanticConfig:
    """Sizes of the encoder.

    ahead  look-ahead of each block, in codes (40 ms)
    floor  lowest log10 power of the mel that is told apart from silence
    """

    n_mels: int = 128
    dim: int = 256
    kernel: int = 5
    ahead: tuple[int, ...] = (1, 1, 1, 0)
    levels: tuple[int, ...] = (8, 8, 8, 8)
    floor: float = -5.0

    @property
    def silence(self) -> float:
        """A mel bin without sound: the signal counts as preceded and followed by such frames."""
        return (self.floor + 4.0) / 4.0

    @property
    def codes(self) -> int:
        """Size of the codebook."""
        total = 1
        for levels in self.levels:
            total *= levels
        return total

    @property
    def codes_behind(self) -> int:
        """How many earlier codes' frames a code depends on."""
        return sum(self.kernel - 1 - ahead for ahead in self.ahead)

    @property
    def codes_ahead(self) -> int:
        """How many later codes' frames a code depends on."""
        return sum(self.ahead)

    @property
    def frames_before(self) -> int:
        """Mel frames of context before a code's first: its neighbours' and those of two convolutions."""
        return MEL_FRAMES_PER_CODE * self.codes_behind + 3


class ScalarQuantizer(nn.Module):
    """Finite scalar quantisation: ``(…, len(levels))`` reals to levels, and to one integer code."""

    centre: Tensor
    radix: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels
        radix = [1] * len(levels)
        for i in range(len(levels) - 1, 0, -1):
            radix[i - 1] = radix[i] * levels[i]
        self.register_buffer("centre", (torch.tensor(levels) - 1) / 2.0, persistent=False)
        self.register_buffer("radix", torch.tensor(radix), persistent=False)

    def bounded(self, z: Tensor) -> Tensor:
        """Reals to the open interval that rounds to 0 … levels - 1."""
        return (torch.tanh(z) + 1.0) * self.centre

    def forward(self, z: Tensor) -> Tensor:
        """Quantised values in [-1, 1], with the gradient of the unrounded ones."""
        bounded = self.bounded(z)
        rounded = bounded + (bounded.round() - bounded).detach()
        return rounded / self.centre - 1.0

    def encode(self, z: Tensor) -> Tensor:
        """(…, K) reals to int64 codes (…)."""
        return (self.bounded(z).round().long() * self.radix).sum(-1)

    def decode(self, codes: Tensor) -> Tensor:
        """int64 codes (…) to the values (…, K) in [-1, 1] that :meth:`forward` gave them."""
        digits = torch.stack(
            [codes // int(r) % levels for r, levels in zip(self.radix.tolist(), self.levels, strict=True)], -1
        )
        return digits.to(self.centre.dtype) / self.centre - 1.0


class NanoSemanticEncoder(nn.Module):
    """Whisper log-mel with a fixed floor to unquantised codes.

    Code j covers mel frames 4 j … 4 j + 3 and depends on ``codes_behind`` codes before and ``codes_ahead``
    after it: with the defaults its audio ends 122.5 ms after its own 40 ms.
    """

    def __init__(self, config: NanoSemanticConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.n_mels, config.dim, 3, stride=2)
        self.conv2 = nn.Conv1d(config.dim, config.dim, 3, stride=2)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(config.dim, kernel=config.kernel, ahead=ahead) for ahead in config.ahead
        )
        self.norm = nn.LayerNorm(config.dim)
        self.out = nn.Linear(config.dim, len(config.levels))
        self.quantizer = ScalarQuantizer(config.levels)

    def window(self, mel_BTF: Tensor) -> Tensor:
        """Frames with their full context to codes' values (B, J, K).

        ``mel_BTF`` is whisper's log-mel with a fixed floor: (B, frames_before + 4 (J + codes_ahead), n_mels).
        No padding takes part, so a code is the same in every window that holds its context.
        """
        x = F.gelu(self.conv1(mel_BTF.transpose(1, 2)))
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        c = self.config
        out: Tensor = self.out(self.norm(x[:, c.codes_behind : x.shape[1] - c.codes_ahead]))
        return out

    def forward(self, mel_BTF: Tensor) -> Tensor:
        """Whole signals, silence before and after them: (B, 4 J, n_mels) to (B, J, K) values."""
        c = self.config
        after = MEL_FRAMES_PER_CODE * c.codes_ahead
        return self.window(F.pad(mel_BTF, (0, 0, c.frames_before, after), value=c.silence))

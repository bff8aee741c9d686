"""Nano's flow: audio tokens to mel frames by optimal-transport flow matching, tile by tile.

It stands beside the public ``MaskedDiffWithXvec``, whose full attention and norms over time make every frame
depend on the whole answer. Here all context is bounded and all norms are over channels, so a tile of groups
with a fixed context can be solved on its own (Matcha-TTS, Mehta et al. 2023, for the idea; conditioned on
audio tokens alone, as Step-Audio-AQAA's vocoder is).

Shape letters: B batch, G groups (120 ms), J semantic codes (3 G), T mel frames (12 G), M mel bins, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from aqaa.models.convnext import ConvNeXtBlock
from aqaa.models.nano_semantic import ScalarQuantizer

FRAMES_PER_GROUP = 12


@dataclass(frozen=True)
class NanoFlowConfig:
    """Sizes of the flow. Codes of -1 mean "no group here".

    mean, scale  bring the natural-log mel near unit variance
    temperature  standard deviation of the noise that a vocoder starts from; training always uses 1
    """

    n_mels: int = 80
    dim: int = 256
    linguistic_codes: int = 1024
    levels: tuple[int, ...] = (8, 8, 8, 8)
    token_blocks: int = 4
    outer_blocks: int = 2
    inner_blocks: int = 5
    kernel: int = 7
    time_dim: int = 256
    mean: float = -5.0
    scale: float = 2.5
    temperature: float = 1.0


class TokenEncoder(nn.Module):
    """Codes to a prior mel and features at the mel rate.

    The semantic tokenizer's own decoder, with the linguistic codes added and the voice a learned constant:
    starting from its weights is what made the flow learn (see the lab log).
    """

    def __init__(self, config: NanoFlowConfig) -> None:
        super().__init__()
        self.quantizer = ScalarQuantizer(config.levels)
        self.inp = nn.Linear(len(config.levels), config.dim)
        self.linguistic = nn.Embedding(config.linguistic_codes + 1, config.dim)  # the last row: no group
        self.absent = nn.Parameter(torch.zeros(config.dim))
        self.voice = nn.Parameter(torch.zeros(config.dim))
        self.blocks = nn.ModuleList(ConvNeXtBlock(config.dim, kernel=3) for _ in range(config.token_blocks))
        self.mel = nn.Linear(config.dim, 4 * config.n_mels)

    def forward(self, linguistic_BG2: Tensor, semantic_BG3: Tensor) -> tuple[Tensor, Tensor]:
        """int64 codes to the prior (B, T, M) and features (B, T, D)."""
        missing_BJ = (semantic_BG3 < 0).flatten(1)
        sound = self.inp(self.quantizer.decode(semantic_BG3.clamp(min=0).flatten(1)))
        sound = torch.where(missing_BJ[..., None], self.absent, sound)
        last_row = self.linguistic.num_embeddings - 1
        word = self.linguistic(torch.where(linguistic_BG2 < 0, last_row, linguistic_BG2))
        # Two codes of 60 ms over three of 40 ms: the middle one hears both.
        word_BG3D = torch.stack((word[:, :, 0], word.mean(2), word[:, :, 1]), 2)
        x = sound + word_BG3D.flatten(1, 2)
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == 1:
                x = x + self.voice
        return self.mel(x).unflatten(-1, (4, -1)).flatten(1, 2), x.repeat_interleave(4, 1)


class VelocityNet(nn.Module):
    """The U-Net of ResNet-like blocks: noisy mel, prior and features at time t to the velocity (B, T, M)."""

    def __init__(self, config: NanoFlowConfig) -> None:
        super().__init__()
        d, c = config.dim, config.time_dim
        self.time = nn.Sequential(nn.Linear(128, c), nn.SiLU(), nn.Linear(c, c), nn.SiLU())
        self.inp = nn.Linear(2 * config.n_mels + d, d)

        def blocks(count: int) -> nn.ModuleList:
            return nn.ModuleList(
                ConvNeXtBlock(d, kernel=config.kernel, condition_dim=c) for _ in range(count)
            )

        self.before = blocks(config.outer_blocks)
        self.down = nn.Conv1d(d, d, 4, 2, 1)
        self.middle = blocks(config.inner_blocks)
        self.up = nn.ConvTranspose1d(d, d, 4, 2, 1)
        self.join = nn.Linear(2 * d, d)
        self.after = blocks(config.outer_blocks)
        self.norm = nn.LayerNorm(d)
        self.out = nn.Linear(d, config.n_mels)

    def forward(self, x_BTM: Tensor, t_B: Tensor, prior_BTM: Tensor, features_BTD: Tensor) -> Tensor:
        time_BC = self.time(sinusoids(t_B))
        h = self.inp(torch.cat((x_BTM, prior_BTM, features_BTD), -1))
        for block in self.before:
            h = block(h, time_BC)
        inner = self.down(h.transpose(1, 2)).transpose(1, 2)
        for block in self.middle:
            inner = block(inner, time_BC)
        h = self.join(torch.cat((self.up(inner.transpose(1, 2)).transpose(1, 2), h), -1))
        for block in self.after:
            h = block(h, time_BC)
        out: Tensor = self.out(self.norm(h))
        return out


def sinusoids(t_B: Tensor, size: int = 128) -> Tensor:
    """Sine and cosine features of a time in 0 … 1: (B,) to (B, size)."""
    half = size // 2
    rates = torch.exp(torch.arange(half, device=t_B.device) * (-math.log(10000.0) / (half - 1)))
    turns = 1000.0 * t_B[:, None] * rates
    return torch.cat((turns.sin(), turns.cos()), -1)


class NanoFlow(nn.Module):
    """Audio tokens and noise to a natural-log mel."""

    def __init__(self, config: NanoFlowConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = TokenEncoder(config)
        self.velocity = VelocityNet(config)

    def solve(self, linguistic_BG2: Tensor, semantic_BG3: Tensor, noise_BTM: Tensor, steps: int) -> Tensor:
        """Euler steps on the cosine schedule ``1 - cos(π/2 · k/steps)``: mel (B, 12 G, M), natural logarithm.

        Codes are int64, -1 throughout a group that is not there. The path starts at ``noise_BTM``, drawn by
        the caller and keyed by absolute frame; below unit variance it trades variety for accuracy.
        Every output frame depends on the whole input, so a tile's result belongs to its window.
        """
        prior, features = self.tokens(linguistic_BG2, semantic_BG3)
        x = noise_BTM
        times = 1 - torch.cos(torch.linspace(0, 1, steps + 1) * (math.pi / 2))
        for t, after in pairwise(times):
            x = x + (after - t) * self.velocity(x, t.expand(len(x)), prior, features)
        return x * self.config.scale + self.config.mean

    def losses(
        self,
        linguistic_BG2: Tensor,
        semantic_BG3: Tensor,
        mel_BTM: Tensor,
        noise_BTM: Tensor,
        t_B: Tensor,
        weight_BT: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """(flow-matching loss, L1 of the prior), both averaged with ``weight_BT``.

        ``mel_BTM`` is the natural-log target, ``t_B`` the time on the path, 0 … 1.
        """
        target = (mel_BTM - self.config.mean) / self.config.scale
        prior, features = self.tokens(linguistic_BG2, semantic_BG3)
        t_B11 = t_B[:, None, None]
        x = (1 - t_B11) * noise_BTM + t_B11 * target
        velocity = self.velocity(x, t_B, prior, features)
        total = weight_BT.sum().clamp(min=1)
        flow = ((velocity - (target - noise_BTM)).square().mean(-1) * weight_BT).sum() / total
        off = ((prior - target).abs().mean(-1) * weight_BT).sum() / total
        return flow, off

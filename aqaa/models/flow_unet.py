"""The vector field of the flow: a U-Net over mel frames of ResNet-1D and transformer blocks.

Source: CosyVoice's ``flow.decoder.ConditionalDecoder`` (after Matcha-TTS). Tensor names are upstream's.

Legend: B batch, F mel bins, C channels, T frames, E channels of the time embedding.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8  # channels of every GroupNorm are split into this many groups


@dataclass(frozen=True)
class UnetConfig:
    """Sizes of the U-Net. Frames halve between neighbours of ``channels`` and double on the way back."""

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    heads: int
    head_dim: int
    blocks: int
    mid_blocks: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.channels or any(width % GROUPS for width in self.channels):
            raise ValueError(f"channels {self.channels} must be multiples of {GROUPS}, and at least one")

    @property
    def stride(self) -> int:
        """Frames that share one position in the deepest block; tiles begin on a multiple of it."""
        return int(2 ** (len(self.channels) - 1))


def time_sinusoids(t_B: Tensor, channels: int) -> Tensor:
    """Sines, then cosines, of 1000 t at geometric rates: float32 ``(B, channels)``."""
    half = channels // 2
    index = torch.arange(half, device=t_B.device, dtype=torch.float32)
    rate = torch.exp(index * (-math.log(10000) / (half - 1)))
    angle = 1000 * t_B.float()[:, None] * rate
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


class TimeEmbedding(nn.Module):
    """Two linears around a swish over the time's sinusoids."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_channels, channels)
        self.linear_2 = nn.Linear(channels, channels)

    def forward(self, x_BC: Tensor) -> Tensor:
        out: Tensor = self.linear_2(F.silu(self.linear_1(x_BC)))
        return out


class ConvBlock(nn.Module):
    """Convolution, GroupNorm over time, Mish."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv1d(in_channels, channels, 3, padding=1), nn.GroupNorm(GROUPS, channels), nn.Mish()
        )

    def forward(self, x_BCT: Tensor) -> Tensor:
        out: Tensor = self.block(x_BCT)
        return out


class ResnetBlock(nn.Module):
    """Two convolution blocks, the time embedding added between them, and a projected residual."""

    def __init__(self, in_channels: int, channels: int, time_channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_channels, channels))
        self.block1 = ConvBlock(in_channels, channels)
        self.block2 = ConvBlock(channels, channels)
        self.res_conv = nn.Conv1d(in_channels, channels, 1)

    def forward(self, x_BCT: Tensor, time_BE: Tensor) -> Tensor:
        h_BCT = self.block1(x_BCT) + self.mlp(time_BE)[:, :, None]
        out: Tensor = self.block2(h_BCT) + self.res_conv(x_BCT)
        return out


class Attention(nn.Module):
    """Full self-attention; queries, keys and values have no bias."""

    def __init__(self, channels: int, config: UnetConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads = config.heads
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(channels, inner, bias=False)
        self.to_v = nn.Linear(channels, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, channels), nn.Dropout(config.dropout))

    def forward(self, x_BTC: Tensor) -> Tensor:
        q, k, v = (
            linear(x_BTC).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))
        return out


class GeluLinear(nn.Module):
    """A linear and an exact GELU (a module of its own because the checkpoint names it ``net.0.proj``)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, channels)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return F.gelu(self.proj(x_BTC))


class FeedForward(nn.Module):
    """Four times as wide inside, with GELU."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            GeluLinear(channels, 4 * channels), nn.Dropout(dropout), nn.Linear(4 * channels, channels)
        )

    def forward(self, x_BTC: Tensor) -> Tensor:
        out: Tensor = self.net(x_BTC)
        return out


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward, each with its residual; time does not enter here."""

    def __init__(self, channels: int, config: UnetConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, config)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, config.dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        x_BTC = x_BTC + self.attn1(self.norm1(x_BTC))
        out: Tensor = x_BTC + self.ff(self.norm3(x_BTC))
        return out


class Resample(nn.Module):
    """A convolution under the name ``conv``, as the checkpoint has it where the frame rate changes."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x_BCT: Tensor) -> Tensor:
        out: Tensor = self.conv(x_BCT)
        return out


def _same_rate(channels: int) -> nn.Module:
    return nn.Conv1d(channels, channels, 3, padding=1)


def _halve_rate(channels: int) -> nn.Module:
    return Resample(nn.Conv1d(channels, channels, 3, stride=2, padding=1))


def _double_rate(channels: int) -> nn.Module:
    return Resample(nn.ConvTranspose1d(channels, channels, 4, stride=2, padding=1))


class Stage(nn.ModuleList):
    """ResNet block, transformer blocks and, outside the middle, a resampling convolution (0, 1 and 2).

    Returns the features at the input's frame rate and after resampling, both ``(B, C, T)``.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        time_channels: int,
        config: UnetConfig,
        resample: nn.Module | None = None,
    ) -> None:
        transformers = nn.ModuleList(TransformerBlock(channels, config) for _ in range(config.blocks))
        super().__init__([ResnetBlock(in_channels, channels, time_channels), transformers])
        if resample is not None:
            self.append(resample)

    def forward(self, x_BCT: Tensor, time_BE: Tensor) -> tuple[Tensor, Tensor]:
        resnet, transformers, *resample = self
        h_BTC: Tensor = resnet(x_BCT, time_BE).transpose(1, 2)
        for block in cast(nn.ModuleList, transformers):
            h_BTC = block(h_BTC)
        h_BCT = h_BTC.transpose(1, 2).contiguous()
        return h_BCT, resample[0](h_BCT) if resample else h_BCT


class ConditionalDecoder(nn.Module):
    """Velocity of the flow at (x, t), given what the tokens, the speaker and the prompt say.

    There is no padding mask (GroupNorm and attention see every frame): all items of a batch have the same
    length. A padded item would answer differently, as it does in the reference.
    """

    def __init__(self, config: UnetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.channels
        time_channels = 4 * widths[0]
        self.time_mlp = TimeEmbedding(config.in_channels, time_channels)

        self.down_blocks = nn.ModuleList()
        for i, (before, width) in enumerate(pairwise((config.in_channels, *widths))):
            last = i == len(widths) - 1
            down = _same_rate(width) if last else _halve_rate(width)
            self.down_blocks.append(Stage(before, width, time_channels, config, down))

        self.mid_blocks = nn.ModuleList(
            Stage(widths[-1], widths[-1], time_channels, config) for _ in range(config.mid_blocks)
        )

        # Each stage on the way up reads its skip beside its input, so it enters twice as wide.
        self.up_blocks = nn.ModuleList()
        up_widths = (*widths[::-1], widths[0])
        for i, (before, width) in enumerate(pairwise(up_widths)):
            last = i == len(widths) - 1
            up = _same_rate(width) if last else _double_rate(width)
            self.up_blocks.append(Stage(2 * before, width, time_channels, config, up))

        self.final_block = ConvBlock(widths[0], widths[0])
        self.final_proj = nn.Conv1d(widths[0], config.out_channels, 1)

    def forward(
        self, x_BFT: Tensor, mu_BFT: Tensor, t_B: Tensor, speaker_BF: Tensor, cond_BFT: Tensor
    ) -> Tensor:
        """The velocity ``(B, out_channels, T)`` in the dtype of the weights.

        ``x`` is the state, ``mu`` the token prior, ``cond`` the prompt mel (zeros where there is none), all
        ``(B, F, T)``; ``speaker`` is one vector a batch item; ``t`` in [0, 1] stays float32 until its
        sinusoids are taken, because a half-precision time would be off by several steps of the embedding.
        """
        dtype = self.final_proj.weight.dtype
        time_BE = self.time_mlp(time_sinusoids(t_B, self.config.in_channels).to(dtype))
        speaker_BFT = speaker_BF[:, :, None].expand(-1, -1, x_BFT.shape[2])
        h_BCT = torch.cat([part.to(dtype) for part in (x_BFT, mu_BFT, speaker_BFT, cond_BFT)], dim=1)

        skips: list[Tensor] = []
        for stage in self.down_blocks:
            skip_BCT, h_BCT = stage(h_BCT, time_BE)
            skips.append(skip_BCT)
        for stage in self.mid_blocks:
            h_BCT, _ = stage(h_BCT, time_BE)
        for stage in self.up_blocks:
            skip_BCT = skips.pop()
            # Halving rounds up, so doubling may give one frame more than the skip has.
            _, h_BCT = stage(torch.cat((h_BCT[:, :, : skip_BCT.shape[2]], skip_BCT), dim=1), time_BE)
        out: Tensor = self.final_proj(self.final_block(h_BCT))
        return out

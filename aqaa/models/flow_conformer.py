"""The conformer encoder of the flow: token embeddings to context vectors, attending over the whole sequence.

Source: ESPnet's relative-position conformer as CosyVoice v1 configures it (``rel_pos_espnet``,
``rel_selfattn``), without convolution modules and without macaron feed-forwards. Tensor names are upstream's.

Legend: B batch, T frames, N relative positions (2T - 1), H heads, D channels of a head, C channels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ConformerConfig:
    """Sizes of the encoder. ``output_size`` is the width of every block and a multiple of ``heads``."""

    input_size: int
    output_size: int
    heads: int
    linear_units: int
    blocks: int
    dropout: float = 0.0
    positional_dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.output_size % self.heads:
            raise ValueError(f"output_size {self.output_size} is not a multiple of {self.heads} heads")


def relative_positions(frames: int, channels: int, device: torch.device) -> Tensor:
    """Sinusoids of the distances ``frames - 1 … -(frames - 1)``, float32 ``(2 * frames - 1, channels)``.

    Row r encodes the distance query - key = frames - 1 - r. Sine on even channels, cosine on odd ones.
    """
    distance_N = torch.arange(frames - 1, -frames, -1, device=device, dtype=torch.float32)
    rate = torch.exp(
        torch.arange(0, channels, 2, device=device, dtype=torch.float32) * (-math.log(10000.0) / channels)
    )
    angle = distance_N[:, None] * rate
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[:, :channels]


def align_distances(score_BHTN: Tensor) -> Tensor:
    """Scores by query and distance row ``(B, H, T, 2T - 1)`` as scores by query and key ``(B, H, T, T)``.

    Key j of query i lies at row T - 1 - i + j: each query reads a window that starts one row earlier.
    """
    B, H, T, N = score_BHTN.shape
    if N != 2 * T - 1:
        raise ValueError(f"expected {2 * T - 1} distances for {T} queries, got {N}")
    start = torch.arange(T - 1, -1, -1, device=score_BHTN.device)
    rows_TT = start[:, None] + torch.arange(T, device=score_BHTN.device)
    return score_BHTN.gather(3, rows_TT.expand(B, H, T, T))


class RelativeAttention(nn.Module):
    """Self-attention whose scores add a learned view of the distance (Transformer-XL, section 3.3)."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        size = config.output_size
        self.heads = config.heads
        self.head_dim = size // config.heads
        self.linear_q = nn.Linear(size, size)
        self.linear_k = nn.Linear(size, size)
        self.linear_v = nn.Linear(size, size)
        self.linear_out = nn.Linear(size, size)
        self.linear_pos = nn.Linear(size, size, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(self.heads, self.head_dim))
        self.pos_bias_v = nn.Parameter(torch.empty(self.heads, self.head_dim))
        self.dropout = nn.Dropout(config.attention_dropout)
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def _heads(self, x_BTC: Tensor) -> Tensor:
        return x_BTC.view(*x_BTC.shape[:-1], self.heads, self.head_dim).transpose(1, 2)

    def forward(self, x_BTC: Tensor, position_NC: Tensor) -> Tensor:
        q_BHTD = self._heads(self.linear_q(x_BTC))
        k_BHTD = self._heads(self.linear_k(x_BTC))
        v_BHTD = self._heads(self.linear_v(x_BTC))
        p_BHND = self._heads(self.linear_pos(position_NC)[None])
        by_content = (q_BHTD + self.pos_bias_u[:, None]) @ k_BHTD.transpose(-1, -2)
        by_distance = align_distances((q_BHTD + self.pos_bias_v[:, None]) @ p_BHND.transpose(-1, -2))
        weight_BHTT = ((by_content + by_distance) / math.sqrt(self.head_dim)).softmax(dim=-1)
        mixed_BHTD = self.dropout(weight_BHTT) @ v_BHTD
        out: Tensor = self.linear_out(mixed_BHTD.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """Two linears around a swish."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.w_1 = nn.Linear(config.output_size, config.linear_units)
        self.w_2 = nn.Linear(config.linear_units, config.output_size)
        self.activation = nn.SiLU()
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        out: Tensor = self.w_2(self.dropout(self.activation(self.w_1(x_BTC))))
        return out


class ConformerBlock(nn.Module):
    """Pre-norm attention and feed-forward, each with its residual."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(config)
        self.feed_forward = FeedForward(config)
        # ESPnet's epsilon for the norms inside a block; the two outer norms use torch's default 1e-5.
        self.norm_ff = nn.LayerNorm(config.output_size, eps=1e-12)
        self.norm_mha = nn.LayerNorm(config.output_size, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor, position_NC: Tensor) -> Tensor:
        x_BTC = x_BTC + self.dropout(self.self_attn(self.norm_mha(x_BTC), position_NC))
        out: Tensor = x_BTC + self.dropout(self.feed_forward(self.norm_ff(x_BTC)))
        return out


class LinearEmbedding(nn.Module):
    """Project the input to the encoder's width (upstream's ``linear`` input layer)."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.out = nn.Sequential(
            nn.Linear(config.input_size, config.output_size),
            nn.LayerNorm(config.output_size),
            nn.Dropout(config.dropout),
        )

    def forward(self, x_BTC: Tensor) -> Tensor:
        out: Tensor = self.out(x_BTC)
        return out


class ConformerEncoder(nn.Module):
    """``(B, T, input_size)`` to ``(B, T, output_size)``, the final norm included.

    Every frame attends to every other and there is no padding mask: all items of a batch have the same
    length. Source: ``cosyvoice.transformer.encoder.ConformerEncoder``.
    """

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = LinearEmbedding(config)
        self.encoders = nn.ModuleList(ConformerBlock(config) for _ in range(config.blocks))
        self.after_norm = nn.LayerNorm(config.output_size)
        self.positional_dropout = nn.Dropout(config.positional_dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        size = self.config.output_size
        x_BTC = self.positional_dropout(self.embed(x_BTC) * math.sqrt(size))
        position_NC = relative_positions(x_BTC.shape[1], size, x_BTC.device).to(x_BTC.dtype)
        position_NC = self.positional_dropout(position_NC)
        for block in self.encoders:
            x_BTC = block(x_BTC, position_NC)
        out: Tensor = self.after_norm(x_BTC)
        return out

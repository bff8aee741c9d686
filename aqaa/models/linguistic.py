"""The linguistic encoder: filter-bank frames to the states that become 1024-way linguistic codes.

It is the chunked SANM encoder of Paraformer-online (FunASR ``SANMEncoderChunkOpt``; the attention with FSMN
memory is from Gao et al., "SAN-M", 2020). Time is cut into chunks of ``chunk_frames`` new frames. A chunk
sees a window of ``overlap_frames`` earlier frames plus its own, and in each layer the keys and values that
the last ``look_back_chunks`` windows cached. It never sees the future, so streaming is the definition, and
the parallel form for training computes the same numbers.

Shape letters: B batch, C chunks, W window rows (overlap + chunk), T frames, F input features, D width,
H heads, E width of a head, P cached rows of earlier chunks, K keys (P + W).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aqaa.errors import BundleUnsupported, StateError

_TILE_ROWS = 8  # rows per distance product: a fixed shape, so neighbours cannot change a row's rounding


@dataclass(frozen=True)
class LinguisticConfig:
    """Sizes of the encoder. A frame is one low-frame-rate feature row (60 ms for the public checkpoint).

    Raises BundleUnsupported for sizes that make no encoder.

    The public checkpoint: dim 512, heads 4, ff_dim 2048, blocks 50, the defaults elsewhere.
    ``dropout`` acts in training mode only: after the positions, on attention weights, inside the feed-forward
    and on both residual branches.
    """

    dim: int
    heads: int
    ff_dim: int
    blocks: int
    input_dim: int = 560
    kernel_size: int = 11
    chunk_frames: int = 4
    overlap_frames: int = 5
    look_back_chunks: int = 4
    layer_norm_eps: float = 1e-12
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dim", "heads", "ff_dim", "blocks", "input_dim", "chunk_frames"):
            if getattr(self, name) < 1:
                raise BundleUnsupported(
                    f"LinguisticConfig.{name} is {getattr(self, name)}, expected at least 1"
                )
        for name in ("overlap_frames", "look_back_chunks"):
            if getattr(self, name) < 0:
                raise BundleUnsupported(
                    f"LinguisticConfig.{name} is {getattr(self, name)}, expected at least 0"
                )
        if self.dim % self.heads:
            raise BundleUnsupported(
                f"LinguisticConfig.dim is {self.dim}, expected a multiple of heads = {self.heads}"
            )
        if self.input_dim % 2:
            raise BundleUnsupported(
                f"LinguisticConfig.input_dim is {self.input_dim}, expected an even number"
            )
        if self.kernel_size % 2 == 0:
            raise BundleUnsupported(
                f"LinguisticConfig.kernel_size is {self.kernel_size}, expected an odd number"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise BundleUnsupported(f"LinguisticConfig.dropout is {self.dropout}, expected 0 <= dropout < 1")

    @property
    def window_frames(self) -> int:
        """Rows that one chunk runs on."""
        return self.overlap_frames + self.chunk_frames

    @property
    def past_frames(self) -> int:
        """Key and value rows kept per layer."""
        return self.look_back_chunks * self.chunk_frames


@dataclass(frozen=True)
class LinguisticState:
    """What a stream carries from one chunk to the next. A value: the encoder reads it and returns a new one.

    position  int64 (B,), frames consumed so far
    overlap   (B, overlap_frames, F), the last input rows, already scaled and with positions; zeros at first
    past      per block (B, P, 2 D): cached keys and values side by side, newest last; zeros before the start
    """

    position: Tensor
    overlap: Tensor
    past: tuple[Tensor, ...]


class SanmAttention(nn.Module):
    """Multi-head attention whose values also pass a depth-wise FIR filter in the window: the FSMN memory."""

    def __init__(self, config: LinguisticConfig, input_dim: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.linear_q_k_v = nn.Linear(input_dim, 3 * config.dim)
        self.linear_out = nn.Linear(config.dim, config.dim)
        self.fsmn_block = nn.Conv1d(config.dim, config.dim, config.kernel_size, groups=config.dim, bias=False)

    def project(self, x_BCWF: Tensor) -> tuple[Tensor, Tensor]:
        """Query (B, C, W, D), and key and value side by side (B, C, W, 2 D)."""
        dim = self.linear_out.in_features
        q_BCWD, kv_BCW2D = self.linear_q_k_v(x_BCWF).split((dim, 2 * dim), dim=-1)
        return q_BCWD, kv_BCW2D

    def attend(self, q_BCWD: Tensor, kv_BCK2D: Tensor, seen_BCK: Tensor) -> Tensor:
        """Attention of each window over its keys; ``seen_BCK`` is true where a key may be used."""
        b, c, w, d = q_BCWD.shape
        q_NHWE = q_BCWD.reshape(b * c, w, self.heads, -1).transpose(1, 2)
        kv_N2HKE = kv_BCK2D.reshape(b * c, -1, 2, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mask_N11K = seen_BCK.expand(b, c, -1).reshape(b * c, 1, 1, -1)
        out_NHWE = F.scaled_dot_product_attention(
            q_NHWE,
            kv_N2HKE[0],
            kv_N2HKE[1],
            attn_mask=mask_N11K,
            dropout_p=self.dropout if self.training else 0.0,
        )
        out_BCWD: Tensor = self.linear_out(out_NHWE.transpose(1, 2).reshape(b, c, w, d))
        return out_BCWD

    def memory(self, v_BCWD: Tensor) -> Tensor:
        """The FSMN memory: each channel's FIR over its window, zero padded, plus the value itself.

        Written as one banded (W, W) matrix per channel: the sums of the convolution ``fsmn_block``, with a
        backward pass that is several times faster on a CPU at these short windows.
        """
        b, c, w, d = v_BCWD.shape
        reach = w - 1 - self.fsmn_block.kernel_size[0] // 2
        taps_DJ = F.pad(self.fsmn_block.weight[:, 0], (reach, reach))
        band_DWW = taps_DJ.unfold(1, w, 1).flip(1)
        v_DWN = v_BCWD.reshape(b * c, w, d).permute(2, 1, 0)
        filtered_DWN = band_DWW.contiguous() @ v_DWN.contiguous()
        return filtered_DWN.permute(2, 1, 0).reshape(b, c, w, d) + v_BCWD


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between."""

    def __init__(self, config: LinguisticConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.w_1 = nn.Linear(config.dim, config.ff_dim)
        self.w_2 = nn.Linear(config.ff_dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.w_2(F.dropout(torch.relu(self.w_1(x)), self.dropout, self.training))
        return y


class SanmBlock(nn.Module):
    """One pre-norm layer, in two halves: between them the encoder supplies the past keys and values."""

    def __init__(self, config: LinguisticConfig, input_dim: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.residual = input_dim == config.dim  # the first block changes the width and has no skip
        self.norm1 = nn.LayerNorm(input_dim, config.layer_norm_eps)
        self.self_attn = SanmAttention(config, input_dim)
        self.norm2 = nn.LayerNorm(config.dim, config.layer_norm_eps)
        self.feed_forward = FeedForward(config)

    def project(self, x_BCWF: Tensor) -> tuple[Tensor, Tensor]:
        """Query (B, C, W, D) and key|value (B, C, W, 2 D) of the windows."""
        return self.self_attn.project(self.norm1(x_BCWF))

    def mix(
        self,
        x_BCWF: Tensor,
        q_BCWD: Tensor,
        kv_BCW2D: Tensor,
        past_BCP2D: Tensor,
        seen_BCK: Tensor,
        real_BCW1: Tensor | None,
    ) -> Tensor:
        """The block's output (B, C, W, D). ``real_BCW1`` is false on padding; None says there is none."""
        v_BCWD = kv_BCW2D[..., q_BCWD.shape[-1] :]
        if real_BCW1 is not None:
            v_BCWD = v_BCWD.masked_fill(~real_BCW1, 0.0)
        attended = self.self_attn.attend(q_BCWD, torch.cat((past_BCP2D, kv_BCW2D), dim=2), seen_BCK)
        y = F.dropout(attended + self.self_attn.memory(v_BCWD), self.dropout, self.training)
        if self.residual:
            y = x_BCWF + y
        z: Tensor = y + F.dropout(self.feed_forward(self.norm2(y)), self.dropout, self.training)
        return z


class LinguisticEncoder(nn.Module):
    """The chunk encoder; tensor names as under ``encoder.`` in the public ``model.pt``.

    Example::

        state = encoder.initial_state()
        for features_BTF in hops:                       # (1, chunk_frames, 560), the last may be shorter
            states_BTD, state = encoder.stream(features_BTF, state)
        codes = nearest_code(states_BTD, centroids)     # of the last hop
    """

    def __init__(self, config: LinguisticConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders0 = nn.ModuleList([SanmBlock(config, config.input_dim)])
        self.encoders = nn.ModuleList(SanmBlock(config, config.dim) for _ in range(config.blocks - 1))
        self.after_norm = nn.LayerNorm(config.dim, config.layer_norm_eps)

    def initial_state(self, batch: int = 1) -> LinguisticState:
        """The state before the first frame of ``batch`` streams, with the weights' device and dtype."""
        c = self.config
        like = self.after_norm.weight
        past = like.new_zeros(batch, c.past_frames, 2 * c.dim)
        return LinguisticState(
            position=torch.zeros(batch, dtype=torch.int64, device=like.device),
            overlap=like.new_zeros(batch, c.overlap_frames, c.input_dim),
            past=(past,) * c.blocks,
        )

    def stream(self, features_BTF: Tensor, state: LinguisticState) -> tuple[Tensor, LinguisticState]:
        """Encode one chunk of features (B, T, F), float32 after LFR and CMVN, to states (B, T, D).

        T is ``chunk_frames``; only the last chunk of a stream may be shorter. Streams of one batch may stand
        at different positions. Raises StateError when these features cannot follow this state.
        """
        window_BWD, after = self.stream_window(features_BTF, state)
        return window_BWD[:, self.config.overlap_frames :], after

    def stream_window(self, features_BTF: Tensor, state: LinguisticState) -> tuple[Tensor, LinguisticState]:
        """As ``stream``, but every row of the window: the overlap rows first, then the T new ones."""
        c = self.config
        frames = features_BTF.shape[1]
        self._check_chunk(features_BTF, state)
        x_BTF = self._place(features_BTF, state.position)
        rows_BWF = torch.cat((state.overlap, x_BTF), dim=1)
        age_P = torch.arange(c.past_frames, 0, -1, device=rows_BWF.device)
        cached_BP = age_P <= state.position[:, None]
        seen_BCK = F.pad(cached_BP, (0, rows_BWF.shape[1]), value=True).unsqueeze(1)
        x = rows_BWF.unsqueeze(1)
        past: list[Tensor] = []
        for block, past_BP2D in zip(self._blocks(), state.past, strict=True):
            q, kv = block.project(x)
            x = block.mix(x, q, kv, past_BP2D.unsqueeze(1), seen_BCK, None)
            # Rows that the next window will see again are left out of the cache: it keeps the first `frames`.
            past.append(torch.cat((past_BP2D, kv[:, 0, :frames]), dim=1)[:, frames:])
        after = LinguisticState(
            position=state.position + frames,
            overlap=rows_BWF[:, frames:],
            past=tuple(past),
        )
        out_BWD: Tensor = self.after_norm(x.squeeze(1))
        return out_BWD, after

    def _check_chunk(self, features_BTF: Tensor, state: LinguisticState) -> None:
        c = self.config
        b, frames, width = features_BTF.shape
        if width != c.input_dim or not 1 <= frames <= c.chunk_frames:
            raise StateError(
                f"a chunk of shape {tuple(features_BTF.shape)} was given, "
                f"expected (B, 1..{c.chunk_frames}, {c.input_dim})"
            )
        if state.overlap.shape != (b, c.overlap_frames, c.input_dim) or len(state.past) != c.blocks:
            raise StateError(
                f"the state has an overlap of {tuple(state.overlap.shape)} and {len(state.past)} blocks, "
                f"expected {(b, c.overlap_frames, c.input_dim)} and {c.blocks}: another encoder or batch"
            )
        if bool((state.position % c.chunk_frames != 0).any()):
            raise StateError(
                f"the stream has ended with a short chunk (positions {state.position.tolist()}, "
                f"chunks of {c.chunk_frames}); start a new one with initial_state()"
            )

    def forward(
        self, features_BTF: Tensor, lengths: Tensor | None = None, position_offset: int | Tensor = 0
    ) -> Tensor:
        """Encode whole utterances: (B, T, F) to (B, T, D), equal to streaming them chunk by chunk.

        lengths          int64 (B,), real frames of each item; rows after them come back as zeros
        position_offset  added to the frame positions, an int or int64 (B,); zero is what streaming does
        """
        c = self.config
        batch, frames, _ = features_BTF.shape
        chunks = -(-frames // c.chunk_frames)
        device = features_BTF.device
        x_BTF = self._place(features_BTF, torch.as_tensor(position_offset, device=device).expand(batch))
        tail = chunks * c.chunk_frames - frames
        padded_BTF = F.pad(x_BTF, (0, 0, c.overlap_frames, tail))
        x = padded_BTF.unfold(1, c.window_frames, c.chunk_frames).transpose(2, 3)
        if lengths is None:
            lengths = torch.full((batch,), frames, device=device)
        seen_BCK, real_BCW1 = self._masks(chunks, lengths.to(device))
        for block in self._blocks():
            q, kv = block.project(x)
            x = block.mix(x, q, kv, self._look_back(kv), seen_BCK, real_BCW1)
        out_BTD = self.after_norm(x[:, :, c.overlap_frames :].flatten(1, 2)[:, :frames])
        inside_BT = torch.arange(frames, device=device) < lengths.to(device)[:, None]
        return torch.where(inside_BT[..., None], out_BTD, 0.0)

    def _masks(self, chunks: int, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Which keys a window may use (B, C, K), and which of its rows are real (B, C, W, 1)."""
        c = self.config
        start_C = torch.arange(chunks, device=lengths.device) * c.chunk_frames
        frame_CW = start_C[:, None] + torch.arange(c.window_frames, device=lengths.device) - c.overlap_frames
        # A window that begins after the end has no output; it stays unmasked so that no softmax is empty.
        after_end_BC = start_C >= lengths[:, None]
        real_BCW = (frame_CW < lengths[:, None, None]) | after_end_BC[..., None]
        age_P = torch.arange(c.past_frames, 0, -1, device=lengths.device)
        cached_CP = age_P <= start_C[:, None]
        cached_BCP = cached_CP.expand(len(lengths), -1, -1)
        return torch.cat((cached_BCP, real_BCW), dim=2), real_BCW[..., None]

    def _look_back(self, kv_BCW2D: Tensor) -> Tensor:
        """What streaming would find in its cache before each chunk: (B, C, P, 2 D), zeros at first."""
        c = self.config
        chunks = kv_BCW2D.shape[1]
        cached = F.pad(kv_BCW2D[:, :, : c.chunk_frames], (0, 0, 0, 0, c.look_back_chunks, 0))
        if c.look_back_chunks == 0:
            return cached[:, :, :0]
        return torch.cat([cached[:, i : i + chunks] for i in range(c.look_back_chunks)], dim=2)

    def _blocks(self) -> list[SanmBlock]:
        return [b for group in (self.encoders0, self.encoders) for b in group if isinstance(b, SanmBlock)]

    def _place(self, features_BTF: Tensor, position_B: Tensor) -> Tensor:
        """Scale by sqrt(dim) and add positions counted from one: a half of sines, then one of cosines."""
        half = self.config.input_dim // 2
        device = features_BTF.device
        step = math.log(10000.0) / (half - 1) if half > 1 else 0.0
        rate_E = torch.exp(torch.arange(half, device=device, dtype=torch.float32) * -step)
        frame_T = torch.arange(1, features_BTF.shape[1] + 1, device=device)
        turns_BTE = (position_B[:, None] + frame_T).to(torch.float32)[..., None] * rate_E
        place_BTF = torch.cat((turns_BTE.sin(), turns_BTE.cos()), dim=-1).to(features_BTF.dtype)
        placed_BTF = features_BTF * math.sqrt(self.config.dim) + place_BTF
        return F.dropout(placed_BTF, self.config.dropout, self.training)


def nearest_code(states: Tensor, centroids_ND: Tensor) -> Tensor:
    """Index of the centroid nearest to each state: (..., D) to int64 (...), Euclidean, ties to the lowest.

    Distances are float32 products of a fixed shape (8 rows, padded), so a row's code does not depend on how
    many rows are asked for at once.
    """
    rows_MD = states.detach().reshape(-1, states.shape[-1]).float()
    table_ND = centroids_ND.detach().float()
    if rows_MD.shape[0] == 0:
        return torch.zeros(states.shape[:-1], dtype=torch.int64, device=states.device)
    half_norm_N = table_ND.square().sum(dim=1) / 2
    tiles = torch.split(F.pad(rows_MD, (0, 0, 0, -rows_MD.shape[0] % _TILE_ROWS)), _TILE_ROWS)
    # |x - c|² / 2 without |x|² / 2, which is the same for every centroid.
    codes = torch.cat([(half_norm_N - tile @ table_ND.T).argmin(dim=1) for tile in tiles])
    return codes[: rows_MD.shape[0]].reshape(states.shape[:-1])

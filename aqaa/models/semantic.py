"""The semantic tokenizer: log-mel frames to one of 4096 codes every 40 ms, whole clips or as a stream.

It is a small whisper encoder with a nearest-neighbour codebook (``speech_tokenizer_v1``, 25 Hz; CosyVoice,
Du et al., 2024). Its attention looks both ways over a whole piece, so as it stands it cannot stream;
``WindowedSemantic`` runs it on windows of a fixed grid and keeps their centres.

Shape letters: B batch, M mel bins, T mel frames (10 ms), N tokens (40 ms), D width, H heads, E head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from aqaa.errors import BundleUnsupported, InvalidAudio
from aqaa.models.linguistic import nearest_code

FRAMES_PER_TOKEN = 4
"""Mel frames per token: two convolutions of stride 2."""

PIECE_SAMPLES = 480_000
"""The longest piece that is encoded at once: 30 s at 16 kHz."""

SHORTEST_PIECE_SAMPLES = 480
"""A piece shorter than this (30 ms at 16 kHz) is dropped."""


def piece_bounds(samples: int) -> list[tuple[int, int]]:
    """Where the reference cuts a 16 kHz signal: ``[start, stop)`` of each piece that is encoded on its own.

    Step-Audio ``tokenizer.py`` get_vq06_code: pieces of 30 s, a last one under 480 samples is left out.
    """
    starts = range(0, samples, PIECE_SAMPLES)
    bounds = [(start, min(start + PIECE_SAMPLES, samples)) for start in starts]
    return [(start, stop) for start, stop in bounds if stop - start >= SHORTEST_PIECE_SAMPLES]


def token_count(frames: int) -> int:
    """Tokens that ``frames`` mel frames give."""
    return -(-frames // FRAMES_PER_TOKEN)


@dataclass(frozen=True)
class SemanticConfig:
    """Sizes of the tokenizer. The public checkpoint: dim 1280, heads 20, layers 6, the defaults elsewhere.

    ``context`` is the most tokens of one piece. Raises BundleUnsupported for sizes that make no encoder.
    """

    dim: int
    heads: int
    layers: int
    mels: int = 128
    context: int = 1500
    codes: int = 4096

    def __post_init__(self) -> None:
        for name in ("dim", "heads", "layers", "mels", "context", "codes"):
            if getattr(self, name) < 1:
                raise BundleUnsupported(
                    f"SemanticConfig.{name} is {getattr(self, name)}, expected at least 1"
                )
        if self.dim % (2 * self.heads):
            raise BundleUnsupported(
                f"SemanticConfig.dim is {self.dim}, expected a multiple of 2 x heads = {2 * self.heads}"
            )


class Attention(nn.Module):
    """Multi-head attention over all rows; the key projection has no bias, as in whisper."""

    def __init__(self, config: SemanticConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.dim, config.dim)
        self.key = nn.Linear(config.dim, config.dim, bias=False)
        self.value = nn.Linear(config.dim, config.dim)
        self.out = nn.Linear(config.dim, config.dim)

    def forward(self, x_BND: Tensor, seen_B11N: Tensor | None) -> Tensor:
        q, k, v = (
            proj(x_BND).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for proj in (self.query, self.key, self.value)
        )
        out_BHNE = F.scaled_dot_product_attention(q, k, v, attn_mask=seen_B11N)
        y_BND: Tensor = self.out(out_BHNE.transpose(1, 2).flatten(2))
        return y_BND


class Block(nn.Module):
    """One pre-norm whisper layer."""

    def __init__(self, config: SemanticConfig) -> None:
        super().__init__()
        self.attn_ln = nn.LayerNorm(config.dim)
        self.attn = Attention(config)
        self.mlp_ln = nn.LayerNorm(config.dim)
        self.mlp = nn.Sequential(
            nn.Linear(config.dim, 4 * config.dim), nn.GELU(), nn.Linear(4 * config.dim, config.dim)
        )

    def forward(self, x_BND: Tensor, seen_B11N: Tensor | None) -> Tensor:
        x_BND = x_BND + self.attn(self.attn_ln(x_BND), seen_B11N)
        y_BND: Tensor = x_BND + self.mlp(self.mlp_ln(x_BND))
        return y_BND


class WhisperEncoder(nn.Module):
    """Two strided convolutions, stored positions, transformer layers."""

    positional_embedding: Tensor

    def __init__(self, config: SemanticConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(config.mels, config.dim, kernel_size=3, stride=2, padding=1)
        self.conv2 = nn.Conv1d(config.dim, config.dim, kernel_size=3, stride=2, padding=1)
        self.register_buffer("positional_embedding", _sinusoids(config.context, config.dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))

    def forward(self, mel_BMT: Tensor, lengths: Tensor | None) -> Tensor:
        seen = None
        if lengths is None:
            x_BDN = F.gelu(self.conv2(F.gelu(self.conv1(mel_BMT))))
        else:
            # A convolution reads across the end of the shorter items: zeros there, as beyond a whole clip.
            half = (lengths + 1) // 2
            x_BDT = F.gelu(self.conv1(mel_BMT * _inside(lengths, mel_BMT.shape[-1])))
            x_BDN = F.gelu(self.conv2(x_BDT * _inside(half, x_BDT.shape[-1])))
            seen = _inside((half + 1) // 2, x_BDN.shape[-1])[:, None]
        x_BND = x_BDN.transpose(1, 2) + self.positional_embedding[: x_BDN.shape[-1]]
        for block in self.blocks:
            x_BND = block(x_BND, seen)
        return x_BND


class Codebook(nn.Module):
    """The table of code vectors, ``embed`` (codes, D)."""

    embed: Tensor

    def __init__(self, config: SemanticConfig) -> None:
        super().__init__()
        self.register_buffer("embed", F.normalize(torch.randn(config.codes, config.dim), dim=-1))


class Quantizer(nn.Module):
    """Holds the codebook under the name it has in public checkpoints."""

    def __init__(self, config: SemanticConfig) -> None:
        super().__init__()
        self._codebook = Codebook(config)

    def forward(self, hidden_BND: Tensor) -> Tensor:
        return nearest_code(hidden_BND, self._codebook.embed)


class SemanticEncoder(nn.Module):
    """Encoder and codebook together; tensor names as ``s3tokenizer.utils.onnx2torch`` gives them.

    ``forward`` gives the unit-length hidden rows, ``codes`` the nearest entries of the codebook.
    """

    def __init__(self, config: SemanticConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = WhisperEncoder(config)
        self.quantizer = Quantizer(config)

    def forward(self, mel_BMT: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Whisper log-mel (B, M, T) float32 to L2-normalised rows (B, N, D), N = ceil(T / 4).

        ``lengths`` int64 (B,): real mel frames of each item; rows after ``token_count(length)`` mean nothing.
        Raises InvalidAudio for another number of mel bins, no frame, or more than ``context`` tokens.
        """
        _, mels, frames = mel_BMT.shape
        limit = self.config.context * FRAMES_PER_TOKEN
        if mels != self.config.mels or not 1 <= frames <= limit:
            raise InvalidAudio(
                f"log-mel of shape {tuple(mel_BMT.shape)}, expected (B, {self.config.mels}, 1..{limit})"
            )
        return F.normalize(self.encoder(mel_BMT, lengths), dim=-1)

    def codes(self, mel_BMT: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Whisper log-mel (B, M, T) to codes (B, N) int64; arguments and errors as for ``forward``."""
        codes_BN: Tensor = self.quantizer(self(mel_BMT, lengths))
        return codes_BN


@dataclass(frozen=True)
class WindowGrid:
    """Windows at fixed places of a stream, in mel frames of 10 ms and whole tokens (multiples of 4).

    Window k keeps the frames [k hop, (k + 1) hop) and sees ``left`` frames before them and ``right`` after.
    """

    left: int = 200
    hop: int = 48
    right: int = 32

    def __post_init__(self) -> None:
        for name, least in (("left", 0), ("hop", FRAMES_PER_TOKEN), ("right", 0)):
            value = getattr(self, name)
            if value < least or value % FRAMES_PER_TOKEN:
                raise BundleUnsupported(
                    f"WindowGrid.{name} is {value} frames, "
                    f"expected a multiple of {FRAMES_PER_TOKEN} from {least}"
                )

    @property
    def frames(self) -> int:
        """Frames that every window has, padding included."""
        return self.left + self.hop + self.right


@dataclass(frozen=True, eq=False)
class Window:
    """One window to encode: ``mel`` (T, M) is zero after ``length`` frames; keep tokens [first, last)."""

    mel: NDArray[np.float32]
    length: int
    first: int
    last: int


class WindowBuffer:
    """Cuts log-mel frames that arrive in pieces into the windows of a grid, the same for any chunking."""

    def __init__(self, grid: WindowGrid, mels: int = 128) -> None:
        self._grid = grid
        self._held: NDArray[np.float32] = np.empty((0, mels), np.float32)
        self._start = 0  # stream position of the first held frame
        self._next = 0  # stream position of the next window's centre

    def push(self, mel_TM: NDArray[np.float32]) -> list[Window]:
        """Take (t, M) frames, t >= 0; give the windows whose right context is complete."""
        self._held = np.concatenate((self._held, mel_TM))
        end = self._start + len(self._held)
        ready = []
        while self._next + self._grid.hop + self._grid.right <= end:
            ready.append(self._cut(end))
        return ready

    def flush(self) -> list[Window]:
        """End of the stream: the windows that are left, with what context there is."""
        end = self._start + len(self._held)
        rest = []
        while self._next < end:
            rest.append(self._cut(end))
        return rest

    def _cut(self, end: int) -> Window:
        grid = self._grid
        start = max(0, self._next - grid.left)
        stop = min(end, self._next + grid.hop + grid.right)
        mel_TM = self._held[start - self._start : stop - self._start]
        kept = min(grid.hop, end - self._next)
        first = (self._next - start) // FRAMES_PER_TOKEN
        window = Window(
            mel=np.pad(mel_TM, ((0, grid.frames - len(mel_TM)), (0, 0))),
            length=stop - start,
            first=first,
            last=first + token_count(kept),
        )
        self._next += grid.hop
        forget = max(0, self._next - grid.left) - self._start
        self._held = self._held[forget:]
        self._start += forget
        return window


class WindowedSemantic:
    """The bidirectional tokenizer made streamable; the same codes for any chunking of the frames.

    Every window is encoded alone and at one shape, so nothing else can touch its rounding::

        stream = WindowedSemantic(encoder)
        for mel_TM in pieces:                  # (t, 128) float32 log-mel, as CausalLogMel gives it
            codes = stream.push(mel_TM)        # int64 (n,), 12 for each 0.48 s that is now complete
        codes = stream.flush()
    """

    def __init__(self, encoder: SemanticEncoder, grid: WindowGrid | None = None) -> None:
        grid = grid or WindowGrid()
        if grid.frames > encoder.config.context * FRAMES_PER_TOKEN:
            raise BundleUnsupported(
                f"windows of {grid.frames} frames, expected at most the encoder's context of "
                f"{encoder.config.context * FRAMES_PER_TOKEN}"
            )
        self._encoder = encoder
        self._buffer = WindowBuffer(grid, encoder.config.mels)

    def push(self, mel_TM: NDArray[np.float32]) -> NDArray[np.int64]:
        """Take (t, M) frames, t >= 0; give the codes (n,) of the windows that they complete."""
        return self._encode(self._buffer.push(mel_TM))

    def flush(self) -> NDArray[np.int64]:
        """End of the stream: the remaining codes, so that all together are ``token_count(frames)``."""
        return self._encode(self._buffer.flush())

    def _encode(self, windows: list[Window]) -> NDArray[np.int64]:
        kept = [encode_window(self._encoder, window) for window in windows]
        return np.concatenate([np.empty(0, np.int64), *kept])


@torch.inference_mode()
def encode_window(encoder: SemanticEncoder, window: Window) -> NDArray[np.int64]:
    """Codes of a window's kept tokens, int64 (last - first,)."""
    device = encoder.encoder.conv1.weight.device
    mel_BMT = torch.from_numpy(window.mel.T.copy()).to(device)[None]
    hidden_BND = encoder(mel_BMT, torch.tensor([window.length], device=device))
    codes: NDArray[np.int64] = encoder.quantizer(hidden_BND[0, window.first : window.last]).cpu().numpy()
    return codes


def _inside(lengths: Tensor, size: int) -> Tensor:
    """True before each item's end: (B, 1, size)."""
    return (torch.arange(size, device=lengths.device) < lengths[:, None])[:, None]


def _sinusoids(length: int, dim: int) -> Tensor:
    """Whisper's positions (length, dim): sines, then cosines, of wavelengths from 2 pi to 10000 x 2 pi."""
    step = math.log(10000.0) / max(1, dim // 2 - 1)
    turns = torch.arange(length)[:, None] * torch.exp(-step * torch.arange(dim // 2))
    return torch.cat((turns.sin(), turns.cos()), dim=1)

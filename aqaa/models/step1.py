"""The step1 decoder: pre-norm, grouped queries, SwiGLU, positions only through square-root ALiBi.

Tensor names are those of the public checkpoints (`model.layers.{i}.self_attn.q_proj.weight`, …), no layer
has a bias, and the output head is never tied to the embedding. Source: `modeling_step1.py` of
Step-Audio-Chat and `vllm/model_executor/models/step1.py`.

    model = Step1(Step1Config(...))
    hidden_BTD = model(ids_BT)
    logits_BTV = model.logits(hidden_BTD)

Shape letters: B batch, T queries, S keys, D hidden size, H query heads, G key/value groups, d head size,
V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aqaa.errors import BundleUnsupported

_SUM_DTYPE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


@dataclass(frozen=True)
class Step1Config:
    """Sizes of a step1 decoder; the field names are the keys of the public `config.json`.

    Raises:
        BundleUnsupported: sizes that do not divide, or an option that this decoder does not have.
    """

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_attention_groups: int
    num_hidden_layers: int
    vocab_size: int
    max_seq_len: int
    rms_norm_eps: float = 1e-5
    max_pos_interp_ratio: float = 1.0
    logit_scale: float = 1.0
    bos_token_id: int = 1
    pad_token_id: int = 0
    eos_token_id: int = 3
    alibi_slopes: tuple[float, ...] | None = None  # one a head, in place of the formula's

    def __post_init__(self) -> None:
        if self.alibi_slopes is not None and len(self.alibi_slopes) != self.num_attention_heads:
            raise BundleUnsupported(
                f"step1 config: {len(self.alibi_slopes)} alibi_slopes, expected one for each of "
                f"{self.num_attention_heads} heads"
            )
        for name, divisor in (
            ("hidden_size", "num_attention_heads"),
            ("num_attention_heads", "num_attention_groups"),
        ):
            if getattr(self, divisor) < 1 or getattr(self, name) % getattr(self, divisor):
                raise BundleUnsupported(
                    f"step1 config: {name} is {getattr(self, name)}, expected a multiple of "
                    f"{divisor} ({getattr(self, divisor)})"
                )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a parsed `config.json`; keys that describe other software (`auto_map`, …) are ignored."""
        if values.get("model_type", "step1") != "step1":
            raise BundleUnsupported(f"step1 config: model_type is {values['model_type']!r}, expected 'step1'")
        if values.get("tie_word_embeddings"):
            raise BundleUnsupported("step1 config: tie_word_embeddings is true, expected a stored lm_head")
        if values.get("alibi_slopes") is not None:
            values = {**values, "alibi_slopes": tuple(map(float, values["alibi_slopes"]))}
        known = {field.name for field in fields(cls)}
        try:
            return cls(**{key: value for key, value in values.items() if key in known})
        except TypeError as error:
            missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in values]
            raise BundleUnsupported(f"step1 config: missing {', '.join(missing) or error}") from error


def alibi_slopes(heads: int, max_pos_interp_ratio: float = 1.0) -> list[float]:
    """One slope a head, as Python floats: the ALiBi series, extended for head counts off a power of two.

    With `max_pos_interp_ratio` r ≠ 1, slope s becomes `s / sqrt(r ** w)`, where w runs from 0 at the largest
    slope to 1 at the smallest in log scale (the NTK variant: only far-seeing heads are stretched).
    """
    power = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8.0 * k / power) for k in range(1, power + 1)]
    slopes += [2.0 ** (-4.0 * k / power) for k in range(1, 2 * (heads - power), 2)]
    if max_pos_interp_ratio == 1.0:
        return slopes
    logs = [math.log2(slope) for slope in slopes]
    span = (max(logs) - min(logs)) or 1.0
    return [
        slope / math.sqrt(max_pos_interp_ratio ** ((max(logs) - log) / span))
        for slope, log in zip(slopes, logs, strict=True)
    ]


def alibi_bias(
    positions_BT: Tensor,
    allowed_BTS: Tensor,
    slopes_H: Tensor,
    *,
    key_positions_BS: Tensor | None = None,
) -> Tensor:
    """The additive attention bias `-slope[h] * sqrt(i - j)`, minus infinity where a key is not allowed.

    Args:
        positions_BT: int64 position of each query; B may be 1 for a bias that the batch shares.
        allowed_BTS: bool, True where query t may look at key s; every row needs one True.
        slopes_H: (H,) slopes; their dtype is the dtype of the result.
        key_positions_BS: positions of the keys, when they are not the queries themselves.

    Returns:
        (B, H, T, S) in the dtype of `slopes_H`.
    """
    keys_BS = positions_BT if key_positions_BS is None else key_positions_BS
    # The root is taken in at least float32: bfloat16 cannot tell position 256 from 257.
    exact = _SUM_DTYPE.get(slopes_H.dtype, slopes_H.dtype)
    distance_BTS = (positions_BT[:, :, None] - keys_BS[:, None, :]).clamp_min(0).to(exact).sqrt()
    bias_BHTS = -(slopes_H.to(exact)[None, :, None, None] * distance_BTS[:, None])
    return bias_BHTS.masked_fill(~allowed_BTS[:, None], -math.inf).to(slopes_H.dtype)


def branch_mask(positions_BT: Tensor, branch_BT: Tensor, document_BT: Tensor | None = None) -> Tensor:
    """Who sees whom in a packed sequence: (B, T, T) bool for `alibi_bias`.

    A token sees the tokens of its own document that are at its position or earlier and belong to branch 0
    (the shared prefix) or to its own branch. So a prefix, an answer (branch 1) and a transcript (branch 2),
    both counting on from the prefix's last position, train in one sequence exactly as they would in two.
    """
    causal = positions_BT[:, :, None] >= positions_BT[:, None, :]
    shared = (branch_BT[:, None, :] == 0) | (branch_BT[:, :, None] == branch_BT[:, None, :])
    if document_BT is None:
        return causal & shared
    return causal & shared & (document_BT[:, :, None] == document_BT[:, None, :])


class KeyValueCache(Protocol):
    """What `Step1.forward` needs of a cache (Hugging Face's `DynamicCache` has it too)."""

    def update(self, key_BGTd: Tensor, value_BGTd: Tensor, layer_idx: int, /) -> tuple[Tensor, Tensor]:
        """Append T keys and values to a layer and return all of them, (B, G, S, d)."""
        ...

    def get_seq_length(self) -> int:
        """How many positions the cache holds."""
        ...


class GrowingCache:
    """A cache that concatenates: plain and correct, for tests and offline use. One request, no sharing."""

    def __init__(self) -> None:
        self._layers: list[tuple[Tensor, Tensor]] = []

    def update(self, key_BGTd: Tensor, value_BGTd: Tensor, layer_idx: int, /) -> tuple[Tensor, Tensor]:
        if layer_idx == len(self._layers):
            self._layers.append((key_BGTd, value_BGTd))
        else:
            key, value = self._layers[layer_idx]
            self._layers[layer_idx] = (torch.cat((key, key_BGTd), 2), torch.cat((value, value_BGTd), 2))
        return self._layers[layer_idx]

    def get_seq_length(self) -> int:
        return self._layers[0][0].shape[2] if self._layers else 0


class RMSNorm(nn.Module):
    """`x / rms(x) * weight`: the mean square in float32 or wider, rounded to x's dtype before the weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(_SUM_DTYPE.get(x.dtype, x.dtype))
        normal: Tensor = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return normal.to(x.dtype) * self.weight


class SelfAttention(nn.Module):
    """Grouped-query attention; query head h reads group `h // (H / G)`."""

    def __init__(self, config: Step1Config, layer_idx: int) -> None:
        super().__init__()
        self.head_dim, self.layer_idx = config.head_dim, layer_idx
        self.queries_per_group = config.num_attention_heads // config.num_attention_groups
        groups = config.num_attention_groups * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, groups, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, groups, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor, bias_BHTS: Tensor, cache: KeyValueCache | None) -> Tensor:
        query, key, value = (
            projection(x_BTD).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        key, value = (x.repeat_interleave(self.queries_per_group, 1) for x in (key, value))
        mixed_BHTd = F.scaled_dot_product_attention(query, key, value, attn_mask=bias_BHTS)
        out: Tensor = self.o_proj(mixed_BHTd.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))`."""

    def __init__(self, config: Step1Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return out


class DecoderLayer(nn.Module):
    """One pre-norm block: attention, then feed-forward, each added to the residual stream."""

    def __init__(self, config: Step1Config, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config, layer_idx)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x_BTD: Tensor, bias_BHTS: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), bias_BHTS, cache)
        out: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return out


class Decoder(nn.Module):
    """Embedding, layers and final norm: the part whose names begin with `model.`."""

    def __init__(self, config: Step1Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x_BTD: Tensor, bias_BHTS: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        for layer in self.layers:
            x_BTD = layer(x_BTD, bias_BHTS, cache)
        out: Tensor = self.norm(x_BTD)
        return out


class Step1(nn.Module):
    """The whole decoder with its head. Plain: knows nothing of devices, services or parallelism."""

    def __init__(self, config: Step1Config) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def slopes(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The (H,) ALiBi slopes on the device of the weights."""
        values = self.config.alibi_slopes or alibi_slopes(
            self.config.num_attention_heads, self.config.max_pos_interp_ratio
        )
        return torch.tensor(values, dtype=dtype, device=self.lm_head.weight.device)

    def forward(
        self,
        ids_BT: Tensor | None = None,
        *,
        embeddings_BTD: Tensor | None = None,
        positions_BT: Tensor | None = None,
        allowed_BTS: Tensor | None = None,
        bias_BHTS: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Hidden states after the final norm, (B, T, D).

        Args:
            ids_BT: int64 ids; or give `embeddings_BTD` instead.
            positions_BT: int64 positions, counted from the end of the cache when absent; B may be 1.
            allowed_BTS: bool visibility (see `branch_mask`), causal when absent. Keys are the queries' own
                sequence, so it goes with an empty cache only.
            bias_BHTS: the complete additive bias; replaces both arguments above. A training loop computes
                it once a batch with `alibi_bias`, in the dtype it trains in.
            cache: keys and values so far; this call's are appended.

        Raises:
            ValueError: neither or both of ids and embeddings, or visibility together with a filled cache.
        """
        if (ids_BT is None) == (embeddings_BTD is None):
            raise ValueError("step1: give either ids_BT or embeddings_BTD")
        x_BTD = self.model.embed_tokens(ids_BT) if embeddings_BTD is None else embeddings_BTD
        if bias_BHTS is None:
            bias_BHTS = self._bias(x_BTD, positions_BT, allowed_BTS, cache)
        hidden_BTD: Tensor = self.model(x_BTD, bias_BHTS, cache)
        return hidden_BTD

    def _bias(
        self,
        x_BTD: Tensor,
        positions_BT: Tensor | None,
        allowed_BTS: Tensor | None,
        cache: KeyValueCache | None,
    ) -> Tensor:
        past = cache.get_seq_length() if cache is not None else 0
        if past and (positions_BT is not None or allowed_BTS is not None):
            raise ValueError(
                f"step1: positions or visibility given with a cache of {past}; give bias_BHTS instead"
            )
        keys_BS = torch.arange(past + x_BTD.shape[1], device=x_BTD.device)[None]
        if positions_BT is None:
            positions_BT = keys_BS[:, past:]
        else:
            keys_BS = positions_BT
        if allowed_BTS is None:
            allowed_BTS = positions_BT[:, :, None] >= keys_BS[:, None, :]
        # float32 even beside bfloat16 states: rounding the distances is what made long sequences drift.
        dtype = _SUM_DTYPE.get(x_BTD.dtype, x_BTD.dtype)
        return alibi_bias(positions_BT, allowed_BTS, self.slopes(dtype), key_positions_BS=keys_BS)

    def logits(self, hidden_BTD: Tensor, ranges: Sequence[tuple[int, int]] | None = None) -> Tensor:
        """Scores of all ids, or of the half-open id ranges given, one after the other: (B, T, n)."""
        weights = [self.lm_head.weight] if ranges is None else [self.lm_head.weight[a:b] for a, b in ranges]
        scores = [F.linear(hidden_BTD, weight) for weight in weights]
        joined = scores[0] if len(scores) == 1 else torch.cat(scores, -1)
        return joined if self.config.logit_scale == 1.0 else joined * self.config.logit_scale

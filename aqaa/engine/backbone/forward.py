"""Runs rows, one token of one request each, through the decoder's layers: exactly or freely shaped."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aqaa.engine.backbone.cache import SlotCache
from aqaa.engine.backbone.weights import DecoderWeights

#: Rows of a tile in exact mode. A product's bits depend on its row count, not on which row or whose.
TILE_ROWS = 8

#: Rows of further tiles, for one answer and for long prompts. They may be used where the start-up test finds
#: their bits equal to those of TILE_ROWS.
NARROW_TILE_ROWS, WIDE_TILE_ROWS = 4, 64

#: In exact mode a row's keys are padded to the next multiple of this beyond its own position.
KEY_SPAN = 64

#: Rows of one pass in fast mode, bounding the attention scores' memory.
FAST_ROWS = 256


class Row(NamedTuple):
    """One token to compute: its keys and values go to (slot, position)."""

    token_id: int
    slot: int
    position: int


class Run(NamedTuple):
    """Rows [start, stop) of a tile that one attention call serves.

    They are one position in each of neighbouring slots or, where `shared`, several positions of one slot.
    `span` keys are read; `bias` is (rows, G, queries a group, span).
    """

    start: int
    stop: int
    slot: int
    shared: bool
    span: int
    bias: Tensor


def tile_rows(left: int, tiles: Sequence[int]) -> int:
    """The tile to compute next of ``left`` rows: the narrowest that holds them, or the largest they fill."""
    for size in sorted(tiles):
        if left <= size <= TILE_ROWS:
            return size
    return max(size for size in tiles if size <= left)


class Forward:
    """The decoder's layers over a slot cache.

    Exact, with `tiles` given: every product has one of these row counts, and each row attends on its own over
    a key length that only its position decides, so a row's bits are the same in prefill, decoding, resuming
    and any company. Fast, with `tiles` empty: shapes follow the work at hand.
    """

    def __init__(self, weights: DecoderWeights, cache: SlotCache, tiles: Sequence[int] = ()) -> None:
        self.weights, self.cache, self.tiles = weights, cache, tuple(tiles)
        self.exact = bool(tiles)
        config, capacity = weights.config, cache.capacity
        # The bias of key j at position p is table[:, capacity - 1 - p + j]: a stretch of it for each p.
        distance = torch.arange(capacity - 1, -1, -1, dtype=torch.float32)
        table_HW = torch.full((config.num_attention_heads, 2 * capacity), -math.inf)
        table_HW[:, :capacity] = -weights.slopes[:, None] * distance.sqrt()
        self._bias_CHS = table_HW.as_strided((capacity, table_HW.shape[0], capacity), (1, 2 * capacity, 1))

    @torch.inference_mode()
    def run(self, rows: Sequence[Row]) -> Tensor:
        """Compute rows in order; a row sees what earlier rows of its slot have written.

        Returns:
            (len(rows), D) float32 after the final norm.
        """
        computed, start = [], 0
        while start < len(rows):
            size = (
                tile_rows(len(rows) - start, self.tiles) if self.exact else min(len(rows) - start, FAST_ROWS)
            )
            computed.append(self._tile(rows[start : start + size], size))
            start += size
        return computed[0] if len(computed) == 1 else torch.cat(computed)

    def _tile(self, rows: Sequence[Row], padded: int) -> Tensor:
        weights, config, cache = self.weights, self.weights.config, self.cache
        groups, size = config.num_attention_groups, config.head_dim
        real, width = len(rows), config.hidden_size
        ids = torch.tensor([row.token_id for row in rows] + [0] * (padded - real))
        places = cache.rows_of([row.slot for row in rows], [row.position for row in rows])
        runs = tuple(self._runs(rows))
        x_ND = weights.embeddings.index_select(0, ids)
        mixed_ND = torch.zeros(padded, width)
        mixed_NGQd = mixed_ND.view(padded, groups, -1, size)
        for layer, kv_Rd, keys, values in zip(
            weights.layers, cache.rows, cache.keys, cache.values, strict=True
        ):
            qkv = layer.query_key_value(layer.input_norm(x_ND))
            kv_Rd.index_copy_(0, places, qkv[:real, width:].reshape(-1, size))
            query_NGQd = qkv[:, :width].view(padded, groups, -1, size)
            for run in runs:
                self._attend(run, query_NGQd, keys, values, mixed_NGQd)
            x_ND = x_ND + layer.attention_out(mixed_ND)
            gate_up = layer.gate_up(layer.post_norm(x_ND))
            gate, up = gate_up.chunk(2, 1)
            x_ND = x_ND + layer.down(F.silu(gate).mul_(up))
        return weights.norm(x_ND)[:real]

    def _runs(self, rows: Sequence[Row]) -> Iterator[Run]:
        start = 0
        while start < len(rows):
            stop, shared = start + 1, False
            span = self._span(rows[start].position)
            while stop < len(rows) and (not self.exact or self._span(rows[stop].position) == span):
                step = rows[stop].slot - rows[stop - 1].slot
                if step not in (0, 1) or (stop - start > 1 and shared != (step == 0)):
                    break
                shared, stop = step == 0, stop + 1
            members = rows[start:stop]
            span = max(self._span(row.position) for row in members)
            first = torch.tensor([self.cache.capacity - 1 - row.position for row in members])
            bias_NHS = self._bias_CHS[:, :, :span].index_select(0, first)
            groups = self.weights.config.num_attention_groups
            yield Run(
                start, stop, rows[start].slot, shared, span, bias_NHS.view(len(members), groups, -1, span)
            )
            start = stop

    def _span(self, position: int) -> int:
        """How many keys a row at this position is given, the masked ones at the end included."""
        if not self.exact:
            return position + 1
        return min(-(-(position + 1) // KEY_SPAN) * KEY_SPAN, self.cache.capacity)

    def _attend(self, run: Run, query_NGQd: Tensor, keys: Tensor, values: Tensor, out_NGQd: Tensor) -> None:
        count = run.stop - run.start
        slots = slice(run.slot, run.slot + (1 if run.shared else count))
        key, value = keys[slots, :, : run.span], values[slots, :, : run.span]
        query = query_NGQd[run.start : run.stop]
        if run.shared and not self.exact:
            # One slot, many positions: they become queries of a single attention.
            query = query.permute(1, 0, 2, 3).flatten(1, 2)[None]
            bias = run.bias.permute(1, 0, 2, 3).flatten(1, 2)[None]
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
            out_NGQd[run.start : run.stop] = (
                mixed[0].view(query_NGQd.shape[1], count, -1, query_NGQd.shape[3]).transpose(0, 1)
            )
            return
        if run.shared:
            key, value = (x.expand(count, -1, -1, -1) for x in (key, value))
        out_NGQd[run.start : run.stop] = F.scaled_dot_product_attention(query, key, value, attn_mask=run.bias)

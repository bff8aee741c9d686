"""Scores the ids that the grammar allows next, from contiguous slices of the output head."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from aqaa.engine.backbone.forward import TILE_ROWS, tile_rows
from aqaa.engine.backbone.kernels import Product
from aqaa.engine.backbone.weights import COLUMNS, DecoderWeights
from aqaa.tokens.classes import Choice, Choices

Scored = list[tuple[Choice, NDArray[np.float32]]]

#: Legal ranges closer than this many ids are computed as one slice: a product costs more than these columns.
_GAP = 128


class _Plan(NamedTuple):
    """Blocks of ids to score, and where each choice's ranges lie in them: (block, first, last) triples."""

    blocks: tuple[tuple[int, int], ...]
    parts: tuple[tuple[tuple[int, int, int], ...], ...]


class Head:
    """The output head.

    In exact mode, with `tiles` given, rows are padded to one of these counts, at most TILE_ROWS; the slices a
    row is scored with depend on its choices alone.
    """

    def __init__(self, weights: DecoderWeights, tiles: Sequence[int] = ()) -> None:
        self._head_VD, self._tiles = weights.head, tuple(tiles)
        self._plans: dict[Choices, _Plan] = {}
        self._slices: dict[tuple[int, int], Product] = {}

    @torch.inference_mode()
    def score(self, hidden_ND: Tensor, choices: Sequence[Choices]) -> list[Scored]:
        """For each row, its legal choices with float32 logits concatenated over each choice's ranges."""
        scored: list[Scored] = []
        for start in range(0, len(choices), TILE_ROWS):
            scored += self._tile(hidden_ND[start : start + TILE_ROWS], choices[start : start + TILE_ROWS])
        return scored

    def _tile(self, hidden_ND: Tensor, choices: Sequence[Choices]) -> list[Scored]:
        if self._tiles:
            missing = tile_rows(len(choices), self._tiles) - len(choices)
            hidden_ND = F.pad(hidden_ND, (0, 0, 0, missing))
        computed: dict[tuple[int, int], NDArray[np.float32]] = {}
        scored = []
        for row, legal in enumerate(choices):
            plan = self._plans.get(legal) or self._plans.setdefault(legal, _plan(legal))
            for low, high in plan.blocks:
                if (low, high) not in computed:
                    computed[low, high] = self._slice(low, high)(hidden_ND).numpy()
            pieces = (
                [computed[plan.blocks[block]][row, first:last] for block, first, last in parts]
                for parts in plan.parts
            )
            scored.append(
                [
                    (choice, found[0] if len(found) == 1 else np.concatenate(found))
                    for choice, found in zip(legal, pieces, strict=True)
                ]
            )
        return scored

    def _slice(self, low: int, high: int) -> Product:
        found = self._slices.get((low, high))
        if found is None:
            found = self._slices[low, high] = Product(self._head_VD[low:high])
        return found


def _plan(choices: Choices) -> _Plan:
    blocks: list[tuple[int, int]] = []
    for low, high in sorted(part for choice in choices for part in choice.ranges):
        low, high = low // COLUMNS * COLUMNS, -(-high // COLUMNS) * COLUMNS
        if blocks and low - blocks[-1][1] < _GAP:
            blocks[-1] = blocks[-1][0], max(high, blocks[-1][1])
        else:
            blocks.append((low, high))

    def within(low: int, high: int) -> tuple[int, int, int]:
        index = next(i for i, (first, last) in enumerate(blocks) if first <= low and high <= last)
        return index, low - blocks[index][0], high - blocks[index][0]

    parts = tuple(tuple(within(low, high) for low, high in choice.ranges) for choice in choices)
    return _Plan(tuple(blocks), parts)

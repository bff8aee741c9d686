"""The start-up test of exact mode: do this machine's kernels give a row the same bits in any company?"""

from collections.abc import Sequence

import torch

from aqaa.engine.backbone.cache import SlotCache
from aqaa.engine.backbone.forward import KEY_SPAN, NARROW_TILE_ROWS, TILE_ROWS, WIDE_TILE_ROWS, Forward, Row
from aqaa.engine.backbone.head import Head
from aqaa.engine.backbone.weights import DecoderWeights
from aqaa.errors import AqaaError
from aqaa.tokens.classes import Choice, TokenClass

_SEED = 20250
_PREFILLED, _AGAIN, _COMPANY = range(3)


def exact_tiles(weights: DecoderWeights, capacity: int) -> tuple[int, ...]:
    """The tile sizes that exact mode may use here: TILE_ROWS, and others where their bits are the same.

    The answer is a function of the CPU type, the libraries and the thread count, as the bits themselves are.

    Raises:
        AqaaError: not even TILE_ROWS holds; the engine must then be started in fast mode.
    """
    if not decoding_equals_prefill(weights, capacity, [TILE_ROWS]):
        raise AqaaError(
            f"exact mode: a row's bits depend on its company with {torch.get_num_threads()} threads, "
            "expected equal bits; use fast mode on this machine"
        )
    others = [
        size
        for size in (NARROW_TILE_ROWS, WIDE_TILE_ROWS)
        if size <= capacity and decoding_equals_prefill(weights, capacity, [TILE_ROWS, size])
    ]
    return tuple(sorted([TILE_ROWS, *others]))


def decoding_equals_prefill(weights: DecoderWeights, capacity: int, tiles: Sequence[int]) -> bool:
    """Whether a row's bits are the same in the largest tile and in smaller work, alone or in company.

    Ids are prefilled in one slot as one tile, and computed again in another in smaller parts (one by one, or
    by TILE_ROWS where the tile is a wide one) beside none to seven rows of a third. States, keys, values and
    logits must be equal bit for bit, at several lengths up to `capacity`.
    """
    generator = torch.Generator().manual_seed(_SEED)
    cache = SlotCache(weights.config, 3, capacity)
    # Ordinary content for the positions that the test does not compute.
    cache.by_slot_LKSGCd.normal_(generator=generator)
    cache.by_slot_LKSGCd[:, :, _AGAIN] = cache.by_slot_LKSGCd[:, :, _PREFILLED]
    forward, head = Forward(weights, cache, tiles), Head(weights, tiles)
    size = max(tiles, default=TILE_ROWS)
    part = 1 if size == TILE_ROWS else TILE_ROWS
    vocabulary = weights.config.vocab_size
    # Wide and narrow slices of the head, and one that begins in the middle.
    slices = ((0, vocabulary), (0, 1), (vocabulary // 3, vocabulary // 2))
    legal = [(Choice(TokenClass.TEXT, (slices[row % len(slices)],)),) for row in range(size)]
    for edge in (0, 3 * KEY_SPAN, capacity):
        # A tile across the edge of a key span, where it needs two attention calls.
        start = max(0, min(edge - size // 2, capacity - size))
        ids = torch.randint(vocabulary, (size,), generator=generator).tolist()
        rows = [Row(token_id, _AGAIN, start + index) for index, token_id in enumerate(ids)]
        prefill_ND = forward.run([row._replace(slot=_PREFILLED) for row in rows])
        prefill_scores = head.score(prefill_ND, legal)
        for first in range(0, size, part):
            mates = [row._replace(slot=_COMPANY) for row in rows[: first // part % TILE_ROWS]]
            before = len(mates) // 2
            together_ND = forward.run([*mates[:before], *rows[first : first + part], *mates[before:]])
            again_ND, same = together_ND[before : before + part], slice(first, first + part)
            if not torch.equal(again_ND, prefill_ND[same]):
                return False
            scores = zip(head.score(again_ND, legal[same]), prefill_scores[same], strict=True)
            if any((again[0][1] != once[0][1]).any() for again, once in scores):
                return False
        if not torch.equal(cache.by_slot_LKSGCd[:, :, _AGAIN], cache.by_slot_LKSGCd[:, :, _PREFILLED]):
            return False
    return True

"""The start-up test of exact mode: do this machine's kernels give a row the same bits in any company?"""

import torch

from aqaa.engine.backbone.cache import SlotCache
from aqaa.engine.backbone.forward import KEY_SPAN, TILE_ROWS, Forward, Mode, Row
from aqaa.engine.backbone.head import Head
from aqaa.engine.backbone.weights import DecoderWeights
from aqaa.errors import AqaaError
from aqaa.tokens.classes import Choice, TokenClass

_SEED = 20250
_PREFILLED, _DECODED, _COMPANY = range(3)


def check_exactness(weights: DecoderWeights, capacity: int, mode: Mode = "exact") -> None:
    """Compare prefill with decoding, alone and in company, over several key lengths up to `capacity`.

    The same ids are prefilled in one slot, a tile at a time, and decoded in another beside none to seven rows
    of a third. States, keys, values and logits must be equal bit for bit.

    Raises:
        AqaaError: they are not; the engine must then be started in fast mode.
    """
    generator = torch.Generator().manual_seed(_SEED)
    cache = SlotCache(weights.config, 3, capacity)
    # Ordinary content for the positions that the test does not compute.
    cache.by_slot_LSCE.normal_(generator=generator)
    cache.by_slot_LSCE[:, _DECODED] = cache.by_slot_LSCE[:, _PREFILLED]
    forward, head = Forward(weights, cache, mode), Head(weights, exact=mode == "exact")
    vocabulary = weights.config.vocab_size
    legal = (Choice(TokenClass.TEXT, ((0, vocabulary),)),)
    edges = {0, capacity // 2, capacity - TILE_ROWS // 2, *range(KEY_SPAN, capacity, 4 * KEY_SPAN)}
    for edge in sorted(edges):
        # A tile across the edge of a key span, where prefill needs two attention calls.
        start = max(0, min(edge - TILE_ROWS // 2, capacity - TILE_ROWS))
        stop = min(start + TILE_ROWS, capacity)
        ids = torch.randint(vocabulary, (stop - start,), generator=generator).tolist()
        prefill_ND = forward.run([Row(ids[p - start], _PREFILLED, p) for p in range(start, stop)])
        logits = head.score(prefill_ND, [legal] * len(ids))
        for index, token_id in enumerate(ids):
            row = Row(token_id, _DECODED, start + index)
            company = [Row(token_id, _COMPANY, p) for p in range(start, start + index)]
            rows = [*company[index // 2 :], row, *company[: index // 2]]
            hidden_ND, at = forward.run(rows), rows.index(row)
            again = head.score(hidden_ND, [legal] * len(rows))[at]
            if not (
                torch.equal(hidden_ND[at], prefill_ND[index])
                and (again[0][1] == logits[index][0][1]).all()
                and torch.equal(
                    cache.by_slot_LSCE[:, _DECODED, row.position],
                    cache.by_slot_LSCE[:, _PREFILLED, row.position],
                )
            ):
                raise AqaaError(
                    f"exact mode: position {row.position} differs between prefill and decoding with "
                    f"{torch.get_num_threads()} threads, expected equal bits; use fast mode on this machine"
                )

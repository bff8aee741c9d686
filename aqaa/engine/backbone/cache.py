"""Keys and values of all requests: one slot of fixed capacity each, kept after use to share prefixes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from aqaa.models.step1 import Step1Config


class SlotCache:
    """A static key/value cache and the record of which ids each slot holds.

    A slot is taken by `acquire` and given back by `release`; what it holds stays until the slot is taken
    again, oldest release first. A new request copies the longest prefix that some slot, busy or free, already
    holds: that is how a second task forks from a running request's prompt, and how a session's next turn
    finds its history.

    Attributes:
        by_slot_LKSGCd: (layers, 2, slots, G, capacity, d) float32, keys before values. A head's positions lie
            side by side: a power of two apart, they would push each other out of the processor's caches.
        rows: per layer (2 · slots · G · capacity, d), a view.
        keys, values: per layer, views of them as (slots, G, capacity, d).
    """

    def __init__(self, config: Step1Config, slots: int, capacity: int) -> None:
        self.slots, self.capacity = slots, capacity
        groups, size = config.num_attention_groups, config.head_dim
        # Zeros, not empty: masked keys are still multiplied, and a NaN would survive the mask.
        self.by_slot_LKSGCd = torch.zeros(config.num_hidden_layers, 2, slots, groups, capacity, size)
        self.rows: tuple[Tensor, ...] = self.by_slot_LKSGCd.flatten(1, 4).unbind()
        self.keys, self.values = (half.unbind() for half in self.by_slot_LKSGCd.unbind(1))
        # Of position 0 of slot 0, the rows of its keys and values; each position is one row further.
        self._first_rows_KG = torch.arange(2 * slots * groups).view(2, slots, groups)[:, 0] * capacity
        self._slot_rows = groups * capacity
        self._held: list[list[int]] = [[] for _ in range(slots)]
        self._free: dict[int, None] = dict.fromkeys(range(slots))

    @property
    def free_slots(self) -> int:
        return len(self._free)

    def rows_of(self, slots: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Which `rows` hold the keys and values of N places: (N · 2 · G,), a place's own side by side."""
        firsts_N = torch.tensor([s * self._slot_rows + p for s, p in zip(slots, positions, strict=True)])
        return (firsts_N[:, None] + self._first_rows_KG.flatten()).flatten()

    def acquire(self, ids: Sequence[int]) -> tuple[int, int] | None:
        """Take a slot for a sequence that begins with `ids`.

        Returns:
            (slot, n) with the keys and values of `ids[:n]` in place, n < len(ids) because the state after the
            last id is not kept; None when every slot is taken.
        """
        if not self._free:
            return None
        shared = [_shared_prefix(held, ids) for held in self._held]
        source = max(range(self.slots), key=shared.__getitem__)
        reused = min(shared[source], max(len(ids) - 1, 0))
        slot = next(iter(self._free))
        del self._free[slot]
        if slot != source and reused:
            self.by_slot_LKSGCd[:, :, slot, :, :reused] = self.by_slot_LKSGCd[:, :, source, :, :reused]
        self._held[slot] = list(ids[:reused])
        return slot, reused

    def record(self, slot: int, ids: Sequence[int]) -> None:
        """Note that the keys and values of these next ids have been written to a slot."""
        self._held[slot].extend(ids)

    def release(self, slot: int) -> None:
        """Give a slot back; its content remains a source of prefixes until it is overwritten."""
        self._free[slot] = None


def _shared_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))

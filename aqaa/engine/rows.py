"""Batches whose rows have the bits that each row has alone: what that takes, and a test of whether it holds.

Most kernels give a row the same bits in any company as long as its own shape stays: a linear layer over
(B, T, D) does. Two do not, because they choose an algorithm by the number of rows: a dense convolution, and a
linear layer over bare vectors (B, D). They are few and cheap, so ``RowByRow`` computes them one row after
another, and the rest of the network runs as one batch. Whether all of it holds is a property of the machine
and its libraries; ``equal_sizes`` finds out.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

SIZES = (1, 2, 4, 8, 16)
"""Rows that a batch may have: a few, so that each can be tested before it is used."""

Watch = Callable[[str, int], AbstractContextManager[object]]
"""Entered around a pass through a network: its name, and the rows of its batch."""

Item = TypeVar("Item")


def unwatched(network: str, rows: int) -> AbstractContextManager[object]:
    """The Watch that sees nothing."""
    return nullcontext()


class RowByRow(nn.Module):
    """A layer whose rows must not see each other: its batch is computed one row after another.

    A linear layer over more than bare vectors is computed at once.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1 or (isinstance(self.layer, nn.Linear) and x.dim() > 2):
            out: Tensor = self.layer(x)
            return out
        return torch.cat([self.layer(row) for row in torch.split(x, 1)])


def keep_rows_apart(network: nn.Module) -> None:
    """Puts a RowByRow around each layer of a network that needs it. A row alone keeps its bits."""
    for parent in [part for part in network.modules() if not isinstance(part, RowByRow)]:
        for name, layer in list(parent.named_children()):
            dense = isinstance(layer, nn.Conv1d) and layer.groups == 1
            if dense or isinstance(layer, nn.ConvTranspose1d | nn.Linear):
                setattr(parent, name, RowByRow(layer))


@torch.inference_mode()
def equal_sizes(rows: int, run: Callable[[slice], Sequence[Tensor]]) -> tuple[int, ...]:
    """The SIZES up to ``rows`` in which every row has the bits that it has alone; 1 always.

    ``run`` computes a slice of ``rows`` rows that it holds, as one batch; of each tensor that it gives, the
    first axis is the rows.
    """
    alone = [run(slice(row, row + 1)) for row in range(rows)]

    def holds(size: int) -> bool:
        for first in range(0, rows - size + 1, size):
            together = run(slice(first, first + size))
            for row in range(size):
                own = zip(together, alone[first + row], strict=True)
                if not all(torch.equal(batch[row : row + 1], one) for batch, one in own):
                    return False
        return True

    return (1, *(size for size in SIZES if 1 < size <= rows and holds(size)))


def in_all(found: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """The sizes that every one of ``found`` has, ascending; there is at least one."""
    return tuple(sorted(set.intersection(*map(set, found))))


def in_sizes(items: Sequence[Item], sizes: Sequence[int]) -> Iterator[Sequence[Item]]:
    """``items`` in order, in batches of ``sizes``, each the largest that is left to fill."""
    first = 0
    while first < len(items):
        size = max(size for size in sizes if size <= len(items) - first)
        yield items[first : first + size]
        first += size

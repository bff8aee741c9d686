"""The tile schedule: which groups a vocoder solves together, a pure function of the group's index.

Tile k sounds the groups [start, stop) of its segment and is solved on a window of ``left`` groups before
them and ``right`` after. Neither arrival nor pacing moves an edge, so a stream, a resumed stream and a whole
answer are cut alike. A window's tensors have one of a few lengths; a place without a group is marked as such.
"""

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate

from aqaa.bundle.schema import Tiles


@dataclass(frozen=True)
class Tile:
    """One tile, in groups of its segment; those before 0 and from the segment's end on do not exist.

    start, stop  what it sounds
    first, last  its window: groups the solver may see, ``first`` maybe below 0
    length       groups of its tensors, at least ``last - first``
    """

    index: int
    start: int
    stop: int
    first: int
    last: int
    length: int


@dataclass(frozen=True)
class TilePlan:
    """Sizes of tiles in groups; the last entry of ``schedule`` repeats.

    Raises ValueError for a plan that makes no progress or whose largest window fits no shape.
    """

    schedule: tuple[int, ...]
    left: int
    right: int
    shapes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.schedule or min(self.schedule) < 1 or min(self.left, self.right) < 0:
            raise ValueError(
                f"tiles of at least one group and contexts of at least none expected, got {self}"
            )
        largest = self.left + max(self.schedule) + self.right
        if max(self.shapes, default=0) < largest:
            raise ValueError(f"no shape of {self.shapes} holds the largest window of {largest} groups")

    @classmethod
    def of(cls, tiles: Tiles) -> "TilePlan":
        """The plan that a manifest states."""
        return cls(tiles.schedule, tiles.left_groups, tiles.right_groups, tiles.shapes)

    @cached_property
    def _starts(self) -> list[int]:
        """Where each tile of the schedule begins."""
        return list(accumulate(self.schedule, initial=0))[:-1]

    def start(self, index: int) -> int:
        """The first group of tile ``index``."""
        beyond = max(0, index - len(self.schedule) + 1)
        return self._starts[index - beyond] + beyond * self.schedule[-1]

    def index(self, group: int) -> int:
        """The tile that sounds a group."""
        last = self._starts[-1]
        if group < last:
            return bisect_right(self._starts, group) - 1
        return len(self._starts) - 1 + (group - last) // self.schedule[-1]

    def count(self, groups: int) -> int:
        """Tiles of a segment of so many groups."""
        return self.index(groups - 1) + 1 if groups else 0

    def needs(self, index: int) -> int:
        """How many groups must be known before a tile can be solved, unless the segment ends first."""
        return self.start(index + 1) + self.right

    def tile(self, index: int, groups: int | None = None) -> Tile:
        """Tile ``index`` of a segment of ``groups`` groups, or of one that goes on beyond its window."""
        start, stop, last = self.start(index), self.start(index + 1), self.needs(index)
        if groups is not None:
            stop, last = min(stop, groups), min(last, groups)
        first = start - self.left
        length = min(shape for shape in self.shapes if shape >= last - first)
        return Tile(index, start, stop, first, last, length)


@dataclass(frozen=True)
class FrameGrid:
    """Where groups fall on mel frames: ``per_group`` is 12 for nano, 10.34 for 22.05 kHz and a hop of 256.

    Edges are absolute, so that a rate which is not whole neither drifts nor plays fast.
    """

    per_group: Fraction

    def edge(self, group: int) -> int:
        """The first frame of a group; negative before the segment."""
        return self.per_group.numerator * group // self.per_group.denominator

    def group(self, frame: int) -> int:
        """The group that a frame belongs to: the last whose edge is not after it."""
        return (
            frame * self.per_group.denominator + self.per_group.denominator - 1
        ) // self.per_group.numerator

    def most(self, groups: int) -> int:
        """The most frames that so many groups in a row can have."""
        return -(-self.per_group.numerator * groups // self.per_group.denominator)

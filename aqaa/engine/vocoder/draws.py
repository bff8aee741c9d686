"""The random numbers of one segment, each a pure function of seed, segment and place."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aqaa.errors import StateError
from aqaa.tokens.philox import Domain, keyed_normals, uniform

_SEGMENT_BITS = 32
_ORIGIN = 1 << 31  # the row of place 0: contexts reach before it


@dataclass(frozen=True)
class SegmentDraws:
    """``seed`` is the turn's (64 bits), ``segment`` counts the turn's segments (32 bits).

    A segment takes 2^32 rows of a domain, so no two segments share a number. Raises StateError outside these.
    """

    seed: int
    segment: int

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 64:
            raise StateError(f"seed is {self.seed}, expected 0 … 2^64 - 1")
        if not 0 <= self.segment < 1 << _SEGMENT_BITS:
            raise StateError(f"segment is {self.segment}, expected 0 … 2^{_SEGMENT_BITS} - 1")

    def normals(self, domain: Domain, place: int, count: int, lanes: int) -> NDArray[np.float32]:
        """Standard normals (count, lanes) from ``place`` on, a frame or a sample in -2^31 … 2^31 - 1."""
        row = (self.segment << _SEGMENT_BITS) + _ORIGIN + place
        return keyed_normals(self.seed, domain, row, count, lanes)

    def phase(self, lane: int = 0) -> int:
        """A starting phase in turns of 2^-64."""
        return int(uniform(self.seed, Domain.SOURCE_PHASE, self.segment, lane) * 2.0**64)

"""How audible the joins of a tiled wave are: its curvature there, against its curvature elsewhere."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_REACH = 2  # samples on each side of a join whose second difference a step would raise
_NEAR = 240  # samples on each side that are elsewhere, but equally loud


def join_discontinuity(pcm: NDArray[np.float32], joins: Iterable[int]) -> float:
    """Mean energy of the second difference at the joins over its mean around them.

    ``pcm`` is (n,) float; a join is the index of the first sample behind it. 1 means that joins are like
    any other place; a step of a tenth of the amplitude gives thousands. Joins in digital silence do not
    count. NaN if none is left.
    """
    curvature = np.square(np.diff(np.asarray(pcm, np.float64), 2))
    at, around = [], []
    for join in joins:
        # The second difference at i spans the samples i … i + 2.
        first, last = join - 2 - _REACH + 1, join + _REACH - 1
        if first - _NEAR < 0 or last + _NEAR > len(curvature):
            continue
        near = np.concatenate((curvature[first - _NEAR : first], curvature[last : last + _NEAR]))
        if near.mean() > 0:
            at.append(curvature[first:last].mean())
            around.append(near.mean())
    return float(np.mean(at) / np.mean(around)) if at else float("nan")

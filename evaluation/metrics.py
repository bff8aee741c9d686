"""Rates, word error rates and means, each with a 95 % interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from evaluation.judge import normalise

RESAMPLES = 2000
_Z95 = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A figure over ``n`` cases with its 95 % interval; all three are NaN where there is no case."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def none(cls) -> Estimate:
        return cls(float("nan"), float("nan"), float("nan"), 0)


def rate(verdicts: Iterable[bool]) -> Estimate:
    """The share of true verdicts with the Wilson score interval."""
    cases = list(verdicts)
    n = len(cases)
    if n == 0:
        return Estimate.none()
    share, z2 = sum(cases) / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At a share of 0 or 1 the interval ends there exactly; rounding must not leave the value outside.
    return Estimate(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)), n)


def word_errors(reference: str, heard: str) -> tuple[int, int]:
    """Insertions, deletions and substitutions between normalised texts, and the words of the reference."""
    wanted, found = normalise(reference).split(), normalise(heard).split()
    row = list(range(len(found) + 1))
    for i, word in enumerate(wanted, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(found, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1], len(wanted)


def word_error_rate(pairs: Iterable[tuple[str, str]], seed: int = 0) -> Estimate:
    """All word errors over all reference words of (reference, heard) pairs; the interval resamples pairs.

    A text heard where the reference has no words counts as errors against nothing, not as no error.
    """
    counts = np.array([word_errors(*pair) for pair in pairs], np.float64).reshape(-1, 2)
    return _bootstrap(counts, lambda rows: rows[..., 0].sum(-1) / np.maximum(rows[..., 1].sum(-1), 1), seed)


def mean(values: Sequence[float], seed: int = 0) -> Estimate:
    """The mean with a bootstrap interval."""
    return _bootstrap(np.asarray(values, np.float64).reshape(-1, 1), lambda rows: rows[..., 0].mean(-1), seed)


def _bootstrap(
    cases: NDArray[np.float64], statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]], seed: int
) -> Estimate:
    """Percentile interval over :data:`RESAMPLES` draws of whole cases (n, k) with replacement."""
    n = len(cases)
    if n == 0:
        return Estimate.none()
    draws = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
    low, high = np.percentile(statistic(cases[draws]), (2.5, 97.5))
    return Estimate(float(statistic(cases)), float(low), float(high), n)

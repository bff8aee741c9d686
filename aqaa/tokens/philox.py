"""Random numbers that are pure functions of (seed, domain, index, lane): Philox4x32-10, uniforms and normals.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011) and the vectors of Random123.
The key is the turn seed (64 bits), the counter is (lane, index low, index high, domain), 32 bits each.
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_LOW = 0xFFFFFFFF
_HALF = np.uint64(32)

_CHUNK = 8192  # counters worked on at a time, so that their words stay in the second-level cache

Words = NDArray[np.uint64]
"""32-bit words, each in 64 bits of room for its product."""


class Domain(IntEnum):
    """What a draw is for. Two uses of one domain would see the same numbers."""

    TOKEN = 1
    FLOW_NOISE = 2
    SOURCE_PHASE = 3
    SOURCE_NOISE = 4


def philox4x32(counter: ArrayLike, key: tuple[int, int]) -> NDArray[np.uint32]:
    """Counters (..., 4) under a key of two 32-bit words to random words (..., 4), uint32."""
    counters = np.asarray(counter, np.uint64)
    mixed = _mix([np.array(word) for word in counters.reshape(-1, 4).T], key)
    return np.stack(mixed, axis=-1).astype(np.uint32).reshape(counters.shape)


def uniforms(seed: int, domain: int, index: int, lanes: int) -> NDArray[np.float64]:
    """``lanes`` uniform numbers in [0, 1), float64 (lanes,); lane l is ``uniform(…, l)``."""
    return np.array([uniform(seed, domain, index, lane) for lane in range(lanes)], np.float64)


def uniform(seed: int, domain: int, index: int, lane: int) -> float:
    """One uniform number in [0, 1) with 53 random bits."""
    # Plain integers: for a single draw they are ten times cheaper than arrays of one.
    k0, k1 = _key(seed)
    c0, c1, c2, c3 = lane, index & _LOW, index >> 32, int(domain)
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _LOW, (p0 >> 32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return ((c0 >> 5) * 67108864 + (c1 >> 6)) / 9007199254740992


def keyed_normals(seed: int, domain: int, index: int, count: int, lanes: int) -> NDArray[np.float32]:
    """Standard normal numbers of rows ``index`` … ``index + count - 1``, float32 (count, lanes).

    Row and lane alone decide a number: any slice of rows and any smaller ``lanes`` gives the same bits. Four
    lanes share one counter, so a multiple of four wastes none. Box–Muller on 24-bit uniforms: |x| < 5.8.
    """
    key = _key(seed)
    quads = -(-lanes // 4)
    normals = np.empty((count * quads, 4), np.float32)
    lane = np.arange(quads, dtype=np.uint64)
    rows = max(1, _CHUNK // max(1, quads))
    for first in range(0, count, rows):
        row = np.arange(first, min(first + rows, count), dtype=np.uint64) + np.uint64(index)
        row = np.repeat(row, quads)
        counter = [
            np.tile(lane, len(row) // quads),
            row & np.uint64(_LOW),
            row >> _HALF,
            np.full(len(row), domain, np.uint64),
        ]
        words = _mix(counter, key)
        part = normals[first * quads :][: len(row)]
        for pair in (0, 2):
            radius = _unit(words[pair])
            radius += np.float32(2.0**-24)  # (0, 1]: the logarithm stays finite
            np.log(radius, out=radius)
            radius *= np.float32(-2)
            np.sqrt(radius, out=radius)
            angle = _unit(words[pair + 1])
            angle *= np.float32(2 * np.pi)
            np.multiply(radius, np.cos(angle), out=part[:, pair])
            np.multiply(radius, np.sin(angle), out=part[:, pair + 1])
    return normals.reshape(count, quads * 4)[:, :lanes]


def _key(seed: int) -> tuple[int, int]:
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed is {seed}, expected [0, 2^64)")
    return seed & _LOW, seed >> 32


def _unit(words: Words) -> NDArray[np.float32]:
    """The upper 24 bits of each word as [0, 1), exact in float32."""
    unit = (words >> np.uint64(8)).astype(np.int32).astype(np.float32)
    unit *= np.float32(2.0**-24)
    return unit


def _mix(counter: Sequence[Words], key: tuple[int, int]) -> Sequence[Words]:
    """The ten rounds, in place, on the four words of many counters."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    p0, p1 = np.empty_like(c0), np.empty_like(c0)
    for _ in range(_ROUNDS):
        np.multiply(c0, np.uint64(_M0), out=p0)
        np.multiply(c2, np.uint64(_M1), out=p1)
        np.right_shift(p1, _HALF, out=c0)
        c0 ^= c1
        c0 ^= np.uint64(k0)
        np.right_shift(p0, _HALF, out=c2)
        c2 ^= c3
        c2 ^= np.uint64(k1)
        np.bitwise_and(p1, np.uint64(_LOW), out=c1)
        np.bitwise_and(p0, np.uint64(_LOW), out=c3)
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return counter

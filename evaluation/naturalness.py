"""How natural speech sounds to DNSMOS, a network that predicts listeners' opinion scores (1 to 5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aqaa.audio.resample import resample
from evaluation.judge import RATE

CLIP = round(9.01 * RATE)
"""What the network hears at once: 9.01 s at 16 kHz."""


def tiled(pcm: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) samples repeated to one whole clip; a longer sound stays as it is."""
    return pcm if len(pcm) >= CLIP else np.resize(pcm, CLIP)


def dnsmos(pcm: NDArray[np.float32], rate: int) -> float:
    """The overall score of (n,) float32 PCM at ``rate`` Hz."""
    from speechmos import dnsmos as network

    heard = np.clip(tiled(resample(pcm, rate, RATE)), -1.0, 1.0)
    return float(network.run(heard, RATE)["ovrl_mos"])

"""Silence at the ends of a speaker prompt, as upstream cuts it."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aqaa.audio.frames import Float32, as_pcm, split_frames


@dataclass(frozen=True)
class TrimOptions:
    """``top_db`` below the loudest frame is silence; some of it stays at each end, in seconds.

    The kept length is a multiple of ``grid`` samples plus both margins.
    """

    top_db: float = 20.0
    frame: int = 512
    hop: int = 128
    keep_left: float = 0.05
    keep_right: float = 0.22
    grid: int = 240


UPSTREAM_TRIM = TrimOptions()


def find_speech(pcm: npt.ArrayLike, options: TrimOptions = UPSTREAM_TRIM) -> tuple[int, int]:
    """First sample of speech and the one past its last: ``librosa.effects.trim``, on centred RMS frames.

    ``pcm``: (n,) float. A signal without any sound is all speech, as there; an empty one is (0, 0).
    """
    samples = as_pcm(pcm)
    if not len(samples):
        return 0, 0
    frames = split_frames(np.pad(samples, options.frame // 2), options.frame, options.hop)
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    level_db = 10 * np.log10(np.maximum(power, 1e-10))
    (loud,) = np.nonzero(level_db > level_db.max() - options.top_db)
    return int(loud[0]) * options.hop, min(len(samples), (int(loud[-1]) + 1) * options.hop)


def trim_silence(pcm: npt.ArrayLike, rate: int, options: TrimOptions = UPSTREAM_TRIM) -> Float32:
    """Cut silence from both ends of (n,) float PCM, or pad where the margin is longer than the silence.

    Upstream ``trim_silence``: the result may be longer than the input, with zeros at either end.
    """
    samples = as_pcm(pcm)
    first, end = find_speech(samples, options)
    start = first - int(options.keep_left * rate)
    margins = (options.keep_left + options.keep_right) * rate
    length = int(math.ceil((end - first) / options.grid) * options.grid + margins)
    kept = samples[max(start, 0) :]
    left = max(-start, 0)
    right = max(length - left - len(kept), 0)
    return np.pad(kept, (left, right))[:length]

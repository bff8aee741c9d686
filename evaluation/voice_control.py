"""Voice control: does a segment's speech differ from the same text in the normal voice as it was asked to?

Three measures of each sound: seconds of speech, median F0, level of the speech. The reference is the same
bundle saying the same text with no style, so the text, the voice and the vocoder cancel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FRAME_SECONDS, HOP_SECONDS = 0.025, 0.010
F0_FRAME_SECONDS, F0_RANGE = 0.045, (75.0, 500.0)
SPEECH_RANGE_DB = 35.0  # below the loudest frames: quieter is silence, dither or reverberation
VOICED = 0.6  # normalised autocorrelation


@dataclass(frozen=True)
class VoiceThresholds:
    """What counts as the asked direction, against the normal voice.

    Duration as a ratio, F0 as a relative change, level in dB. "normal" must stay within all of them. They lie
    well inside what the teacher does (pace 0.72 and 1.38, pitch 1.30 and 0.76, level +4.5 and -9 dB) and
    beyond what two takes of one text in one voice differ by.
    """

    slow_longer: float = 1.10
    fast_shorter: float = 0.92
    pitch: float = 0.06
    level_db: float = 2.0


@dataclass(frozen=True)
class Voice:
    """Seconds from the first to the last speech frame, median F0 of the voiced ones in Hz (NaN: none), level
    in dB relative to full scale."""

    seconds: float
    f0_hz: float
    level_db: float


@dataclass(frozen=True)
class Change:
    """A segment against its reference: ratios of duration and F0, difference of level in dB."""

    seconds: float
    f0: float
    level_db: float

    @classmethod
    def between(cls, voice: Voice, reference: Voice) -> Change:
        return cls(
            voice.seconds / reference.seconds if reference.seconds else float("nan"),
            voice.f0_hz / reference.f0_hz,
            voice.level_db - reference.level_db,
        )

    def holds(self, style: str, limits: VoiceThresholds = VoiceThresholds()) -> bool:
        """Whether the change is what ``style`` asks for. What could not be measured (NaN) does not hold.

        Raises ValueError for a style without a measure.
        """
        match style:
            case "slow":
                return self.seconds >= limits.slow_longer
            case "fast":
                return self.seconds <= limits.fast_shorter
            case "high":
                return self.f0 >= 1 + limits.pitch
            case "low":
                return self.f0 <= 1 - limits.pitch
            case "loud":
                return self.level_db >= limits.level_db
            case "soft":
                return self.level_db <= -limits.level_db
            case "normal":
                return (
                    limits.fast_shorter < self.seconds < limits.slow_longer
                    and abs(self.f0 - 1) < limits.pitch
                    and abs(self.level_db) < limits.level_db
                )
        raise ValueError(
            f"style {style!r} has no measure, expected slow, fast, high, low, loud, soft or normal"
        )


def measure(pcm: NDArray[np.float32], rate: int) -> Voice:
    """The voice in (n,) float32 PCM at ``rate`` Hz; silence has no seconds, no F0 and a level of -inf."""
    hop = round(HOP_SECONDS * rate)
    frames_FN = frames(pcm, round(FRAME_SECONDS * rate), hop)
    power = (frames_FN.astype(np.float64) ** 2).mean(1)
    if power.max(initial=0.0) <= 1e-12:
        return Voice(0.0, float("nan"), float("-inf"))
    # The loudest twentieth, not the loudest frame: a click must not hide the speech.
    speech = power > np.percentile(power, 95) * 10 ** (-SPEECH_RANGE_DB / 10)
    inside = np.flatnonzero(speech)
    return Voice(
        seconds=float(inside[-1] - inside[0] + 1) * HOP_SECONDS,
        f0_hz=median_f0(pcm, rate),
        level_db=float(10 * np.log10(power[speech].mean())),
    )


def median_f0(pcm: NDArray[np.float32], rate: int) -> float:
    """Median F0 in Hz of the voiced frames by autocorrelation, each lag divided by the window's own
    (Boersma 1993); NaN where nothing is voiced."""
    size, hop = round(F0_FRAME_SECONDS * rate), round(HOP_SECONDS * rate)
    window = np.hanning(size)
    frames_FN = frames(pcm, size, hop).astype(np.float64)
    frames_FN = (frames_FN - frames_FN.mean(1, keepdims=True)) * window
    power = (frames_FN**2).sum(1)
    frames_FN = frames_FN[power > np.percentile(power, 95) * 10 ** (-(SPEECH_RANGE_DB - 10) / 10)]
    first, last = int(rate / F0_RANGE[1]), int(rate / F0_RANGE[0])
    lags_FL = autocorrelation(frames_FN)[:, : last + 2] / autocorrelation(window[None])[:, : last + 2]
    found = []
    for row in lags_FL / np.maximum(lags_FL[:, :1], 1e-12):
        peaks = np.flatnonzero((row[1:-1] > row[:-2]) & (row[1:-1] >= row[2:])) + 1
        peaks = peaks[peaks >= first]
        if len(peaks) and (best := row[peaks].max()) > VOICED:
            # The shortest lag that is nearly as good: twice the period always fits too.
            lag = int(peaks[row[peaks] > best - 0.08][0])
            before, here, after = row[lag - 1 : lag + 2]
            found.append(rate / (lag + 0.5 * (before - after) / (before - 2 * here + after)))
    return float(np.median(found)) if found else float("nan")


def autocorrelation(frames_FN: NDArray[np.float64]) -> NDArray[np.float64]:
    """(F, N) frames to (F, N) sums at lags 0 … N-1."""
    size = 1 << (2 * frames_FN.shape[1] - 1).bit_length()
    spectrum = np.fft.rfft(frames_FN, size)
    return np.asarray(np.fft.irfft(np.abs(spectrum) ** 2, size)[:, : frames_FN.shape[1]])


def frames(pcm: NDArray[np.float32], size: int, hop: int) -> NDArray[np.float32]:
    """(n,) samples as (F, size) overlapping frames; a shorter signal is one frame filled up with zeros."""
    padded = np.pad(pcm, (0, max(0, size - len(pcm))))
    return np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]

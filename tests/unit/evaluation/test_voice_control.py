"""The measures of voice control on sounds whose duration, F0 and level are known."""

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.voice_control import Change, Voice, measure, median_f0

RATE = 24000
NORMAL = Change(seconds=1.0, f0=1.0, level_db=0.0)


def voiced(f0: float, seconds: float, level: float = 0.1, rate: int = RATE) -> NDArray[np.float32]:
    """Syllables of a pulse train with formants and a slightly falling pitch, dither around."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(f0 * (1.05 - 0.1 * time / seconds)) / rate
    wave = sum(np.cos(h * phase) / (1 + abs(h * f0 / 600 - 1)) for h in range(1, int(4000 / f0)))
    wave = wave * np.clip(np.sin(2 * np.pi * 4 * time) + 0.6, 0.02, None)
    wave = wave * (level / np.sqrt(np.mean(wave**2)))
    pad = round(0.1 * rate)
    sound = np.random.default_rng(1).standard_normal(len(wave) + 2 * pad) * 2e-4
    sound[pad:-pad] += wave
    return sound.astype(np.float32)


@pytest.mark.parametrize("f0", [95.0, 140.0, 190.0, 240.0, 310.0])
@pytest.mark.parametrize("rate", [16000, 24000])
def test_the_pitch_is_found(f0: float, rate: int) -> None:
    assert median_f0(voiced(f0, 1.2, rate=rate), rate) == pytest.approx(f0, rel=0.02)


def test_noise_has_no_pitch() -> None:
    noise = np.random.default_rng(2).standard_normal(RATE).astype(np.float32) * 0.1
    assert math.isnan(median_f0(noise, RATE))


def test_silence_around_speech_does_not_count() -> None:
    once = measure(voiced(200, 1.0), RATE)
    assert once.seconds == pytest.approx(1.0, abs=0.06)
    quiet = np.random.default_rng(3).standard_normal(RATE).astype(np.float32) * 2e-4
    padded = measure(np.concatenate((quiet, voiced(200, 1.0), quiet)), RATE)
    assert padded.seconds == pytest.approx(once.seconds, abs=0.02)
    assert padded.level_db == pytest.approx(once.level_db, abs=0.2)


def test_the_level_is_in_decibels() -> None:
    loud, soft = measure(voiced(200, 1.0, 0.1), RATE), measure(voiced(200, 1.0, 0.05), RATE)
    assert loud.level_db - soft.level_db == pytest.approx(6.02, abs=0.1)


@pytest.mark.parametrize(
    "pcm", [np.zeros(RATE, np.float32), np.zeros(0, np.float32), np.zeros(100, np.float32)]
)
def test_silence_is_measured_and_holds_for_no_style(pcm: NDArray[np.float32]) -> None:
    silence = measure(pcm, RATE)
    assert silence.seconds == 0.0
    change = Change.between(silence, measure(voiced(200, 1.0), RATE))
    assert not any(change.holds(style) for style in ("slow", "high", "low", "loud", "normal"))


@pytest.mark.parametrize(
    ("style", "enough", "too_little"),
    [
        ("slow", replace(NORMAL, seconds=1.11), replace(NORMAL, seconds=1.09)),
        ("fast", replace(NORMAL, seconds=0.91), replace(NORMAL, seconds=0.93)),
        ("high", replace(NORMAL, f0=1.07), replace(NORMAL, f0=1.05)),
        ("low", replace(NORMAL, f0=0.93), replace(NORMAL, f0=0.95)),
        ("loud", replace(NORMAL, level_db=2.1), replace(NORMAL, level_db=1.9)),
        ("soft", replace(NORMAL, level_db=-2.1), replace(NORMAL, level_db=-1.9)),
        ("normal", NORMAL, replace(NORMAL, f0=1.07)),
        ("normal", replace(NORMAL, seconds=1.05, level_db=-1.0), replace(NORMAL, seconds=1.2)),
        ("normal", NORMAL, replace(NORMAL, level_db=-3.0)),
    ],
)
def test_a_style_holds_in_its_direction_only(style: str, enough: Change, too_little: Change) -> None:
    assert enough.holds(style)
    assert not too_little.holds(style)


def test_the_change_is_against_the_reference() -> None:
    change = Change.between(Voice(1.2, 150.0, -20.0), Voice(1.0, 200.0, -26.0))
    assert change == Change(pytest.approx(1.2), pytest.approx(0.75), pytest.approx(6.0))


def test_what_could_not_be_measured_holds_for_nothing() -> None:
    unknown = Change(float("nan"), float("nan"), float("nan"))
    assert not any(unknown.holds(s) for s in ("normal", "slow", "fast", "high", "low", "loud", "soft"))


def test_an_unknown_style_is_an_error() -> None:
    with pytest.raises(ValueError, match="'angry' has no measure"):
        NORMAL.holds("angry")

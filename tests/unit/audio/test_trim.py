"""Silence trim: where speech is found, and the margins that may make a clip longer."""

import numpy as np
import pytest

from aqaa.audio.trim import find_speech, trim_silence

RATE = 16000


def burst(silence_before: int, speech: int, silence_after: int) -> np.ndarray:
    tone = np.sin(np.arange(speech)).astype(np.float32)
    return np.concatenate([np.zeros(silence_before, np.float32), tone, np.zeros(silence_after, np.float32)])


def test_speech_is_found_on_the_frame_grid():
    start, end = find_speech(burst(8000, 4000, 6000))
    assert start % 128 == 0
    assert end % 128 == 0
    assert 8000 - 384 <= start <= 8000
    assert 12000 <= end <= 12000 + 384


def test_the_end_of_speech_is_never_past_the_signal():
    assert find_speech(np.ones(1000, np.float32)) == (0, 1000)


@pytest.mark.parametrize("samples", [0, 1, 700])
def test_a_signal_without_sound_is_all_speech(samples):
    assert find_speech(np.zeros(samples, np.float32)) == (0, samples)


def test_long_silence_is_cut_to_the_margins():
    trimmed = trim_silence(burst(16000, 8000, 16000), RATE)
    speech = np.flatnonzero(trimmed)
    assert 800 <= speech[0] <= 800 + 384
    assert 3520 <= len(trimmed) - 1 - speech[-1] <= 3520 + 384 + 240


def test_missing_margins_are_padded_with_zeros():
    trimmed = trim_silence(np.ones(24000, np.float32), RATE)
    assert len(trimmed) == 24000 + 4320
    assert not trimmed[:800].any()
    assert trimmed[800:24800].all()
    assert not trimmed[24800:].any()

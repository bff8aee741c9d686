"""Sounds that are no speech: whole groups, in range, of every kind, a function of the generator."""

import numpy as np
import pytest

from training import nonspeech


@pytest.mark.parametrize("seed", range(40))
def test_a_sound_is_whole_groups_within_full_scale(seed):
    pcm = nonspeech.draw(np.random.default_rng(seed))
    assert pcm.dtype == np.float32
    assert len(pcm) % 1920 == 0
    assert 0.6 * 16000 <= len(pcm) <= 6 * 16000
    assert np.isfinite(pcm).all()
    assert np.abs(pcm).max() <= 1.0
    np.testing.assert_array_equal(pcm, nonspeech.draw(np.random.default_rng(seed)))


@pytest.mark.parametrize("make", [make for make, _ in nonspeech.KINDS], ids=lambda make: make.__name__)
def test_each_kind_sounds_and_silence_does_not(make):
    pcm = make(1920 * 9, np.random.default_rng(7))
    assert pcm.shape == (1920 * 9,)
    assert (np.abs(pcm).max() > 0.01) == (make is not nonspeech.silence)


def test_levels_reach_from_full_scale_down_to_a_quiet_room():
    peaks = [np.abs(nonspeech.draw(np.random.default_rng(seed))).max() for seed in range(200)]
    assert max(peaks) > 0.99
    assert 0 < min(peak for peak in peaks if peak > 0) < 10 ** (-50 / 20)


def test_a_hum_has_its_power_at_harmonics():
    pcm = nonspeech._note(16000, 100.0, 1.0, np.random.default_rng(1))
    power = np.abs(np.fft.rfft(pcm)) ** 2
    assert power[100:2500:100].sum() / power.sum() > 0.99

"""The measure of joins hears a step and nothing else."""

import numpy as np
import pytest

from aqaa.engine.vocoder.joins import join_discontinuity

RATE = 24000
JOINS = range(2400, 24000, 2400)


def tone() -> np.ndarray:
    time = np.arange(RATE) / RATE
    hiss = np.random.default_rng(0).normal(scale=0.001, size=RATE)
    return (0.3 * np.sin(2 * np.pi * 180 * time) + hiss).astype(np.float32)


def test_a_wave_without_joins_measures_one():
    assert join_discontinuity(tone(), JOINS) == pytest.approx(1.0, abs=0.5)


def test_a_step_stands_out_exactly_where_it_is():
    wave = tone()
    wave[12000:] += 0.02
    assert join_discontinuity(wave, [12000]) > 30
    assert join_discontinuity(wave, [11990, 12010]) < 5


def test_joins_in_silence_and_at_the_ends_do_not_count():
    wave = np.concatenate((np.zeros(4800, np.float32), tone()))
    assert np.isnan(join_discontinuity(wave, [0, 2400, len(wave)]))
    assert np.isnan(join_discontinuity(wave, []))

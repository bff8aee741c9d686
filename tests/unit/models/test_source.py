"""The integer-phase source: the same bits for any division of the stream, and true to the sine in float64."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aqaa.errors import StateError
from aqaa.models.source import (
    TURN,
    PhaseState,
    Samples,
    SourceConfig,
    harmonic_source,
    increments,
    sines,
    to_turns,
)

CONFIG = SourceConfig(
    sample_rate=22050, harmonics=8, sine_amplitude=0.1, noise_std=0.003, voiced_threshold=10
)
WEIGHT = np.linspace(0.9, -0.4, CONFIG.sines).astype(np.float32)


def spoken_f0(samples: int, seed: int) -> NDArray[np.float32]:
    """A wandering F0 with unvoiced stretches, float32 Hz for every sample."""
    rng = np.random.default_rng(seed)
    frames = rng.uniform(60, 400, samples // 256 + 1)
    frames[rng.random(len(frames)) < 0.25] = 0
    return frames.repeat(256)[:samples].astype(np.float32)


def initial_phases(seed: int) -> NDArray[np.uint64]:
    phases = np.random.default_rng(seed).uniform(-np.pi, np.pi, CONFIG.sines)
    phases[0] = 0
    return to_turns(phases)


@given(
    samples=st.integers(1, 3000),
    cuts=st.lists(st.integers(0, 3000), max_size=12),
    seed=st.integers(0, 2**32 - 1),
    start=st.integers(0, TURN - 1),
)
@settings(max_examples=60, deadline=None)
def test_any_chunking_gives_the_same_bits(samples: int, cuts: list[int], seed: int, start: int) -> None:
    f0, initial = spoken_f0(samples, seed), initial_phases(seed)
    noise = np.random.default_rng(seed).standard_normal((CONFIG.sines, samples)).astype(np.float32)

    def run(begin: int, end: int, state: PhaseState) -> tuple[NDArray[np.float32], PhaseState]:
        return harmonic_source(f0[begin:end], noise[:, begin:end], initial, WEIGHT, 0.01, CONFIG, state)

    whole, last = run(0, samples, PhaseState(start))
    edges = [0, *sorted(cut for cut in cuts if cut <= samples), samples]
    pieces, state = [], PhaseState(start)
    for begin, end in pairwise(edges):
        piece, state = run(begin, end, state)
        pieces.append(piece)
    assert np.concatenate(pieces).tobytes() == whole.tobytes()
    assert state == last


def exact_turns(f0: Samples, sample_rate: int) -> NDArray[np.float64]:
    """Cumulative turns of the fundamental less whole ones, by float64 sums too short to lose digits."""
    turns = f0.astype(np.float64) / sample_rate
    block = 256
    within = np.cumsum(np.pad(turns, (0, -len(turns) % block)).reshape(-1, block), axis=1)
    carried, total = np.zeros(len(within)), 0.0
    for i, step in enumerate(within[:, -1]):
        carried[i] = total
        total = (total + step) % 1
    return ((within + carried[:, None]).ravel()[: len(turns)]) % 1


@pytest.mark.parametrize("seed", [0, 1])
def test_a_minute_stays_true_to_the_sine(seed: int) -> None:
    f0, initial = spoken_f0(60 * CONFIG.sample_rate, seed), initial_phases(seed)
    waves, _ = sines(f0, initial, CONFIG.sample_rate, PhaseState())
    turns = exact_turns(f0, CONFIG.sample_rate)
    for order, (wave, start) in enumerate(zip(waves, initial.astype(np.float64) / TURN, strict=True), 1):
        expected = np.sin(2 * np.pi * ((order * turns + start) % 1))
        assert np.abs(wave - expected).max() <= 1e-6


def test_constant_pitch_comes_round() -> None:
    """At a quarter of the rate the phase visits 1/4, 1/2, 3/4 and a whole turn, without drift."""
    waves, state = sines(np.full(4, 2.0), np.zeros(1, np.uint64), 8, PhaseState())
    np.testing.assert_allclose(waves[0], [1, 0, -1, 0], atol=1e-7)
    assert state == PhaseState(0)


def test_unvoiced_is_noise_alone() -> None:
    f0, noise = np.zeros(100, np.float32), np.ones((CONFIG.sines, 100), np.float32)
    source, _ = harmonic_source(f0, noise, initial_phases(0), WEIGHT, 0.0, CONFIG, PhaseState())
    np.testing.assert_allclose(source, np.tanh(WEIGHT.sum() * 0.1 / 3), rtol=1e-5)


def test_voiced_keeps_a_little_noise() -> None:
    f0, quiet = np.full(100, 100.0, np.float32), np.zeros((CONFIG.sines, 100), np.float32)
    clean, _ = harmonic_source(f0, quiet, initial_phases(0), WEIGHT, 0.0, CONFIG, PhaseState())
    noisy, _ = harmonic_source(f0, quiet + 1, initial_phases(0), WEIGHT, 0.0, CONFIG, PhaseState())
    added = np.arctanh(noisy) - np.arctanh(clean)
    np.testing.assert_allclose(added, WEIGHT.sum() * CONFIG.noise_std, rtol=1e-3)


@given(st.floats(-1e3, 1e3))
def test_angles_survive_as_turns(angle: float) -> None:
    turns = to_turns(np.array([angle]))
    assert turns.dtype == np.uint64
    assert np.sin(float(turns[0]) / TURN * 2 * np.pi) == pytest.approx(np.sin(angle), abs=1e-9)


def test_a_hair_below_zero_is_no_overflow() -> None:
    assert to_turns(np.array([-1e-30]))[0] == 0


@pytest.mark.parametrize("hertz", [-1.0, 11026.0, float("nan"), float("inf")])
def test_impossible_pitch(hertz: float) -> None:
    with pytest.raises(ValueError, match=r"F0 must lie in 0 … 11025.0 Hz"):
        increments(np.array([100.0, hertz]), 22050)


@pytest.mark.parametrize("turns", [-1, TURN])
def test_phase_of_another_kind(turns: int) -> None:
    with pytest.raises(StateError, match=r"outside 0 … 2\^64 - 1"):
        PhaseState(turns)


def test_noise_for_every_sine_and_sample() -> None:
    with pytest.raises(ValueError, match=r"expected noise \(9, 5\)"):
        harmonic_source(
            np.zeros(5), np.zeros((9, 4), np.float32), initial_phases(0), WEIGHT, 0.0, CONFIG, PhaseState()
        )


def test_nothing_asked_nothing_changed() -> None:
    state = PhaseState(12345)
    waves, after = sines(np.zeros(0), initial_phases(0), 22050, state)
    assert waves.shape == (CONFIG.sines, 0)
    assert after == state

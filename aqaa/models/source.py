"""The harmonic source of a vocoder with an integer phase: cut anywhere, it goes on bit for bit.

The phase of the fundamental is counted in turns of 2^-64: every sample adds one increment, rounded once, and
64-bit addition wraps at a whole turn by itself. Integer addition is associative, so a stream continued from
``PhaseState`` gives the bits of one pass. Harmonic h is h times that count plus its own
initial phase: still exact. All the rest is done sample by sample, in one order, without reductions.

Legend: T samples, H harmonics (fundamental first).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aqaa.errors import StateError

TURN = 2**64
Samples = NDArray[np.float32] | NDArray[np.float64]

_SCALE = float(TURN)  # a power of two: multiplying by it is exact
_TO_RADIANS = 2 * np.pi / _SCALE


@dataclass(frozen=True)
class SourceConfig:
    """How the source sounds (upstream ``nsf_alpha``, ``nsf_sigma``, ``nsf_voiced_threshold``).

    ``harmonics`` counts overtones above the fundamental. Where F0 (Hz) is above ``voiced_threshold`` the
    source is sines of ``sine_amplitude`` with noise of ``noise_std``; elsewhere noise of a third of the
    sines' amplitude.
    """

    sample_rate: int
    harmonics: int
    sine_amplitude: float
    noise_std: float
    voiced_threshold: float

    @property
    def sines(self) -> int:
        """The fundamental and its overtones."""
        return self.harmonics + 1


@dataclass(frozen=True)
class PhaseState:
    """The fundamental's phase after the last sample, in turns of 2^-64: all that a restart needs."""

    turns: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.turns < TURN:
            raise StateError(f"source phase {self.turns} is outside 0 … 2^64 - 1")


def to_turns(radians: Samples) -> NDArray[np.uint64]:
    """Angles in radians as turns of 2^-64, uint64, whole turns dropped."""
    fraction = np.mod(np.asarray(radians, np.float64) / (2 * np.pi), 1.0)
    # A fraction a hair below 1 may round up to a whole turn, which is turn 0.
    rounded = np.rint(fraction * _SCALE)
    return np.where(rounded >= _SCALE, 0.0, rounded).astype(np.uint64)


def increments(f0_T: Samples, sample_rate: int) -> NDArray[np.uint64]:
    """Turns of 2^-64 that one sample advances at ``f0`` Hz, rounded once: uint64 ``(T,)``.

    Raises ValueError unless every F0 is finite, not negative and at most half the sample rate.
    """
    hertz = np.asarray(f0_T, np.float64)
    if not np.all((hertz >= 0) & (hertz <= sample_rate / 2)):
        raise ValueError(f"F0 must lie in 0 … {sample_rate / 2} Hz, got {hertz.min()} … {hertz.max()}")
    turns: NDArray[np.uint64] = np.rint(hertz / sample_rate * _SCALE).astype(np.uint64)
    return turns


def sines(
    f0_T: Samples, initial_H: NDArray[np.uint64], sample_rate: int, state: PhaseState
) -> tuple[NDArray[np.float32], PhaseState]:
    """Unit sines of all harmonics, float32 ``(H, T)``, and the state after the last sample.

    Sample 0 of a stream is one increment past the initial phase, as in the reference's cumulative sum.
    ``initial`` are turns of 2^-64 (see ``to_turns``); the reference leaves the fundamental's at 0.
    """
    phase_T = np.cumsum(increments(f0_T, sample_rate), dtype=np.uint64) + np.uint64(state.turns)
    orders_H = np.arange(1, len(initial_H) + 1, dtype=np.uint64)
    turns_HT = orders_H[:, None] * phase_T + initial_H[:, None]
    # Read as signed the angle lies in -pi … pi, where the sine is best conditioned.
    waves_HT = np.sin(turns_HT.view(np.int64).astype(np.float64) * _TO_RADIANS)
    after = PhaseState(int(phase_T[-1])) if len(phase_T) else state
    return waves_HT.astype(np.float32), after


def harmonic_source(
    f0_T: Samples,
    noise_HT: NDArray[np.float32],
    initial_H: NDArray[np.uint64],
    weight_H: NDArray[np.float32],
    bias: float,
    config: SourceConfig,
    state: PhaseState,
) -> tuple[NDArray[np.float32], PhaseState]:
    """The merged source signal, float32 ``(T,)`` in -1 … 1, and the state after its last sample.

    ``f0`` is in Hz for every sample, ``noise`` standard normal for every sine and sample, ``weight`` and
    ``bias`` those of the vocoder's merging linear (``m_source.l_linear``). The same signal as
    ``HiftGenerator.source`` up to that one's rounding, for any division of the stream into calls.
    """
    expected = (config.sines, len(f0_T))
    if noise_HT.shape != expected or len(initial_H) != expected[0] or len(weight_H) != expected[0]:
        raise ValueError(
            f"expected noise {expected} and {expected[0]} initial phases and weights; "
            f"got {noise_HT.shape}, {len(initial_H)}, {len(weight_H)}"
        )
    waves_HT, after = sines(f0_T, initial_H, config.sample_rate, state)
    voiced_T = f0_T > config.voiced_threshold
    amplitude_T = np.where(voiced_T, config.sine_amplitude, 0.0).astype(np.float32)
    noise_level_T = np.where(voiced_T, config.noise_std, config.sine_amplitude / 3).astype(np.float32)
    # A matrix product would add in an order that depends on T; harmonics are added one after another.
    merged_T = np.full(len(f0_T), bias, np.float32)
    for weight, wave_T, noise_T in zip(weight_H, waves_HT, noise_HT, strict=True):
        merged_T += np.float32(weight) * (wave_T * amplitude_T + noise_T * noise_level_T)
    return np.tanh(merged_T), after

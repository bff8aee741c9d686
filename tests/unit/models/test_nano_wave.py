"""Nano's wave head: pulses that can be cut anywhere, an inverse STFT that inverts, bounded context."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nano_cases import WAVE as TINY

from aqaa.models.nano_wave import NanoWave, NanoWaveConfig, Parts, pulse_train, sample_f0

NANO = NanoWaveConfig()


def test_the_context_counts_network_windows_and_pulses():
    assert (NANO.frames_before, NANO.frames_ahead) == (7 * 4 + 4, 7 * 2 + 4)
    assert NANO.bins == 481


@given(f0=st.floats(60, 600), phase=st.integers(0, 2**64 - 1), count=st.integers(1, 200))
@settings(deadline=None, max_examples=30)
def test_pulses_are_the_sum_of_all_harmonics(f0, phase, count):
    train, turns = pulse_train(np.full(count, f0), phase, 0, NANO)
    angle = turns.astype(np.float64) / 2.0**64 * 2 * np.pi
    orders = np.arange(1, int(NANO.max_hz // f0) + 1)
    expected = np.cos(orders[:, None] * angle).sum(0)
    np.testing.assert_allclose(train, expected, atol=1e-3 * len(orders))


@given(
    cut=st.integers(0, 99), at=st.integers(0, 99), phase=st.integers(0, 2**64 - 1), seed=st.integers(0, 50)
)
@settings(deadline=None, max_examples=60)
def test_a_train_taken_up_anywhere_goes_on_bit_for_bit(cut, at, phase, seed):
    f0 = np.random.default_rng(seed).uniform(0, 400, 100) * (np.arange(100) % 30 > 5)
    train, turns = pulse_train(f0, phase, at, NANO)
    assert int(turns[at]) == phase
    again, more = pulse_train(f0[cut:], int(turns[cut]), 0, NANO)
    assert np.array_equal(more, turns[cut:])
    assert np.array_equal(again, train[cut:])


def test_nothing_pulses_where_no_voice_is():
    train, turns = pulse_train(np.zeros(50), 5, 10, NANO)
    assert not train.any()
    assert set(turns.tolist()) == {5}


def test_an_f0_beyond_the_nyquist_frequency_is_refused():
    with pytest.raises(ValueError, match="F0 must lie in 0"):
        pulse_train(np.array([13000.0]), 0, 0, NANO)


def test_f0_is_linear_between_voiced_frames_and_holds_at_the_edges():
    f0 = np.array([100, 200, 0, 300], np.float32)
    hertz = sample_f0(f0, -2 * TINY.hop, 8 * TINY.hop, TINY).reshape(8, TINY.hop)
    middle = TINY.hop // 2
    assert (hertz[:2] == 100).all()
    assert hertz[3, middle] == pytest.approx(200, abs=100 / TINY.hop)
    assert np.diff(np.concatenate((hertz[2, middle:], hertz[3, :middle]))) == pytest.approx(100 / TINY.hop)
    assert (hertz[3, middle:] == 200).all()
    assert (hertz[4] == 0).all()
    assert (hertz[5:] == 300).all()


def test_f0_of_a_part_is_that_part_of_the_f0():
    f0 = np.random.default_rng(0).uniform(80, 300, 12).astype(np.float32)
    whole = sample_f0(f0, 0, 12 * TINY.hop, TINY)
    assert np.array_equal(sample_f0(f0, 50, 100, TINY), whole[50:150])


@torch.no_grad()
def test_analysis_and_overlap_add_return_the_wave():
    head = NanoWave(TINY)
    wave = torch.randn(1, TINY.hop * 11 + TINY.n_fft, generator=torch.Generator().manual_seed(0))
    back = head.overlap_add(head.analyse(wave) * (2 / TINY.n_fft))
    inner = slice(TINY.n_fft, -TINY.n_fft)
    torch.testing.assert_close(back[:, inner], wave[:, inner], rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_flat_filter_passes_the_pulses():
    head = NanoWave(TINY)
    frames = 20
    flat = torch.zeros(1, frames, TINY.bins)
    parts = Parts(torch.zeros(1, frames), torch.ones(1, frames), flat, flat, flat - 40)
    length = TINY.hop * (frames - 1) + TINY.n_fft
    pulses, _ = pulse_train(np.full(length, 60.0), 0, 0, TINY)
    out = head.render(parts, torch.tensor(pulses)[None], torch.zeros(1, frames, TINY.bins, 2))
    inner = slice(TINY.n_fft, -TINY.n_fft)
    torch.testing.assert_close(out[0, inner], torch.tensor(pulses)[inner], rtol=0, atol=1e-2)


@torch.no_grad()
def test_f0_is_zero_where_the_network_hears_no_voice():
    head = NanoWave(TINY)
    parts = Parts(torch.tensor([[0.0, 9.0]]), torch.tensor([[1.0, -1.0]]), *(torch.zeros(1, 2, 1),) * 3)
    assert head.f0(parts).tolist() == [[60.0, 0.0]]


@torch.no_grad()
def test_a_frame_depends_on_the_frames_that_the_context_counts():
    torch.manual_seed(0)
    head = NanoWave(TINY).eval()
    mel = torch.randn(1, 30, TINY.n_mels)
    moved = mel.clone()
    moved[0, 15] += 1
    changed = (head(moved).noise != head(mel).noise).any(-1)[0]
    reach = torch.nonzero(changed)[:, 0]
    layers = TINY.blocks + 1
    assert reach.min() == 15 - layers * TINY.ahead
    assert reach.max() == 15 + layers * (TINY.kernel - 1 - TINY.ahead)

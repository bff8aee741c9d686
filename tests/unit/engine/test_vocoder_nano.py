"""Nano's halves: noise by absolute frame, temperature, windows that give what the whole mel gives."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from nano_cases import FLOW, WAVE

from aqaa.engine.tiles import FrameGrid, TilePlan
from aqaa.engine.vocoder import Vocoder
from aqaa.engine.vocoder.draws import SegmentDraws
from aqaa.engine.vocoder.parts import NanoHead, NanoSolver
from aqaa.models.nano_flow import NanoFlow
from aqaa.models.nano_wave import NanoWave
from aqaa.tokens.philox import Domain

GRID = FrameGrid(Fraction(12))


@pytest.fixture(scope="module")
def flow() -> NanoFlow:
    torch.manual_seed(0)
    return NanoFlow(FLOW).eval()


@pytest.fixture(scope="module")
def head() -> NanoHead:
    torch.manual_seed(1)
    return NanoHead(NanoWave(WAVE).eval())


@pytest.fixture
def vocoder(flow: NanoFlow, head: NanoHead) -> Vocoder:
    plan = TilePlan((1, 2), 1, 1, (3, 4))
    return Vocoder("ab" * 32, plan, NanoSolver(flow, GRID, 2), head, (10, 10, 12, 12, 12))


def groups(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 10, (count, 5))


def test_noise_belongs_to_absolute_frames_and_to_its_segment():
    draws = SegmentDraws(7, 2)
    whole = draws.normals(Domain.FLOW_NOISE, -24, 60, 8)
    assert np.array_equal(draws.normals(Domain.FLOW_NOISE, 12, 10, 8), whole[36:46])
    assert np.array_equal(draws.normals(Domain.FLOW_NOISE, 12, 10, 4), whole[36:46, :4])
    for other in (SegmentDraws(7, 3), SegmentDraws(8, 2)):
        assert not np.isin(other.normals(Domain.FLOW_NOISE, -24, 60, 8), whole).any()
    assert not np.isin(draws.normals(Domain.SOURCE_NOISE, -24, 60, 8), whole).any()


def test_temperature_scales_where_the_path_starts(flow):
    solver, draws = NanoSolver(flow, GRID, 1), SegmentDraws(7, 0)
    cold = NanoFlow(replace(FLOW, temperature=0.0)).eval()
    cold.load_state_dict(flow.state_dict())
    codes = groups(3)
    still = NanoSolver(cold, GRID, 1)
    assert np.array_equal(still.solve(codes, 0, draws), still.solve(codes, 0, SegmentDraws(8, 0)))
    assert not np.array_equal(solver.solve(codes, 0, draws), solver.solve(codes, 0, SegmentDraws(8, 0)))


def test_windows_over_a_mel_give_what_one_window_gives(head):
    """Nothing further away than the stated context has a part in a hop."""
    frames, before, after = 48, head.frames_before, head.frames_after
    mel = np.full((before + frames + after, WAVE.n_mels), head.floor, np.float32)
    mel[before:-after] = np.random.default_rng(0).normal(-5, 2, (frames, WAVE.n_mels))
    draws = SegmentDraws(1, 0)
    whole, end = head.render(mel, 0, frames, 99, draws)
    assert np.abs(whole).max() > 0.01
    phase, pieces = 99, []
    for frame in range(0, frames, 12):
        pcm, phase = head.render(mel[frame : before + frame + 12 + after], frame, 12, phase, draws)
        pieces.append(pcm)
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-4)
    turn = (phase - end) % 2**64
    assert min(turn, 2**64 - turn) / 2**64 < 1e-3


def test_hops_beyond_the_count_are_cropped_without_a_trace(head):
    before, after = head.frames_before, head.frames_after
    mel = np.random.default_rng(0).normal(-5, 2, (before + 12 + after, WAVE.n_mels)).astype(np.float32)
    draws = SegmentDraws(1, 0)
    whole, _ = head.render(mel, 6, 12, 99, draws)
    part, phase = head.render(mel, 6, 5, 99, draws)
    assert np.array_equal(part, whole[: 5 * WAVE.hop])
    rest, _ = head.render(np.roll(mel, -5, axis=0), 11, 7, phase, draws)
    np.testing.assert_allclose(rest[: 2 * WAVE.hop], whole[5 * WAVE.hop : 7 * WAVE.hop], atol=1e-4)


def test_seed_and_segment_decide_the_sound(vocoder):
    pcm = vocoder.synthesize(groups(5), seed=1)
    assert pcm.dtype == np.float32
    assert len(pcm) == vocoder.samples(5) == 5 * 12 * 24
    assert np.abs(pcm).max() <= 1
    assert np.array_equal(pcm, vocoder.synthesize(groups(5), seed=1))
    assert not np.array_equal(pcm, vocoder.synthesize(groups(5), seed=2))
    assert not np.array_equal(pcm, vocoder.synthesize(groups(5), seed=1, segment=1))


def test_two_streams_at_once_do_not_disturb_each_other(vocoder):
    alone = vocoder.synthesize(groups(9), seed=1)
    one, two = vocoder.stream(seed=1), vocoder.stream(seed=2)
    heard = []
    for group in groups(9):
        heard += one.push(group[None])
        two.push(group[None, ::-1])
    two.finish()
    heard += one.finish()
    assert np.array_equal(np.concatenate([chunk.pcm for chunk in heard]), alone)

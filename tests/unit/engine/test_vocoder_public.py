"""The public vocoder behind the tile contract: rational frame edges, the reference's mel, one phase."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from aqaa.bundle.public_vocoder import PublicVocoder, load_flow, load_hift
from aqaa.engine.tiles import FrameGrid, TilePlan
from aqaa.engine.vocoder import Vocoder
from aqaa.engine.vocoder.draws import SegmentDraws
from aqaa.engine.vocoder.public import FlowSolver, HiftHead, SpeakerPrompt, public_parts
from aqaa.errors import InvalidToken
from aqaa.models.flow import Flow
from aqaa.tokens.philox import Domain

GOLDEN = Path(__file__).parents[2] / "golden"
GROUP = Fraction(3, 25)
SILENCE = (0, 0, 1, 1, 1)
PLAN = TilePlan((2, 4), 2, 1, (5, 7))


@pytest.fixture(scope="module")
def parts() -> PublicVocoder:
    return PublicVocoder(load_flow(GOLDEN / "flow"), load_hift(GOLDEN / "hift"))


def prompt(flow: Flow, tokens: int = 0, frames: int = 0) -> SpeakerPrompt:
    rng = np.random.default_rng(4)
    config = flow.config
    return SpeakerPrompt(
        rng.integers(0, 20, tokens),
        rng.normal(-5, 2, (frames, config.mel_bins)).astype(np.float32),
        rng.normal(size=config.speaker_size).astype(np.float32),
    )


def numbered(groups: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 20, (groups, 5))


@pytest.fixture(scope="module")
def vocoder(parts) -> Vocoder:
    solver, head = public_parts(
        parts,
        prompt(parts.flow, tokens=5, frames=10),
        group_seconds=GROUP,
        silence=SILENCE,
        linguistic_codes=1024,
        steps=2,
    )
    return Vocoder("ab" * 32, PLAN, solver, head, (1024,) * 2 + (4096,) * 3)


def test_a_segment_lasts_what_its_groups_last(vocoder):
    for groups in (1, 7, 13):
        pcm = vocoder.synthesize(numbered(groups), seed=1)
        assert len(pcm) == groups * 12 * 22050 // (100 * 256) * 256
        assert abs(len(pcm) / vocoder.sample_rate - groups * 0.12) < 256 / 22050
    assert np.abs(pcm).max() > 0


def test_any_arrival_and_any_restart_give_the_same_bits(vocoder):
    groups = numbered(13)
    whole = vocoder.synthesize(groups, seed=9)
    stream = vocoder.stream(seed=9)
    chunks = [c for group in groups for c in stream.push(group[None])] + stream.finish()
    assert np.array_equal(np.concatenate([c.pcm for c in chunks]), whole)
    for chunk in chunks[1::2]:
        sample = chunk.start + len(chunk.pcm) // 3
        resumed = vocoder.resume(chunk.before.at(sample))
        rest = resumed.push(groups) + resumed.finish()
        assert np.array_equal(np.concatenate([c.pcm for c in rest]), whole[sample:])


def test_a_window_that_holds_everything_gives_the_references_mel(parts):
    """At a whole number of frames a group, where the reference stretches tokens as the group clock does."""
    flow, groups, per_group = parts.flow, 4, 10
    voice = prompt(flow, tokens=5, frames=10)
    solver = FlowSolver(flow, FrameGrid(Fraction(per_group)), voice, SILENCE, 1024, 3)
    draws, codes = SegmentDraws(3, 0), numbered(groups)
    mel = solver.solve(codes, 0, draws)
    place = -(1 << 30)
    noise = np.concatenate(
        (
            draws.normals(Domain.FLOW_NOISE, place, 10, solver.bins),
            draws.normals(Domain.FLOW_NOISE, 0, groups * per_group, solver.bins),
        )
    )
    tokens = torch.tensor(codes + np.array([0, 0, 1024, 1024, 1024])).reshape(1, -1)
    mel_BFT, xvector = torch.tensor(voice.mel.T.copy())[None], torch.tensor(voice.xvector)[None]
    prompt_tokens = torch.tensor(voice.tokens)[None]
    expected = flow.synthesize(tokens, prompt_tokens, mel_BFT, xvector, torch.tensor(noise.T)[None], steps=3)
    np.testing.assert_allclose(mel, expected[0].T.numpy(), atol=1e-4)


def test_windows_of_one_length_have_one_shape_and_begin_on_the_stride(parts, monkeypatch):
    shapes = set()
    solver, _ = public_parts(
        parts, prompt(parts.flow), group_seconds=GROUP, silence=SILENCE, linguistic_codes=1024, steps=1
    )
    euler = parts.flow.decoder.euler
    monkeypatch.setattr(
        parts.flow.decoder, "euler", lambda noise, *rest: shapes.add(noise.shape[2]) or euler(noise, *rest)
    )
    for first in range(-2, 10):
        mel = solver.solve(np.full((5, 5), -1), first, SegmentDraws(0, 0))
        assert len(mel) == solver.grid.edge(first + 5) - solver.grid.edge(first)
    assert len(shapes) == 1
    assert shapes.pop() % parts.flow.config.unet.stride == 0


def test_windows_over_a_mel_give_what_one_window_gives(parts):
    head = HiftHead(parts.hift)
    rng = np.random.default_rng(0)
    frames = 60
    mel = np.full((frames + 2 * 20, parts.hift.config.mel_bins), head.floor, np.float32)
    mel[20:-20] = rng.normal(-4, 1, (frames, mel.shape[1]))
    draws = SegmentDraws(1, 0)
    whole, end = head.render(mel, 0, frames, 12345, draws)
    phase, pieces = 12345, []
    for frame in range(0, frames, 15):
        pcm, phase = head.render(mel[frame : frame + 15 + 40], frame, 15, phase, draws)
        pieces.append(pcm)
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=2e-4)
    assert abs(phase - end) / 2**64 < 1e-3


@pytest.mark.parametrize(("tokens", "frames"), [(0, 10), (5, 0), (5, 9)])
def test_half_a_prompt_is_refused(parts, tokens, frames):
    with pytest.raises(ValueError, match=f"{tokens} tokens and {frames} mel frames"):
        FlowSolver(parts.flow, FrameGrid(Fraction(10)), prompt(parts.flow, tokens, frames), SILENCE, 1024, 1)


def test_codes_beyond_the_flows_vocabulary_are_refused(parts):
    voice = prompt(parts.flow)
    solver = FlowSolver(parts.flow, FrameGrid(Fraction(10)), voice, SILENCE, parts.flow.config.vocab_size, 1)
    with pytest.raises(InvalidToken, match="the flow's vocabulary has"):
        solver.solve(numbered(2), 0, SegmentDraws(0, 0))

"""Nano's semantic encoder: bounded context, a reversible code, silence around the signal."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aqaa.models.convnext import ConvNeXtBlock
from aqaa.models.nano_semantic import (
    MEL_FRAMES_PER_CODE,
    NanoSemanticConfig,
    NanoSemanticEncoder,
    ScalarQuantizer,
)

TINY = NanoSemanticConfig(n_mels=5, dim=8, kernel=3, ahead=(1, 0), levels=(4, 3))


@pytest.fixture(scope="module")
def encoder() -> NanoSemanticEncoder:
    torch.manual_seed(0)
    return NanoSemanticEncoder(TINY).eval()


def mel(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, frames, TINY.n_mels, generator=torch.Generator().manual_seed(seed))


def test_the_defaults_are_the_published_rates():
    config = NanoSemanticConfig()
    assert (config.codes, config.codes_behind, config.codes_ahead) == (4096, 13, 3)
    assert config.frames_before == 55
    assert config.silence == -0.25


@torch.no_grad()
def test_a_code_sees_its_context_and_no_more(encoder):
    """Frame t changes exactly the codes whose window holds it."""
    codes = 8
    base = mel(MEL_FRAMES_PER_CODE * codes)
    before = encoder(base)
    for frame in (0, 13, 31):
        changed = base.clone()
        changed[0, frame] += 1.0
        moved = (encoder(changed) != before).any(-1)[0]
        for code in range(codes):
            first = MEL_FRAMES_PER_CODE * code - TINY.frames_before
            last = MEL_FRAMES_PER_CODE * (code + 1 + TINY.codes_ahead)
            assert not moved[code] or first <= frame < last
        assert moved.any()


@torch.no_grad()
def test_windows_give_what_the_whole_signal_gives(encoder):
    codes, hop = 12, 4
    whole = encoder(mel(MEL_FRAMES_PER_CODE * codes))
    after = MEL_FRAMES_PER_CODE * TINY.codes_ahead
    padded = torch.nn.functional.pad(
        mel(MEL_FRAMES_PER_CODE * codes), (0, 0, TINY.frames_before, after), value=TINY.silence
    )
    length = TINY.frames_before + MEL_FRAMES_PER_CODE * hop + after
    starts = range(0, MEL_FRAMES_PER_CODE * codes, MEL_FRAMES_PER_CODE * hop)
    windows = torch.cat([encoder.window(padded[:, start : start + length]) for start in starts], dim=1)
    torch.testing.assert_close(windows, whole, rtol=0, atol=1e-6)


@given(levels=st.lists(st.integers(2, 9), min_size=1, max_size=4).map(tuple), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_every_code_stands_for_the_values_that_give_it(levels, seed):
    quantizer = ScalarQuantizer(levels)
    size = int(torch.tensor(levels).prod())
    codes = torch.randint(size, (7,), generator=torch.Generator().manual_seed(seed))
    values = quantizer.decode(codes)
    assert values.min() >= -1
    assert values.max() <= 1
    near = torch.atanh(values.clamp(-0.999, 0.999))
    assert torch.equal(quantizer.encode(near), codes)
    torch.testing.assert_close(quantizer(near), values, rtol=0, atol=1e-6)


def test_the_quantizer_passes_gradients():
    z = torch.tensor([[0.3, -0.2]], requires_grad=True)
    ScalarQuantizer((8, 8))(z).sum().backward()
    assert z.grad is not None
    assert bool((z.grad > 0).all())


@torch.no_grad()
@pytest.mark.parametrize(("kernel", "ahead"), [(5, 0), (5, 2), (3, 2)])
def test_a_block_looks_as_far_as_it_says(kernel, ahead):
    torch.manual_seed(1)
    block = ConvNeXtBlock(4, kernel=kernel, ahead=ahead)
    x = torch.randn(1, 12, 4)
    moved = x.clone()
    moved[0, 6] += 1
    where = torch.nonzero((block(moved) != block(x)).any(-1)[0])[:, 0].tolist()
    assert where == list(range(6 - ahead, 6 - ahead + kernel))


def test_a_look_ahead_beyond_the_kernel_is_refused():
    with pytest.raises(ValueError, match="look-ahead is 3 frames, a kernel of 3 allows 0 to 2"):
        ConvNeXtBlock(4, kernel=3, ahead=3)

"""Nano's flow: shapes, absent groups, the noise's part, losses."""

from dataclasses import replace

import pytest
import torch
from nano_cases import FLOW

from aqaa.models.nano_flow import FRAMES_PER_GROUP, NanoFlow

TINY = replace(FLOW, token_blocks=2)


@pytest.fixture(scope="module")
def flow() -> NanoFlow:
    torch.manual_seed(0)
    return NanoFlow(TINY).eval()


def codes(groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return (
        torch.randint(10, (1, groups, 2), generator=draw),
        torch.randint(12, (1, groups, 3), generator=draw),
    )


def noise(groups: int, seed: int = 2) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(1, FRAMES_PER_GROUP * groups, TINY.n_mels, generator=draw)


@torch.no_grad()
def test_a_group_is_twelve_frames_of_mel(flow):
    mel = flow.solve(*codes(4), noise(4), steps=2)
    assert mel.shape == (1, 48, TINY.n_mels)
    assert mel.isfinite().all()


@torch.no_grad()
def test_codes_and_noise_decide_the_mel(flow):
    linguistic, semantic = codes(4)
    mel = flow.solve(linguistic, semantic, noise(4), steps=2)
    assert torch.equal(mel, flow.solve(linguistic, semantic, noise(4), steps=2))
    assert not torch.equal(mel, flow.solve(linguistic, semantic, noise(4, seed=3), steps=2))
    assert not torch.equal(mel, flow.solve((linguistic + 1) % 10, semantic, noise(4), steps=2))
    assert not torch.equal(mel, flow.solve(linguistic, (semantic + 1) % 12, noise(4), steps=2))


@torch.no_grad()
def test_an_absent_group_has_features_of_its_own(flow):
    linguistic, semantic = codes(5)
    linguistic[:, 4], semantic[:, 4] = -1, -1
    prior, features = flow.tokens(linguistic, semantic)
    assert prior.shape == (1, 60, TINY.n_mels)
    assert features.shape == (1, 60, TINY.dim)
    present = flow.tokens(linguistic.clamp(min=0), semantic.clamp(min=0))[0]
    assert not torch.equal(prior[:, 48:], present[:, 48:])
    assert prior.isfinite().all()


@torch.no_grad()
def test_one_euler_step_follows_the_velocity(flow):
    linguistic, semantic = codes(2)
    start = noise(2)
    velocity = flow.velocity(start, torch.zeros(1), *flow.tokens(linguistic, semantic))
    expected = (start + velocity) * TINY.scale + TINY.mean
    torch.testing.assert_close(flow.solve(linguistic, semantic, start, steps=1), expected)


def test_losses_ignore_frames_without_weight(flow):
    linguistic, semantic = codes(3)
    target = torch.zeros(1, 36, TINY.n_mels)
    weight = torch.ones(1, 36)
    weight[:, 30:] = 0
    t = torch.full((1,), 0.4)
    args = (linguistic, semantic)
    clean = flow.losses(*args, target, noise(3), t, weight)
    spoilt = target.clone()
    spoilt[:, 30:] = 50.0
    # Behind the weights the target still feeds the noisy input, so only the prior's loss must not move.
    assert torch.equal(clean[1], flow.losses(*args, spoilt, noise(3), t, weight)[1])
    (clean[0] + clean[1]).backward()
    assert all(p.grad is not None for p in flow.parameters())

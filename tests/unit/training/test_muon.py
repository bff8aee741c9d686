"""Muon: what it applies is orthogonal, as large as AdamW's, and finds the way down."""

import pytest
import torch
from torch import nn

from training.loop import LoopConfig, optimizers_of
from training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(16, 16), (16, 48), (48, 16)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = orthogonal(matrix)
    values = torch.linalg.svdvals(made)
    assert made.shape == shape
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.linalg.matrix_norm(made - u @ v) < 0.35 * torch.linalg.matrix_norm(u @ v)


def test_an_update_is_as_large_as_its_rate_says():
    weight = nn.Parameter(torch.zeros(32, 64))
    weight.grad = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
    Muon([weight], lr=0.01).step()
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.2 * 0.01, rel=0.2)


def test_it_finds_a_matrix():
    torch.manual_seed(2)
    goal, weight = torch.randn(8, 12), nn.Parameter(torch.zeros(8, 12))
    optimizer, first = Muon([weight], lr=0.1), None
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        optimizer.zero_grad()
        loss = (weight - goal).square().mean()
        loss.backward()
        optimizer.step()
        first = first or loss.item()
    assert loss.item() < 0.01 * first


def test_only_matrices():
    with pytest.raises(ValueError, match=r"matrices, \(3,\) was given"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1)


def test_every_parameter_has_one_optimizer():
    model = nn.ModuleDict({"layers": nn.Linear(4, 4), "head": nn.Linear(4, 4)})
    held = [
        [p for group in optimizer.param_groups for p in group["params"]]
        for optimizer in optimizers_of(model, LoopConfig(steps=1, lr=0.1, muon="layers."))
    ]
    adam, muon = held
    assert [p is model["layers"].weight for p in muon] == [True]
    assert {id(p) for p in adam + muon} == {id(p) for p in model.parameters()}
    assert len(adam) + len(muon) == 4

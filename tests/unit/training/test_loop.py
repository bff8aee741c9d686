"""The training loop: killed and resumed is as if undisturbed, and nothing finished is done again."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from training.loop import LoopConfig, fit, folder_and_threads, length_batches, save, weights_of

CONFIG = LoopConfig(steps=23, lr=0.02, warmup=4, seed=5, checkpoint_every=5, log_every=5)


class Killed(Exception):
    pass


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.2), nn.GELU(), nn.Linear(16, 2))


def losses_of(net: nn.Module, killed_at: int | None = None):
    """Uses the given generator, torch's global one (dropout, noise) and the step."""

    def losses(step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        if step == killed_at:
            raise Killed
        x = torch.from_numpy(rng.standard_normal((8, 6)).astype(np.float32)) + 0.1 * torch.randn(8, 6)
        off = (net(x) - x[:, :2] * (step % 3)).square().mean()
        return {"total": off, "twice": 2 * off}

    return losses


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("killed_at", [3, 5, 14, 22])
def test_resumed_is_as_undisturbed(tmp_path, killed_at):
    whole, broken = model(), model()
    fit("net", whole, losses_of(whole), CONFIG, tmp_path / "whole")
    with pytest.raises(Killed):
        fit("net", broken, losses_of(broken, killed_at), CONFIG, tmp_path / "broken")
    fresh = model()
    with torch.no_grad():
        for parameter in fresh.parameters():  # a new process starts from other weights or the same
            if killed_at >= CONFIG.checkpoint_every:
                parameter.zero_()
    fit("net", fresh, losses_of(fresh), CONFIG, tmp_path / "broken")
    for name, expected in whole.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], expected), name
    finished = [torch.load(tmp_path / f / "net.pt", weights_only=True) for f in ("whole", "broken")]
    assert all(torch.equal(finished[0][name], finished[1][name]) for name in finished[0])


def test_evaluation_does_not_change_the_course(tmp_path):
    plain, watched = model(), model()
    fit("net", plain, losses_of(plain), CONFIG, tmp_path / "plain")

    def evaluate() -> dict[str, float]:
        assert not watched.training
        return {"score": float(torch.rand(()))}

    fit("net", watched, losses_of(watched), CONFIG, tmp_path / "watched", evaluate=evaluate, evaluate_every=7)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    found = [
        line["step"] for line in lines(tmp_path / "watched/net.jsonl") if line.get("event") == "evaluate"
    ]
    assert found == [7, 14, 21, 23]


def test_finished_is_not_repeated(tmp_path):
    first, again = model(), nn.Sequential(*model()).requires_grad_()
    fit("net", first, losses_of(first), CONFIG, tmp_path)
    assert not (tmp_path / "net.checkpoint.pt").exists()
    fit("net", again, losses_of(again, killed_at=0), CONFIG, tmp_path)
    assert not again.training
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_a_gradient_that_is_not_finite_moves_nothing(tmp_path):
    net = model()
    config = replace(CONFIG, steps=3, weight_decay=0.1)
    before = [parameter.detach().clone() for parameter in net.parameters()]

    def losses(step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return {"total": net(torch.ones(1, 6)).sum() * float("nan")}

    fit("net", net, losses, config, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_log_names_every_loss_and_the_configuration(tmp_path):
    net = model()
    fit("net", net, losses_of(net), CONFIG, tmp_path)
    start, *steps = lines(tmp_path / "net.jsonl")
    assert start["event"] == "start"
    assert start["config"]["seed"] == 5
    assert start["parameters"] == sum(p.numel() for p in net.parameters())
    assert [line["step"] for line in steps] == [5, 10, 15, 20]
    assert all(line["twice"] == pytest.approx(2 * line["total"], abs=2e-4) for line in steps)


def test_rate_warms_up_then_falls_to_its_end():
    config = LoopConfig(steps=1000, lr=2.0, warmup=100, final=0.1)
    rates = [config.rate(step) for step in range(1001)]
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == rates[99] == rates[100] == 2.0
    assert all(a < b for a, b in pairwise(rates[:100]))
    assert all(a >= b for a, b in pairwise(rates[100:]))
    assert rates[1000] == pytest.approx(0.2)


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    save(tmp_path / "net.pt", {"w": torch.ones(1)})

    def fails(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path / "net.pt", {"w": torch.zeros(1)})
    assert torch.load(tmp_path / "net.pt", weights_only=True)["w"] == 1


class TestWeightsOf:
    def test_the_first_stage_that_has_any(self, tmp_path):
        save(tmp_path / "pretraining.pt", {"w": torch.ones(1)})
        assert weights_of(tmp_path, "sft1", "pretraining")["w"] == 1
        save(tmp_path / "sft1.checkpoint.pt", {"model": {"w": torch.zeros(1)}, "step": 3})
        assert weights_of(tmp_path, "sft1", "pretraining")["w"] == 0
        save(tmp_path / "sft1.pt", {"w": torch.full((1,), 2.0)})
        assert weights_of(tmp_path, "sft1", "pretraining")["w"] == 2

    def test_none_says_which_stage_to_run(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no weights of flow in .*; run that stage first"):
            weights_of(tmp_path, "flow")


@given(st.lists(st.floats(0.1, 20.0), min_size=1, max_size=60), st.floats(5.0, 60.0))
def test_length_batches_hold_every_clip_once_and_keep_the_budget(seconds, budget):
    batches = length_batches(seconds, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(seconds)))
    for batch in batches:
        assert len(batch) == 1 or max(seconds[i] for i in batch) * len(batch) <= budget


def test_the_command_line_gives_folder_and_threads():
    before = torch.get_num_threads()
    try:
        assert folder_and_threads(["stage", "work/other", "1"]) == Path("work/other")
        assert torch.get_num_threads() == 1
        assert folder_and_threads(["stage"]) == Path("work/nano")
    finally:
        torch.set_num_threads(before)

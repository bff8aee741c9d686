"""A training that goes on from a bundle: what comes out of one goes back in, and nothing else."""

from pathlib import Path

import pytest
import torch
from torch import nn

from training.backbone import BackboneTraining, CodedBackbone
from training.export import backbone_tensors, linguistic_tensors
from training.linguistic import Listener
from training.loop import LoopConfig, fit, starting_point, weights_of
from training.sequences import Language
from training.start import unpack

NANO = Path(__file__).parents[3] / "models" / "nano"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    unpack(NANO, folder)
    return folder


def test_every_part_has_a_starting_point_and_nothing_else_has(folder):
    for name in ("linguistic", "backbone", "flow", "wave"):
        assert starting_point(folder, name)
    assert starting_point(folder, "acoustics") is None
    assert starting_point(folder / "elsewhere", "wave") is None


def test_the_listener_comes_back_as_it_was_exported(folder):
    start = starting_point(folder, "linguistic")
    model = Listener()
    missing = model.load_state_dict(start, strict=False).missing_keys
    assert all(name.startswith(("head.", "mix.", "out.", "count")) for name in missing)
    torch.save(model.state_dict(), folder / "linguistic.pt")
    again = linguistic_tensors(folder)
    torch.testing.assert_close(again["cmvn.shift"], start["shift"], rtol=0, atol=0)
    torch.testing.assert_close(again["centroids"], start["centroids"], rtol=0, atol=0)


def test_the_backbone_unfolds_to_what_it_folds_to(folder):
    start = starting_point(folder, "backbone")
    language = Language(folder / "text.model")
    model = CodedBackbone(language, BackboneTraining(), starting_point(folder, "linguistic")["centroids"])
    model.unfold(start)
    folded = model.fold()
    assert folded.keys() == start.keys()
    for name, value in start.items():
        torch.testing.assert_close(folded[name], value, rtol=0, atol=0)


def test_finished_parts_are_the_products_of_their_stages(tmp_path):
    unpack(NANO, tmp_path, finished=("linguistic", "flow"))
    Listener().load_state_dict(weights_of(tmp_path, "linguistic"))
    assert torch.equal(
        weights_of(tmp_path, "linguistic")["centroids"], starting_point(tmp_path, "linguistic")["centroids"]
    )
    assert weights_of(tmp_path, "flow").keys() == starting_point(tmp_path, "flow").keys()
    with pytest.raises(FileNotFoundError):
        weights_of(tmp_path, "wave-supervised")
    with pytest.raises(ValueError, match="semantic cannot be taken for finished"):
        unpack(NANO, tmp_path, finished=("semantic",))


def test_a_finished_backbone_is_sft1s_product_and_folds_to_itself(tmp_path):
    unpack(NANO, tmp_path, finished=("linguistic", "backbone"))
    folded, start = backbone_tensors(tmp_path, BackboneTraining()), starting_point(tmp_path, "backbone")
    assert folded.keys() == start.keys()
    for name, value in start.items():
        torch.testing.assert_close(folded[name], value, rtol=0, atol=0)


def test_a_stage_starts_there_unless_it_is_under_way(tmp_path):
    def model() -> nn.Linear:
        torch.manual_seed(0)
        return nn.Linear(2, 1)

    def losses(step, rng):
        return {"total": net(torch.ones(1, 2)).square().sum()}

    start = {"weight": torch.tensor([[3.0, 4.0]])}
    net = model()
    fit("a", net, losses, LoopConfig(steps=1, lr=0.0), tmp_path, start=start)
    assert torch.equal(net.weight, start["weight"])
    assert torch.equal(net.bias, model().bias)
    with pytest.raises(KeyError, match="velocity"):
        fit("b", model(), losses, LoopConfig(steps=1, lr=0.0), tmp_path, start={"velocity": torch.zeros(1)})
    net = model()
    fit("a", net, losses, LoopConfig(steps=1, lr=0.0), tmp_path, start={"weight": torch.zeros(1, 2)})
    assert torch.equal(net.weight, start["weight"])

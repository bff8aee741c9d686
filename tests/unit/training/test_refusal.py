"""What is not understood is refused; of all else no more changes than the divergence tells."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from aqaa.tokens.classes import TokenClass
from training.backbone import TUNING, BackboneTraining, CodedBackbone
from training.refusal import RefusalTrainer, RefusalTraining, divergence
from training.sequences import Language

TINY = BackboneTraining(hidden=64, feed_forward=64, heads=8, kv_groups=4, layers=2)


@pytest.fixture
def trainer(folder, tmp_path) -> RefusalTrainer:
    torch.manual_seed(3)
    work = tmp_path / "work"
    work.mkdir()
    for name in ("corpus", "text.model", "tokens"):
        (work / name).symlink_to(folder / name)
    centroids = torch.randn(1024, 16)
    torch.save({"centroids": centroids}, work / "linguistic.pt")
    model = CodedBackbone(Language(work / "text.model"), TINY, centroids)
    torch.save(model.state_dict(), work / "sft1.pt")
    loop = replace(RefusalTraining().loop, steps=8, lr=3e-3, warmup=1)
    return RefusalTrainer(work, RefusalTraining(tokens=512, loop=loop), TINY)


def test_before_the_first_step_nothing_has_diverged(trainer):
    named = trainer.losses(0, np.random.default_rng(0))
    assert named["kept"].item() == pytest.approx(0, abs=1e-6)
    assert named["spoken"].item() == pytest.approx(0, abs=1e-6)
    assert named["total"].item() == pytest.approx(named["unknown"].item(), abs=1e-4)


def test_steps_make_the_refusal_likelier_and_leave_the_model_before_alone(trainer):
    was = {name: value.clone() for name, value in trainer.before.state_dict().items()}
    first = trainer.losses(0, np.random.default_rng(9))
    trainer.run()
    last = trainer.losses(0, np.random.default_rng(9))
    assert last["unknown"].item() < 0.9 * first["unknown"].item()
    assert last["kept"].item() > 0
    for name, value in trainer.before.state_dict().items():
        assert torch.equal(value, was[name])
    assert (trainer.folder / "refusal.pt").exists()


def test_probabilities_are_those_among_the_legal_ids(trainer):
    batch = trainer.trainer.data.turns(np.random.default_rng(1))
    found = trainer.predicted(trainer.model, batch)
    torch.testing.assert_close(found.low.exp().sum(1), torch.ones(len(found.low)))
    torch.testing.assert_close(found.sound.exp().sum(1), torch.ones(len(found.sound)))
    wanted = batch["target"] >= 0
    target, legal = batch["target"][wanted], batch["legal"][wanted]
    low = legal != 1 << TokenClass.SEMANTIC
    assert torch.equal(found.target, target[low])
    ranges = trainer.trainer.data.language.ranges
    classes = [ranges.class_of(int(k)) for k in found.target]
    assert found.text.tolist() == [c is TokenClass.TEXT for c in classes]
    for row, bits in zip(found.low[:40], legal[low][:40].tolist(), strict=True):
        possible = {ranges.class_of(int(k)) for k in torch.nonzero(row.exp())[:, 0]}
        assert possible == {c for c in TokenClass if bits >> c & 1 and c is not TokenClass.SEMANTIC}


def test_divergence_is_the_mean_over_what_is_asked_for(trainer):
    batch = trainer.trainer.data.garbled(np.random.default_rng(2))
    then = trainer.predicted(trainer.model, batch)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    now = trainer.predicted(trainer.model, batch)
    each = [
        float((b[row].exp() * (b[row] - a[row])).sum().detach())
        for a, b, rows in (
            (now.low, then.low, torch.nonzero(~now.text)[:, 0]),
            (now.sound, then.sound, range(len(now.sound))),
        )
        for row in rows
    ]
    assert divergence(now, then, ~now.text).item() == pytest.approx(np.mean(each), rel=1e-3)


def test_what_stays_is_the_work_of_sft1_and_some_small_talk(trainer):
    assert sum(trainer.understood.values()) == pytest.approx(1)
    assert trainer.understood.pop("small_talk") == trainer.config.small_talk
    assert trainer.understood.keys() == TUNING.keys()

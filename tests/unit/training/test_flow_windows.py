"""The flow's training windows: codes, sound and weights of the same groups.

The sound of group g is a constant that names g, and so do its codes.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from training.corpus import save_shard
from training.flow import FlowTraining, Windows
from training.tokens import save_groups

GROUP, EDGE = 2880, 960
STEP = 256 / 32768
LENGTHS = (5, 15, 16, 40, 90)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flow")
    (folder / "corpus" / "answers").mkdir(parents=True)
    (folder / "tokens").mkdir()
    (folder / "corpus" / "items.jsonl").write_text("")
    spoken = [json.dumps({"text": f"row {k}", "style": None}) + "\n" for k in range(len(LENGTHS))]
    (folder / "corpus" / "spoken.jsonl").write_text("".join(spoken))
    levels = [np.repeat((np.arange(n) + 1) * STEP, GROUP).astype(np.float32) for n in LENGTHS]
    f0 = [np.zeros(len(level) // 300, np.float32) for level in levels]
    save_shard(folder / "corpus" / "answers" / "0000.npz", levels, f0=f0)
    codes = [np.repeat(np.arange(n, dtype=np.int16)[:, None] + 1, 5, 1) for n in LENGTHS]
    save_groups(folder / "tokens" / "answers.npz", codes)
    return folder


@pytest.fixture(scope="module")
def windows(folder: Path) -> Windows:
    return Windows(folder, FlowTraining(spoilt=0.0))


def named(pcm: np.ndarray) -> np.ndarray:
    """The group that each sample belongs to, 1 and on; 0 where nothing is said."""
    return np.rint(pcm / STEP).astype(int)


@pytest.mark.parametrize("row", range(len(LENGTHS)))
def test_codes_and_sound_are_of_the_same_groups(windows, row):
    total = LENGTHS[row]
    starts = set()
    for seed in range(60):
        codes, pcm, _ = windows.window(row, np.random.default_rng(seed))
        assert codes.shape == (16, 5)
        assert len(pcm) == 16 * GROUP + 2 * EDGE
        assert (codes == codes[:, :1]).all()
        here = codes[:, 0]
        sound = named(pcm[EDGE:-EDGE]).reshape(16, GROUP)
        for group, samples in zip(here, sound, strict=True):
            assert (samples == max(group, 0)).all()
        inside = np.flatnonzero(here > 0)
        assert (np.diff(here[inside]) == 1).all()
        before, after = named(pcm[:EDGE]), named(pcm[-EDGE:])
        assert (before == max(0, here[inside[0]] - 1 if inside[0] == 0 else 0)).all()
        last = here[inside[-1]]
        assert (after == (last + 1 if inside[-1] == 15 and last < total else 0)).all()
        starts.add(int(here[inside[0]] - inside[0]))
    assert len(starts) > 3 or total < 16


@pytest.mark.parametrize("row", range(len(LENGTHS)))
def test_true_ends_are_learned_and_cut_edges_are_not(windows, row):
    for seed in range(60):
        codes, _, weight = windows.window(row, np.random.default_rng(seed))
        here = codes[:, 0]
        assert (weight[here < 0] == 0).all()
        expected = (here > 0).astype(np.float32)
        if here[0] > 1:
            expected[0] = 0
        if 0 < here[-1] < LENGTHS[row]:
            expected[-1] = 0
        np.testing.assert_array_equal(weight, expected)


def test_both_ends_of_an_answer_are_met(windows):
    seen = set()
    for seed in range(200):
        codes, _, weight = windows.window(3, np.random.default_rng(seed))
        seen |= set(codes[weight > 0, 0].tolist())
    assert seen == set(range(1, LENGTHS[3] + 1))


def test_a_batch_has_twelve_mel_frames_a_group(windows):
    batch = windows.draw(np.random.default_rng(0))
    rows = FlowTraining().batch
    assert batch["linguistic"].shape == (rows, 16, 2)
    assert batch["semantic"].shape == (rows, 16, 3)
    assert batch["mel"].shape == (rows, 16 * 12, 80)
    assert batch["weight"].shape == (rows, 16 * 12)


def test_the_mel_of_a_click_lies_in_its_own_group(folder):
    windows = Windows(folder, FlowTraining(spoilt=0.0, batch=1))
    for pcm in windows.pcm:
        pcm[:] = 0
        pcm[3 * GROUP + GROUP // 2] = 20000  # the middle of group 3, whose codes are 4
    draws = (windows.draw(np.random.default_rng(seed)) for seed in range(20))
    batch = next(b for b in draws if 4 in b["linguistic"])
    group = batch["linguistic"][0, :, 0].tolist().index(4)
    energy = batch["mel"][0].exp().sum(-1)
    loudest = torch.argsort(energy)[-2:].sort().values.tolist()
    assert loudest == [12 * group + 5, 12 * group + 6]


def test_spoilt_codes_stay_in_their_codebooks_and_in_their_groups(folder):
    windows = Windows(folder, FlowTraining(spoilt=0.5))
    for seed in range(30):
        codes, _, _ = windows.window(1, np.random.default_rng(seed))
        absent = (codes < 0).all(1)
        assert ((codes >= 0).all(1) | absent).all()
        assert codes[:, :2].max() < 1024
        assert codes[:, 2:].max() < 4096

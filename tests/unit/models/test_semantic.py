"""The semantic tokenizer: upstream's numbers, harmless padding, windows that chunking leaves alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aqaa.audio.whisper_mel import whisper_log_mel
from aqaa.bundle.public_tokenizer import load_semantic
from aqaa.errors import BundleUnsupported, InvalidAudio
from aqaa.models.semantic import (
    SemanticConfig,
    SemanticEncoder,
    WindowBuffer,
    WindowedSemantic,
    WindowGrid,
    piece_bounds,
    token_count,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "semantic"
KEYS = Path(__file__).parents[2] / "golden" / "keys" / "keys_s3_v1_25hz.tsv"
CASES = json.loads((GOLDEN / "expected.json").read_text())["cases"]
SMALL = SemanticConfig(dim=8, heads=2, layers=2, mels=5, context=40, codes=16)


@pytest.fixture(scope="module")
def encoder() -> SemanticEncoder:
    return load_semantic(GOLDEN / "speech_tokenizer_v1.onnx", heads=2)


@pytest.fixture(scope="module")
def small() -> SemanticEncoder:
    torch.manual_seed(0)
    return SemanticEncoder(SMALL).eval()


def test_the_full_size_tensors_are_those_of_the_public_checkpoint():
    with torch.device("meta"):
        model = SemanticEncoder(SemanticConfig(dim=1280, heads=20, layers=6))
    rows = [line.split("\t") for line in KEYS.read_text().splitlines() if line]
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == {name: tuple(map(int, shape.split("x"))) for name, shape in rows}


@torch.no_grad()
def test_hidden_rows_match_upstream(encoder):
    arrays = np.load(GOLDEN / "expected.npz")
    hidden = encoder(torch.from_numpy(arrays["log_mel"])[None])[0]
    torch.testing.assert_close(hidden, torch.from_numpy(arrays["hidden_l2norm"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["samples"]))
@torch.no_grad()
def test_ids_of_a_clip_match_upstream(case, encoder):
    speech = soundfile.read(GOLDEN / "input.wav", dtype="float32")[0]
    samples = np.resize(speech, case["samples"])
    bounds = piece_bounds(len(samples))
    assert bounds == [(p["start"], p["start"] + p["samples"]) for p in case["pieces"]]
    ids: list[int] = []
    for (start, stop), piece in zip(bounds, case["pieces"], strict=True):
        mel = torch.from_numpy(whisper_log_mel(samples[start:stop]).T.copy())[None]
        assert token_count(mel.shape[-1]) == piece["tokens"]
        ids += encoder.codes(mel)[0].tolist()
    ties = {index: {best, second} for index, best, second, _ in case["near_ties_index_best_second_margin"]}
    assert len(ids) == len(case["ids"])
    wrong = [i for i, (a, b) in enumerate(zip(ids, case["ids"], strict=True)) if a not in ties.get(i, {b})]
    assert not wrong


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4))
@torch.no_grad()
def test_a_padded_item_gives_what_it_gives_alone(small, lengths):
    mel = torch.randn(len(lengths), SMALL.mels, max(lengths))
    together = small(mel, torch.tensor(lengths))
    for item, length in enumerate(lengths):
        alone = small(mel[item : item + 1, :, :length])[0]
        assert len(alone) == token_count(length)
        torch.testing.assert_close(together[item, : len(alone)], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 4, 10), (1, 5, 0), (1, 5, 161)])
def test_mel_of_another_shape_is_refused(small, shape):
    with pytest.raises(InvalidAudio, match=r"expected \(B, 5, 1\.\.160\)"):
        small(torch.zeros(shape))


@settings(max_examples=25, deadline=None)
@given(frames=st.integers(0, 150), cuts=st.lists(st.integers(0, 150), max_size=12), seed=st.integers(0, 99))
def test_windows_do_not_depend_on_chunking(small, frames, cuts, seed):
    mel = np.random.default_rng(seed).normal(size=(frames, SMALL.mels)).astype(np.float32)
    grid = WindowGrid(left=20, hop=8, right=4)
    whole, pieces = WindowedSemantic(small, grid), WindowedSemantic(small, grid)
    expected = np.concatenate([whole.push(mel), whole.flush()])
    got = [pieces.push(piece) for piece in np.split(mel, sorted(cuts))]
    assert np.array_equal(np.concatenate([*got, pieces.flush()]), expected)
    assert len(expected) == token_count(frames)


def test_a_window_shows_its_centre_and_its_context():
    frames = np.arange(30, dtype=np.float32)[:, None]
    buffer = WindowBuffer(WindowGrid(left=12, hop=8, right=4), mels=1)
    windows = buffer.push(frames[:11]) + buffer.push(frames[11:]) + buffer.flush()
    seen = [(w.mel[: w.length, 0].min(), w.mel[: w.length, 0].max(), w.first, w.last) for w in windows]
    assert seen == [(0, 11, 0, 2), (0, 19, 2, 4), (4, 27, 3, 5), (12, 29, 3, 5)]
    assert {w.mel.shape for w in windows} == {(24, 1)}
    assert not any(w.mel[w.length :].any() for w in windows)


@torch.no_grad()
def test_one_window_over_everything_is_the_offline_tokenizer(small):
    mel = np.random.default_rng(1).normal(size=(50, SMALL.mels)).astype(np.float32)
    stream = WindowedSemantic(small, WindowGrid(left=0, hop=160, right=0))
    offline = small.codes(torch.from_numpy(mel.T.copy())[None])[0]
    assert stream.push(mel).tolist() + stream.flush().tolist() == offline.tolist()


def test_codes_come_as_soon_as_their_right_context_is_there(small):
    stream = WindowedSemantic(small, WindowGrid(left=20, hop=8, right=4))
    assert len(stream.push(np.zeros((11, SMALL.mels), np.float32))) == 0
    assert len(stream.push(np.zeros((1, SMALL.mels), np.float32))) == 2
    assert len(stream.push(np.zeros((17, SMALL.mels), np.float32))) == 4


def test_impossible_sizes_are_named(small):
    with pytest.raises(BundleUnsupported, match=r"WindowGrid\.hop is 6"):
        WindowGrid(hop=6)
    with pytest.raises(BundleUnsupported, match=r"WindowGrid\.left is -4"):
        WindowGrid(left=-4)
    with pytest.raises(BundleUnsupported, match="280 frames"):
        WindowedSemantic(small)
    with pytest.raises(BundleUnsupported, match="multiple of 2 x heads"):
        replace(SMALL, heads=3)
    with pytest.raises(BundleUnsupported, match="layers is 0"):
        replace(SMALL, layers=0)

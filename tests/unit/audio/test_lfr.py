"""The linguistic front end: upstream's features, its chunks and its rule for the tail."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from aqaa.audio.fbank import PARAFORMER, kaldi_fbank
from aqaa.audio.lfr import Cmvn, LfrOptions, LinguisticFrontend, StreamingLfr, lfr, read_cmvn

GOLDEN = Path(__file__).parents[2] / "golden" / "linguistic"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return soundfile.read(GOLDEN / "input.wav", dtype="float32")[0]


@pytest.fixture(scope="module")
def cmvn() -> Cmvn:
    return read_cmvn(GOLDEN / "am.mvn")


def test_features_match_upstream(speech, cmvn):
    frontend = LinguisticFrontend(cmvn)
    features = np.concatenate(frontend.push(speech) + frontend.flush())
    expected = np.load(GOLDEN / "expected.npz")["lfr_cmvn"]
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-3)
    assert np.array_equal(features, cmvn(lfr(kaldi_fbank(speech, PARAFORMER))))


@pytest.mark.parametrize("case", EXPECTED["oneshot"], ids=lambda case: str(case["samples"]))
def test_frames_per_chunk_match_upstream(case, speech, cmvn):
    frontend = LinguisticFrontend(cmvn)
    chunks = frontend.push(speech[: case["samples"]]) + frontend.flush()
    assert [len(chunk) for chunk in chunks] == case["chunk_frames"]
    stacked = lfr(kaldi_fbank(speech[: case["samples"]], PARAFORMER))
    assert stacked.shape == (case["frames"], 560)


@pytest.mark.parametrize("session", EXPECTED["sessions"], ids=lambda session: str(len(session["calls"])))
def test_frames_per_call_of_a_session_match_upstream(session, speech, cmvn):
    frontend, start = LinguisticFrontend(cmvn), 0
    for call in session["calls"]:
        chunks = frontend.push(speech[start : start + call["samples"]])
        start += call["samples"]
        if call["is_final"]:
            chunks += frontend.flush()
        assert sum(len(chunk) for chunk in chunks) == len(call["codes"])


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 16000), max_size=40), end=st.integers(0, 16000))
def test_any_chunking_gives_the_same_chunks(speech, cmvn, cuts, end):
    whole, pieces = LinguisticFrontend(cmvn), LinguisticFrontend(cmvn)
    expected = whole.push(speech[:end]) + whole.flush()
    got = [chunk for piece in np.split(speech[:end], sorted(cuts)) for chunk in pieces.push(piece)]
    got += pieces.flush()
    assert len(got) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


@given(samples=st.integers(0, 5 * 3840))
def test_the_tail_rule_in_samples(samples):
    """Whole 3840-sample chunks give 4 frames each; a rest below 880 samples gives none."""
    fbank = np.zeros((max(0, (samples - 240) // 160), 80), np.float32)
    whole, rest = divmod(samples, 3840)
    tail = 0 if rest < 880 else -(-len(fbank) // 6) - 4 * whole
    assert len(lfr(fbank)) == 4 * whole + tail


def test_the_first_frame_is_repeated_to_the_left_and_the_last_to_the_right():
    fbank = np.arange(8, dtype=np.float32)[:, None]
    assert lfr(fbank).tolist() == [[0, 0, 0, 0, 1, 2, 3], [3, 4, 5, 6, 7, 7, 7]]


def test_flushing_twice_gives_the_last_window_once():
    stream = StreamingLfr(n_mels=1)
    stream.push(np.arange(8, dtype=np.float32)[:, None])
    assert len(stream.flush()) == 1
    assert len(stream.flush()) == 0


def test_a_file_that_is_no_cmvn_is_refused(tmp_path):
    path = tmp_path / "am.mvn"
    path.write_text("<Nnet>\n<AddShift> 2 2\n<LearnRateCoef> 0 [ -1 -2 ]\n</Nnet>\n")
    with pytest.raises(ValueError, match="<Rescale>"):
        read_cmvn(path)
    path.write_text("<AddShift> 2 2\n<LearnRateCoef> 0 [ -1 -2 ]\n<Rescale> 2 2\n<LearnRateCoef> 0 [ 1 ]\n")
    with pytest.raises(ValueError, match="2 values but <Rescale> has 1"):
        read_cmvn(path)


def test_sizes_that_do_not_fit_are_refused():
    narrow = Cmvn(np.zeros(80, np.float32), np.ones(80, np.float32))
    with pytest.raises(ValueError, match="80 values"):
        LinguisticFrontend(narrow)
    with pytest.raises(ValueError, match="LFR"):
        LfrOptions(m=6)

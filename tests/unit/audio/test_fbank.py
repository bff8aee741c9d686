"""Fbank: the golden values of upstream's two front ends, and one answer for any chunking."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from aqaa.audio.fbank import PARAFORMER, FbankOptions, StreamingFbank, kaldi_fbank, xvector_features

GOLDEN = Path(__file__).parents[2] / "golden"


def read(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32")[0]


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return read(GOLDEN / "linguistic" / "input.wav")


def test_paraformer_front_end_matches_upstream(speech):
    expected = np.load(GOLDEN / "linguistic" / "expected.npz")["fbank"]
    np.testing.assert_allclose(kaldi_fbank(speech, PARAFORMER), expected, rtol=0, atol=2e-3)


def test_xvector_front_end_matches_upstream():
    expected = np.load(GOLDEN / "xvector" / "expected.npz")["fbank_minus_mean"][0]
    features = xvector_features(read(GOLDEN / "xvector" / "input_16k.wav"))
    np.testing.assert_allclose(features, expected, rtol=0, atol=2e-3)
    assert xvector_features(np.zeros(100, np.float32)).shape == (0, 80)


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 12000), max_size=60), end=st.integers(0, 12000))
def test_any_chunking_gives_the_same_bits(speech, cuts, end):
    signal = speech[:end]
    stream = StreamingFbank(PARAFORMER)
    pieces = [stream.push(piece) for piece in np.split(signal, sorted(cuts))]
    streamed = np.concatenate([*pieces, stream.flush()])
    assert np.array_equal(streamed, kaldi_fbank(signal, PARAFORMER))


def test_a_prefix_has_the_same_rows_as_the_whole(speech):
    whole = kaldi_fbank(speech, PARAFORMER)
    for frames in (1, 2, 3, 8, 255, 256, 257):
        assert np.array_equal(kaldi_fbank(speech[: 240 + 160 * frames], PARAFORMER), whole[:frames])


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (399, 0), (400, 1), (559, 1), (560, 2)])
def test_only_whole_frames_count(samples, frames):
    assert kaldi_fbank(np.zeros(samples, np.float32), PARAFORMER).shape == (frames, 80)


def test_silence_sits_on_the_log_floor():
    assert np.allclose(kaldi_fbank(np.zeros(800, np.float32), PARAFORMER), np.log(np.finfo(np.float32).eps))


@pytest.mark.parametrize("wrong", [np.zeros((2, 800), np.float32), np.zeros(800, np.int16)])
def test_pcm_of_another_shape_or_type_is_refused(wrong):
    with pytest.raises(ValueError, match=r"PCM must be a float array of shape \(n,\)"):
        kaldi_fbank(wrong, PARAFORMER)


def test_options_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="band"):
        FbankOptions(high_hz=9000.0)
    with pytest.raises(ValueError, match="window"):
        FbankOptions(window="hann")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="hop"):
        FbankOptions(hop_ms=0.0)

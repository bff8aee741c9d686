"""Whisper's log-mel: upstream's values for a piece, and a causal form that a stream can trust."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqaa.audio.decode import read_audio
from aqaa.audio.whisper_mel import CausalLogMel, LogMelOptions, causal_log_mel, whisper_log_mel

GOLDEN = Path(__file__).parents[2] / "golden" / "semantic"
CASES = json.loads((GOLDEN / "expected.json").read_text())["cases"]


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return read_audio(GOLDEN / "input.wav").samples


def test_log_mel_matches_upstream(speech):
    expected = np.load(GOLDEN / "expected.npz")["log_mel"]
    np.testing.assert_allclose(whisper_log_mel(speech).T, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["samples"]))
def test_every_piece_matches_upstream(case, speech):
    signal = np.resize(speech, case["samples"])
    for piece in case["pieces"]:
        mel = whisper_log_mel(signal[piece["start"] : piece["start"] + piece["samples"]])
        assert mel.shape == (piece["mel_frames"], 128)
        assert mel.max() == pytest.approx(piece["mel_max"], abs=1e-4)
        assert mel.min() == pytest.approx(piece["mel_min"], abs=1e-4)
        assert mel.sum(dtype=np.float64) == pytest.approx(piece["mel_sum"], abs=1e-6 * mel.size)


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 9000), max_size=60), end=st.integers(0, 9000))
def test_any_chunking_gives_the_same_bits(speech, cuts, end):
    stream = CausalLogMel()
    pieces = [stream.push(piece) for piece in np.split(speech[:end], sorted(cuts))]
    streamed = np.concatenate([*pieces, stream.flush()])
    assert streamed.shape == (end // 160, 128)
    assert np.array_equal(streamed, causal_log_mel(speech[:end]))


def test_a_frame_sees_its_own_window_and_nothing_later(speech):
    """Frame t spans samples 160 t - 200 up to 160 t + 200."""
    changed = speech[:8000].copy()
    changed[4000:] = 0.5
    before, after = causal_log_mel(speech[:8000]), causal_log_mel(changed)
    last = (4000 - 200) // 160
    assert np.array_equal(before[: last + 1], after[: last + 1])
    assert not np.array_equal(before[last + 1], after[last + 1])


def test_inside_the_signal_and_above_the_floor_it_is_whispers(speech):
    causal, whisper = causal_log_mel(speech), whisper_log_mel(speech)
    heard = np.minimum(causal, whisper) > (-6.5 + 4) / 4
    heard[:2] = heard[-2:] = False
    np.testing.assert_array_equal(causal[heard], whisper[heard])


def test_silence_is_the_floor():
    options = LogMelOptions(floor=-6.0)
    assert (causal_log_mel(np.zeros(1600, np.float32), options) == -0.5).all()


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="more than 200 samples, got 200"):
        whisper_log_mel(np.zeros(200, np.float32))
    with pytest.raises(ValueError, match="hop"):
        LogMelOptions(hop=201)

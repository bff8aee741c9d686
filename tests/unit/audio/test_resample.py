"""Resampling: the stream equals the whole signal, the sinc kernel equals upstream's."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqaa.audio.decode import read_audio
from aqaa.audio.resample import StreamResampler, resample, sinc_resample

GOLDEN = Path(__file__).parents[2] / "golden"
NOISE = np.random.default_rng(0).uniform(-1, 1, 24000).astype(np.float32)


def tone(hz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    from_rate=st.one_of(st.sampled_from([8000, 16000, 22050, 24000, 44100, 48000]), st.integers(8000, 48000)),
    cuts=st.lists(st.integers(0, 24000), max_size=40),
    end=st.integers(0, 24000),
)
def test_any_chunking_gives_the_same_bits(from_rate, cuts, end):
    stream = StreamResampler(from_rate, 16000)
    pieces = [stream.push(piece) for piece in np.split(NOISE[:end], sorted(cuts))]
    streamed = np.concatenate([*pieces, stream.flush()])
    assert streamed.dtype == np.float32
    assert np.array_equal(streamed, resample(NOISE[:end], from_rate, 16000))
    assert abs(len(streamed) - end * 16000 / from_rate) <= 1


@pytest.mark.parametrize("convert", [resample, sinc_resample])
@pytest.mark.parametrize("from_rate", [8000, 11025, 22050, 44100, 48000])
def test_a_tone_keeps_its_pitch_level_and_length(convert, from_rate):
    got, expected = convert(tone(440, from_rate), from_rate, 16000), tone(440, 16000)
    assert len(got) == len(expected)
    np.testing.assert_allclose(got[800:-800], expected[800:-800], rtol=0, atol=5e-3)


@pytest.mark.parametrize("convert", [resample, sinc_resample])
def test_equal_rates_change_nothing(convert):
    assert np.array_equal(convert(NOISE, 16000, 16000), NOISE)


def test_a_passing_stream_does_not_alias_the_callers_buffer():
    buffer = NOISE[:100].copy()
    out = StreamResampler(16000, 16000).push(buffer)
    buffer[:] = 0
    assert np.array_equal(out, NOISE[:100])


def test_rates_must_be_positive():
    with pytest.raises(ValueError, match="positive"):
        StreamResampler(0, 16000)


def test_the_sinc_kernel_matches_upstream():
    audio = read_audio(GOLDEN / "speaker_mel" / "input_src.wav")
    expected = np.load(GOLDEN / "speaker_mel" / "expected.npz")["resampled_22k"][0]
    got = sinc_resample(audio.samples, audio.sample_rate, 22050)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(16000, 22050), (8000, 16000), (24000, 16000), (44100, 16000)]
)
def test_the_sinc_kernel_is_its_formula(from_rate, to_rate):
    """Each output against the sum over all inputs, written down from the definition."""
    samples = NOISE[:700].astype(np.float64)
    expected = []
    for index in range(-(-len(samples) * to_rate // from_rate)):
        cutoff = min(1.0, to_rate / from_rate) * 0.99
        t = cutoff * (np.arange(len(samples)) - index * from_rate / to_rate)
        inside = np.abs(t) < 6
        t = t[inside]
        weights = cutoff * np.sinc(t) * np.cos(np.pi * t / 12) ** 2
        expected.append(weights @ samples[inside])
    np.testing.assert_allclose(sinc_resample(NOISE[:700], from_rate, to_rate), expected, rtol=0, atol=1e-5)

"""The training front ends against the streaming originals that nano runs with.

Tolerances are some four times the largest difference measured on these signals; both sides are logarithms
but for the gain.
"""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aqaa.audio.fbank import PARAFORMER, kaldi_fbank
from aqaa.audio.gain import causal_gain
from aqaa.audio.lfr import StreamingLfr
from aqaa.audio.speaker_mel import MelOptions, mel_spectrogram
from aqaa.audio.whisper_mel import LogMelOptions, causal_log_mel
from training import features

NANO_MEL = MelOptions(rate=24000, hop=240, high_hz=12000.0)


def signal(seconds: float, rate: int, level: float = 0.5) -> NDArray[np.float32]:
    """A gliding voice with pauses over a little noise."""
    rng = np.random.default_rng(3)
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * time)) / rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * np.clip(np.sin(5 * time), 0, 1)
    pcm = voice + 0.003 * rng.standard_normal(len(time))
    return np.asarray(level * pcm / np.abs(pcm).max(), np.float32)


def batch(pcm: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(pcm)[None]


@pytest.mark.parametrize("level", [0.5, 0.02])
def test_fbank_is_kaldis(level):
    pcm = signal(2.3, 16000, level)
    expected = kaldi_fbank(pcm, PARAFORMER)
    found = features.fbank(batch(pcm))[0].numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=6e-4)


def test_lfr_stacks_the_same_frames():
    frames = np.random.default_rng(0).standard_normal((101, 80)).astype(np.float32)
    expected = StreamingLfr().push(frames)
    found = features.lfr(torch.from_numpy(frames)[None])[0].numpy()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("level", [0.5, 0.004], ids=["speech", "below the floor"])
def test_gain_follows_the_peak_so_far(level):
    pcm = signal(1.7, 16000, level) * np.linspace(0.1, 1, int(1.7 * 16000), dtype=np.float32)
    expected = causal_gain(pcm, features.HOP_SAMPLES)
    found = features.causal_gain(batch(pcm))[0].numpy()
    assert found.shape == pcm.shape
    np.testing.assert_allclose(found, expected, atol=2.5e-7)


def test_whisper_mel_is_the_causal_one_with_nanos_floor():
    pcm = signal(2.4, 16000)
    expected = causal_log_mel(pcm, LogMelOptions(floor=-5.0))
    found = features.whisper_mel(batch(pcm))[0].numpy()
    assert found.shape == expected.shape == (240, 128)
    assert found.min() >= (-5.0 + 4.0) / 4.0 - 1e-6
    np.testing.assert_allclose(found, expected, atol=4e-5)


def test_speaker_mel_is_the_vocoders_at_24_khz():
    pcm = signal(2.04, 24000)
    expected = mel_spectrogram(pcm, NANO_MEL)
    found = features.speaker_mel(batch(pcm))[0].numpy()
    assert found.shape == expected.shape == (204, 80)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_speaker_frames_are_the_mel_of_the_middle():
    pcm = batch(signal(1.0, 24000))
    whole = features.speaker_mel(pcm)
    # Frame t reads samples 240 t - 392 … 240 t + 632: from sample 2008 on, frames 10, 11, …
    cut = features.speaker_frames(pcm[:, 2008 : 2008 + 1024 + 9 * 240])
    torch.testing.assert_close(cut, whole[:, 10:20], atol=1e-5, rtol=0)

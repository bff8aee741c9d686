"""The vocoder's mel against upstream's prompt features."""

from pathlib import Path

import numpy as np
import pytest

from aqaa.audio.decode import read_audio
from aqaa.audio.resample import sinc_resample
from aqaa.audio.speaker_mel import MelOptions, mel_spectrogram

GOLDEN = Path(__file__).parents[2] / "golden" / "speaker_mel"
EXPECTED = np.load(GOLDEN / "expected.npz")


def test_mel_matches_upstream():
    mel = mel_spectrogram(read_audio(GOLDEN / "input_22k.wav").samples)
    np.testing.assert_allclose(mel, EXPECTED["mel"][0], rtol=0, atol=1e-3)


def test_mel_of_a_resampled_prompt_matches_upstream():
    prompt = read_audio(GOLDEN / "input_src.wav")
    mel = mel_spectrogram(sinc_resample(prompt.samples, prompt.sample_rate, 22050))
    np.testing.assert_allclose(mel, EXPECTED["mel_of_resampled"][0], rtol=0, atol=1e-3)


def test_a_tone_at_another_rate_lands_in_its_band():
    options = MelOptions(rate=24000, hop=240, high_hz=12000.0)
    tone = np.sin(2 * np.pi * 1000 * np.arange(24000) / 24000).astype(np.float32)
    mel = mel_spectrogram(tone, options)
    assert mel.shape == (100, 80)
    assert set(mel[2:-2].argmax(axis=1)) == {23}  # its centre is 1010 Hz


def test_silence_is_the_clamp():
    np.testing.assert_allclose(mel_spectrogram(np.zeros(4096, np.float32)), np.log(1e-5), rtol=1e-6)


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="more than 384 samples, got 384"):
        mel_spectrogram(np.zeros(384, np.float32))
    with pytest.raises(ValueError, match="band"):
        MelOptions(high_hz=12000.0)
    with pytest.raises(ValueError, match="even n_fft"):
        MelOptions(hop=2048)
    with pytest.raises(ValueError, match="n_mels"):
        MelOptions(n_mels=0)

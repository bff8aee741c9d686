"""PCM on the wire is what a file of the same samples holds."""

import numpy as np
import pytest
import soundfile

from aqaa.audio.decode import read_audio, write_wav
from aqaa.audio.pcm import from_bytes, to_s16, to_s16le


def test_bytes_become_what_reading_a_file_gives(tmp_path):
    rng = np.random.default_rng(0)
    stereo = rng.integers(-32768, 32768, (5000, 2)).astype("<i2")
    soundfile.write(tmp_path / "a.wav", stereo, 16000, subtype="PCM_16")
    soundfile.write(tmp_path / "b.wav", stereo / np.float32(7e4), 16000, subtype="FLOAT")
    assert np.array_equal(from_bytes(stereo.tobytes(), "s16le", 2), read_audio(tmp_path / "a.wav").samples)
    raw = (stereo / np.float32(7e4)).astype("<f4").tobytes()
    assert np.array_equal(from_bytes(raw, "f32le", 2), read_audio(tmp_path / "b.wav").samples)


def test_samples_become_what_writing_a_file_holds(tmp_path):
    pcm = np.concatenate((np.linspace(-1.2, 1.2, 9001), [1.0, -1.0, 0.5 / 32768])).astype(np.float32)
    write_wav(tmp_path / "a.wav", pcm, 24000)
    held, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert to_s16le(pcm) == held.astype("<i2").tobytes()
    assert (to_s16(pcm).min(), to_s16(pcm).max()) == (-32768, 32767)
    every = np.arange(-32768, 32768).astype("<i2").tobytes()
    assert to_s16le(from_bytes(every, "s16le")) == every


def test_half_a_sample_is_an_error():
    with pytest.raises(ValueError, match="6 bytes, expected a multiple of 4"):
        from_bytes(bytes(6), "s16le", 2)

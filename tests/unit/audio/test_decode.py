"""Decoding: every sample format, and one clear line for everything that cannot be used."""

import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aqaa.audio.decode import AudioLimits, read_audio, write_wav
from aqaa.errors import InvalidAudio

RATE = 16000
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)


def encode(samples, rate=RATE, container="WAV", subtype="PCM_16", endian="FILE") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=subtype, endian=endian)
    return buffer.getvalue()


def with_nan(value: float) -> np.ndarray:
    samples = TONE.astype(np.float64)
    samples[4000] = value
    return samples


def flac_without_length() -> bytes:
    data = bytearray(encode(TONE, container="FLAC"))
    data[21] &= 0xF0  # the 36 bits of "total samples" in STREAMINFO
    data[22:26] = bytes(4)
    return bytes(data)


def flac_with_a_hole() -> bytes:
    data = bytearray(encode(TONE, container="FLAC"))
    data[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    return bytes(data)


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
@pytest.mark.parametrize(
    ("container", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 1e-2),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-7),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("FLAC", "PCM_16", 1e-4),
        ("FLAC", "PCM_24", 1e-6),
    ],
)
def test_sample_formats(rate, container, subtype, tolerance):
    audio = read_audio(encode(TONE, rate, container, subtype))
    assert audio.sample_rate == rate
    assert audio.samples.dtype == np.float32
    assert audio.seconds == RATE / rate
    np.testing.assert_allclose(audio.samples, TONE, rtol=0, atol=tolerance)


def test_stereo_becomes_the_mean_of_its_channels():
    audio = read_audio(encode(np.stack([TONE, np.zeros_like(TONE)], axis=1), subtype="FLOAT"))
    np.testing.assert_array_equal(audio.samples, TONE / 2)


def test_float_beyond_one_is_kept():
    assert np.array_equal(read_audio(encode(TONE * 40, subtype="FLOAT")).samples, TONE * 40)


def test_paths_bytes_and_open_files_give_the_same(tmp_path):
    path = tmp_path / "tone.wav"
    path.write_bytes(encode(TONE))
    expected = read_audio(path).samples
    with path.open("rb") as handle:
        for source in (str(path), path.read_bytes(), handle):
            assert np.array_equal(read_audio(source).samples, expected)
        assert not handle.closed


def test_a_pipe_is_read():
    reading, writing = os.pipe()
    data = encode(TONE)

    def feed() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(data)

    writer = threading.Thread(target=feed)
    writer.start()
    with os.fdopen(reading, "rb") as pipe:
        assert len(read_audio(pipe).samples) == RATE
    writer.join()


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
def test_a_header_from_a_pipe_promises_nothing(endian):
    data = bytearray(encode(TONE, endian=endian))
    data[40:44] = b"\xff\xff\xff\xff"
    assert len(read_audio(bytes(data)).samples) == RATE


REFUSED = {
    "text.wav": (b"this is not audio\n" * 100, "not audio that can be read, expected WAV or FLAC"),
    "empty.wav": (b"", "the file is empty, expected WAV or FLAC audio"),
    "header.wav": (encode(TONE)[:30], "not audio"),
    "no_samples.wav": (encode(TONE[:0]), "0.00 s of audio, expected 0.2 to 30 s"),
    "short.wav": (encode(TONE[:1600]), "0.10 s of audio, expected 0.2 to 30 s"),
    "long.flac": (encode(np.zeros(600 * 8000), 8000, "FLAC"), "600.00 s of audio, expected 0.2 to 30 s"),
    "nan.wav": (encode(with_nan(np.nan), subtype="DOUBLE"), "NaN or infinity at 0.250 s"),
    "infinite.wav": (encode(with_nan(-np.inf), subtype="FLOAT"), "NaN or infinity at 0.250 s"),
    "beyond_float32.wav": (encode(with_nan(1e300), subtype="DOUBLE"), "NaN or infinity at 0.250 s"),
    "cut.wav": (encode(TONE)[:-200], "cut short, 31800 of 32000 bytes of samples are there"),
    "cut_big_endian.wav": (encode(TONE, endian="BIG")[:-200], "cut short, 31800 of 32000"),
    "cut.aiff": (encode(TONE, container="AIFF")[:-200], "cut short"),
    "cut.flac": (encode(TONE, container="FLAC")[:-200], "damaged or cut short, expected 16000 frames"),
    "half.flac": (encode(TONE, container="FLAC")[:3000], "damaged or cut short"),
    "hole.flac": (flac_with_a_hole(), "damaged or cut short"),
    "cut.mp3": (encode(TONE, container="MP3", subtype="MPEG_LAYER_III")[:-1500], "cut short"),
    "unknown_length.flac": (flac_without_length(), "header does not give its length"),
    "slow.wav": (encode(TONE, 4000), "sample rate 4000 Hz, expected 8000 to 48000 Hz"),
    "fast.wav": (encode(TONE, 96000), "sample rate 96000 Hz, expected 8000 to 48000 Hz"),
    "surround.wav": (encode(np.stack([TONE] * 6, axis=1)), "6 channels, expected mono or stereo"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_ends_in_one_clear_line(name, tmp_path):
    data, reason = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InvalidAudio) as caught:
        read_audio(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert "\n" not in message


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InvalidAudio, match=r"nothing\.wav: cannot be opened \(no such file"):
        read_audio(tmp_path / "nothing.wav")
    with pytest.raises(InvalidAudio, match="cannot be opened"):
        read_audio(tmp_path)


def test_a_long_file_is_refused_before_it_is_decoded(monkeypatch):
    data = encode(np.zeros(60 * RATE))
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("samples were decoded"))
    with pytest.raises(InvalidAudio, match=r"60\.00 s of audio"):
        read_audio(data)


def test_limits_are_the_callers():
    assert read_audio(encode(TONE[:1600]), AudioLimits(min_seconds=0.1)).seconds == 0.1
    with pytest.raises(InvalidAudio, match=r"expected 0.2 to 0.5 s"):
        read_audio(encode(TONE), AudioLimits(max_seconds=0.5))
    with pytest.raises(ValueError, match="min_seconds < max_seconds"):
        AudioLimits(min_seconds=2.0, max_seconds=1.0)
    with pytest.raises(ValueError, match="min_rate <= max_rate"):
        AudioLimits(min_rate=0)


@settings(max_examples=30, deadline=None)
@given(pcm=arrays(np.int16, st.integers(1, 200)))
def test_what_is_written_reads_back_bit_for_bit(pcm, tmp_path_factory):
    path = tmp_path_factory.mktemp("wav") / "out.wav"
    samples = pcm.astype(np.float32) / 32768
    write_wav(path, samples, 24000)
    again = read_audio(path, AudioLimits(min_seconds=0))
    assert again.sample_rate == 24000
    assert np.array_equal(again.samples, samples)


def test_writing_clips_instead_of_wrapping(tmp_path):
    write_wav(tmp_path / "loud.wav", np.full(RATE, 3.0, np.float32), RATE)
    assert read_audio(tmp_path / "loud.wav").samples.min() > 0.999


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "answer.wav"
    write_wav(path, TONE, RATE)
    before = path.read_bytes()
    with pytest.raises(InvalidAudio, match="NaN"):
        write_wav(path, np.full(10, np.nan, np.float32), RATE)

    def disk_full(part: Path, *_: object, **__: object) -> None:
        Path(part).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(soundfile, "write", disk_full)
    with pytest.raises(OSError, match="no space"):
        write_wav(path, TONE, RATE)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["answer.wav"]

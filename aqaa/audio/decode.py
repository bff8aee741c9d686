"""Audio files in and out: any WAV or FLAC becomes mono float PCM, or one line that says why not."""

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from aqaa.audio.frames import Float32, as_pcm
from aqaa.audio.pcm import to_s16
from aqaa.errors import InvalidAudio

Source = str | Path | bytes | BinaryIO

_UNKNOWN_FRAMES = 2**62  # libsndfile's way to say that the header gives no length
_STREAMED = 0x7FFF0000  # a recorder that writes to a pipe leaves a chunk size of this or more


@dataclass(frozen=True, eq=False)
class Audio:
    """Mono PCM: ``samples`` (n,) float32, nominally ±1, all finite, at ``sample_rate`` Hz.

    A float file may go beyond ±1. It is kept as it is: gain comes later in every chain and brings it back
    undistorted, where clipping here would not.
    """

    samples: Float32
    sample_rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


@dataclass(frozen=True)
class AudioLimits:
    """What is accepted: length in seconds, sample rate in Hz, both ends included; mono or stereo."""

    min_seconds: float = 0.2
    max_seconds: float = 30.0
    min_rate: int = 8000
    max_rate: int = 48000

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds < self.max_seconds:
            raise ValueError(f"audio limits: expected 0 <= min_seconds < max_seconds, got {self}")
        if not 0 < self.min_rate <= self.max_rate:
            raise ValueError(f"audio limits: expected 0 < min_rate <= max_rate, got {self}")

    @property
    def max_bytes(self) -> int:
        """More than the largest file within these limits: stereo, 64-bit samples, room for headers."""
        return int(self.max_seconds * self.max_rate) * 2 * 8 + 2**20

    def check_rate(self, rate: int, name: str = "audio") -> None:
        """Raise InvalidAudio if a sample rate in Hz is out of range."""
        if not self.min_rate <= rate <= self.max_rate:
            raise InvalidAudio(
                f"{name}: sample rate {rate} Hz, expected {self.min_rate} to {self.max_rate} Hz"
            )

    def check_seconds(self, seconds: float, name: str = "audio") -> None:
        """Raise InvalidAudio if a length in seconds is out of range."""
        if not self.min_seconds <= seconds <= self.max_seconds:
            expected = f"expected {self.min_seconds:g} to {self.max_seconds:g} s"
            raise InvalidAudio(f"{name}: {seconds:.2f} s of audio, {expected}")


DEFAULT_LIMITS = AudioLimits()


def read_audio(source: Source, limits: AudioLimits = DEFAULT_LIMITS) -> Audio:
    """Decode a path, the bytes of a file, or an open binary file (a pipe is read into memory first).

    Anything that libsndfile reads, in any sample format; stereo becomes the mean of its channels. The
    header is checked against ``limits`` before anything is decoded.

    Raises InvalidAudio for a file that is missing, empty, not audio, damaged or cut short, too short or too
    long, of another sample rate, of more than two channels, or that holds NaN or infinity.
    """
    name = str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "audio"))
    with _open(source, name) as opened:
        handle = opened if opened.seekable() else io.BytesIO(opened.read(limits.max_bytes))
        size = handle.seek(0, io.SEEK_END)
        if size == 0:
            raise InvalidAudio(f"{name}: the file is empty, expected WAV or FLAC audio")
        _check_chunks(handle, size, name)
        handle.seek(0)
        samples, rate = _decode(handle, limits, name)
    if not np.isfinite(samples).all():
        first = int(np.argmin(np.isfinite(samples)))
        raise InvalidAudio(f"{name}: NaN or infinity at {first / rate:.3f} s, expected finite samples")
    return Audio(samples, rate)


def write_wav(path: str | Path, pcm: npt.ArrayLike, rate: int) -> None:
    """Write (n,) float PCM as 16-bit mono WAV, clipped to ±1; reading a PCM16 file back gives equal samples.

    The file appears whole or not at all. Raises InvalidAudio if ``pcm`` holds NaN or infinity.
    """
    path, samples = Path(path), as_pcm(pcm)
    if not np.isfinite(samples).all():
        raise InvalidAudio(f"{path}: PCM to be written holds NaN or infinity")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        soundfile.write(part, to_s16(samples), rate, format="WAV", subtype="PCM_16")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _open(source: Source, name: str) -> Iterator[BinaryIO]:
    """``source`` as a binary file; one that the caller opened stays open."""
    if isinstance(source, bytes):
        yield io.BytesIO(source)
    elif isinstance(source, str | Path):
        try:
            handle = open(source, "rb")  # noqa: SIM115 (closed below; only opening may fail here)
        except OSError as error:
            raise InvalidAudio(
                f"{name}: cannot be opened ({(error.strerror or str(error)).lower()})"
            ) from error
        with handle:
            yield handle
    else:
        yield source


def _decode(handle: BinaryIO, limits: AudioLimits, name: str) -> tuple[Float32, int]:
    try:
        file = soundfile.SoundFile(handle)
    except soundfile.LibsndfileError as error:
        raise InvalidAudio(f"{name}: not audio that can be read, expected WAV or FLAC") from error
    with file:
        rate, frames = file.samplerate, file.frames
        limits.check_rate(rate, name)
        if file.channels > 2:
            raise InvalidAudio(f"{name}: {file.channels} channels, expected mono or stereo")
        if frames >= _UNKNOWN_FRAMES:
            raise InvalidAudio(f"{name}: its header does not give its length; encode it again to a file")
        limits.check_seconds(frames / rate, name)
        try:
            channels_TC = file.read(dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise InvalidAudio(
                f"{name}: the audio is damaged or cut short, expected {frames} frames"
            ) from error
    if len(channels_TC) != frames:
        raise InvalidAudio(f"{name}: cut short, {len(channels_TC)} of {frames} frames are there")
    return channels_TC.mean(axis=1, dtype=np.float32), rate


def _check_chunks(handle: BinaryIO, size: int, name: str) -> None:
    """Raise InvalidAudio if the sample chunk of a WAV or AIFF file promises more bytes than there are.

    libsndfile corrects such a header without a word. FLAC reports a missing end by itself.
    """
    handle.seek(0)
    form, endian = handle.read(12), "<"
    if form[:4] in (b"RIFX", b"FORM"):
        endian = ">"
    elif form[:4] != b"RIFF":
        return
    while len(header := handle.read(8)) == 8:
        kind, length = header[:4], struct.unpack(endian + "I", header[4:])[0]
        if kind in (b"data", b"SSND"):
            there = size - handle.tell()
            if there < length < _STREAMED:
                raise InvalidAudio(f"{name}: cut short, {there} of {length} bytes of samples are there")
            return
        handle.seek(length + length % 2, io.SEEK_CUR)

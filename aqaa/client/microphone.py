"""Microphone and loudspeaker, through the optional package sounddevice."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any, Final

import numpy as np

from aqaa.client.events import Float32, Int16
from aqaa.client.talk import Spoken
from aqaa.errors import Unsupported

RATE: Final = 16000
_BLOCK: Final = RATE * 120 // 1000
_SAMPLE_BYTES: Final = 2


def sound_devices() -> Any:
    """The package sounddevice.

    Raises:
        Unsupported: it is not installed, or finds no PortAudio.
    """
    try:
        import sounddevice  # type: ignore[import-not-found,unused-ignore]
    except (ImportError, OSError) as error:
        raise Unsupported(
            "a microphone needs the package sounddevice: pip install sounddevice, or name WAV files"
        ) from error
    return sounddevice


class Loudspeaker:
    """Plays one answer. ``played_samples`` counts what the sound card has taken."""

    def __init__(self, devices: Any) -> None:
        self._devices = devices
        self._stream: Any = None
        self._waiting = bytearray()
        self._lock = threading.Lock()
        self._hushed = False
        self._played = 0

    @property
    def played_samples(self) -> int:
        return self._played

    async def play(self, pcm: Int16, sample_rate: int) -> None:
        """More of the answer."""
        if self._hushed:
            return
        with self._lock:
            self._waiting += pcm.tobytes()
        if self._stream is None:
            self._stream = self._devices.RawOutputStream(
                samplerate=sample_rate, channels=1, dtype="int16", callback=self._fill
            )
            self._stream.start()

    async def finish(self) -> None:
        """Until all has been heard."""
        while self._waiting and not self._hushed:
            await asyncio.sleep(0.02)
        self._close()

    def hush(self) -> None:
        """At once silent."""
        self._hushed = True
        self._close()

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.abort() if self._hushed else self._stream.stop()
            self._stream.close()
            self._stream = None

    def _fill(self, outdata: Any, frames: int, *_: Any) -> None:
        size = frames * _SAMPLE_BYTES
        with self._lock:
            piece = bytes(self._waiting[:size])
            del self._waiting[:size]
            self._played += len(piece) // _SAMPLE_BYTES
        outdata[:] = piece.ljust(size, b"\0")


async def spoken_questions(devices: Any) -> AsyncIterator[Spoken]:
    """Questions from the microphone, each ended by Enter, until the input ends."""
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:  # a thread that may wait for ever: it is a daemon
        while line := sys.stdin.readline():
            loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, "")

    threading.Thread(target=read, daemon=True).start()
    number = 0
    while True:
        print("Enter begins a question, Enter ends it, Ctrl-D leaves.", file=sys.stderr)
        if not await lines.get():
            return
        number += 1
        yield Spoken(f"question {number}", RATE, _pieces(devices, lines))


async def _pieces(devices: Any, lines: "asyncio.Queue[str]") -> AsyncIterator[Float32]:
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def heard(indata: Any, *_: Any) -> None:
        loop.call_soon_threadsafe(pieces.put_nowait, bytes(indata))

    async def enter() -> None:
        await lines.get()
        pieces.put_nowait(None)

    with devices.RawInputStream(samplerate=RATE, channels=1, dtype="int16", blocksize=_BLOCK, callback=heard):
        ending = asyncio.ensure_future(enter())
        try:
            while (piece := await pieces.get()) is not None:
                yield np.frombuffer(piece, np.int16).astype(np.float32) / np.float32(32768)
        finally:
            ending.cancel()

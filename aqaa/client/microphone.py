"""Microphone and loudspeaker, through the package sounddevice of the extra ``talk``."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Final

import numpy as np

from aqaa.client.events import Float32, Int16
from aqaa.client.talk import Spoken
from aqaa.errors import InvalidAudio, Unsupported

RATE: Final = 16000
BLOCK: Final = RATE * 120 // 1000
"""Samples that a microphone gives at once."""
_SAMPLE_BYTES: Final = 2
_INSTEAD: Final = "or name WAV files"


def sound_devices() -> Any:
    """The package sounddevice.

    Raises:
        Unsupported: it is not installed, or finds no PortAudio, no microphone or no loudspeaker.
    """
    try:
        import sounddevice  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise Unsupported(
            f"a microphone needs sounddevice, which is not installed: pip install 'aqaa[talk]', {_INSTEAD}"
        ) from error
    except OSError as error:
        raise Unsupported(
            f"a microphone needs PortAudio, Debian's libportaudio2: {error}; install it, {_INSTEAD}"
        ) from error
    form = {"channels": 1, "dtype": "int16"}
    _working(sounddevice, "microphone", lambda: sounddevice.check_input_settings(samplerate=RATE, **form))
    _working(sounddevice, "loudspeaker", lambda: sounddevice.check_output_settings(**form))
    return sounddevice


def _working(devices: Any, what: str, do: Callable[[], Any]) -> Any:
    """What ``do`` gives. Raises Unsupported where PortAudio cannot."""
    try:
        return do()
    except devices.PortAudioError as error:
        raise Unsupported(f"there is no {what} that works: {error}; connect one, {_INSTEAD}") from error


class Loudspeaker:
    """Plays one answer; made in the loop that it is played from.

    ``played_samples`` counts what the sound card has taken.
    """

    def __init__(self, devices: Any) -> None:
        self._devices = devices
        self._loop = asyncio.get_running_loop()
        self._stream: Any = None
        self._waiting = bytearray()
        self._lock = threading.Lock()  # of what the card's own thread shares
        self._silent = asyncio.Event()
        self._silent.set()
        self._hushed = False
        self._played = 0

    @property
    def played_samples(self) -> int:
        return self._played

    async def play(self, pcm: Int16, sample_rate: int) -> None:
        """More of the answer. Raises Unsupported if there is no loudspeaker for it."""
        if self._hushed:
            return
        self._silent.clear()
        with self._lock:
            self._waiting += pcm.tobytes()
        if self._stream is None:
            form = {"samplerate": sample_rate, "channels": 1, "dtype": "int16"}
            self._stream = _working(
                self._devices,
                "loudspeaker",
                lambda: self._devices.RawOutputStream(**form, callback=self._fill),
            )
            self._stream.start()

    async def finish(self) -> None:
        """Until all has been heard."""
        await self._silent.wait()
        self._close()

    def hush(self) -> None:
        """At once silent."""
        self._hushed = True
        self._close()
        self._silent.set()

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.abort() if self._hushed else self._stream.stop()
            self._stream.close()
            self._stream = None

    def _fill(self, outdata: Any, frames: int, *_: Any) -> None:
        """In the card's thread."""
        size = frames * _SAMPLE_BYTES
        with self._lock:
            piece = bytes(self._waiting[:size])
            del self._waiting[:size]
            self._played += len(piece) // _SAMPLE_BYTES
            last = bool(piece) and not self._waiting
        outdata[:] = piece.ljust(size, b"\0")
        if last:
            self._loop.call_soon_threadsafe(self._note_silence)

    def _note_silence(self) -> None:
        if not self._waiting:
            self._silent.set()


async def spoken_questions(devices: Any) -> AsyncIterator[Spoken]:
    """Questions from the microphone, each ended by Enter, until the input ends."""
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:  # a thread that may wait for ever: it is a daemon
        with suppress(RuntimeError):  # the loop is closed: the talk is over
            while line := sys.stdin.readline():
                loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, "")

    threading.Thread(target=read, daemon=True).start()
    number = 0
    while True:
        print("Enter begins a question, over an answer too; Enter ends it, Ctrl-D leaves.", file=sys.stderr)
        if not await lines.get():
            return
        number += 1
        yield Spoken(f"question {number}", RATE, _pieces(devices, lines))


async def _pieces(devices: Any, lines: "asyncio.Queue[str]") -> AsyncIterator[Float32]:
    """Raises InvalidAudio at its end if it had none: Enter came again before a block was full."""
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
    heard_any = False
    loop = asyncio.get_running_loop()

    def heard(indata: Any, *_: Any) -> None:
        loop.call_soon_threadsafe(pieces.put_nowait, bytes(indata))

    async def enter() -> None:
        if not await lines.get():
            lines.put_nowait("")  # the input has ended: this question, and the talk behind it
        pieces.put_nowait(None)

    form = {"samplerate": RATE, "channels": 1, "dtype": "int16", "blocksize": BLOCK}
    with _working(devices, "microphone", lambda: devices.RawInputStream(**form, callback=heard)):
        ending = asyncio.ensure_future(enter())
        try:
            while (piece := await pieces.get()) is not None:
                heard_any = True
                yield np.frombuffer(piece, np.int16).astype(np.float32) / np.float32(32768)
        finally:
            ending.cancel()
    if not heard_any:
        least = BLOCK * 1000 // RATE
        raise InvalidAudio(f"nothing was heard before the question's end, expected at least {least} ms")

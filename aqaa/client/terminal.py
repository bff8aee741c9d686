"""``aqaa talk``: a conversation whose answers become files, a line for each turn."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from aqaa.audio.decode import Audio, write_wav
from aqaa.client.asynchronous import AsyncClient
from aqaa.client.events import Float32
from aqaa.client.talk import Exchange, Spoken, Talk
from aqaa.errors import AqaaError

_PIECE_SECONDS: Final = 0.24


def hold_talk(address: str, recordings: Sequence[tuple[str, Audio]], out: Path) -> bool:
    """Asks the recordings, or what a microphone hears if there is none; answers go to ``out``.

    Gives whether Ctrl-C has ended it. Raises Unsupported without a microphone, Unavailable if the server is
    lost, AqaaError at the end if a recording had no answer.
    """
    return asyncio.run(_hold(address, recordings, out))


async def _hold(address: str, recordings: Sequence[tuple[str, Audio]], out: Path) -> bool:
    failed = 0

    def tell(exchange: Exchange) -> None:
        nonlocal failed
        if exchange.fault is not None:
            failed += 1
            print(told(exchange, None), file=sys.stderr, flush=True)
        else:
            print(told(exchange, written(exchange, out)), flush=True)

    async with AsyncClient(address) as client:
        if recordings:
            talk, questions = Talk(client, tell, clock=time.monotonic), _recorded(recordings)
        else:
            from aqaa.client.microphone import Loudspeaker, sound_devices, spoken_questions

            devices = sound_devices()
            speaker = partial(Loudspeaker, devices)
            talk = Talk(client, tell, speaker=speaker, barge_in=True, clock=time.monotonic)
            questions = spoken_questions(devices)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, talk.interrupt)
        try:
            await talk.run(questions)
        finally:
            loop.remove_signal_handler(signal.SIGINT)
    if failed and recordings and not talk.interrupted:
        raise AqaaError(f"{failed} of {len(recordings)} questions had no whole answer")
    return talk.interrupted


def written(exchange: Exchange, out: Path) -> Path | None:
    """Writes the sound, sample for sample; None if there is none."""
    if not len(exchange.pcm):
        return None
    path = out / f"answer-{exchange.number}.wav"
    try:
        write_wav(path, exchange.pcm.astype(np.float32) / 32768, exchange.sample_rate)
    except OSError as error:
        raise AqaaError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def told(exchange: Exchange, path: Path | None) -> str:
    """A turn in one line."""
    if exchange.fault is not None:
        whole = " to its end" if len(exchange.pcm) else ""
        why = " ".join(str(exchange.fault).split())
        return f"{exchange.number}. {exchange.name} was not answered{whole}: {why}"
    first = "no sound" if exchange.first_sound is None else f"first sound after {exchange.first_sound:.2f} s"
    notes = [f"{len(exchange.pcm) / exchange.sample_rate:.2f} s", first]
    notes += ["cut off"] if exchange.cut_off else []
    notes += [str(path)] if path is not None else []
    heard = f" “{exchange.question.strip()}”" if exchange.question else ""
    return (
        f"{exchange.number}. {exchange.name}{heard} → {exchange.answer.strip() or '–'} ({', '.join(notes)})"
    )


async def _recorded(recordings: Sequence[tuple[str, Audio]]) -> AsyncIterator[Spoken]:
    for name, audio in recordings:
        yield Spoken(name, audio.sample_rate, _pieces(audio))


async def _pieces(audio: Audio) -> AsyncIterator[Float32]:
    size = max(1, round(_PIECE_SECONDS * audio.sample_rate))
    for at in range(0, len(audio.samples), size):
        yield audio.samples[at : at + size]

"""``aqaa talk`` without files: what a microphone hears is asked, what a loudspeaker has taken is told.

The devices are a stand-in for sounddevice: a sound card that takes and gives when the test says so.
"""

import asyncio
import os
import sys

import numpy as np
import pytest
from client_cases import RATE as ANSWER_RATE
from client_cases import Script, in_loop, serving

from aqaa.client.microphone import BLOCK, RATE, Loudspeaker, sound_devices, spoken_questions
from aqaa.client.talk import Talk
from aqaa.errors import Unsupported

SCRIPT = Script()
FORM = {"channels": 1, "dtype": "int16"}


class NoDeviceError(Exception):
    """As sounddevice.PortAudioError."""


class Playing:
    """A RawOutputStream: ``take`` is the card asking for more."""

    def __init__(self, callback, **form) -> None:
        self.form, self._callback = form, callback
        self.heard, self.state = b"", "new"

    def take(self, frames: int) -> bytes:
        outdata = bytearray(2 * frames)
        self._callback(memoryview(outdata), frames, None, None)
        self.heard += outdata
        return bytes(outdata)

    def start(self) -> None:
        self.state = "started"

    def stop(self) -> None:
        self.state = "stopped"

    def abort(self) -> None:
        self.state = "aborted"

    def close(self) -> None:
        self.state += ", closed"


class Recording:
    """A RawInputStream: ``give`` is the card having heard more."""

    def __init__(self, callback, **form) -> None:
        self.form, self._callback, self.open = form, callback, False

    def __enter__(self):
        self.open = True
        return self

    def __exit__(self, *_) -> None:
        self.open = False

    def give(self, pcm: np.ndarray) -> None:
        """Blocks in memory that the card uses again."""
        for block in pcm.reshape(-1, self.form["blocksize"]):
            memory = bytearray(block.tobytes())
            self._callback(memory, len(block), None, None)
            memory[:] = bytes(len(memory))


class Devices:
    """The module."""

    PortAudioError = NoDeviceError

    def __init__(self, *, broken: str = "") -> None:
        self.broken = broken
        self.playing: list[Playing] = []
        self.recording: list[Recording] = []

    def _check(self, what: str) -> None:
        if what == self.broken:
            raise NoDeviceError("Error querying device -1")

    def check_input_settings(self, **form) -> None:
        assert form == FORM | {"samplerate": RATE}
        self._check("microphone")

    def check_output_settings(self, **form) -> None:
        assert form == FORM
        self._check("loudspeaker")

    def RawOutputStream(self, **given) -> Playing:  # noqa: N802 - sounddevice's name
        self._check("playing")
        self.playing.append(Playing(**given))
        return self.playing[-1]

    def RawInputStream(self, **given) -> Recording:  # noqa: N802 - sounddevice's name
        self._check("recording")
        self.recording.append(Recording(**given))
        return self.recording[-1]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch):
    """What is typed: lines, and closing for Ctrl-D."""
    reading, writing = os.pipe()
    with open(reading) as stdin, open(writing, "w", buffering=1) as typed:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield typed
        typed.close()


def words(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9999, 9999, count).astype(np.int16)


async def until(met) -> None:
    while not met():
        await asyncio.sleep(0)


@in_loop
async def test_an_answer_is_played_sample_for_sample_and_silence_is_not_counted():
    devices, pcm = Devices(), words(1000)
    speaker = Loudspeaker(devices)
    await speaker.play(pcm[:300], ANSWER_RATE)
    (card,) = devices.playing
    assert (card.form, card.state) == (FORM | {"samplerate": ANSWER_RATE}, "started")
    assert speaker.played_samples == 0
    card.take(200)
    assert speaker.played_samples == 200
    assert card.take(200)[200:] == bytes(200)  # nothing more has come
    assert speaker.played_samples == 300
    await speaker.play(pcm[300:], ANSWER_RATE)
    finishing = asyncio.ensure_future(speaker.finish())
    card.take(600)
    await asyncio.sleep(0)
    assert not finishing.done()
    await asyncio.to_thread(card.take, 600)  # as a card does, in a thread of its own
    await finishing
    assert (card.state, len(devices.playing)) == ("stopped, closed", 1)
    heard = np.frombuffer(card.heard, np.int16)
    np.testing.assert_array_equal(np.concatenate((heard[:300], heard[400:1100])), pcm)
    assert speaker.played_samples == len(pcm)


@in_loop
async def test_a_loudspeaker_that_is_hushed_stays_silent():
    devices = Devices()
    speaker = Loudspeaker(devices)
    await speaker.play(words(1000), ANSWER_RATE)
    finishing = asyncio.ensure_future(speaker.finish())
    devices.playing[0].take(400)
    speaker.hush()
    await finishing
    await speaker.play(words(100), ANSWER_RATE)
    assert [card.state for card in devices.playing] == ["aborted, closed"]
    assert speaker.played_samples == 400
    speaker.hush()


@in_loop
async def test_without_sound_nothing_is_opened():
    devices = Devices()
    speaker = Loudspeaker(devices)
    await speaker.finish()
    assert not devices.playing


@in_loop
async def test_enter_begins_and_ends_each_question(keys):
    devices, asked = Devices(), []
    questions = spoken_questions(devices)
    for number in range(2):
        pcm = words(3 * BLOCK, number)
        asking = asyncio.ensure_future(anext(questions))
        await asyncio.sleep(0)
        assert len(devices.recording) == number  # nothing is recorded before Enter
        keys.write("\n")
        question = await asking
        asked.append((question.name, question.sample_rate))
        first = asyncio.ensure_future(anext(question.pieces))
        await until(lambda expected=number + 1: len(devices.recording) == expected)
        card = devices.recording[number]
        assert (card.form, card.open) == (FORM | {"samplerate": RATE, "blocksize": BLOCK}, True)
        await asyncio.to_thread(card.give, pcm)
        pieces = [await first, await anext(question.pieces), await anext(question.pieces)]
        keys.write("\n")
        pieces += [piece async for piece in question.pieces]
        assert {piece.dtype for piece in pieces} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(np.concatenate(pieces) * 32768, pcm)
        assert not card.open
    assert asked == [("question 1", RATE), ("question 2", RATE)]
    keys.close()
    assert [question async for question in questions] == []


@in_loop
async def test_an_input_that_ends_while_someone_speaks_ends_the_question_and_the_talk(keys):
    devices = Devices()
    questions = spoken_questions(devices)
    keys.write("\n")
    question = await anext(questions)
    first = asyncio.ensure_future(anext(question.pieces))
    await until(lambda: devices.recording)
    devices.recording[0].give(words(BLOCK))
    await first
    keys.close()
    assert [piece async for piece in question.pieces] == []
    assert [question async for question in questions] == []


@in_loop
async def test_a_talk_tells_what_the_card_has_taken_and_no_more(keys):
    devices, exchanges, question = Devices(), [], words(2 * BLOCK)
    async with serving(hold=10) as served:
        talk = Talk(served.client, exchanges.append, speaker=lambda: Loudspeaker(devices), clock=lambda: 0.0)
        running = asyncio.ensure_future(talk.run(spoken_questions(devices)))
        keys.write("\n")
        await until(lambda: devices.recording)
        devices.recording[0].give(question)
        keys.write("\n")
        await until(lambda: devices.playing)
        assert served.orchestrator.played == []  # it has come, nobody has heard it
        devices.playing[0].take(100)
        await until(lambda: served.orchestrator.played)
        assert served.orchestrator.played == [100]
        devices.playing[0].take(60)
        talk.interrupt()  # before it is told
        await until(lambda: exchanges)
        keys.close()
        await running
    assert devices.playing[0].state == "aborted, closed"
    (asked,) = served.orchestrator.questions.values()
    np.testing.assert_array_equal(np.frombuffer(asked, "<f4") * 32768, question)
    ((_, cancel),) = [call for call in served.orchestrator.calls if call[0] == "CancelTurn"]
    assert cancel.played_samples == 160
    assert exchanges[0].cut_off
    assert devices.playing[0].heard == SCRIPT.pcm.tobytes()[:320]


@in_loop
async def test_a_device_that_cannot_be_opened_is_unsupported(keys):
    with pytest.raises(Unsupported, match="loudspeaker"):
        await Loudspeaker(Devices(broken="playing")).play(words(10), ANSWER_RATE)
    questions = spoken_questions(Devices(broken="recording"))
    keys.write("\n")
    with pytest.raises(Unsupported, match="microphone"):
        await anext((await anext(questions)).pieces)
    keys.close()
    assert [question async for question in questions] == []


@pytest.mark.parametrize("broken", ["microphone", "loudspeaker"])
def test_a_machine_without_a_device_is_told_so_before_anybody_speaks(monkeypatch, broken):
    monkeypatch.setitem(sys.modules, "sounddevice", Devices(broken=broken))
    with pytest.raises(Unsupported, match=f"no {broken} that works: Error querying device -1"):
        sound_devices()
    monkeypatch.setitem(sys.modules, "sounddevice", whole := Devices())
    assert sound_devices() is whole


def test_a_missing_portaudio_is_named(monkeypatch):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(Unsupported, match="libportaudio2: PortAudio library not found"):
        sound_devices()

"""``aqaa talk`` without files: what a microphone hears is asked, what a loudspeaker has taken is told.

The devices are a stand-in for sounddevice: a sound card that takes and gives when the test says so.
"""

import asyncio
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from client_cases import PATIENCE, Script, in_loop, serving
from client_cases import RATE as ANSWER_RATE

from aqaa.client.microphone import BLOCK, RATE, Loudspeaker, sound_devices, spoken_questions
from aqaa.client.talk import Talk
from aqaa.client.terminal import told
from aqaa.errors import InvalidAudio, Unsupported

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


class Conversing:
    """``aqaa talk`` without files."""

    def __init__(self, served, devices: Devices, keys) -> None:
        self.exchanges, self.served, self.keys = [], served, keys
        self.talk = Talk(
            served.client,
            self._tell,
            speaker=lambda: Loudspeaker(devices),
            barge_in=True,
            clock=lambda: 0.0,
        )
        self.running = asyncio.ensure_future(self.talk.run(spoken_questions(devices)))
        self.devices = devices

    def _tell(self, exchange) -> None:
        self.exchanges.append(exchange)
        self.served.orchestrator.cancelled.clear()

    async def recording(self) -> Recording:
        """The card, after Enter."""
        count = len(self.devices.recording) + 1
        self.keys.write("\n")
        await until(lambda: len(self.devices.recording) == count or self.running.done())
        return self.devices.recording[-1]

    async def ask(self) -> Playing:
        """A question, to the first sound of its answer."""
        card, count = await self.recording(), len(self.devices.playing) + 1
        card.give(words(2 * BLOCK))
        self.keys.write("\n")
        await until(lambda: len(self.devices.playing) == count or self.running.done())
        return self.devices.playing[-1]

    async def play_on(self, card: Playing) -> None:
        """All of the answer that is heard."""
        count = len(self.exchanges) + 1
        await until(lambda: self.talk._answering.turn.manifest)
        card.take(len(SCRIPT.pcm))
        await until(lambda: len(self.exchanges) == count)


@in_loop
async def test_enter_during_an_answer_silences_it_and_begins_the_next_question_at_once(keys):
    devices, second = Devices(), words(2 * BLOCK, 2)
    async with serving(hold=10) as served:
        orchestrator, made = served.orchestrator, Conversing(served, devices, keys)
        answer, orchestrator.go.set = orchestrator.go.set, lambda: None  # a server that takes its time
        first = await made.ask()
        first.take(160)
        card = await made.recording()
        assert first.state == "aborted, closed"
        card.give(second)
        await until(lambda: orchestrator.steps.count("turn") == 2)
        assert made.exchanges == []  # nobody waited for the end of what was cut off
        ((_, cancel),) = [call for call in orchestrator.calls if call[0] == "CancelTurn"]
        assert cancel.played_samples == 160
        answer()
        await until(lambda: made.exchanges)
        keys.write("\n")
        await until(lambda: len(devices.playing) == 2)
        await made.play_on(devices.playing[1])
        keys.close()
        await made.running
    assert [(told.number, told.cut_off) for told in made.exchanges] == [(1, True), (2, False)]
    assert first.heard == SCRIPT.pcm.tobytes()[:320]
    np.testing.assert_array_equal(made.exchanges[1].pcm, SCRIPT.pcm)
    assert next(iter(orchestrator.turns.values())) == cancel.turn_id
    asked = [np.frombuffer(sound, "<f4") * 32768 for sound in orchestrator.questions.values()]
    np.testing.assert_array_equal(asked[1], second)


@in_loop
async def test_enter_while_the_last_of_an_answer_sounds_silences_it_too(keys):
    devices = Devices()
    async with serving() as served:
        made = Conversing(served, devices, keys)
        card = await made.ask()
        await until(lambda: made.talk._answering.turn.manifest)
        card.take(160)
        recording = await made.recording()
        assert (card.state, recording.open) == ("aborted, closed", True)
        await until(lambda: made.exchanges)
        assert made.exchanges[0].cut_off
        (cancel,) = served.orchestrator.named("Cancel")
        assert cancel.played_samples == 160
        recording.give(words(BLOCK))
        keys.close()
        await until(lambda: len(devices.playing) == 2)
        await made.play_on(devices.playing[1])
        await made.running
    assert [told.cut_off for told in made.exchanges] == [True, False]


@in_loop
async def test_the_end_of_the_input_during_an_answer_lets_it_be_heard(keys):
    devices = Devices()
    async with serving(hold=10) as served:
        made = Conversing(served, devices, keys)
        card = await made.ask()
        keys.close()
        served.orchestrator.go.set()
        await made.play_on(card)
        await made.running
    assert not made.exchanges[0].cut_off
    np.testing.assert_array_equal(np.frombuffer(card.heard, np.int16), SCRIPT.pcm)


@in_loop
async def test_ctrl_c_while_a_question_is_spoken_over_an_answer_ends_the_talk(keys):
    devices = Devices()
    async with serving(hold=10) as served:
        made = Conversing(served, devices, keys)
        await made.ask()
        await made.recording()
        made.talk.interrupt()
        await made.running
        keys.close()
    assert made.talk.interrupted


@in_loop
async def test_enter_twice_at_once_is_told_and_the_talk_goes_on(keys):
    devices = Devices()
    async with serving() as served:
        made = Conversing(served, devices, keys)
        await made.recording()
        keys.write("\n")
        await until(lambda: made.exchanges or made.running.done())
        await made.play_on(await made.ask())
        keys.close()
        await made.running
    empty, answered = made.exchanges
    assert isinstance(empty.fault, InvalidAudio)
    heard, expected = "nothing was heard before the question's end", "at least 120 ms"
    assert told(empty, None) == f"1. question 1 was not answered: {heard}, expected {expected}"
    np.testing.assert_array_equal(answered.pcm, SCRIPT.pcm)
    assert served.orchestrator.steps.count("turn") == 1  # the server heard nothing of it


@in_loop
async def test_enter_twice_during_an_answer_silences_it_and_no_more(keys):
    devices = Devices()
    async with serving(hold=10) as served:
        made = Conversing(served, devices, keys)
        card = await made.ask()
        await made.recording()
        keys.write("\n")
        await until(lambda: len(made.exchanges) == 2 or made.running.done())
        assert card.state == "aborted, closed"
        await made.ask()
        await made.play_on(devices.playing[1])
        keys.close()
        await made.running
    assert [(each.cut_off, each.fault is None) for each in made.exchanges] == [
        (True, True),
        (False, False),
        (False, True),
    ]


@pytest.mark.parametrize("patient", [True, False])
@in_loop
async def test_an_answer_cut_off_before_its_turn_is_known_is_cancelled_once_it_is(keys, patient):
    devices, second = Devices(), words(2 * BLOCK, 2)
    async with serving(hold=2) as served:
        orchestrator, made = served.orchestrator, Conversing(served, devices, keys)
        orchestrator.naming.clear()
        (await made.recording()).give(words(2 * BLOCK))
        keys.write("\n")
        await until(lambda: made.talk._answering)
        answer = made.talk._answering
        if not patient:
            served.client._line.patience = replace(PATIENCE, call_seconds=0.01)
        card = await made.recording()
        if not patient:
            await asyncio.wait({answer.cutting})
        card.give(second)
        keys.write("\n")
        await until(lambda: made.talk._answering is not answer)
        orchestrator.naming.set()
        await until(lambda: made.exchanges or made.running.done())
        orchestrator.go.set()
        await until(lambda: devices.playing or made.running.done())
        await made.play_on(devices.playing[0])
        keys.close()
        await made.running
    assert [(each.number, each.cut_off) for each in made.exchanges] == [(1, True), (2, False)]
    assert not len(made.exchanges[0].pcm)
    np.testing.assert_array_equal(made.exchanges[1].pcm, SCRIPT.pcm)
    assert devices.playing[0].heard == SCRIPT.pcm.tobytes()
    ((_, cancel),) = [call for call in orchestrator.calls if call[0] == "CancelTurn"]
    assert cancel.turn_id == next(iter(orchestrator.turns.values()))
    asked = [np.frombuffer(sound, "<f4") * 32768 for sound in orchestrator.questions.values()]
    np.testing.assert_array_equal(asked[1], second)


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

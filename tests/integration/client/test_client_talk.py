"""``aqaa talk``: answers become files, a turn is a line, Ctrl-C interrupts and then ends."""

import asyncio
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from client_cases import RATE, Fault, Script, in_loop, serving, serving_apart

from aqaa import cli
from aqaa.audio.decode import write_wav
from aqaa.client.talk import Spoken, Talk
from aqaa.client.terminal import told
from aqaa.errors import AqaaError, CapacityError, Deadline, Draining, Forbidden, InvalidAudio, InvalidRequest

SCRIPT = Script()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aqaa", "talk", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return command


def test_recordings_are_asked_one_after_the_other(run, tmp_path: Path):
    for name, rate in (("a.wav", 16000), ("b.wav", 16000), ("c.wav", 44100)):
        write_wav(tmp_path / name, 0.1 * np.sin(np.arange(rate) / 20), rate)
    paths = [str(tmp_path / name) for name in ("a.wav", "b.wav", "c.wav")]
    with serving_apart() as (orchestrator, address):
        code, out, _ = run(*paths, "--address", address, "--out", str(tmp_path))
    assert code == 0
    lines = out.splitlines()
    assert [line.split(" ")[:2] for line in lines] == [["1.", "a.wav"], ["2.", "b.wav"], ["3.", "c.wav"]]
    assert "“Say hello.” → Hello, wörld.Goodbye. (0.11 s, first sound after" in lines[0]
    for number in (1, 2, 3):
        pcm, rate = soundfile.read(tmp_path / f"answer-{number}.wav", dtype="int16")
        np.testing.assert_array_equal(pcm, SCRIPT.pcm)
        assert rate == RATE
    assert [len(question) for question in orchestrator.questions.values()] == [64000, 64000, 176400]


def test_what_cannot_be_asked_is_one_line(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code, _, err = run(str(tmp_path / "none.wav"))
    assert (code, err.count("\n")) == (2, 1)
    code, _, err = run("--out", str(tmp_path / "nowhere"))
    assert (code, err.count("\n")) == (2, 1)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    code, _, err = run("--out", str(tmp_path))
    assert (code, err.count("\n")) == (1, 1)
    assert "sounddevice" in err


def test_a_recording_that_is_refused_is_told_and_the_others_are_answered(run, tmp_path: Path):
    for name in ("a.wav", "b.wav", "c.wav"):
        write_wav(tmp_path / name, 0.1 * np.sin(np.arange(16000) / 20), 16000)
    paths = [str(tmp_path / name) for name in ("a.wav", "b.wav", "c.wav")]
    refusals = {2: InvalidAudio("the question has more than 640000 bytes (20 s),\nask a shorter one")}
    with serving_apart(refusals=refusals) as (_, address):
        code, out, err = run(*paths, "--address", address, "--out", str(tmp_path))
    assert code == 1
    assert [line[:8] for line in out.splitlines()] == ["1. a.wav", "3. c.wav"]
    assert [line for line in err.splitlines() if "health_check" not in line] == [
        "2. b.wav was not answered: the question has more than 640000 bytes (20 s), ask a shorter one",
        "error: 1 of 3 questions had no whole answer",
    ]
    assert sorted(path.name for path in tmp_path.glob("answer-*")) == ["answer-1.wav", "answer-3.wav"]


async def questions(count: int, asked: list[int]):
    async def pieces():
        yield np.zeros(1600, np.float32)

    for number in range(count):
        asked.append(number)
        yield Spoken(f"q{number}", 16000, pieces())


@in_loop
async def test_ctrl_c_cuts_an_answer_off_and_the_next_question_follows():
    exchanges, asked = [], []
    async with serving(hold=8) as served:
        talk = Talk(served.client, exchanges.append, clock=lambda: 0.0)
        running = asyncio.ensure_future(talk.run(questions(2, asked)))
        while talk._answering is None or not talk._answering.turn.text:
            await asyncio.sleep(0)
        talk.interrupt()
        await running
    assert [exchange.cut_off for exchange in exchanges] == [True, False]
    assert not talk.interrupted
    np.testing.assert_array_equal(exchanges[1].pcm, SCRIPT.pcm)
    assert "cut off" in told(exchanges[0], None)


@in_loop
async def test_a_second_ctrl_c_ends():
    exchanges, asked = [], []
    async with serving(hold=8) as served:
        talk = Talk(served.client, exchanges.append, clock=lambda: 0.0)
        running = asyncio.ensure_future(talk.run(questions(3, asked)))
        while talk._answering is None or not talk._answering.turn.text:
            await asyncio.sleep(0)
        talk.interrupt()
        talk.interrupt()
        await running
    assert talk.interrupted
    assert (exchanges, asked) == ([], [0])


REFUSALS = [
    InvalidAudio("NaN"),
    InvalidRequest("no"),
    Deadline("late"),
    CapacityError("full"),
    AqaaError("a fault of the service"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.reason)
@in_loop
async def test_a_refused_question_is_told_and_the_next_one_is_asked(refusal):
    exchanges, asked = [], []
    async with serving(refusals={2: refusal}) as served:
        await Talk(served.client, exchanges.append, clock=lambda: 0.0).run(questions(3, asked))
    assert [type(exchange.fault) for exchange in exchanges] == [type(None), type(refusal), type(None)]
    assert told(exchanges[1], None) == f"2. q1 was not answered: {refusal}"
    for answered in (exchanges[0], exchanges[2]):
        np.testing.assert_array_equal(answered.pcm, SCRIPT.pcm)


@in_loop
async def test_a_question_that_is_refused_while_it_is_spoken_is_heard_out_and_taken_back():
    exchanges, spoken = [], []

    async def pieces(name, values):
        for value in values:
            spoken.append(name)
            yield np.full(1600, value, np.float32)

    async def both():
        yield Spoken("q0", 16000, pieces("q0", [0.0, np.nan, 0.0]))
        yield Spoken("q1", 16000, pieces("q1", [0.0]))

    async with serving(hold=1) as served:
        orchestrator = served.orchestrator
        talk = Talk(served.client, exchanges.append, clock=lambda: 0.0)
        running = asyncio.ensure_future(talk.run(both()))
        while not orchestrator.called_off:
            await asyncio.sleep(0)
        await running
    assert orchestrator.called_off == {SCRIPT.turn_id()}
    assert spoken == ["q0", "q0", "q0", "q1"]
    assert [type(exchange.fault) for exchange in exchanges] == [InvalidAudio, type(None)]


@pytest.mark.parametrize("error", [Draining("going"), Forbidden("not you")], ids=lambda error: error.reason)
@in_loop
async def test_a_server_that_is_lost_ends_the_talk(error):
    exchanges, asked = [], []
    async with serving(Fault("deaf", 2), *[Fault("door", error=error)] * 9) as served:
        with pytest.raises(type(error)):
            await Talk(served.client, exchanges.append, clock=lambda: 0.0).run(questions(3, asked))
    assert (exchanges, asked) == ([], [0])


@in_loop
async def test_an_answer_cut_off_while_its_call_is_made_anew_is_not_asked_again():
    exchanges, asked = [], []
    async with serving(Fault("deaf", 2)) as served:
        talk = Talk(served.client, exchanges.append, clock=lambda: 0.0)
        served.waits.meanwhile = lambda: exchanges or talk.interrupt()
        await talk.run(questions(2, asked))
    assert [(exchange.cut_off, exchange.fault) for exchange in exchanges] == [(True, None), (False, None)]
    assert not len(exchanges[0].pcm)
    assert len(served.orchestrator.questions) == 1
    np.testing.assert_array_equal(exchanges[1].pcm, SCRIPT.pcm)

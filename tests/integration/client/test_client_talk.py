"""``aqaa talk``: answers become files, a turn is a line, Ctrl-C interrupts and then ends."""

import asyncio
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from client_cases import RATE, Script, in_loop, serving, serving_apart

from aqaa import cli
from aqaa.audio.decode import write_wav
from aqaa.client.talk import Spoken, Talk
from aqaa.client.terminal import told

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

        def tell(exchange):
            exchanges.append(exchange)
            served.orchestrator.cancelled.clear()

        talk = Talk(served.client, tell, clock=lambda: 0.0)
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

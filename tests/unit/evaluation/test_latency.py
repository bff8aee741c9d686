"""The latency benchmark against a clock that only sleeping and computing move."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from aqaa.audio.decode import write_wav
from benchmarks.latency import Spread, TurnTime, Wall, questions, report, time_turn


@dataclass
class FakeWall:
    seconds: float = 100.0

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.seconds += seconds

    @property
    def wall(self) -> Wall:
        return Wall(now=lambda: self.seconds, sleep=self.sleep)


@dataclass
class FakePipeline:
    """Takes ``push_seconds`` a piece, then 0.3 s to the first of three sounds and 0.2 s to each other."""

    clock: FakeWall
    push_seconds: float = 0.02
    pieces: list[int] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)

    def listen(self, *, seed: int = 0) -> "FakePipeline":
        return self

    def push(self, pcm: NDArray[np.float32]) -> None:
        self.pieces.append(len(pcm))
        self.arrived.append(self.clock.seconds - 100.0)
        self.clock.seconds += self.push_seconds

    def finish(self) -> Iterator[object]:
        yield SimpleNamespace(text="The sky")
        for seconds in (0.3, 0.2, 0.2):
            self.clock.seconds += seconds
            yield SimpleNamespace(pcm=np.zeros(24000, np.float32))
        self.clock.seconds += 5.0
        yield SimpleNamespace(text="What color is the sky?")


def test_the_question_is_fed_as_it_is_spoken() -> None:
    clock = FakeWall()
    pipeline = FakePipeline(clock)
    time_turn(pipeline, np.zeros(16000, np.float32), 24000, 0, clock.wall)
    assert pipeline.pieces == [1920] * 8 + [640]
    assert pipeline.arrived == pytest.approx([0.12 * k for k in range(1, 9)] + [1.0])


def test_time_runs_from_the_last_sample_to_the_sounds() -> None:
    clock = FakeWall()
    turn = time_turn(FakePipeline(clock), np.zeros(16000, np.float32), 24000, 0, clock.wall)
    assert turn.first_pcm == pytest.approx(0.32)  # the last piece's own 20 ms count
    assert turn.last_pcm == pytest.approx(0.72)  # the transcript after it does not
    assert turn.answer_seconds == pytest.approx(3.0)
    assert turn.rtf == pytest.approx(0.24)
    assert turn.backlog == pytest.approx(0.02)


def test_a_pipeline_that_cannot_keep_up_pays_for_it() -> None:
    clock = FakeWall()
    turn = time_turn(
        FakePipeline(clock, push_seconds=0.24), np.zeros(19200, np.float32), 24000, 0, clock.wall
    )
    assert turn.backlog == pytest.approx(0.12 + 10 * 0.24 - 1.2)
    assert turn.first_pcm == pytest.approx(turn.backlog + 0.3)


def test_the_report_keeps_silent_turns_apart() -> None:
    turns = [TurnTime(0.1 * k, 1.0, 2.0, 0.0) for k in range(1, 5)] + [TurnTime(None, None, 0.0, 0.0)]
    found = report(turns)
    assert (found["turns"], found["silent"]) == (5, 1)
    assert found["first_pcm_seconds"] == {"n": 4, "median": pytest.approx(0.25), "p95": pytest.approx(0.385)}
    assert found["rtf"] == {"n": 4, "median": 0.5, "p95": 0.5}
    with pytest.raises(ValueError, match="at least one answer with sound"):
        Spread.of([None])


def test_questions_come_at_sixteen_kilohertz(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \.wav"):
        questions(tmp_path)
    write_wav(tmp_path / "b.wav", np.zeros(48000, np.float32), 48000)
    write_wav(tmp_path / "a.wav", np.zeros(8000, np.float32), 16000)
    assert [len(pcm) for pcm in questions(tmp_path)] == [8000, 16000]

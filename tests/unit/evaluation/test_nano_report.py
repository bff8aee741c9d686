"""From questions to rows to tables: what counts as right, what a fault costs, what the tables say."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from evaluation_cases import FakePipeline, speak, tone

from aqaa.audio.decode import Audio
from evaluation.heldout import Question
from evaluation.nano import Answer, Ears, answer_row, floor_row
from evaluation.report import GOALS, cell, markdown, plain, same, summary
from evaluation.results import AnswerRow, FloorRow
from training.voices import Rendering

Asked = list[tuple[Question, Audio]]


@pytest.fixture
def rows(pipeline: FakePipeline, asked: Asked, ears: Ears) -> dict[int, AnswerRow]:
    normal: dict[str, Answer] = {}
    return {q.index: answer_row(pipeline, q, audio, ears, normal) for q, audio in asked}


@pytest.fixture
def floor(asked: Asked, ears: Ears) -> dict[int, FloorRow]:
    def teacher(text: str, style: str | None) -> Rendering:
        return Rendering(tone(style), np.zeros(0, np.float32))

    return {q.index: floor_row(teacher, q, audio, ears) for q, audio in asked}


@pytest.fixture
def report(asked: Asked, rows: dict[int, AnswerRow], floor: dict[int, FloorRow]) -> dict[str, Any]:
    return summary([q for q, _ in asked], rows, floor) | {"split": "test", "bundle": "models/tiny"}


def test_a_row_tells_what_was_said_and_heard(rows: dict[int, AnswerRow]) -> None:
    assert rows[1].question_text == "What is one plus three?"
    assert rows[1].answer_text == "One plus two is four."
    assert rows[1].heard == "Coal is black."
    assert rows[1].answer_seconds == pytest.approx(1.0)
    assert rows[1].controls == ()


def test_each_asked_segment_is_held_against_the_plain_voice(
    rows: dict[int, AnswerRow], pipeline: FakePipeline
) -> None:
    slow, soft = rows[2].controls
    assert (slow.asked, soft.asked) == ("slow", "soft")
    assert slow.held
    assert soft.held
    assert slow.change is not None
    assert slow.change.seconds == pytest.approx(1.4, abs=0.03)


def test_one_reference_a_text(pipeline: FakePipeline, rows: dict[int, AnswerRow]) -> None:
    assert pipeline.said == ["The cat sees a dog."]


def test_a_missing_segment_does_not_hold(pipeline: FakePipeline, asked: Asked, ears: Ears) -> None:
    question, audio = asked[2]
    pipeline.answers[len(audio.samples)] = speak(question.question, question.answer[:1])
    slow, soft = answer_row(pipeline, question, audio, ears, {}).controls
    assert slow.held
    assert soft.change is None
    assert not soft.held


def test_a_fault_is_a_wrong_answer_and_is_told(rows: dict[int, AnswerRow], report: dict[str, Any]) -> None:
    assert rows[3].fault == "CAPACITY: no free slot"
    assert [control.held for control in rows[3].controls] == [False]
    assert report["faults"] == [{"index": 3, "fault": "CAPACITY: no free slot"}]
    assert report["groups"]["all"]["text_right"]["value"] == 0.5
    assert report["groups"]["all"]["dnsmos"]["n"] == 3


def test_groups_are_counted_apart(report: dict[str, Any]) -> None:
    groups = report["groups"]
    assert groups["color"]["text_right"]["value"] == groups["color"]["heard_right"]["value"] == 1.0
    assert groups["arithmetic"]["text_right"]["value"] == 0.0
    assert groups["unseen texts"]["text_right"] == plain_of(1, 1)
    assert groups["seen texts"]["text_right"]["n"] == 3
    # "three" for "two" among five words; the fault leaves a whole question unwritten.
    assert groups["arithmetic"]["transcript_wer"]["value"] == pytest.approx(0.2)
    assert groups["color"]["voice_control"] is None


def plain_of(right: int, n: int) -> dict[str, float] | None:
    from evaluation.metrics import rate

    return plain(rate([True] * right + [False] * (n - right)))


def test_voice_control_counts_segments_and_whole_answers(report: dict[str, Any]) -> None:
    assert report["groups"]["all"]["voice_control"] == plain_of(2, 3)
    styles = report["styles"]
    assert styles["slow"]["value"] == styles["soft"]["value"] == 1.0
    assert styles["high"]["value"] == 0.0
    assert styles["answers of two segments, both"] == plain_of(1, 1)
    assert styles["answers of one segment"] == plain_of(0, 1)


def test_the_floor_is_the_same_ears_on_the_teacher(report: dict[str, Any]) -> None:
    assert report["floor"]["color"]["heard_right"]["value"] == 1.0
    assert report["floor"]["all"]["voice_control"]["value"] == 1.0
    assert report["floor"]["all"]["question_wer"]["n"] == 4


@pytest.mark.parametrize(("value", "verdict"), [(0.96, "aim"), (0.95, "aim"), (0.9, "must"), (0.8, "missed")])
def test_the_verdict_where_more_is_better(value: float, verdict: str) -> None:
    assert GOALS[0].verdict(value) == verdict


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.02, "aim"), (0.1, "must"), (0.11, "missed"), (float("nan"), "missed")]
)
def test_the_verdict_where_less_is_better(value: float, verdict: str) -> None:
    assert GOALS[2].verdict(value) == verdict


def test_the_page_shows_every_goal_with_its_verdict(report: dict[str, Any]) -> None:
    json.dumps(report, allow_nan=False)
    page = markdown(report)
    for goal, found in zip(GOALS, report["goals"], strict=True):
        (line,) = (
            line for line in page.splitlines() if line.startswith(f"| {goal.title} | {'≥≤'[not goal.least]}")
        )
        assert line.endswith(f"| {found['verdict']} |")
        assert cell(found["estimate"], goal.percent) in line
    assert "| answer text right | ≥ 85 % | ≥ 95 % | 50.0 (15.0 to 85.0) | missed |" in page
    assert "1 ended in an error" in page


def test_the_floor_has_a_page_without_a_bundle(asked: Asked, floor: dict[int, FloorRow]) -> None:
    report = summary([q for q, _ in asked], {}, floor) | {"split": "dev", "bundle": None}
    assert report["goals"] == []
    assert "answer text right" not in markdown(report)
    json.dumps(report, allow_nan=False)


def test_an_answer_without_sound_has_no_score(pipeline: FakePipeline, asked: Asked, ears: Ears) -> None:
    question, audio = asked[0]
    silent = replace(speak(question.question, ()), answer_text="Coal is black.")
    pipeline.answers[len(audio.samples)] = silent
    row = answer_row(pipeline, question, audio, ears, {})
    assert row.dnsmos is None
    assert row.heard == ""
    report = summary([question], {0: row}, {})
    assert report["groups"]["all"]["text_right"]["value"] == 1.0
    assert report["groups"]["all"]["speech_wer"]["value"] == 1.0


@pytest.mark.parametrize(
    ("expected", "given", "held"),
    [
        ("The blue bird sings.", "the bluebird sings", True),
        ("The bluebird sings.", "The blue bird sings!", True),
        ("The blue bird sings.", "The blue board sings.", False),
        ("It is six.", "It is sixty.", False),
    ],
)
def test_texts_are_the_same_however_their_words_are_joined(expected: str, given: str, held: bool) -> None:
    assert same(expected, given) is held

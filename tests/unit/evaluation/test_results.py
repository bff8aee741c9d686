"""Rows survive a stop, and never mix with those of another bundle."""

from pathlib import Path

import pytest

from evaluation.results import AnswerRow, Control, FloorRow, Ledger
from evaluation.voice_control import Change

ROW = AnswerRow(
    3,
    "what",
    "that",
    "that",
    (Control("slow", Change(1.3, 1.0, 0.0)), Control("soft", None)),
    3.1,
    1.2,
    0.3,
    0.2,
)


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    ledger = Ledger(path, AnswerRow, {"bundle": "a"})
    fault = AnswerRow(4, fault="CAPACITY: too long")
    ledger.add(ROW)
    ledger.add(fault)
    assert Ledger(path, AnswerRow, {"bundle": "a"}).rows() == {3: ROW, 4: fault}
    assert [control.held for control in ROW.controls] == [True, False]


def test_a_line_that_a_stop_cut_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "floor.jsonl"
    row = FloorRow(0, "what", "that", (), 3.0)
    ledger = Ledger(path, FloorRow, {})
    ledger.add(row)
    with path.open("a") as file:
        file.write('{"index": 1, "question_he')
    assert ledger.rows() == {0: row}
    ledger.add(FloorRow(1, "who", "me", (), 2.0))
    assert sorted(ledger.rows()) == [0, 1]


def test_rows_of_another_bundle_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Ledger(path, AnswerRow, {"bundle": "a"})
    with pytest.raises(ValueError, match=r"belongs to .*'a'.*, expected .*'b'"):
        Ledger(path, AnswerRow, {"bundle": "b"})

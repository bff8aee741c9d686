"""What a run found out about each question, kept line by line so that a stopped run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from evaluation.voice_control import Change


@dataclass(frozen=True)
class Control:
    """One asked voice state: the style that was asked, and how the speech changed (None: no such segment)."""

    asked: str
    change: Change | None

    @property
    def held(self) -> bool:
        return self.change is not None and self.change.holds(self.asked)


@dataclass(frozen=True)
class AnswerRow:
    """What the bundle made of question ``index``. ``fault``: the pipeline's error; the rest is empty then."""

    index: int
    question_text: str = ""
    answer_text: str = ""
    heard: str = ""
    controls: tuple[Control, ...] = ()
    dnsmos: float | None = None
    answer_seconds: float = 0.0
    ttfa_seconds: float = 0.0
    rtf: float = 0.0
    fault: str | None = None


@dataclass(frozen=True)
class FloorRow:
    """What the judge and the measures make of question ``index`` itself and of the teacher's answer to it."""

    index: int
    question_heard: str
    answer_heard: str
    controls: tuple[Control, ...]
    dnsmos: float


Row = TypeVar("Row", AnswerRow, FloorRow)


class Ledger(Generic[Row]):
    """Rows on disk, one JSON object a line, after a first line that says what they belong to.

    Raises ValueError when the file belongs to something else: another bundle, other texts.
    """

    def __init__(self, path: Path, row: type[Row], belongs_to: dict[str, Any]) -> None:
        self.path = path
        self._row: type[Row] = row
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(belongs_to) + "\n", "utf-8")
        there = json.loads(path.read_text("utf-8").splitlines()[0])
        if there != belongs_to:
            raise ValueError(
                f"{path} belongs to {there}, expected {belongs_to}; remove it or write elsewhere"
            )

    def add(self, row: Row) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")

    def rows(self) -> dict[int, Row]:
        """Rows by index. A last line that a stop cut short is dropped, from the file too."""
        return {row.index: row for row in self._read()}

    def _read(self) -> Iterator[Row]:
        text = self.path.read_text("utf-8")
        whole, _, cut = text.rpartition("\n")
        if cut:
            self.path.write_text(whole + "\n", "utf-8")
        for line in whole.splitlines()[1:]:
            raw = json.loads(line)
            raw["controls"] = tuple(
                Control(c["asked"], None if c["change"] is None else Change(**c["change"]))
                for c in raw["controls"]
            )
            yield self._row(**raw)

"""An answer as the log holds it so far: its segments with their text and groups, and how it ended."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from aqaa.errors import LogDiverged
from aqaa.v1.tokens_pb2 import AnswerPiece, AudioGroups, EndReason, Transcript
from aqaa.v1.turnlog_pb2 import AnswerRecord
from services.orchestrator import groups as groups_of


@dataclass
class Segment:
    """A voice state; of a written answer the only one, which nobody opened.

    groups  its sound, as it came
    count   groups so far
    """

    index: int
    style: str = ""
    text: str = ""
    groups: list[AudioGroups] = field(default_factory=list)
    count: int = 0
    ended: bool = False


@dataclass(frozen=True)
class NewText:
    """What a piece has added to a segment's text. ``first_byte`` counts the bytes before it."""

    segment: int
    text: str
    first_byte: int


class Answer:
    """Grows record by record; ``grown`` wakes who waits for more."""

    def __init__(self, records: Iterable[AnswerRecord] = ()) -> None:
        self.segments: list[Segment] = []
        self.transcript: Transcript | None = None
        self.end: EndReason.ValueType | None = None
        self._bytes = 0
        self._news = asyncio.Event()
        for record in records:
            self.add(record)

    @property
    def groups(self) -> int:
        """Of all segments."""
        return sum(segment.count for segment in self.segments)

    @property
    def spoken(self) -> bool:
        return any(segment.count for segment in self.segments)

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)

    def add(self, record: AnswerRecord) -> NewText | None:
        """Raises LogDiverged for a piece that cannot stand there."""
        self._news.set()
        if record.HasField("transcript"):
            self.transcript = record.transcript
            return None
        return self._add(record.piece)

    async def grown(self) -> None:
        """Waits for the next record."""
        self._news.clear()
        await self._news.wait()

    def _add(self, piece: AnswerPiece) -> NewText | None:
        if self.end is not None:
            raise _misplaced("a piece behind the end")
        match piece.WhichOneof("piece"):
            case "segment_start":
                if piece.segment_start.segment != len(self.segments):
                    raise _misplaced(f"segment {piece.segment_start.segment}, not {len(self.segments)}")
                self.segments.append(Segment(len(self.segments), piece.segment_start.style))
                self._bytes = 0
            case "text":
                if not self.segments:
                    self.segments.append(Segment(0))
                last = self.segments[-1]
                new = NewText(last.index, piece.text.text, self._bytes)
                last.text += new.text
                self._bytes += len(new.text.encode())
                return new
            case "groups":
                if not self.segments or self.segments[-1].ended:
                    raise _misplaced("sound outside of a segment")
                last = self.segments[-1]
                if piece.groups.first_group != last.count:
                    raise _misplaced(f"group {piece.groups.first_group}, not {last.count}")
                last.groups.append(piece.groups)
                last.count += groups_of.count(piece.groups)
            case "segment_end":
                if not self.segments or self.segments[-1].count != piece.segment_end.groups:
                    raise _misplaced(f"the end of a segment of {piece.segment_end.groups} groups")
                self.segments[-1].ended = True
            case "end":
                self.end = piece.end.reason
        return None


def _misplaced(what: str) -> LogDiverged:
    return LogDiverged(f"the answer holds {what}", missing="answer")

"""An answer on its way into the log: what nobody could use apart is one entry."""

from collections.abc import Iterable, Sequence

from aqaa.v1.tokens_pb2 import AnswerPiece, AudioGroups, TextRun
from services.orchestrator import groups as groups_of


class Gathering:
    """Joins the pieces of one answer, in their order. Text that follows quickly is one run; groups wait for
    the last one that the vocoder needs for their tile, since no sound can be made of fewer.

    sizes     groups of the tiles of a segment; the last one repeats
    context   groups that must be known behind a tile; None where nobody has said it yet: no group waits
    interval  seconds between two runs of text
    """

    def __init__(self, sizes: Sequence[int], context: int | None, interval: float) -> None:
        self._sizes = sizes
        self._context = context
        self._interval = interval
        self._text: list[TextRun] = []
        self._sound: list[AudioGroups] = []
        self._said = 0  # groups of the open segment that have left
        self._text_at: float | None = None  # when text left last
        self.waiting = 0
        """Groups that wait."""

    @property
    def due(self) -> float | None:
        """When the text that waits has to leave; None if none waits."""
        return (self._text_at or 0.0) + self._interval if self._text else None

    def begin(self, written: Iterable[AnswerPiece]) -> None:
        """The answer is written on behind these pieces. What waited is forgotten: it comes again."""
        self._text, self._sound, self._said, self.waiting = [], [], 0, 0
        for piece in written:
            self._leaves(piece)

    def add(self, piece: AnswerPiece, now: float) -> list[AnswerPiece]:
        """What has to be appended now, in this order. ``now``: seconds."""
        match piece.WhichOneof("piece"):
            case "text":
                left = self._groups()
                self._text.append(piece.text)
                if self._text_at is None or now - self._text_at >= self._interval:
                    left += self._run(now)
            case "groups":
                left = self._run(now)
                self._sound.append(piece.groups)
                self.waiting += groups_of.count(piece.groups)
                if self._tile_is_whole():
                    left += self._groups()
            case _:
                left = [*self.flush(now), piece]
                self._leaves(piece)
        return left

    def flush(self, now: float) -> list[AnswerPiece]:
        """All that waits."""
        return self._groups() + self._run(now)

    def _tile_is_whole(self) -> bool:
        if self._context is None or not self._sizes:
            return True
        next_end = groups_of.tile_end(self._sizes, max(0, self._said - self._context))
        return self._said + self.waiting >= next_end + self._context

    def _run(self, now: float) -> list[AnswerPiece]:
        if not self._text:
            return []
        runs, self._text, self._text_at = self._text, [], now
        ids = [i for run in runs for i in run.token_ids]
        return [AnswerPiece(text=TextRun(text="".join(run.text for run in runs), token_ids=ids))]

    def _groups(self) -> list[AnswerPiece]:
        if not self._sound:
            return []
        sound, self._sound, self.waiting = self._sound, [], 0
        whole = AudioGroups(first_group=sound[0].first_group)
        for groups in sound:
            whole.linguistic.extend(groups.linguistic)
            whole.semantic.extend(groups.semantic)
        piece = AnswerPiece(groups=whole)
        self._leaves(piece)
        return [piece]

    def _leaves(self, piece: AnswerPiece) -> None:
        if piece.HasField("segment_start"):
            self._said = 0
        elif piece.HasField("groups"):
            self._said += groups_of.count(piece.groups)

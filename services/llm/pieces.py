"""An answer's tokens as the pieces of the wire, and pieces back to tokens."""

from collections.abc import Iterator, Sequence
from typing import Final

from aqaa.errors import InvalidToken
from aqaa.tokens.answer import AnswerEnd, AnswerParser, Event, Group, SegmentEnd, SegmentStart, TextRun
from aqaa.tokens.classes import TokenClass
from aqaa.tokens.grammar import FinishReason
from aqaa.tokens.table import StartMode, Task
from aqaa.v1 import tokens_pb2
from services.llm.faults import fault
from services.llm.groups import read_groups
from services.llm.language import Language

Piece = tokens_pb2.AnswerPiece

_REASONS: Final = {"stop": tokens_pb2.END_REASON_STOP, "length": tokens_pb2.END_REASON_LENGTH}


class PieceWriter:
    """Makes the pieces of one answer, each as soon as its tokens are there.

        writer = PieceWriter(language, "answer", "speech")
        writer.take_up(pieces_written_elsewhere)
        for ids in tokens: yield from writer.push(ids)
        yield writer.end("stop")

    ``tokens``, ``text_tokens``, ``groups``: of the whole answer so far.
    """

    def __init__(self, language: Language, task: Task, start_mode: StartMode) -> None:
        self._language, self._task = language, task
        self._parser = AnswerParser(language.grammar, task, start_mode)
        self._text = language.text.detokenizer()
        self._starts_told = self._ends_told = 0
        self.tokens = self.text_tokens = self.groups = 0

    def take_up(self, answered: Sequence[Piece]) -> tuple[int, ...]:
        """Go on behind pieces that were written elsewhere; returns their tokens.

        Raises:
            InvalidRequest: a piece that does not follow from those before it.
            InvalidToken: an id or code out of range.
            GrammarError: tokens in an order that no answer has.
        """
        ids = tokens_of(self._language, self._task, answered)
        self.give(ids)
        for piece in answered:
            match piece.WhichOneof("piece"):
                case "segment_start":
                    self._starts_told += 1
                case "segment_end":
                    self._ends_told += 1
                    self._text.finish()
                case "text":
                    shown = self._text.push(piece.text.token_ids)
                    if len(piece.text.text) > len(shown):
                        self._text.finish()  # it shows bytes that nothing has completed
        return ids

    def give(self, ids: Sequence[int]) -> None:
        """Tokens that are not written out: forced by the caller, or known to him."""
        for happened in self._read(ids):
            if isinstance(happened, Group):
                self.groups += 1

    def push(self, ids: Sequence[int]) -> Iterator[Piece]:
        """The pieces that these tokens complete; groups in a row make one piece."""
        run: list[Group] = []
        for happened in self._read(ids):
            if isinstance(happened, Group):
                run.append(happened)
                continue
            yield from self._sound(run)
            run = []
            yield from self._write(happened)
        yield from self._sound(run)

    def end(self, reason: FinishReason) -> Piece:
        """The last piece."""
        return Piece(
            end=tokens_pb2.AnswerEnd(
                reason=_REASONS[reason],
                tokens=self.tokens,
                text_tokens=self.text_tokens,
                groups=self.groups,
            )
        )

    def _read(self, ids: Sequence[int]) -> list[Event]:
        class_of = self._language.grammar.ranges.class_of
        self.tokens += len(ids)
        self.text_tokens += sum(class_of(token_id) is TokenClass.TEXT for token_id in ids)
        return self._parser.push(ids)

    def _write(self, happened: SegmentStart | TextRun | SegmentEnd | AnswerEnd) -> Iterator[Piece]:
        match happened:
            case SegmentStart(segment=segment, style=style):
                if segment >= self._starts_told:
                    name = "" if style is None else self._language.styles[style]
                    yield Piece(segment_start=tokens_pb2.SegmentStart(segment=segment, style=name))
            case TextRun(ids=ids):
                yield Piece(text=tokens_pb2.TextRun(text=self._text.push(ids), token_ids=ids))
            case SegmentEnd(segment=segment, groups=groups):
                yield from self._last_text()
                if segment >= self._ends_told:
                    yield Piece(segment_end=tokens_pb2.SegmentEnd(groups=groups))
            case AnswerEnd():
                yield from self._last_text()

    def _sound(self, groups: Sequence[Group]) -> Iterator[Piece]:
        if groups:
            self.groups += len(groups)
            codes = self._language.group_codes(token_id for group in groups for token_id in group.ids)
            yield Piece(
                groups=tokens_pb2.AudioGroups(
                    first_group=groups[0].index, linguistic=codes[0], semantic=codes[1]
                )
            )

    def _last_text(self) -> Iterator[Piece]:
        """Bytes that no token completes any more, shown as U+FFFD: a run without tokens."""
        if left := self._text.finish():
            yield Piece(text=tokens_pb2.TextRun(text=left))


def tokens_of(language: Language, task: Task, answered: Sequence[Piece]) -> tuple[int, ...]:
    """The tokens that pieces hold, exactly: not one more than was written.

    Raises:
        InvalidRequest: a piece out of order, of an unknown style, or an end, behind which nothing follows.
        InvalidToken: an id that is not text, a code out of range.
    """
    ranges = language.grammar.ranges
    ids: list[int] = []
    segments = groups = 0
    for number, piece in enumerate(answered):
        field = f"commit.answered[{number}]"
        match piece.WhichOneof("piece"):
            case "segment_start":
                start = piece.segment_start
                if start.segment != segments:
                    raise fault(f"{field}.segment_start.segment", f"is {start.segment}, expected {segments}")
                if task != "continue":  # whose one segment has no marker
                    ids.append(ranges.audio_start)
                if start.style:
                    ids.append(style_id(language, start.style, f"{field}.segment_start.style"))
                segments, groups = segments + 1, 0
            case "text":
                for place, token_id in enumerate(piece.text.token_ids):
                    if ranges.class_of(token_id) is not TokenClass.TEXT:
                        where = f"{field}.text.token_ids[{place}]"
                        raise InvalidToken(f"{where} is {token_id}, expected the id of text", field=where)
                ids += piece.text.token_ids
            case "groups":
                sound = read_groups(language, piece.groups, f"{field}.groups", first=groups)
                ids += sound
                groups += len(sound) // language.ratios.group_size
            case "segment_end":
                if piece.segment_end.groups != groups:
                    raise fault(
                        f"{field}.segment_end.groups", f"is {piece.segment_end.groups}, expected {groups}"
                    )
                if task != "continue":  # where EOT may have ended it: the next token tells
                    ids.append(ranges.audio_end)
            case "end":
                raise fault(f"{field}.end", "nothing can follow it: the answer is whole")
            case _:
                raise fault(field, "is empty, expected a piece")
    return tuple(ids)


def style_id(language: Language, style: str, field: str) -> int:
    """The id of a style's piece.

    Raises:
        InvalidRequest: the bundle has no such style.
    """
    if style not in language.style_ids:
        known = ", ".join(language.style_ids) or "none: this bundle has no styles"
        raise fault(field, f"no such style, expected one of {known}")
    return language.style_ids[style]

"""Text to ids and back over a SentencePiece model; a caller's text can never become a control piece."""

import codecs
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import sentencepiece

from aqaa.errors import BundleError, BundleUnsupported, InvalidToken
from aqaa.tokens.classes import ClassRanges, ranges_of
from aqaa.tokens.ids import IdLayout, Range

# Field numbers and values of sentencepiece_model.proto.
_PIECES, _NORMALIZER = 1, 3
_PIECE_TEXT, _PIECE_TYPE = 1, 3
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_DUMMY_PREFIX = 3

_SPACE = "\u2581"


class TextVocabulary:
    """The text half of a bundle's vocabulary.

    ``model`` is a serialised SentencePiece model. Its control pieces are never produced from text, nor are
    the pieces named in ``controls`` and user-defined pieces that look like a marker (``<…>``): a caller who
    types ``<audio_end>`` gets its letters. Raises BundleUnsupported when the model cannot be read,
    BundleError when a control is missing.

    >>> vocabulary = TextVocabulary.load(bundle / "tokenizer.model")
    >>> vocabulary.decode(vocabulary.encode("hello"))
    'hello'
    """

    def __init__(self, model: bytes, controls: Iterable[str] = ()) -> None:
        controls = frozenset(controls)
        try:
            safe, self._types, self._has_dummy_prefix = _without_markers(model, controls)
            self._as_trained = sentencepiece.SentencePieceProcessor(model_proto=safe)
            # Protocol buffers merge a message that comes twice: this switches the dummy prefix off.
            plain = safe + b"\x1a\x02\x18\x00"
            self._unprefixed = sentencepiece.SentencePieceProcessor(model_proto=plain)
        except (IndexError, ValueError, RuntimeError) as error:
            raise BundleUnsupported(
                f"text vocabulary of {len(model)} bytes, expected a SentencePiece model: {error}"
            ) from error
        for name in controls:
            self.piece_id(name)  # a misspelt control would protect nothing

    @classmethod
    def load(cls, path: Path, controls: Iterable[str] = ()) -> "TextVocabulary":
        """The vocabulary in a ``tokenizer.model`` file. Raises BundleError when it cannot be read."""
        try:
            model = path.read_bytes()
        except OSError as error:
            raise BundleError(f"text vocabulary {path}: {error.strerror}") from error
        return cls(model, controls)

    @property
    def size(self) -> int:
        """How many pieces there are; ids run from 0 to size - 1."""
        return len(self._types)

    @cached_property
    def text_ranges(self) -> tuple[Range, ...]:
        """The ids that text is made of: no control piece, no ``<unk>`` (bytes spell what pieces cannot)."""
        return ranges_of(i for i, kind in enumerate(self._types) if kind in (_NORMAL, _USER_DEFINED, _BYTE))

    def piece_id(self, name: str) -> int:
        """The id of a piece such as ``<audio_start>``. Raises BundleError that names the missing piece."""
        found = int(self._as_trained.piece_to_id(name))
        if self._as_trained.id_to_piece(found) != name:
            raise BundleError(f"the text vocabulary has no piece {name!r} among its {self.size}")
        return found

    def encode(self, text: str, *, prefix: bool = True) -> list[int]:
        """Text to ids; no control piece can come out of it.

        ``prefix=False`` leaves out the space that SentencePiece may put before the first word (its dummy
        prefix), for text that goes on where other text stopped. Raises InvalidToken for a lone surrogate.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidToken(
                f"character {error.start} of the text is half a surrogate pair, expected Unicode text"
            ) from error
        processor = self._as_trained if prefix else self._unprefixed
        return [int(token_id) for token_id in processor.encode(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text: what a ``Detokenizer`` gives for them, one after another. Raises InvalidToken."""
        detokenizer = self.detokenizer()
        return detokenizer.push(ids) + detokenizer.finish()

    def detokenizer(self) -> "Detokenizer":
        """A fresh streaming decoder."""
        return Detokenizer(self._surfaces, strip_first_space=self._has_dummy_prefix)

    @cached_property
    def _surfaces(self) -> tuple[bytes, ...]:
        """For each id the UTF-8 bytes that it shows; control pieces show nothing."""
        surfaces = []
        for token_id, kind in enumerate(self._types):
            piece = self._as_trained.id_to_piece(token_id)
            if kind == _BYTE:
                surfaces.append(bytes([int(piece[3:5], 16)]))
            elif kind == _UNKNOWN:
                surfaces.append("\ufffd".encode())
            else:
                surfaces.append(b"" if kind == _CONTROL else piece.replace(_SPACE, " ").encode())
        return tuple(surfaces)


class Detokenizer:
    """Text from ids as they come, never half a character: bytes wait until their UTF-8 sequence is whole.

    One for each answer. What it has returned is final; ``finish`` gives U+FFFD for bytes that waited in vain.
    """

    def __init__(self, surfaces: tuple[bytes, ...], *, strip_first_space: bool) -> None:
        self._surfaces = surfaces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = strip_first_space

    def push(self, ids: Iterable[int]) -> str:
        """The text that these ids complete. Raises InvalidToken for an id that is no text piece's."""
        shown = bytearray()
        for token_id in ids:
            if not 0 <= token_id < len(self._surfaces):
                raise InvalidToken(f"text id {token_id}, expected [0, {len(self._surfaces)})")
            shown += self._surfaces[token_id]
        if self._strip and shown:
            self._strip = False
            del shown[: shown.startswith(b" ")]
        return self._decoder.decode(shown)

    def finish(self) -> str:
        """What is left at the end of the answer."""
        return self._decoder.decode(b"", final=True)


def class_ranges(
    vocabulary: TextVocabulary,
    layout: IdLayout,
    *,
    eot: str,
    audio_start: str = "<audio_start>",
    audio_end: str = "<audio_end>",
    styles: Iterable[str] = (),
) -> ClassRanges:
    """The token classes of a bundle, its markers and styles resolved by name.

    Raises BundleError when a piece is missing or the vocabulary runs into the audio ids.
    """
    if vocabulary.size > layout.audio_base:
        raise BundleError(
            f"the text vocabulary has {vocabulary.size} pieces, "
            f"expected at most audio_base, which is {layout.audio_base}"
        )
    markers = [vocabulary.piece_id(name) for name in (audio_start, audio_end, eot)]
    style_ids = tuple(vocabulary.piece_id(name) for name in styles)
    taken = {*markers, *style_ids}
    text = ranges_of(i for low, high in vocabulary.text_ranges for i in range(low, high) if i not in taken)
    return ClassRanges(layout, text, markers[0], markers[1], markers[2], style_ids)


class _Field(NamedTuple):
    number: int
    value: int | bytes
    place: int
    """Where the value begins in the message."""


def _without_markers(model: bytes, controls: frozenset[str]) -> tuple[bytes, tuple[int, ...], bool]:
    """The model with its markers made control pieces, each piece's type, and whether it adds a dummy prefix.

    Only a type byte changes, so ids, scores and the message's length stay as they are.
    """
    safe = bytearray(model)
    types: list[int] = []
    dummy_prefix = True
    for field in _fields(model):
        if field.number == _PIECES and isinstance(field.value, bytes):
            text, kind, place = "", _NORMAL, None
            for part in _fields(field.value):
                if part.number == _PIECE_TEXT and isinstance(part.value, bytes):
                    text = part.value.decode()
                elif part.number == _PIECE_TYPE and isinstance(part.value, int):
                    kind, place = part.value, field.place + part.place
            marker = kind == _USER_DEFINED and text.startswith("<") and text.endswith(">") and len(text) > 2
            if (marker or text in controls) and kind != _CONTROL:
                if place is None:
                    raise ValueError(
                        f"piece {text!r} is plain text, expected a control or user-defined piece"
                    )
                kind = safe[place] = _CONTROL
            types.append(kind)
        elif field.number == _NORMALIZER and isinstance(field.value, bytes):
            for part in _fields(field.value):
                if part.number == _DUMMY_PREFIX:
                    dummy_prefix = bool(part.value)
    return bytes(safe), tuple(types), dummy_prefix


def _fields(message: bytes) -> Iterator[_Field]:
    """The fields of one protocol-buffer message. Raises IndexError or ValueError when it is not one."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        wire_type = tag & 7
        if wire_type == 0:
            value, end = _varint(message, place)
            yield _Field(tag >> 3, value, place)
        else:
            if wire_type == 2:
                length, place = _varint(message, place)
            elif wire_type in (1, 5):
                length = 8 if wire_type == 1 else 4
            else:
                raise ValueError(f"wire type {wire_type} at byte {place}")
            end = place + length
            if end > len(message):
                raise ValueError(f"a field of {length} bytes at byte {place} runs past the end")
            yield _Field(tag >> 3, message[place:end], place)
        place = end


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, place

"""Where text, linguistic and semantic codes lie in one vocabulary, and the ``<audio_N>`` string form."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aqaa.errors import InvalidToken

Ids = NDArray[np.int64]
Range = tuple[int, int]
"""A half-open interval ``(low, high)`` of ids."""

_AUDIO_STRING = re.compile(r"<audio_(\d+)>")


@dataclass(frozen=True)
class IdLayout:
    """The id map of one checkpoint: text, then linguistic codes, then semantic codes, then unused rows.

    ``audio_base`` is the first linguistic id. ``vocab_size`` counts every row of the embedding; 0 means
    that no row follows the semantic codes. Source: Step-Audio ``tokenizer.py`` (65536 + code, 66560 + code).

    >>> layout = IdLayout(audio_base=65536, vocab_size=74752)
    >>> layout.semantic_ids([0, 4095]).tolist()
    [66560, 70655]
    """

    audio_base: int
    linguistic_codes: int = 1024
    semantic_codes: int = 4096
    vocab_size: int = 0

    def __post_init__(self) -> None:
        for key in ("audio_base", "linguistic_codes", "semantic_codes"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}, expected at least 1")
        end = self.audio_base + self.linguistic_codes + self.semantic_codes
        if self.vocab_size == 0:
            object.__setattr__(self, "vocab_size", end)
        if self.vocab_size < end:
            raise ValueError(f"vocab_size is {self.vocab_size}, expected at least {end} (text + audio ids)")

    @property
    def text_range(self) -> Range:
        return 0, self.audio_base

    @property
    def linguistic_range(self) -> Range:
        return self.audio_base, self.audio_base + self.linguistic_codes

    @property
    def semantic_range(self) -> Range:
        low = self.audio_base + self.linguistic_codes
        return low, low + self.semantic_codes

    @property
    def audio_range(self) -> Range:
        return self.audio_base, self.audio_base + self.linguistic_codes + self.semantic_codes

    def linguistic_ids(self, codes: ArrayLike) -> Ids:
        """Codes (any shape, 0 … linguistic_codes-1) to ids, int64. Raises InvalidToken."""
        return _checked(codes, (0, self.linguistic_codes), "linguistic code") + self.linguistic_range[0]

    def semantic_ids(self, codes: ArrayLike) -> Ids:
        """Codes (any shape, 0 … semantic_codes-1) to ids, int64. Raises InvalidToken."""
        return _checked(codes, (0, self.semantic_codes), "semantic code") + self.semantic_range[0]

    def linguistic_code(self, ids: ArrayLike) -> Ids:
        """Ids of the linguistic range back to codes, int64. Raises InvalidToken."""
        return _checked(ids, self.linguistic_range, "linguistic id") - self.linguistic_range[0]

    def semantic_code(self, ids: ArrayLike) -> Ids:
        """Ids of the semantic range back to codes, int64. Raises InvalidToken."""
        return _checked(ids, self.semantic_range, "semantic id") - self.semantic_range[0]

    def audio_codes(self, ids: ArrayLike) -> Ids:
        """Ids of either codebook to the joint numbering that the flow model embeds (id - audio_base)."""
        return _checked(ids, self.audio_range, "audio id") - self.audio_base

    def check(self, ids: ArrayLike) -> Ids:
        """The ids as int64 where each is text or audio; InvalidToken for unused rows and ids outside."""
        return _checked(ids, (0, self.audio_range[1]), "id")

    def to_string(self, ids: ArrayLike) -> str:
        """Audio ids as ``<audio_N>…`` with N = id - audio_base (Step-Audio's exchange form)."""
        return "".join(f"<audio_{code}>" for code in self.audio_codes(ids).ravel().tolist())

    def from_string(self, text: str) -> Ids:
        """``<audio_N>…`` back to ids. Anything between two markers, or N out of range, is InvalidToken."""
        codes: list[int] = []
        place = 0
        while place < len(text):
            match = _AUDIO_STRING.match(text, place)
            if match is None:
                raise InvalidToken(f"at character {place}: {text[place : place + 20]!r}, expected <audio_N>")
            codes.append(int(match[1]))
            place = match.end()
        low, high = self.audio_range
        return _checked(codes, (0, high - low), "number in <audio_N>") + low


def _checked(values: ArrayLike | Sequence[int], legal: Range, what: str) -> Ids:
    """``values`` as int64, or InvalidToken with the first position, value and legal range."""
    array: NDArray[Any] = np.asarray(values)
    if array.size == 0:
        return np.zeros(array.shape, np.int64)
    if array.dtype.kind not in "iu":
        raise InvalidToken(f"{what}s have dtype {array.dtype}, expected integers in [{legal[0]}, {legal[1]})")
    wrong = (array < legal[0]) | (array >= legal[1])
    if wrong.any():
        position = int(np.flatnonzero(wrong)[0])
        value = int(array.flat[position])
        raise InvalidToken(f"position {position}: {what} {value}, expected [{legal[0]}, {legal[1]})")
    return array.astype(np.int64)

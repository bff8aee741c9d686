"""The seven kinds of token an answer is made of, and the id ranges that one bundle gives them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aqaa.tokens.ids import IdLayout, Range


class TokenClass(IntEnum):
    """What an id means to the grammar."""

    TEXT = 0
    LINGUISTIC = 1
    SEMANTIC = 2
    AUDIO_START = 3
    AUDIO_END = 4
    STYLE = 5
    EOT = 6


class Choice(NamedTuple):
    """One legal class and its ids: half-open ranges, ascending and disjoint."""

    token_class: TokenClass
    ranges: tuple[Range, ...]

    @property
    def size(self) -> int:
        """How many ids the ranges hold."""
        return sum(high - low for low, high in self.ranges)


Choices = tuple[Choice, ...]

_NO_CLASS = 255


@dataclass(frozen=True)
class ClassRanges:
    """The ids of each token class in one bundle.

    ``text`` holds the ids that answers may show: no control piece, no style, no marker. ``styles`` may be
    empty. Raises ValueError when two classes share an id or an id lies outside the vocabulary.
    """

    layout: IdLayout
    text: tuple[Range, ...]
    audio_start: int
    audio_end: int
    eot: int
    styles: tuple[int, ...] = ()
    _class_of: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", tuple((int(low), int(high)) for low, high in self.text))
        object.__setattr__(self, "styles", tuple(int(style) for style in self.styles))
        classes = np.full(self.layout.vocab_size, _NO_CLASS, np.uint8)
        for token_class in TokenClass:
            legal = (0, self.layout.vocab_size)
            previous = legal[0]
            for low, high in self.of(token_class):
                name = token_class.name.lower()
                if not previous <= low < high <= legal[1]:
                    raise ValueError(f"{name} range [{low}, {high}), expected ascending and within {legal}")
                if (classes[low:high] != _NO_CLASS).any():
                    raise ValueError(f"{name} range [{low}, {high}) holds an id of another class")
                classes[low:high] = token_class
                previous = high
        object.__setattr__(self, "_class_of", classes.tobytes())

    def of(self, token_class: TokenClass) -> tuple[Range, ...]:
        """The ranges of a class; empty where the bundle has no such id."""
        return self._ranges[token_class]

    @cached_property
    def _ranges(self) -> dict[TokenClass, tuple[Range, ...]]:
        return {
            TokenClass.TEXT: self.text,
            TokenClass.LINGUISTIC: (self.layout.linguistic_range,),
            TokenClass.SEMANTIC: (self.layout.semantic_range,),
            TokenClass.AUDIO_START: ((self.audio_start, self.audio_start + 1),),
            TokenClass.AUDIO_END: ((self.audio_end, self.audio_end + 1),),
            TokenClass.STYLE: ranges_of(self.styles),
            TokenClass.EOT: ((self.eot, self.eot + 1),),
        }

    def class_of(self, token_id: int) -> TokenClass | None:
        """The class of an id; None for control pieces, unused rows and ids outside the vocabulary."""
        if not 0 <= token_id < len(self._class_of):
            return None
        number = self._class_of[token_id]
        return None if number == _NO_CLASS else _CLASSES[number]

    def mask(self, choices: Iterable[Choice]) -> NDArray[np.bool_]:
        """Legal rows of the whole vocabulary, bool (vocab_size,): the plain form of ``choices``."""
        mask = np.zeros(self.layout.vocab_size, np.bool_)
        for choice in choices:
            for low, high in choice.ranges:
                mask[low:high] = True
        return mask


_CLASSES = tuple(TokenClass)


def ranges_of(ids: Iterable[int]) -> tuple[Range, ...]:
    """The fewest ascending half-open ranges that hold exactly these ids."""
    ranges: list[Range] = []
    for token_id in sorted(set(ids)):
        if ranges and ranges[-1][1] == token_id:
            ranges[-1] = (ranges[-1][0], token_id + 1)
        else:
            ranges.append((token_id, token_id + 1))
    return tuple(ranges)

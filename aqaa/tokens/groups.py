"""Merging the two code streams into groups (2 linguistic + 3 semantic codes, say) and splitting them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from aqaa.errors import InvalidToken
from aqaa.tokens.ids import IdLayout, Ids


@dataclass(frozen=True)
class Ratios:
    """A block is ``text`` tokens, then ``groups`` groups of ``linguistic`` + ``semantic`` codes.

    The public family uses (10, 2, 3, 3), i.e. 10 text : 6 linguistic : 9 semantic. For ablations ``text`` may
    be 0 (speech without its text) or None (all text, then all speech), and one codebook may have 0 codes.
    """

    text: int | None
    linguistic: int
    semantic: int
    groups: int

    def __post_init__(self) -> None:
        for key in ("linguistic", "semantic"):
            if getattr(self, key) < 0:
                raise ValueError(f"ratio {key} is {getattr(self, key)}, expected at least 0")
        if self.group_size == 0:
            raise ValueError("ratios linguistic and semantic are both 0, expected at least one code a group")
        if self.text is not None and self.text < 0:
            raise ValueError(f"ratio text is {self.text}, expected at least 0, or none for text first")
        if self.groups < 1:
            raise ValueError(f"ratio groups is {self.groups}, expected at least 1")

    @property
    def group_size(self) -> int:
        """Codes in one group."""
        return self.linguistic + self.semantic

    def group_count(self, linguistic: int, semantic: int) -> int:
        """Whole groups in streams of these lengths; what is left over belongs to none."""
        counts = []
        if self.linguistic:
            counts.append(linguistic // self.linguistic)
        if self.semantic:
            counts.append(semantic // self.semantic)
        return min(counts)


def merge(linguistic: ArrayLike, semantic: ArrayLike, layout: IdLayout, ratios: Ratios) -> Ids:
    """Two code streams (1-D, integers) to merged ids, int64 of ``group_count * group_size``.

    A tail that does not fill a group is dropped, as in the reference (Step-Audio ``tokenizer.py`` wav2token);
    callers that must not lose sound pad their audio to whole groups first. Raises InvalidToken.
    """
    ling, sem = layout.linguistic_ids(linguistic), layout.semantic_ids(semantic)
    if ling.ndim != 1 or sem.ndim != 1:
        raise InvalidToken(f"code streams have shapes {ling.shape} and {sem.shape}, expected one axis each")
    count = ratios.group_count(len(ling), len(sem))
    merged = np.empty((count, ratios.group_size), np.int64)
    merged[:, : ratios.linguistic] = ling[: count * ratios.linguistic].reshape(count, ratios.linguistic)
    merged[:, ratios.linguistic :] = sem[: count * ratios.semantic].reshape(count, ratios.semantic)
    return merged.reshape(-1)


def split(ids: ArrayLike, layout: IdLayout, ratios: Ratios) -> tuple[Ids, Ids]:
    """Merged ids back to (linguistic codes, semantic codes), both int64, 1-D.

    Raises InvalidToken when the ids are not whole groups, or one stands where the other codebook is due.
    """
    array = layout.audio_codes(ids).reshape(-1)
    if len(array) % ratios.group_size:
        raise InvalidToken(f"{len(array)} audio ids, expected whole groups of {ratios.group_size}")
    groups = array.reshape(-1, ratios.group_size)
    linguistic_due = np.arange(ratios.group_size) < ratios.linguistic
    wrong = (groups < layout.linguistic_codes) != linguistic_due
    if wrong.any():
        position = int(np.flatnonzero(wrong)[0])
        due = (
            layout.linguistic_range if linguistic_due[position % ratios.group_size] else layout.semantic_range
        )
        found = int(array[position]) + layout.audio_base
        raise InvalidToken(f"position {position}: id {found}, expected [{due[0]}, {due[1]})")
    linguistic = groups[:, : ratios.linguistic].reshape(-1)
    semantic = groups[:, ratios.linguistic :].reshape(-1) - layout.linguistic_codes
    return linguistic, semantic

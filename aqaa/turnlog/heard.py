"""What of an answer the caller has heard, from how far it was played."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_WORD_END = re.compile(r"(?<=\S)(?=\s|$)")


@dataclass(frozen=True)
class SpokenSegment:
    """A voice state as far as it has been made.

    text      what it says, as far as it is written
    samples   its sound so far
    complete  nothing more will come of either
    """

    text: str
    samples: int
    complete: bool = True


@dataclass(frozen=True)
class Heard:
    """``estimated``: the text is cut inside a segment, where no one knows which word is at which sample."""

    text: str
    estimated: bool


def heard(segments: Iterable[SpokenSegment], played: int) -> Heard:
    """The text of segments that were played to their end, and of the running one the share that was played.

    The share is played / generated samples of the segment's characters, cut behind a whole word; ``played``
    counts samples from the turn's first one.
    """
    parts: list[str] = []
    for segment in segments:
        if segment.complete and played >= segment.samples:
            parts.append(segment.text)
            played -= segment.samples
            continue
        if played > 0 and segment.samples:
            share = len(segment.text) * min(played, segment.samples) // segment.samples
            ends = [match.start() for match in _WORD_END.finditer(segment.text) if match.start() <= share]
            parts.append(segment.text[: ends[-1]] if ends else "")
        return Heard("".join(parts), estimated=played > 0)
    return Heard("".join(parts), estimated=False)

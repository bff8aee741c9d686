"""Token lanes: when each token of a question or an answer sounds, for drawing it below the waveform."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from aqaa.tokens.classes import TokenClass
from aqaa.tokens.groups import Ratios


@dataclass(frozen=True)
class Cell:
    """One token in its lane: id, start and length in seconds."""

    token: int
    start: float
    seconds: float


Typed = tuple[int, TokenClass]
Lanes = dict[TokenClass, list[Cell]]


def question_lanes(ids: Sequence[int], ratios: Ratios, group_seconds: float) -> Lanes:
    """The two audio lanes of merged question ids."""
    classes = [*[TokenClass.LINGUISTIC] * ratios.linguistic, *[TokenClass.SEMANTIC] * ratios.semantic]
    typed = ((token, classes[place % ratios.group_size]) for place, token in enumerate(ids))
    lanes = answer_lanes(typed, ratios, group_seconds)
    del lanes[TokenClass.TEXT]
    return lanes


def answer_lanes(tokens: Iterable[Typed], ratios: Ratios, group_seconds: float) -> Lanes:
    """Text, linguistic and semantic lanes.

    Text has no time of its own: a run stands where the audio after it begins, each token as wide as in a full
    block, so that one sees how far the text runs ahead. Markers, styles and EOT have no lane.
    """
    text_seconds = ratios.groups * group_seconds / (ratios.text or ratios.groups)
    lanes: Lanes = {TokenClass.TEXT: [], TokenClass.LINGUISTIC: [], TokenClass.SEMANTIC: []}
    now = 0.0
    for text, codes in _runs(tokens):
        length = len(codes) / ratios.group_size * group_seconds
        lanes[TokenClass.TEXT] += _spread(text, now, min(len(text) * text_seconds, length or group_seconds))
        for token_class in (TokenClass.LINGUISTIC, TokenClass.SEMANTIC):
            own = [token for token, kind in codes if kind is token_class]
            lanes[token_class] += _spread(own, now, length)
        now += length
    return lanes


def _runs(tokens: Iterable[Typed]) -> Iterator[tuple[list[int], list[Typed]]]:
    """(text run, audio run after it) in order; either may be empty."""
    text: list[int] = []
    codes: list[Typed] = []
    for token, kind in tokens:
        if kind is TokenClass.TEXT:
            if codes:
                yield text, codes
                text, codes = [], []
            text.append(token)
        elif kind in (TokenClass.LINGUISTIC, TokenClass.SEMANTIC):
            codes.append((token, kind))
    if text or codes:
        yield text, codes


def _spread(tokens: Sequence[int], start: float, length: float) -> list[Cell]:
    """Tokens side by side over a stretch of time, each with an equal part."""
    each = length / len(tokens) if tokens else 0.0
    return [Cell(token, start + place * each, each) for place, token in enumerate(tokens)]

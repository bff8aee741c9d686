"""Choosing the next token: the class first, then the token inside it, both by keyed random numbers."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aqaa.errors import AqaaError
from aqaa.tokens.classes import Choice, TokenClass
from aqaa.tokens.ids import IdLayout, Range
from aqaa.tokens.philox import Domain, uniform

Logits = NDArray[np.float32]
Weights = NDArray[np.float64]
Positions = NDArray[np.int64]

# Lanes of Domain.TOKEN at one token index.
_CLASS_DRAW, _TOKEN_DRAW = 0, 1


@dataclass(frozen=True)
class Rule:
    """How one draw is made. ``temperature`` 0 takes the best row; ``top_k`` 0 keeps every row.

    ``top_k`` applies before ``top_p``; ties at either edge keep the lower id.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}, expected 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, expected (0, 1]")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}, expected 0 (all) or more")


GREEDY = Rule()


@dataclass(frozen=True)
class Repetition:
    """Bars an audio code that stands ``limit`` times among the last ``window`` codes of its codebook.

    It looks at the open segment only. The silence codes are exempt until the codebook's last
    ``silence_window`` codes are all silence. Windows count codes, of which a group has several.
    """

    window: int
    limit: int
    silence_linguistic: frozenset[int] = frozenset()
    silence_semantic: frozenset[int] = frozenset()
    silence_window: int = 0

    def __post_init__(self) -> None:
        for key in ("window", "limit"):
            if getattr(self, key) < 1:
                raise ValueError(f"repetition {key} is {getattr(self, key)}, expected at least 1")
        if self.silence_window < 0:
            raise ValueError(f"repetition silence_window is {self.silence_window}, expected at least 0")

    def barred(self, newest_first: Iterable[int], silence: frozenset[int]) -> list[int]:
        """The codes that may not come next, given their codebook's earlier codes and its silence codes."""
        recent = list(islice(newest_first, max(self.window, self.silence_window)))
        quiet = recent[: self.silence_window]
        lasting = len(quiet) == self.silence_window and silence.issuperset(quiet)
        counted = Counter(recent[: self.window])
        return [c for c, count in counted.items() if count >= self.limit and (lasting or c not in silence)]


@dataclass(frozen=True)
class SamplingSettings:
    """How a turn is decoded. The default is greedy throughout.

    ``class_first``: ``decision`` draws the class by the log-sum-exp of its rows, then the class's own rule
    draws the token. ``union``: ``union`` draws among all legal rows at once, as the public code does.
    """

    seed: int = 0
    mode: Literal["class_first", "union"] = "class_first"
    decision: Rule = GREEDY
    text: Rule = GREEDY
    linguistic: Rule = GREEDY
    semantic: Rule = GREEDY
    style: Rule = GREEDY
    union: Rule = GREEDY
    repetition: Repetition | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed is {self.seed}, expected [0, 2^64)")
        if self.mode not in ("class_first", "union"):
            raise ValueError(f"mode is {self.mode!r}, expected 'class_first' or 'union'")


@dataclass(frozen=True)
class Sampler:
    """Draws tokens for one turn; holds no state, so a resumed turn draws what the undisturbed one would have.

    >>> token = Sampler(settings, layout).choose(index, [(choice, logits)], automaton.history)
    """

    settings: SamplingSettings
    layout: IdLayout
    _rules: dict[TokenClass, Rule] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rules = {
            TokenClass.TEXT: self.settings.text,
            TokenClass.LINGUISTIC: self.settings.linguistic,
            TokenClass.SEMANTIC: self.settings.semantic,
            TokenClass.STYLE: self.settings.style,
        }
        object.__setattr__(self, "_rules", {c: rules.get(c, GREEDY) for c in TokenClass})

    def choose(self, index: int, scored: Sequence[tuple[Choice, Logits]], history: Sequence[int] = ()) -> int:
        """The id at position ``index`` of the sequence.

        ``scored`` pairs each legal choice with its float32 logits, concatenated over the choice's ranges;
        ``history`` is ``Automaton.history``. Raises AqaaError where there is no choice, or a logit is NaN.
        """
        if not scored:
            raise AqaaError(f"token {index}: no choice to draw from, expected at least one legal class")
        rows = [(choice, self._unrepeated(choice, logits, history)) for choice, logits in scored]
        if self.settings.mode == "union" and len(rows) > 1:
            return self._draw_from_union(index, rows)
        choice, logits = rows[0] if len(rows) == 1 else rows[self._draw_class(index, rows)]
        rule = self.settings.union if self.settings.mode == "union" else self._rules[choice.token_class]
        return _id_at(choice.ranges, self._draw(index, _TOKEN_DRAW, logits, rule))

    def _draw_class(self, index: int, rows: Sequence[tuple[Choice, Logits]]) -> int:
        mass = np.array([_log_sum_exp(logits) for _, logits in rows])
        return self._draw(index, _CLASS_DRAW, mass, self.settings.decision)

    def _draw_from_union(self, index: int, rows: Sequence[tuple[Choice, Logits]]) -> int:
        ids, order = _union(tuple(choice.ranges for choice, _ in rows))
        logits = np.concatenate([logits for _, logits in rows])[order]
        return int(ids[self._draw(index, _TOKEN_DRAW, logits, self.settings.union)])

    def _draw(self, index: int, lane: int, logits: Logits | Weights, rule: Rule) -> int:
        """The position drawn: the first of the best, or by inverse CDF in float64 in row order."""
        best = int(logits.argmax())
        peak = float(logits[best])
        if not math.isfinite(peak):
            raise AqaaError(f"token {index}: best logit is {peak}, expected a finite number")
        if rule.temperature == 0 or len(logits) == 1:
            return best
        weights = logits.astype(np.float64)
        weights -= peak
        weights /= rule.temperature
        np.exp(weights, out=weights)
        kept = _kept(weights, rule)
        if kept is not None:
            weights = weights[kept]
        drawn = _invert(weights, uniform(self.settings.seed, Domain.TOKEN, index, lane))
        return drawn if kept is None else int(kept[drawn])

    def _unrepeated(self, choice: Choice, logits: Logits, history: Sequence[int]) -> Logits:
        """The logits, codes that their codebook's repetition window bars at -inf; never all of them."""
        repetition = self.settings.repetition
        if repetition is None:
            return logits
        if choice.token_class is TokenClass.LINGUISTIC:
            (low, high), silence = self.layout.linguistic_range, repetition.silence_linguistic
        elif choice.token_class is TokenClass.SEMANTIC:
            (low, high), silence = self.layout.semantic_range, repetition.silence_semantic
        else:
            return logits
        barred = repetition.barred((i - low for i in reversed(history) if low <= i < high), silence)
        if not barred or len(barred) >= len(logits):
            return logits
        logits = logits.copy()
        logits[barred] = -np.inf
        return logits


def _log_sum_exp(logits: Logits) -> float:
    peak = float(logits.max())
    if len(logits) == 1 or not math.isfinite(peak):
        return peak
    return peak + math.log(float(np.exp(logits.astype(np.float64) - peak).sum()))


def _invert(weights: Weights, draw: float) -> int:
    """The first position whose cumulated weight exceeds ``draw`` of the total."""
    cumulated = np.cumsum(weights)
    total = float(cumulated[-1])
    # draw * total may round up to total, beyond the last row that has weight
    return int(np.searchsorted(cumulated, min(draw * total, math.nextafter(total, 0.0)), side="right"))


def _kept(weights: Weights, rule: Rule) -> Positions | None:
    """The rows that top_k and then top_p leave, ascending; None for all of them."""
    limit = min(rule.top_k or len(weights), len(weights))
    if rule.top_p == 1 and limit == len(weights):
        return None
    # The nucleus is small in a trained model: look among few rows, and widen where it is not.
    width = limit if limit < len(weights) else min(64, limit)
    total = 0.0 if limit < len(weights) else float(weights.sum())
    while True:
        heaviest = _heaviest(weights, width)
        cumulated = np.cumsum(heaviest)
        target = rule.top_p * (total or float(cumulated[-1]))
        inside = width if rule.top_p == 1 else int(np.searchsorted(cumulated, target)) + 1
        if inside <= width or width == limit:
            break
        width = min(8 * width, limit)
    inside = min(inside, width)
    edge = heaviest[inside - 1]
    kept = np.flatnonzero(weights >= edge)
    surplus = len(kept) - inside
    if surplus:  # ties at the edge: the lower ids stay
        kept = np.delete(kept, np.flatnonzero(weights[kept] == edge)[-surplus:])
    return kept


def _heaviest(weights: Weights, count: int) -> Weights:
    """The ``count`` greatest weights, falling."""
    first = len(weights) - count
    if first:
        weights = np.partition(weights, first)[first:]
    return np.sort(weights)[::-1]


def _id_at(ranges: Sequence[Range], position: int) -> int:
    for low, high in ranges:
        if position < high - low:
            return low + position
        position -= high - low
    raise AqaaError(f"row {position} beyond ranges {ranges}, expected one logit for each id")


@lru_cache(maxsize=256)
def _union(choices: tuple[tuple[Range, ...], ...]) -> tuple[Positions, Positions]:
    """The ids of several choices in ascending order, and where each stands in their concatenation."""
    ids = np.concatenate([np.arange(low, high) for ranges in choices for low, high in ranges])
    order = np.argsort(ids, kind="stable")
    return ids[order], order

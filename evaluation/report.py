"""From rows to tables: every figure for all questions, per kind, and for seen and unseen texts apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.heldout import Question
from evaluation.judge import normalise
from evaluation.metrics import Estimate, mean, rate, word_error_rate
from evaluation.results import AnswerRow, Control, FloorRow


@dataclass(frozen=True)
class Goal:
    """What a figure must reach and what it aims at. ``least`` is True where more is better."""

    figure: str
    title: str
    must: float
    aim: float
    least: bool
    percent: bool = True

    def verdict(self, value: float) -> str:
        """``aim``, ``must`` or ``missed``; NaN misses."""
        for name, bound in (("aim", self.aim), ("must", self.must)):
            if value >= bound if self.least else value <= bound:
                return name
        return "missed"


GOALS = (
    Goal("text_right", "answer text right", 0.85, 0.95, least=True),
    Goal("heard_right", "answer heard right", 0.78, 0.95, least=True),
    Goal("speech_wer", "WER of the speech against its own text", 0.10, 0.03, least=False),
    Goal("voice_control", "voice control in the asked direction", 0.80, 0.95, least=True),
    Goal("dnsmos", "DNSMOS, overall", 2.6, 3.0, least=True, percent=False),
    Goal("transcript_wer", "WER of the question's transcript", 0.15, 0.08, least=False),
)
Figures = dict[str, Estimate]


def groups(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """All, each kind, seen and unseen answer texts."""
    kinds = dict.fromkeys(question.kind for question in questions)
    table = {"all": list(questions)}
    table |= {kind: [q for q in questions if q.kind == kind] for kind in sorted(kinds)}
    table |= {
        "seen texts": [q for q in questions if q.seen],
        "unseen texts": [q for q in questions if not q.seen],
    }
    return table


def answer_figures(questions: Iterable[Question], rows: Mapping[int, AnswerRow]) -> Figures:
    """The figures of the goals over the questions that have a row.

    A question that ended in a fault counts as wrong, and its transcript as empty; it has no speech to score.
    """
    pairs = [(question, rows[question.index]) for question in questions if question.index in rows]
    return {
        "text_right": rate(same(q.answer_text, row.answer_text) for q, row in pairs),
        "heard_right": rate(same(q.answer_text, row.heard) for q, row in pairs),
        "speech_wer": word_error_rate((row.answer_text, row.heard) for _, row in pairs if row.fault is None),
        "voice_control": rate(control.held for _, row in pairs for control in row.controls),
        "dnsmos": mean([row.dnsmos for _, row in pairs if row.dnsmos is not None]),
        "transcript_wer": word_error_rate((q.question, row.question_text) for q, row in pairs),
    }


def floor_figures(questions: Iterable[Question], rows: Mapping[int, FloorRow]) -> Figures:
    """The same on the teacher's answers and on the recordings of the questions."""
    pairs = [(question, rows[question.index]) for question in questions if question.index in rows]
    return {
        "heard_right": rate(same(q.answer_text, row.answer_heard) for q, row in pairs),
        "speech_wer": word_error_rate((q.answer_text, row.answer_heard) for q, row in pairs),
        "voice_control": rate(control.held for _, row in pairs for control in row.controls),
        "dnsmos": mean([row.dnsmos for _, row in pairs]),
        "question_wer": word_error_rate((q.question, row.question_heard) for q, row in pairs),
    }


def same(expected: str, given: str) -> bool:
    """Whether two texts are the same words, however joined: Whisper writes "bluebird" for a blue bird."""
    return normalise(expected).replace(" ", "") == normalise(given).replace(" ", "")


def style_figures(rows: Iterable[AnswerRow | FloorRow]) -> Figures:
    """Voice control for each style, and for whole answers: every segment in the asked direction."""
    asked = [row.controls for row in rows if row.controls]
    segments = [control for controls in asked for control in controls]
    found = {style: _held(segments, style) for style in sorted({control.asked for control in segments})}
    found["answers of one segment"] = rate(controls[0].held for controls in asked if len(controls) == 1)
    found["answers of two segments, both"] = rate(all(c.held for c in cs) for cs in asked if len(cs) > 1)
    return found


def _held(controls: Iterable[Control], style: str) -> Estimate:
    return rate(control.held for control in controls if control.asked == style)


def summary(
    questions: Sequence[Question], answers: Mapping[int, AnswerRow], floor: Mapping[int, FloorRow]
) -> dict[str, Any]:
    """Everything the tables show, ready for JSON: an estimate is value, low, high, n; null: no case."""
    parts = groups(questions)
    rows = [answers[q.index] for q in questions if q.index in answers]
    bottom = [floor[q.index] for q in questions if q.index in floor]
    total = answer_figures(questions, answers)
    return {
        "n": len(rows),
        "faults": [{"index": row.index, "fault": row.fault} for row in rows if row.fault is not None],
        "goals": [
            {"figure": goal.figure, "title": goal.title, "must": goal.must, "aim": goal.aim,
             "estimate": plain(total[goal.figure]), "verdict": goal.verdict(total[goal.figure].value)}
            for goal in GOALS
        ] if rows else [],
        "groups": {name: plains(answer_figures(part, answers)) for name, part in parts.items()},
        "styles": plains(style_figures(rows)),
        "floor": {name: plains(floor_figures(part, floor)) for name, part in parts.items()},
        "floor_styles": plains(style_figures(bottom)),
    }  # fmt: skip


def plain(estimate: Estimate) -> dict[str, float] | None:
    if math.isnan(estimate.value):
        return None
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def plains(figures: Figures) -> dict[str, dict[str, float] | None]:
    return {name: plain(estimate) for name, estimate in figures.items()}


def markdown(report: Mapping[str, Any]) -> str:
    """The report as a page; intervals are 95 %."""
    lines = [f"# Held-out questions: {report['split']}", ""]
    if report["goals"]:
        lines += [
            f"{report['n']} questions to {report['bundle']}; {len(report['faults'])} ended in an error.",
            "",
        ]
        lines += _table(
            ("figure", "must", "aim", "measured", "verdict"),
            (
                (
                    goal["title"],
                    *(_bound(GOALS[at], goal[name]) for name in ("must", "aim")),
                    cell(goal["estimate"], GOALS[at].percent),
                    goal["verdict"],
                )
                for at, goal in enumerate(report["goals"])
            ),
        )
        figures = {goal.figure: goal.title for goal in GOALS}
        lines += ["", "## Groups", "", *_groups(report["groups"], figures)]
        lines += ["", "## Voice control", "", *_styles(report["styles"])]
    figures = {
        "speech_wer": "judge's WER on the teacher's answers",
        "heard_right": "teacher's answers heard right",
        "question_wer": "judge's WER on the questions",
        "voice_control": "teacher's voice control",
        "dnsmos": "teacher's DNSMOS",
    }
    lines += ["", "## The floor: the same judge and measures on the teacher and on the questions", ""]
    lines += [*_groups(report["floor"], figures), "", *_styles(report["floor_styles"])]
    return "\n".join(lines) + "\n"


def cell(estimate: Mapping[str, float] | None, percent: bool = True) -> str:
    """``92.1 (89.8 to 94.0)``, in per cent but for scores."""
    if estimate is None:
        return "–"
    scale, digits = (100, 1) if percent else (1, 2)
    value, low, high = (f"{estimate[name] * scale:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _bound(goal: Goal, bound: float) -> str:
    return f"{'≥' if goal.least else '≤'} {bound * 100:.0f} %" if goal.percent else f"≥ {bound}"


def _groups(table: Mapping[str, Mapping[str, Any]], figures: Mapping[str, str]) -> list[str]:
    def cells(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
        n = max(
            (estimate["n"] for key, estimate in found.items() if estimate and key != "voice_control"),
            default=0,
        )
        return (name, str(n), *(cell(found[key], percent=key != "dnsmos") for key in figures))

    return _table(("", "n", *figures.values()), (cells(name, found) for name, found in table.items()))


def _styles(table: Mapping[str, Any]) -> list[str]:
    rows = ((name, str(found["n"]) if found else "0", cell(found)) for name, found in table.items())
    return _table(("asked", "n", "held, %"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_line(head), _line(["---"] * len(head)), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"

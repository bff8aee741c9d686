"""Nano on the held-out questions: asks each, has the answer judged, writes report.json and report.md.

    python -m evaluation.nano --bundle models/nano --split test --n 660 --out work/eval/report

Every question is a row in a ledger, so a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track

from aqaa.audio.decode import Audio
from aqaa.errors import AqaaError
from aqaa.present.answer import Answer, Answers, Pcm
from evaluation.heldout import TEXTS, Question, Recordings, read_texts
from evaluation.judge import Judge, JudgeConfig
from evaluation.naturalness import dnsmos
from evaluation.report import markdown, summary
from evaluation.results import AnswerRow, Control, FloorRow, Ledger
from evaluation.voice_control import Change, measure

if TYPE_CHECKING:
    from training.domain import Split

Hears = Callable[[Pcm, int], str]
Scores = Callable[[Pcm, int], float]


class Teacher(Protocol):
    """``training.voices.AnswerVoice``: a text and a style to 24 kHz speech."""

    def __call__(self, text: str, style: str | None) -> Any: ...


@dataclass(frozen=True)
class Ears:
    """Who listens: the judge for words, DNSMOS for naturalness."""

    hears: Hears
    scores: Scores


def answer_row(
    pipeline: Answers, question: Question, audio: Audio, ears: Ears, normal: dict[str, Answer]
) -> AnswerRow:
    """Asks one question, with its index as the seed. ``normal`` keeps the references by their text."""
    try:
        answer = pipeline.ask(audio, seed=question.index)
        controls = voice_controls(pipeline, question, answer, normal)
    except AqaaError as error:
        # A question that the product refuses is an answer that is wrong, not a run that ends.
        silent = tuple(Control(spoken.style, None) for spoken in question.answer if spoken.style)
        return AnswerRow(question.index, controls=silent, fault=f"{error.reason}: {error}")
    return AnswerRow(
        index=question.index,
        question_text=answer.question_text,
        answer_text=answer.answer_text,
        heard=ears.hears(answer.pcm, answer.sample_rate),
        controls=controls,
        dnsmos=ears.scores(answer.pcm, answer.sample_rate) if len(answer.pcm) else None,
        answer_seconds=len(answer.pcm) / answer.sample_rate,
        ttfa_seconds=answer.ttfa_seconds,
        rtf=answer.rtf,
    )


def voice_controls(
    pipeline: Answers, question: Question, answer: Answer, normal: dict[str, Answer]
) -> tuple[Control, ...]:
    """Each asked segment against the same text said by the same bundle with no style.

    The text is the one that nano spoke, right or wrong: its rightness is counted elsewhere.
    """
    controls = []
    for at, spoken in enumerate(question.answer):
        if spoken.style is None:
            continue
        change = None
        if at < len(answer.segments) and answer.segments[at].text.strip():
            segment = answer.segments[at]
            if segment.text not in normal:
                normal[segment.text] = pipeline.say(segment.text, seed=0, style=None)
            reference = normal[segment.text]
            pcm = answer.pcm[segment.start_sample : segment.end_sample]
            change = Change.between(
                measure(pcm, answer.sample_rate), measure(reference.pcm, reference.sample_rate)
            )
        controls.append(Control(spoken.style, change))
    return tuple(controls)


def floor_row(teacher: Teacher, question: Question, audio: Audio, ears: Ears, rate: int = 24000) -> FloorRow:
    """The same ears on the question's recording, and on the teacher's rendering of the right answer."""
    said = [teacher(spoken.text, spoken.style).pcm for spoken in question.answer]
    answer = np.concatenate(said)
    controls = tuple(
        Control(
            spoken.style, Change.between(measure(pcm, rate), measure(teacher(spoken.text, None).pcm, rate))
        )
        for spoken, pcm in zip(question.answer, said, strict=True)
        if spoken.style is not None
    )
    return FloorRow(
        index=question.index,
        question_heard=ears.hears(audio.samples, audio.sample_rate),
        answer_heard=ears.hears(answer, rate),
        controls=controls,
        dnsmos=ears.scores(answer, rate),
    )


def fingerprint(path: Path) -> str:
    """SHA-256 of a file; of a bundle's manifest it stands for every file of the bundle."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def measure_floor(
    recordings: Recordings, questions: Sequence[Question], ears: Ears, judge: JudgeConfig
) -> dict[int, FloorRow]:
    """Floor rows of all ``questions``, those of earlier runs included."""
    texts = fingerprint(TEXTS / f"{recordings.split}.jsonl")
    path = recordings.root / recordings.split / "floor.jsonl"
    ledger = Ledger(
        path, FloorRow, {"texts": texts, "judge": {"beam": judge.beam, "type": judge.compute_type}}
    )
    known = ledger.rows()
    missing = [question for question in questions if question.index not in known]
    if missing:
        from training.voices import AnswerVoice

        teacher = AnswerVoice()
        for question in track(missing, "the judge on teacher and questions"):
            ledger.add(floor_row(teacher, question, recordings.read(question), ears))
    return ledger.rows()


def measure_bundle(
    bundle: Path, out: Path, recordings: Recordings, questions: Sequence[Question], ears: Ears
) -> dict[int, AnswerRow]:
    """Answer rows of all ``questions``, those of earlier runs with this bundle included."""
    texts = fingerprint(TEXTS / f"{recordings.split}.jsonl")
    ledger = Ledger(
        out / "answers.jsonl", AnswerRow, {"bundle": fingerprint(bundle / "manifest.json"), "texts": texts}
    )
    known = ledger.rows()
    missing = [question for question in questions if question.index not in known]
    if missing:
        from aqaa.engine.pipeline import Pipeline

        pipeline = Pipeline.load(bundle)
        normal: dict[str, Answer] = {}
        for question in track(missing, "asking"):
            ledger.add(answer_row(pipeline, question, recordings.read(question), ears, normal))
    return ledger.rows()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m evaluation.nano", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("models/nano"))
    parser.add_argument("--split", choices=("test", "dev"), default="test")
    parser.add_argument("--n", type=int, default=660, help="how many questions, from the beginning")
    parser.add_argument("--out", type=Path, default=Path("work/eval/report"))
    parser.add_argument(
        "--threads", type=int, default=2, help="of teacher and judge; a pass of the bundle takes one"
    )
    parser.add_argument("--floor-only", action="store_true", help="judge only questions and teacher")
    given = parser.parse_args(arguments)
    split: Split = given.split
    questions = read_texts(split)[: given.n]
    recordings = Recordings(split)
    recordings.render(questions, given.threads)
    judge = JudgeConfig(threads=given.threads)
    ears = Ears(Judge(judge), dnsmos)
    floor = measure_floor(recordings, questions, ears, judge)
    answers = {} if given.floor_only else measure_bundle(given.bundle, given.out, recordings, questions, ears)
    report = summary(questions, answers, floor)
    report["split"] = split
    report["bundle"] = None if given.floor_only else str(given.bundle)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", "utf-8")
    text = markdown(report)
    (given.out / "report.md").write_text(text, "utf-8")
    Console().print(Markdown(text))


if __name__ == "__main__":
    main()

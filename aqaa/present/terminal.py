"""What the terminal shows: progress, then the texts and the timeline of an answer, or a bundle's report."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from aqaa.bundle import Report, State
from aqaa.present.answer import Answer

OnProgress = Callable[[str, float | None], None]
"""Called with (what is being done, share done 0 … 1, or None where nobody knows)."""


@contextmanager
def progress_bar(console: Console, what: str) -> Iterator[OnProgress]:
    """A bar that stands while the block runs and leaves no trace; nothing where no person watches.

    It pulses until a call with a share, and after one without.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=None)

        def report(step: str, share: float | None) -> None:
            nonlocal task
            if share is None:  # a bar that has a total keeps it
                bars.remove_task(task)
                task = bars.add_task(step, total=None)
            else:
                bars.update(task, description=step, total=1.0, completed=share)

        yield report


def show_answer(console: Console, answer: Answer) -> None:
    """The question as understood, the answer's text, and when each step was reached."""
    texts = Table.grid(padding=(0, 2))
    texts.add_column(style="dim")
    texts.add_column(overflow="fold")
    if answer.question_text:
        texts.add_row("question", Text(answer.question_text))
    texts.add_row("answer", Text(answer.answer_text, style="bold"))
    console.print(texts)

    times = answer.timeline
    table = Table("heard", "thought", "first audio", "done", "speech", "real-time factor", title=None)
    for column in table.columns:
        column.justify = "right"
    moments = [f"{moment:.2f} s" for moment in (times.heard, times.thought, times.first_audio, times.done)]
    table.add_row(*moments, f"{len(answer.pcm) / answer.sample_rate:.2f} s", f"{answer.rtf:.2f}")
    console.print(table)


def answer_record(answer: Answer) -> dict[str, Any]:
    """The one object of ``--json``."""
    return {
        "question_text": answer.question_text,
        "answer_text": answer.answer_text,
        "answer_seconds": round(len(answer.pcm) / answer.sample_rate, 3),
        "ttfa_seconds": round(answer.ttfa_seconds, 3),
        "rtf": round(answer.rtf, 3),
        "tokens": dict(answer.tokens),
        "segments": [
            {
                "style": segment.style,
                "text": segment.text,
                "groups": segment.groups,
                "start_seconds": round(segment.start_sample / answer.sample_rate, 3),
                "end_seconds": round(segment.end_sample / answer.sample_rate, 3),
            }
            for segment in answer.segments
        ],
    }


def show_report(console: Console, report: Report) -> None:
    """A line a file, then what the bundle is."""
    manifest = report.manifest
    table = Table("file", "bytes", "licence", "state")
    table.columns[1].justify = "right"
    for verdict in report.verdicts:
        entry = manifest.files.get(verdict.path)
        colour = {State.OK: "green", State.UNLISTED: "yellow"}.get(verdict.state, "red")
        size, licence = (f"{entry.bytes:,}", entry.licence) if entry else ("", "")
        table.add_row(Text(verdict.path), size, Text(licence), Text(verdict.state.value, style=colour))
    console.print(table)
    total = sum(entry.bytes for entry in manifest.files.values())
    console.print(
        f"{manifest.name} ({manifest.family}, {manifest.language}): "
        f"{len(manifest.files)} files, {total / 1e6:.1f} MB, manifest version {manifest.manifest_version}",
        highlight=False,
        markup=False,
    )

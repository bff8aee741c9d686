"""``answer.png``: question and answer as waveforms, their tokens as lanes below, the timeline of the turn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from aqaa.bundle.manifest import Manifest
from aqaa.present.answer import Answer, Pcm
from aqaa.present.lanes import Cell, Lanes, answer_lanes, question_lanes
from aqaa.tokens.classes import TokenClass

WIDTH_PIXELS, HEIGHT_PIXELS, DPI = 1600, 1000, 100
INK, QUIET, RULE, PAPER = "#1f2933", "#66788a", "#d8dee6", "#ffffff"
QUESTION, ANSWER = "#4c6ef5", "#0f9d76"
LANES = {
    TokenClass.TEXT: ("text", "Purples"),
    TokenClass.LINGUISTIC: ("linguistic", "YlGnBu"),
    TokenClass.SEMANTIC: ("semantic", "YlOrRd"),
}
STEPS = {"heard": "#4c6ef5", "thought": "#9775fa", "first audio": "#0f9d76", "done": "#a9dccb"}
STYLE: dict[Any, Any] = {
    "font.size": 12,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.spines.bottom": False,
    "ytick.major.size": 0,
    "xtick.major.size": 0,
    "text.parse_math": False,  # a dollar sign in an answer is a dollar sign
}


def draw(answer: Answer, manifest: Manifest, path: Path) -> None:
    """Writes the picture of an answer, 1600 × 1000 pixels; the suffix of ``path`` chooses the format.

    Raises:
        ValueError: a suffix that matplotlib cannot write.
        OSError: ``path`` cannot be written.
    """
    tokenizer, ratios = manifest.tokenizer, manifest.layout.ratios
    group_seconds = tokenizer.group_samples / tokenizer.sample_rate
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_PIXELS / DPI, HEIGHT_PIXELS / DPI), dpi=DPI)
        grid = figure.add_gridspec(
            3, 1, height_ratios=[3, 4, 1], left=0.09, right=0.98, top=0.95, bottom=0.04, hspace=0.3
        )

        seconds = len(answer.question_pcm) / tokenizer.sample_rate
        if seconds:
            lanes = question_lanes(answer.question_tokens, ratios, group_seconds)
            wave = _speech(figure, grid[0], answer.question_pcm, seconds, lanes, QUESTION)
            _head(wave, _title("Question", seconds, answer.question_text))

        seconds = len(answer.pcm) / answer.sample_rate
        lanes = answer_lanes(answer.answer_tokens, ratios, group_seconds)
        wave = _speech(figure, grid[1], answer.pcm, seconds, lanes, ANSWER)
        _head(wave, _title("Answer", seconds, answer.answer_text))
        _segments(wave, answer)

        _timeline(figure.add_subplot(grid[2]), answer, seconds)
        figure.savefig(path)


def _title(what: str, seconds: float, text: str, longest: int = 100) -> str:
    shown = text if len(text) <= longest else text[: longest - 1].rstrip() + "…"
    return f"{what}, {seconds:.1f} s" + (f":  “{shown}”" if shown else "")


def _head(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=15, fontweight="bold", pad=10)


def _speech(figure: Figure, place: SubplotSpec, pcm: Pcm, seconds: float, lanes: Lanes, colour: str) -> Axes:
    """A waveform and, on the same time axis below it, its token lanes; gives the waveform's axes."""
    grid = place.subgridspec(2, 1, height_ratios=[2, 0.55 * len(lanes)], hspace=0.05)
    wave, below = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    low, high = _envelope(pcm, WIDTH_PIXELS)
    reach = 1.05 * max(float(np.abs(pcm).max(initial=0.0)), 1e-3)
    wave.fill_between(np.linspace(0, seconds, len(low)), low, high, color=colour, linewidth=0.4)
    wave.axhline(0, color=colour, linewidth=0.6)
    wave.set(xlim=(0, seconds or 1), ylim=(-reach, 1.2 * reach), xticks=[], yticks=[])

    for row, (token_class, cells) in enumerate(lanes.items()):
        _lane(below, cells, row, LANES[token_class][1])
    names = [f"{LANES[token_class][0]}  {len(cells)}" for token_class, cells in lanes.items()]
    below.set(xlim=(0, seconds or 1), ylim=(len(lanes), 0))
    below.set_yticks(np.arange(len(lanes)) + 0.45, names)
    below.xaxis.set_major_formatter("{x:g} s")
    return wave


def _envelope(pcm: Pcm, columns: int) -> tuple[Pcm, Pcm]:
    """Lowest and highest sample of each column."""
    if not len(pcm):
        return np.zeros(2, np.float32), np.zeros(2, np.float32)
    edges = np.unique(np.linspace(0, len(pcm), columns, endpoint=False).astype(int))
    return np.minimum.reduceat(pcm, edges), np.maximum.reduceat(pcm, edges)


def _lane(axes: Axes, cells: Sequence[Cell], row: int, colours: str) -> None:
    """A row of rectangles, coloured by id so that a repeated code is seen as such."""
    if not cells:
        return
    ids = np.array([cell.token for cell in cells], dtype=float)
    shade = 0.25 + 0.6 * (ids - ids.min()) / max(float(np.ptp(ids)), 1.0)
    corners = []
    for cell in cells:
        left, right, top, bottom = cell.start, cell.start + cell.seconds, row, row + 0.88
        corners.append([(left, top), (right, top), (right, bottom), (left, bottom)])
    faces = mpl.colormaps[colours](shade)
    axes.add_collection(PolyCollection(corners, facecolors=faces, edgecolors=PAPER, linewidths=0.7))


def _segments(axes: Axes, answer: Answer) -> None:
    """Where one voice state ends and the next begins, named by style."""
    for index, segment in enumerate(answer.segments):
        start, end = (sample / answer.sample_rate for sample in (segment.start_sample, segment.end_sample))
        if index:
            axes.axvline(start, color=INK, linewidth=1, linestyle=(0, (3, 3)))
        if segment.style:
            middle, above = (start + end) / 2, axes.get_xaxis_transform()
            axes.text(middle, 1.0, segment.style, transform=above, ha="center", va="top", color=QUIET)


def _timeline(axes: Axes, answer: Answer, answer_seconds: float) -> None:
    """Two bars on one scale: what the turn took, and how long its answer plays from the first audio on."""
    times = answer.timeline
    moments = (times.heard, times.thought, times.first_audio, times.done)
    before = 0.0
    for (name, colour), moment in zip(STEPS.items(), moments, strict=True):
        axes.barh(0, moment - before, left=before, height=0.7, color=colour, label=f"{name} {moment:.2f} s")
        before = moment
    axes.barh(1, answer_seconds, left=times.first_audio, height=0.66, color=PAPER, edgecolor=ANSWER, lw=1.4)
    end = max(times.done, times.first_audio + answer_seconds)
    axes.set(xlim=(0, end * 1.005 or 1.0), ylim=(1.5, -0.5))
    axes.set_yticks([0, 1], ["computing", "playing"])
    axes.xaxis.set_major_formatter("{x:g} s")
    _head(axes, f"First audio after {answer.ttfa_seconds:.2f} s, real-time factor {answer.rtf:.2f}")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(STEPS), frameon=False)

"""The README's two tables of speed, in Markdown, out of what the benchmarks have written as JSON.

A benchmark that has written nothing has no rows. Every figure stands with the ones that it was made of; p50
comes before p95. Where there is a goal, the row says whether it is met.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.served import GOAL as RATIO
from benchmarks.sessions import GOAL as SESSIONS

FIRST_SECONDS: Final = 0.6
FACTOR: Final = 0.5
ENGINE: Final = 1.5
IN_FLIGHT: Final = 8
BATCH: Final = 1.0


class Row(NamedTuple):
    measured: str
    goal: str
    found: str


Figures = Any
"""What `--out` of a benchmark has written."""


def latency(figures: Figures) -> Iterator[Row]:
    first, rtf, memory = figures["first_pcm_seconds"], figures["rtf"], figures["peak_megabytes"]
    yield Row(
        f"last sample in → first sample out, {first['n']} turns, {_threads(figures)}",
        f"< {FIRST_SECONDS:g} s",
        f"{first['median']:.2f} s, {first['p95']:.2f} s{_verdict(first['median'] < FIRST_SECONDS)}",
    )
    yield Row(
        "last sample in → last sample out, per second of answer",
        f"< {FACTOR:g}",
        f"{rtf['median']:.2f}, {rtf['p95']:.2f}{_verdict(rtf['median'] < FACTOR)}",
    )
    yield Row("peak memory, loading", "", f"{memory['answering']:.0f} MB, {figures['load_seconds']:.1f} s")


def engine_vs_hf(figures: Figures) -> Iterator[Row]:
    for count in sorted({side["in_flight"] for side in figures["sides"]}):
        sides = {side["side"]: side for side in figures["sides"] if side["in_flight"] == count}
        base = sides.pop("hugging face")
        found = ", ".join(
            f"{name.removeprefix('engine ')} {side['ratio']:.2f}× ({side['tokens_per_second']:.0f} / "
            f"{base['tokens_per_second']:.0f} tokens/s)"
            for name, side in sides.items()
        )
        together = count == IN_FLIGHT  # where the goal is set
        met = max(side["ratio"] for side in sides.values()) >= ENGINE
        yield Row(
            f"torch engine against Hugging Face `generate`, {count} in flight",
            f"≥ {ENGINE:g}×" if together else "",
            found + (_verdict(met) if together else ""),
        )


def served(figures: Figures) -> Iterator[Row]:
    ours, alone, ratio = figures["served"], figures["in_process"], figures["ratio"]
    parts = [f"{ratio[p]:.2f} ({ours[p]:.3f} s / {alone[p]:.3f} s)" for p in ("p50", "p95")]
    yield Row(
        f"first sound, served over in process, {figures['with_sound']} turns, {_threads(figures)} a pass",
        f"≤ {RATIO:.2f}",
        ", ".join(parts) + _verdict(ratio["p50"] <= RATIO),
    )


def edges(figures: Figures) -> Iterator[Row]:
    for edge in figures:
        bare, ours = edge["bare"], edge["ours"]
        parts = [
            f"{(ours[p] - bare[p]) * 1e3:.2f} ms ({ours[p] * 1e3:.2f} / {bare[p] * 1e3:.2f}, "
            f"{ours[p] / bare[p]:.1f}×)"
            for p in ("median", "p95")
        ]
        yield Row(f"added by an edge: {edge['name']}", "", ", ".join(parts))


def sessions(figures: Figures) -> Iterator[Row]:
    outcomes = sorted(figures["outcomes"], key=lambda outcome: outcome["sessions"])
    largest = figures.get("largest")
    best = next((o for o in outcomes if o["sessions"] == largest), None)
    worse = next((o for o in outcomes if largest is not None and o["sessions"] > largest), None)
    found = [f"{best['sessions']} hold ({_session(best)})"] if best else []
    found += [f"{worse['sessions']} do not ({_session(worse)}): {worse['limit']}"] if worse else []
    found = found or [f"{o['sessions']}: {_session(o)}: {o['limit'] or 'holds'}" for o in outcomes]
    bound = f"{figures['bound_seconds'] * 1e3:.0f} ms"
    verdict = _verdict(largest >= SESSIONS) if largest is not None else ""
    yield Row(
        f"live sessions on one orchestrator core, stub stages, p99 lateness below {bound}",
        f"≥ {SESSIONS}",
        ", ".join(found) + verdict,
    )


def _session(outcome: Mapping[str, Any]) -> str:
    return (
        f"late {outcome['late_p50'] * 1e3:.0f} ms, p99 {outcome['late_p99'] * 1e3:.0f} ms; "
        f"{outcome['cores']['orchestrator']:.0%} of the core; each {outcome['appends']:.1f} appends/s, "
        f"{outcome['wire_bytes'] / 1e3:.1f} kB/s on wires, {outcome['memory_bytes'] / 1e3:.1f} kB/s kept"
    )


def turns(figures: Figures) -> Iterator[Row]:
    rounds = [made for made in figures["rounds"] if "ttfa" in made]
    if not rounds:
        return
    live = ", ".join(str(made["live"]) for made in rounds)
    for name, what, unit in (("ttfa", "first sound", " s"), ("rtf", "real-time factor", "")):
        both = [", ".join(f"{made[name][p]:.2f}" for made in rounds) + unit for p in ("p50", "p95")]
        yield Row(f"{live} live turns on {figures['cores']} cores: {what}", "", "; ".join(both))
    late = ", ".join(f"{made['underruns']} of {made['chunks']}" for made in rounds)
    yield Row("the same: chunks that came late", "", late)
    if failed := sum(len(made["failures"]) for made in figures["rounds"]):
        whole = failed + sum(made["turns"] for made in figures["rounds"])
        yield Row("the same: turns that failed", "", f"{failed} of {whole}")
    batches = {stage: [made["batches"][stage]["mean"] for made in rounds] for stage in rounds[-1]["batches"]}
    parts = [f"{stage} " + ", ".join(f"{m or 0:.2f}" for m in means) for stage, means in batches.items()]
    met = all((means[-1] or 0) > BATCH for means in batches.values())
    yield Row("the same: mean batch", f"> {BATCH:g} under load", "; ".join(parts) + _verdict(met))


ALONE: Final[Mapping[str, Callable[[Figures], Iterator[Row]]]] = {
    "latency": latency,
    "engine_vs_hf": engine_vs_hf,
}
SERVICES: Final[Mapping[str, Callable[[Figures], Iterator[Row]]]] = {
    "served": served,
    "edges": edges,
    "sessions": sessions,
    "turns": turns,
}
TABLES: Final = (("nano in one process", ALONE), ("the services, same machine", SERVICES))


def tables(folder: Path, names: Collection[str]) -> str:
    """Both tables, of these benchmarks' files ``NAME.json`` in a folder; empty if there are none."""
    made = []
    for title, parts in TABLES:
        rows = [
            row
            for name, part in parts.items()
            if name in names and (path := folder / f"{name}.json").exists()
            for row in part(json.loads(path.read_text("utf-8")))
        ]
        if rows:
            made.append(_markdown(Row(title, "goal", "*measured here*, p50, p95"), rows))
    return "\n\n".join(made)


def _markdown(head: Row, rows: Sequence[Row]) -> str:
    lines = [head, Row("---", "---", "---"), *rows]
    return "\n".join(f"| {row.measured} | {row.goal} | {row.found} |" for row in lines)


def _threads(figures: Figures) -> str:
    return f"{figures['threads']} thread{'s' * (figures['threads'] != 1)}"


def _verdict(met: bool) -> str:
    return ": met" if met else ": missed"

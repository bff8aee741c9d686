"""The README's tables are made of what the benchmarks write."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import turns
from benchmarks._batches import BATCHES, Passes
from benchmarks._caller import Heard
from benchmarks._rows import tables
from benchmarks.latency import TurnTime, report
from benchmarks.served import Alone, ratios
from benchmarks.sessions import Outcome

BOUND = 0.12
HOLDS = Outcome(
    sessions=40, late_p50=0.02, late_p99=0.071, load_late_p99=0.002, chunks=400, asked=80, answered=80,
    failures={}, cores={"orchestrator": 0.5, "callers": 0.3}, other_cores=1, appends=4.0, memory_bytes=900.0,
    wire_bytes=13000.0,
)  # fmt: skip
LATE = replace(HOLDS, sessions=80, late_p99=0.4, cores={"orchestrator": 0.95, "callers": 0.6})


def rows(folder: Path, **figures: Any) -> list[list[str]]:
    """Cells of the tables that these figures make."""
    for name, made in figures.items():
        (folder / f"{name}.json").write_text(json.dumps(made))
    return [line.strip("| ").split(" | ") for line in tables(folder, figures).splitlines() if line]


def test_one_process_has_its_turns_its_memory_and_its_engine(tmp_path: Path) -> None:
    spoken = [TurnTime(0.4, 0.8, 2.0, 0.0), TurnTime(0.5, 1.2, 2.0, 0.0)]
    memory = {"libraries": 1.0, "loaded": 440.0, "answering": 455.4}
    sides = [("hugging face", 100.0, 1.0), ("engine exact", 120.0, 1.2), ("engine fast", 160.0, 1.6)]
    made = rows(
        tmp_path,
        latency=report(spoken) | {"threads": 2, "load_seconds": 2.31, "peak_megabytes": memory},
        engine_vs_hf={
            "sides": [
                {"in_flight": 8, "side": side, "tokens_per_second": speed, "ratio": ratio}
                for side, speed, ratio in sides
            ]
        },
    )
    assert made == [
        ["nano in one process", "goal", "*measured here*, p50, p95"],
        ["---", "---", "---"],
        ["last sample in → first sample out, 2 turns, 2 threads", "< 0.6 s", "0.45 s, 0.49 s: met"],
        ["last sample in → last sample out, per second of answer", "< 0.5", "0.50, 0.59: missed"],
        ["peak memory, loading", "", "455 MB, 2.3 s"],
        [
            "torch engine against Hugging Face `generate`, 8 in flight",
            "≥ 1.5×",
            "exact 1.20× (120 / 100 tokens/s), fast 1.60× (160 / 100 tokens/s): met",
        ],
    ]


def test_the_services_first_sound_is_a_ratio_beside_its_seconds(tmp_path: Path) -> None:
    alone = [Alone(0.1, 0.2, 0.4, "four")]
    served = ratios(alone, [Heard(chunks=[(0.5, 1.0)], text="four")])
    [_, _, row] = rows(tmp_path, served=served | {"threads": 1})
    assert row == [
        "first sound, served over in process, 1 turns, 1 thread a pass",
        "≤ 1.10",
        "1.25 (0.500 s / 0.400 s), 1.25 (0.500 s / 0.400 s): missed",
    ]


@pytest.mark.parametrize(
    ("largest", "outcomes", "found"),
    [
        (
            40,
            [LATE, HOLDS],
            "40 hold (late 20 ms, p99 71 ms; 50% of the core; each 4.0 appends/s, 13.0 kB/s on wires, "
            "0.9 kB/s kept), 80 do not (late 20 ms, p99 400 ms; 95% of the core; each 4.0 appends/s, "
            "13.0 kB/s on wires, 0.9 kB/s kept): the orchestrator's core is full (95%): missed",
        ),
        (
            500,
            [replace(HOLDS, sessions=500)],
            "500 hold (late 20 ms, p99 71 ms; 50% of the core; each 4.0 appends/s, 13.0 kB/s on wires, "
            "0.9 kB/s kept): met",
        ),
        (
            None,
            [HOLDS],
            "40: late 20 ms, p99 71 ms; 50% of the core; each 4.0 appends/s, 13.0 kB/s on wires, "
            "0.9 kB/s kept: holds",
        ),
    ],
)
def test_sessions_stand_with_what_limits_them(
    tmp_path: Path, largest: int | None, outcomes: list[Outcome], found: str
) -> None:
    figures: dict[str, Any] = {"bound_seconds": BOUND}
    figures["outcomes"] = [asdict(outcome) | {"limit": outcome.limit(BOUND)} for outcome in outcomes]
    if largest is not None:
        figures["largest"] = largest
    [_, _, row] = rows(tmp_path, sessions=figures)
    assert row[1:] == ["≥ 500", found]


def test_rounds_of_live_turns_stand_side_by_side(tmp_path: Path) -> None:
    heard = Heard(chunks=[(0.5, 1.0), (2.0, 1.0)])
    one = turns.Round(1, [heard], [], dict.fromkeys(BATCHES, Passes(4, 4)))
    eight = turns.Round(8, [heard] * 3, ["CAPACITY"], {**one.passes, "llm": Passes(10, 15)})
    silent = turns.Round(16, [], ["CAPACITY"], one.passes)
    figures = {"cores": 2, "rounds": [turns.figures(made) for made in (one, eight, silent)]}
    assert rows(tmp_path, turns=figures)[2:] == [
        ["1, 8 live turns on 2 cores: first sound", "", "0.50, 0.50 s; 0.50, 0.50 s"],
        ["1, 8 live turns on 2 cores: real-time factor", "", "1.00, 1.00; 1.00, 1.00"],
        ["the same: chunks that came late", "", "1 of 2, 3 of 6"],
        ["the same: turns that failed", "", "2 of 6"],
        [
            "the same: mean batch",
            "> 1 under load",
            "tokenizer 1.00, 1.00; llm 1.00, 1.50; vocoder 1.00, 1.00: missed",
        ],
    ]


def test_without_figures_there_is_no_table(tmp_path: Path) -> None:
    assert rows(tmp_path) == []
    (tmp_path / "served.json").write_text("of an earlier run")
    assert rows(tmp_path) == []

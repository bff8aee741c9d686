"""All figures of speed: one benchmark after another, each in a process of its own.

    python -m benchmarks [--quick] [--out FOLDER] [NAME ...]

So neither a memory peak nor a thread setting leaks from one into the next. A benchmark that fails does not
keep the others from running; the exit code is then 1. Options of one: `python -m benchmarks.NAME --help`.

At the end come the README's tables, of what has run just now. All together are reckoned to take a quarter of
an hour on two cores that have nothing else to do. Most of that is people's time, which no faster machine
shortens: `served` (60 turns), `turns` (72), `latency` (30) and `sessions` (about five numbers, half a minute
each) ask in real time.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks._rows import TABLES, tables


@dataclass(frozen=True)
class Benchmark:
    """A module of this folder: what it measures, its arguments, and more that make it a mere trial."""

    measures: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()


BENCHMARKS = {
    "codec": Benchmark("cost of the tokenizer and the vocoder", quick=("--seconds", "2")),
    "joins": Benchmark("how audible the joins of tiles are", ("examples/question.wav",)),
    "latency": Benchmark("how soon an answer is heard, questions in real time", quick=("--n", "1")),
    "engine_vs_hf": Benchmark("decode speed against Hugging Face generate", quick=("--repeats", "1")),
    "served": Benchmark("what the services add to the first sound", quick=("--n", "2")),
    "edges": Benchmark("what an edge adds: gRPC, turn log", quick=("--n", "100")),
    "turns": Benchmark("live turns on two cores", quick=("--live", "1", "2", "--turns", "1", "--each", "1")),
    "sessions": Benchmark(
        "live sessions on one core of the orchestrator",
        ("--seconds", "9.6", "--start", "64"),
        quick=("--sessions", "4", "--question", "1.2", "--seconds", "3"),
    ),
}


QUIET = 0.5
"""Load average up to which a machine counts as idle."""


def in_own_process(command: list[str]) -> int:
    """Runs a command to its end, its output into ours; gives its exit code, negative for a signal."""
    return subprocess.run(command, check=False).returncode


WRITING = {name for _, parts in TABLES for name in parts}
"""Those whose figures are in the tables."""


def run_all(names: Sequence[str], folder: Path, *, quick: bool) -> list[str]:
    """Runs the named benchmarks in the given order, their figures into a folder. Gives a line for each that
    failed."""
    failed = []
    for name in names:
        benchmark = BENCHMARKS[name]
        print(f"\n== {name}: {benchmark.measures}", flush=True)
        arguments = [*benchmark.arguments, *(benchmark.quick if quick else ())]
        if name in WRITING:
            figures = folder / f"{name}.json"
            figures.unlink(missing_ok=True)  # of an earlier run
            arguments += ["--out", str(figures)]
        began = time.monotonic()
        code = in_own_process([sys.executable, "-m", f"benchmarks.{name}", *arguments])
        print(f"-- {name} took {time.monotonic() - began:.0f} s", flush=True)
        if code:
            failed.append(f"{name} ended with exit code {code}, expected 0")
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    width = max(map(len, BENCHMARKS))
    listed = "\n".join(f"  {name:{width}}  {benchmark.measures}" for name, benchmark in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"benchmarks:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which to run; all if none is named")
    parser.add_argument("--quick", action="store_true", help="only try that they run; not for figures")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep the figures here, as JSON")
    given = parser.parse_args(arguments)
    for name in given.names:
        if name not in BENCHMARKS:
            parser.error(f"no benchmark {name!r}, expected one of {', '.join(BENCHMARKS)}")
    with tempfile.TemporaryDirectory(prefix="aqaa-bench-") as temporary:
        folder = given.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        names, load = given.names or list(BENCHMARKS), os.getloadavg()[0]
        failed = run_all(names, folder, quick=given.quick)
        if rows := tables(folder, names):
            trial = given.quick or load > QUIET
            print(f"\n== {'a trial, not for the README' if trial else 'for the README'}")
            print(
                f"\n{len(os.sched_getaffinity(0))} cores; others kept {load:.1f} busy at the start\n\n{rows}"
            )
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

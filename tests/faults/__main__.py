"""Shoots processes while turns are live, and says what became of each: ``python -m tests.faults --help``."""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from aqaa.audio.decode import read_audio
from tests.faults.caller import Question
from tests.faults.drill import Case, Drill, spread, stub_question, undone
from tests.faults.outcomes import Result, Table
from tests.faults.processes import ROOT
from tests.faults.stack import Settings, Stack


def spoken_question(path: Path, voice: int) -> Question:
    """A recording, answered with another seed for each ``voice``."""
    audio = read_audio(path)
    pcm = np.rint(np.clip(audio.samples, -1, 1) * 32767).astype(np.int16)
    return Question(pcm, seed=voice, rate=audio.sample_rate, pace=1.0)


def part(text: str) -> tuple[int, int]:
    """``K/N``. Raises ValueError."""
    k, n = map(int, text.split("/"))
    if not 1 <= k <= n:
        raise ValueError(f"part {k} of {n}, expected 1 to {n}")
    return k, n


def reported(paths: Iterable[Path]) -> list[Result]:
    """All results of these reports, the first one first."""
    return [Result.from_json(line) for path in paths for line in path.read_text("utf-8").splitlines()]


def chosen(given: argparse.Namespace) -> list[Case]:
    """All turns that the arguments ask for, be they done already or not."""
    if given.case:
        return [Case.parse(given.case, given.seed)] * given.times
    k, n = given.part
    return spread(given.kills, given.others, given.seed)[k - 1 :: n]


def concluded(table: Table) -> int:
    """Prints what has come of it; the exit status."""
    minutes = sum(result.seconds for result in table.results) / 60
    print(f"\n{table}\n\n{len(table.results)} turns, which themselves took {minutes:.1f} minutes")
    failures = table.failures()
    print("\n".join(failures) or "nothing was lost, doubled, wrong or left over")
    return 1 if failures else 0


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs and SIGTERMs in all")
    parser.add_argument("--others", type=int, default=0, help="times that each other fault happens")
    parser.add_argument("--seed", type=int, default=1, help="decides everything that chance decides")
    parser.add_argument("--case", metavar="PHASE/FAULT", help="this one alone, with this seed")
    parser.add_argument("--times", type=int, default=1, help="that --case is done")
    parser.add_argument("--stages", choices=["stub", "nano"], default="stub")
    parser.add_argument("--replicas", type=int, default=2, help="of each stage")
    parser.add_argument("--store", choices=["valkey9", "redis7"], default="valkey9")
    parser.add_argument("--part", type=part, default=(1, 1), metavar="K/N", help="of N equal parts this one")
    parser.add_argument(
        "--report",
        type=Path,
        help="a line of JSON for each turn goes here; turns that it has are not done again",
    )
    parser.add_argument("--tally", type=Path, nargs="+", metavar="REPORT", help="only the table of reports")
    parser.add_argument("--folder", type=Path, help="keep the logs of all processes here")
    return parser.parse_args(words)


async def main(given: argparse.Namespace) -> int:
    """The exit status: 1 for anything lost, doubled, wrong or left over, or too many typed errors."""
    if given.tally:
        return concluded(Table(reported(given.tally)))
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)  # nothing is left running
    settings, question = Settings(replicas=given.replicas, store=given.store), stub_question
    if given.stages == "nano":
        settings = Settings(
            replicas=given.replicas, store=given.store, bundle=ROOT / "models" / "nano", stage=15.0, lease=5.0
        )
        question = partial(spoken_question, ROOT / "examples" / "question.wav")
    done = reported([given.report]) if given.report and given.report.exists() else []
    cases = chosen(given)
    left = undone(cases, done)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="aqaa-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{len(left)} turns of {len(cases)} left, logs in {folder}", flush=True)
    table, began = Table(done), time.monotonic()
    async with Stack.over(folder, settings) as stack:
        async for result in Drill(stack, question).run(left):
            table.results.append(result)
            print(f"{len(table.results):4} {result}", flush=True)
            if given.report:
                with given.report.open("a", encoding="utf-8") as report:
                    report.write(result.to_json() + "\n")
    print(
        f"\n{len(left)} turns in {(time.monotonic() - began) / 60:.1f} minutes, the stack's start and end too"
    )
    return concluded(table)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments(sys.argv[1:]))))

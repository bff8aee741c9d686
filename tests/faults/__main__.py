"""Shoots processes while turns are live, and says what became of each: ``python -m tests.faults --help``."""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from aqaa.audio.decode import read_audio
from tests.faults.caller import Question
from tests.faults.drill import Case, Drill, spread, stub_question
from tests.faults.outcomes import Table
from tests.faults.processes import ROOT
from tests.faults.stack import Settings, Stack


def spoken_question(path: Path, voice: int) -> Question:
    """A recording, answered with another seed for each ``voice``."""
    audio = read_audio(path)
    pcm = np.rint(np.clip(audio.samples, -1, 1) * 32767).astype(np.int16)
    return Question(pcm, seed=voice, rate=audio.sample_rate, pace=1.0)


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
    parser.add_argument("--report", type=Path, help="a line of JSON for each turn goes here")
    parser.add_argument("--folder", type=Path, help="keep the logs of all processes here")
    return parser.parse_args(words)


async def main(given: argparse.Namespace) -> int:
    """The exit status: 1 for anything lost, doubled, wrong or left over, or too many typed errors."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)  # nothing is left running
    settings, question = Settings(replicas=given.replicas, store=given.store), stub_question
    if given.stages == "nano":
        settings = Settings(
            replicas=given.replicas, store=given.store, bundle=ROOT / "models" / "nano", stage=15.0, lease=5.0
        )
        question = partial(spoken_question, ROOT / "examples" / "question.wav")
    if given.case:
        cases = [Case.parse(given.case, given.seed)] * given.times
    else:
        cases = spread(given.kills, given.others, given.seed)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="aqaa-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{len(cases)} turns, logs in {folder}", flush=True)
    table = Table()
    async with Stack.over(folder, settings) as stack:
        async for result in Drill(stack, question).run(cases):
            table.results.append(result)
            print(f"{len(table.results):4} {result}", flush=True)
            if given.report:
                with given.report.open("a") as report:
                    report.write(json.dumps(asdict(result)) + "\n")
    print(f"\n{table}\n")
    failures = table.failures()
    print("\n".join(failures) or "nothing was lost, doubled, wrong or left over")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments(sys.argv[1:]))))

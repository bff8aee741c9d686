"""What one machine carries: 1, 2, 4 and 8 live turns on two cores, through the embedded stack.

    python -m benchmarks.turns [--bundle models/nano] [--live 1 2 4 8] [--turns 12]

So many callers ask at once, each one question after another, in real time and in pieces of 120 ms; they
begin spread over a question's length, and pause a second between turns. Everything runs on the same two
cores: callers, services, turn log. Every turn is a session of its own, so all of a question's turns cost the
same.

- TTFA: from the question's last sample spoken until the first chunk is in the caller's hands.
- RTF: from the same moment to the last chunk, over the answer's length. It holds the first wait too; and as
  the backbone may write only 12 s ahead of playback, long answers cannot come near to 0.
- underrun: a chunk that arrives after its playback time. Playback starts with the first chunk, without a
  reserve, and waits where it runs dry.
- batch: sessions in a pass through the model of tokenizer, llm and vocoder, the mean over a round's passes,
  by the metrics of the services. More than 1: turns share passes. The llm's passes are decode steps, and a
  turn alone has more than 1 there: its question's transcript is written beside its answer.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aqaa.client import AsyncClient, Patience
from aqaa.errors import AqaaError
from benchmarks._batches import BATCHES, Passes, between, passes
from benchmarks._caller import Heard, ask
from benchmarks._stack import Stack, aqaa_up, ready_in, running
from benchmarks.latency import RATE, Pcm, Spread, questions

CORES = 2
PAUSE_SECONDS = 1.0
ONCE = Patience(attempts=1)
"""A turn that is refused is counted, not asked again: its clock would have begun with the first attempt."""


@dataclass(frozen=True)
class Round:
    """So many callers at once: their turns, why others came to nothing, the passes of each stage."""

    live: int
    turns: list[Heard]
    failures: list[str]
    passes: Mapping[str, Passes]


async def measure(stack: Stack, asked: Sequence[Pcm], live: int, turns: int) -> Round:
    """``live`` callers, each of them ``turns`` turns."""
    before = await asyncio.to_thread(passes, stack)
    heard: list[Heard] = []
    failures: list[str] = []

    async def caller(number: int) -> None:
        async with AsyncClient(stack.address, patience=ONCE) as client:
            await asyncio.sleep(number * len(asked[0]) / RATE / live)
            for turn in range(turns):
                seed = 1 + number * turns + turn
                try:
                    heard.append(await ask(client, asked[seed % len(asked)], seed))
                except AqaaError as error:
                    failures.append(error.reason)
                await asyncio.sleep(PAUSE_SECONDS)

    async with asyncio.TaskGroup() as callers:
        for number in range(live):
            callers.create_task(caller(number))
    return Round(live, heard, failures, between(before, await asyncio.to_thread(passes, stack)))


def figures(found: Round) -> dict[str, Any]:
    """Of one round. TTFA and RTF are absent where no turn had sound."""
    spoken = [turn for turn in found.turns if turn.chunks]
    made: dict[str, Any] = {
        "live": found.live,
        "turns": len(found.turns),
        "failures": sorted(found.failures),
        "chunks": sum(len(turn.chunks) for turn in spoken),
        "underruns": sum(turn.dry.times for turn in spoken),
        "dry_seconds": sum(turn.dry.seconds for turn in spoken),
        "answer_seconds": sum(turn.answer_seconds for turn in spoken),
        "batches": {stage: {"passes": made.count, "mean": made.mean} for stage, made in found.passes.items()},
    }
    if spoken:
        first, rtf = Spread.of(turn.first_pcm for turn in spoken), Spread.of(turn.rtf for turn in spoken)
        made["ttfa"] = {"p50": first.median, "p95": first.p95}
        made["rtf"] = {"p50": rtf.median, "p95": rtf.p95}
    return made


HEAD = (
    f"{'live':>4} {'turns':>5} {'TTFA p50':>9} {'p95':>7} {'RTF p50':>8} {'p95':>6} {'underruns':>13} "
    f"{'dry':>7} {'batch: tokenizer':>16} {'llm':>5} {'vocoder':>7}  failures"
)


def row(made: Mapping[str, Any]) -> str:
    """The figures of a round, under HEAD."""
    none = {"p50": np.nan, "p95": np.nan}
    first, rtf = made.get("ttfa", none), made.get("rtf", none)
    share = made["dry_seconds"] / made["answer_seconds"] if made["answer_seconds"] else 0.0
    underruns = f"{made['underruns']} of {made['chunks']}"
    tokenizer, llm, vocoder = (
        f"{mean:.2f}" if (mean := made["batches"][stage]["mean"]) is not None else "-" for stage in BATCHES
    )
    return (
        f"{made['live']:>4} {made['turns']:>5} {first['p50']:>7.3f} s {first['p95']:>5.3f} s "
        f"{rtf['p50']:>8.2f} {rtf['p95']:>6.2f} {underruns:>13} {share:>7.1%} "
        f"{tokenizer:>16} {llm:>5} {vocoder:>7}  {', '.join(made['failures']) or 'none'}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.turns",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/nano"))
    parser.add_argument("--questions", type=Path, default=Path("examples"), help="a folder of WAV")
    parser.add_argument("--live", type=int, nargs="+", default=[1, 2, 4, 8], help="callers at once")
    parser.add_argument("--turns", type=int, default=12, help="of a round, at least")
    parser.add_argument("--each", type=int, default=4, help="turns of each caller, at least")
    parser.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    given = parser.parse_args(arguments)
    asked = questions(given.questions)
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)
    print(f"callers and stack on {len(cores)} cores")
    print(HEAD, flush=True)
    rounds = []
    with running(aqaa_up(given.bundle), ready_in) as stack:
        asyncio.run(measure(stack, asked, 1, 1))  # warm
        for live in given.live:
            each = max(given.each, -(-given.turns // live))
            rounds.append(figures(asyncio.run(measure(stack, asked, live, each))))
            print(row(rounds[-1]), flush=True)
    if given.out is not None:
        given.out.write_text(json.dumps({"cores": len(cores), "rounds": rounds}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

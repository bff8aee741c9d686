"""What the services add: how soon the first sound is heard through them, over the same turn in one process.

    python -m benchmarks.served [--bundle models/nano] [--n 30] [--threads 1]

Both intervals begin when the question's last sample has been spoken: its start plus its length, whatever the
listener's backlog. Both sides are fed in real time, in pieces of 120 ms.

- in process: until `aqaa.engine.pipeline` yields the first PCM. That is the critical path: the last hop of
  the tokenizer, the prefill of its groups, the tokens up to the first tile, and that tile in the vocoder.
- served: until the first chunk is in the hands of a Python caller of `aqaa.client`, checksums compared. That
  is the same work, and everything between: caller, orchestrator, tokenizer, turn log, runner, llm, turn log,
  vocoder, orchestrator, caller. The conversation is open before the question begins.

The ratio is served over in process, of medians and of 95th percentiles; the goal is at most 1.10. Question,
seed, bundle, and threads of a pass are the same; the sides take turns, each warm, while the other one rests.
That both say the same is counted: otherwise they have not done the same work.

The one advantage of the services is that two of them can compute at once on two cores.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import track

from aqaa.client import AsyncClient
from benchmarks._caller import Heard, ask
from benchmarks._stack import aqaa_up, ready_in, running, threads
from benchmarks.latency import Pcm, Spread, Wall, questions, time_turn

if TYPE_CHECKING:
    from aqaa.engine.pipeline import Pipeline, Turn

GOAL = 1.10


@dataclass(frozen=True)
class Alone:
    """A turn in one process: its text, and seconds from the question's last sample until all was heard and
    prefilled, until its first text, until its first PCM (None: there was none)."""

    heard: float
    first_text: float
    first_pcm: float | None
    text: str


class Remembering:
    """A pipeline that keeps the turn it listens with."""

    def __init__(self, pipeline: "Pipeline") -> None:
        self.pipeline = pipeline
        self.turn: Turn

    def listen(self, *, seed: int = 0) -> "Turn":
        self.turn = self.pipeline.listen(seed=seed)
        return self.turn


def ask_alone(pipeline: "Pipeline", pcm: Pcm, seed: int) -> Alone:
    """One turn in this process."""
    listening = Remembering(pipeline)
    wall = Wall(now=pipeline.clock)
    time = time_turn(listening, pcm, pipeline.manifest.vocoder.sample_rate, seed, wall)
    turn, marks = listening.turn, listening.turn.marks
    text = "".join(segment.text for segment in turn.segments)
    asked = marks.first_audio - (time.first_pcm or 0.0)
    return Alone(marks.heard - asked, marks.thought - asked, time.first_pcm, text)


def ratios(alone: Sequence[Alone], served: Sequence[Heard]) -> dict[str, Any]:
    """The figures of both sides' turns, the same ones in the same order.

    Raises:
        ValueError: no turn had sound.
    """
    pairs = [
        (one, other)
        for one, other in zip(alone, served, strict=True)
        if one.first_pcm is not None and other.first_pcm is not None
    ]
    one, other = Spread.of(a.first_pcm for a, _ in pairs), Spread.of(b.first_pcm for _, b in pairs)
    return {
        "turns": len(alone),
        "with_sound": len(pairs),
        "same_text": sum(a.text == b.text for a, b in pairs),
        "taken_up_again": sum(b.again for _, b in pairs),
        "in_process": {"p50": one.median, "p95": one.p95},
        "served": {"p50": other.median, "p95": other.p95},
        "ratio": {"p50": other.median / one.median, "p95": other.p95 / one.p95},
        "in_process_steps": {
            "question prefilled": float(np.median([a.heard for a, _ in pairs])),
            "first text": float(np.median([a.first_text for a, _ in pairs])),
        },
        "served_steps": {
            "question in the log": float(np.median([b.committed for _, b in pairs])),
            "first text": float(np.median([b.first_text for _, b in pairs])),
        },
    }


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{'s from the last sample':24} {'p50':>7} {'p95':>7}"]
    for name in ("in_process", "served", "ratio"):
        unit = f"   (goal: at most {GOAL:.2f})" if name == "ratio" else ""
        spread = figures[name]
        lines.append(f"{name.replace('_', ' '):24} {spread['p50']:7.3f} {spread['p95']:7.3f}{unit}")
    for side in ("in_process", "served"):
        steps = ", ".join(f"{name} {seconds:.3f}" for name, seconds in figures[f"{side}_steps"].items())
        lines.append(f"{side.replace('_', ' ')}, medians: {steps}")
    lines.append(
        f"{figures['turns']} turns, {figures['with_sound']} with sound on both sides, {figures['same_text']} "
        f"of these with the same text, {figures['taken_up_again']} calls taken up again"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.served",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/nano"))
    parser.add_argument("--questions", type=Path, default=Path("examples"), help="a folder of WAV")
    parser.add_argument("--n", type=int, default=30, help="turns; with few questions, asked again")
    parser.add_argument("--threads", type=int, default=1, help="of a pass, on both sides")
    parser.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    given = parser.parse_args(arguments)
    asked = questions(given.questions)
    chosen = [asked[turn * len(asked) // given.n % len(asked)] for turn in range(given.n)]

    from aqaa.engine.pipeline import Pipeline

    pipeline = Pipeline.load(given.bundle, threads=given.threads)
    alone: list[Alone] = []
    served: list[Heard] = []
    with (
        running(aqaa_up(given.bundle), ready_in, threads(given.threads)) as stack,
        asyncio.Runner() as runner,
    ):
        client = AsyncClient(stack.address)
        ask_alone(pipeline, chosen[0], 0)
        runner.run(ask(client, chosen[0], 0))
        for seed, pcm in enumerate(track(chosen, "asking in real time, both ways"), 1):
            alone.append(ask_alone(pipeline, pcm, seed))
            served.append(runner.run(ask(client, pcm, seed)))
        runner.run(client.aclose())
    cores = len(os.sched_getaffinity(0))
    figures = ratios(alone, served) | {"threads": given.threads, "cores": cores}
    if given.out is not None:
        given.out.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    print(f"{given.threads} threads a pass, {cores} cores")
    print(table(figures))


if __name__ == "__main__":
    main()

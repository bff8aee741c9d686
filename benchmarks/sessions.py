"""How many live sessions one core of the orchestrator carries, with stub stages at real-time pace.

    python -m benchmarks.sessions                      # looks for the largest number that holds
    python -m benchmarks.sessions --sessions 100       # one number

A live session is an open conversation whose caller speaks half of the time, in frames of 120 ms, and hears
the other half; half of them talk at any moment (`_load`). The stages compute nothing (`_stubs`): the llm
writes a group of the answer every 120 ms, vocoder and tokenizer answer at once. The orchestrator, front and
runner in one process as `aqaa up` starts it, is alone on the last core; turn log, stubs and callers share
the others. Callers acknowledge nothing, so answers count as played by the clock.

A chunk is late by the time from when its groups were due, at 120 ms each from the question's last sample on,
until it is in the caller's hands: all that orchestrator, turn log and wires add, the commit included. A
number of sessions holds if the 99th percentile is at most one group, 120 ms, so that a player that keeps one
group in hand never runs dry, and every turn was answered. It says nothing where the callers' own frames were
late: then the load is at its limit.

What limits a number that does not hold is told: the orchestrator's core or the others where they are full,
or nothing that is full, then something waits. How many sessions would fill the orchestrator's core is what
its share says, not a number that was tried.

Bytes are those of the turn log: how much its memory grew, for each session and second (it keeps what was
said for 15 minutes after a turn), and what went over its wires. Appends count every XADD.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from redis.asyncio import Redis

from aqaa.rpc.server import run
from aqaa.stack.plan import ORCHESTRATOR, VALKEY
from benchmarks._load import FRAME_SECONDS, Record, Script, Session, within
from benchmarks._stack import Stack, processor_seconds, ready_in, running

ANSWER_SHORTER = 2
"""Groups that an answer is shorter than its question: it is over before the next one begins."""
GOAL = 500
FULL = 0.9
"""Share of a core from which on it counts as used up: what comes waits for what is there."""


@dataclass(frozen=True)
class Outcome:
    """One number of sessions. Seconds; ``cores``: processor seconds a second, by process."""

    sessions: int
    late_p50: float
    late_p99: float
    load_late_p99: float
    chunks: int
    asked: int
    answered: int
    failures: Mapping[str, int]
    cores: Mapping[str, float]
    other_cores: int
    """That all but the orchestrator share."""
    appends: float
    """A second and session."""
    memory_bytes: float
    """By which the turn log's memory grew, a second and session."""
    wire_bytes: float
    """To and from the turn log, a second and session."""

    def holds(self, bound: float) -> bool:
        """Whether the orchestrator kept up. False too where nothing can be said."""
        whole = self.answered == self.asked and not self.failures
        return self.tells(bound) and whole and self.late_p99 <= bound

    def tells(self, bound: float) -> bool:
        """Whether the load was what it should have been."""
        return self.load_late_p99 <= bound / 4

    @property
    def others(self) -> float:
        """Share of the cores that turn log, stubs and callers have together."""
        used = sum(share for part, share in self.cores.items() if part != ORCHESTRATOR)
        return used / self.other_cores

    @property
    def would_fill(self) -> float:
        """Sessions that would use all of the orchestrator's core, at this number's share for each."""
        share = self.cores[ORCHESTRATOR]
        return self.sessions / share if share else float("inf")

    def limit(self, bound: float) -> str:
        """Why this number does not hold; nothing if it does."""
        if self.holds(bound):
            return ""
        full = []
        if (own := self.cores[ORCHESTRATOR]) >= FULL:
            full.append(f"the orchestrator's core is full ({own:.0%})")
        if self.others >= FULL:
            full.append(f"the cores of turn log, stubs and callers are full ({self.others:.0%})")
        if not self.tells(bound):
            full.append(f"the callers' frames were {self.load_late_p99 * 1e3:.0f} ms late")
        return ", ".join(full) or "no core is full"


@dataclass(frozen=True)
class Reading:
    """Counters at one moment."""

    at: float
    processor: Mapping[str, float]
    appends: int
    memory: int
    wire: int

    @classmethod
    async def take(cls, stack: Stack, redis: "Redis") -> "Reading":
        commands, memory, stats = [await redis.info(part) for part in ("commandstats", "memory", "stats")]
        processor = {part: processor_seconds(pid) for part, pid in stack.pids.items()}
        return cls(
            time.monotonic(),
            {**processor, "callers": processor_seconds(os.getpid())},
            commands.get("cmdstat_xadd", {}).get("calls", 0),
            memory["used_memory"],
            stats["total_net_input_bytes"] + stats["total_net_output_bytes"],
        )


async def measure(stack: Stack, sessions: int, script: Script, seconds: float) -> Outcome:
    """So many sessions: a cycle in which they begin, ``seconds`` that count, whole cycles to the end."""
    record = Record()
    begin = time.monotonic() + 0.5
    counted = begin + script.cycle
    until = counted + seconds + script.cycle
    async with Redis.from_url(stack.redis) as redis, asyncio.TaskGroup() as group:
        for i in range(sessions):
            start = begin + i * script.cycle / sessions
            group.create_task(Session(script, record).run(stack.address, start, until))
        await asyncio.sleep(counted - time.monotonic())
        before = await Reading.take(stack, redis)
        await asyncio.sleep(counted + seconds - time.monotonic())
        after = await Reading.take(stack, redis)
    took = after.at - before.at
    late = within(record.chunks, counted, counted + seconds)
    load_late = within(record.frames, counted, counted + seconds)
    share = 1 / (took * sessions)
    return Outcome(
        sessions=sessions,
        late_p50=_percentile(late, 50),
        late_p99=_percentile(late, 99),
        load_late_p99=_percentile(load_late, 99),
        chunks=len(late),
        asked=record.asked,
        answered=record.answered,
        failures=dict(record.failures),
        other_cores=len(os.sched_getaffinity(0)),
        cores={part: (after.processor[part] - before.processor[part]) / took for part in after.processor},
        appends=(after.appends - before.appends) * share,
        memory_bytes=(after.memory - before.memory) * share,
        wire_bytes=(after.wire - before.wire) * share,
    )


def _percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else float("inf")


def largest(holds: Callable[[int], bool], start: int, most: int, *, within: float = 0.1) -> int:
    """The largest number up to ``most`` that holds, to ``within`` of it, or 0.

    Doubles or halves from ``start``, then halves the gap. ``holds`` should be true up to some number, and
    false behind it.
    """
    good, bad, number = 0, most + 1, min(start, most)
    while good < most and bad - good > max(1, within * good):
        if holds(number):
            good = number
            number = min(2 * good, most) if bad > most else (good + bad) // 2
        else:
            bad = number
            number = (good + bad) // 2
    return good


HEAD = (
    f"{'sessions':>8} {'late p50':>9} {'p99':>9} {'load p99':>9} {'orch. core':>10} {'turn log':>8} "
    f"{'stubs':>6} {'callers':>7} {'appends/s':>9} {'memory B/s':>10} {'wire B/s':>9}  turns"
)


def row(made: Outcome, bound: float) -> str:
    """An outcome under HEAD; appends and bytes are of one session."""
    others = {
        part: share for part, share in made.cores.items() if part not in (ORCHESTRATOR, VALKEY, "callers")
    }
    verdict = "holds" if made.holds(bound) else "late" if made.tells(bound) else "the load was late"
    faults = "".join(f", {count} × {reason}" for reason, count in made.failures.items())
    return (
        f"{made.sessions:>8} {made.late_p50 * 1e3:>6.1f} ms {made.late_p99 * 1e3:>6.1f} ms "
        f"{made.load_late_p99 * 1e3:>6.1f} ms {made.cores[ORCHESTRATOR]:>10.1%} {made.cores[VALKEY]:>8.1%} "
        f"{sum(others.values()):>6.1%} {made.cores['callers']:>7.1%} {made.appends:>9.2f} "
        f"{made.memory_bytes:>10.0f} {made.wire_bytes:>9.0f}  "
        f"{made.answered} of {made.asked}{faults}: {verdict}"
    )


def limits(made: Outcome, bound: float) -> str:
    """What an outcome says of the orchestrator's core, and what limits it."""
    return (
        f"{made.sessions} sessions: {made.limit(bound) or 'hold'}; the orchestrator uses "
        f"{made.cores[ORCHESTRATOR]:.0%} of its core, {made.would_fill:.0f} sessions would fill it"
    )


def stack_of_stubs(core: int, sessions: int, groups: int) -> list[str]:
    """The command of a stack for so many sessions."""
    options = {"--core": core, "--slots": 4 * sessions, "--groups": groups}
    words = [str(word) for option in options.items() for word in option]
    return [sys.executable, "-m", "benchmarks._stubs", "stack", *words]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sessions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sessions", type=int, help="this number alone")
    parser.add_argument("--start", type=int, default=100, help="the first number that is tried")
    parser.add_argument("--most", type=int, default=2000, help="the largest number that is tried")
    parser.add_argument("--bound-ms", type=float, default=120.0, help="of the 99th percentile of lateness")
    parser.add_argument("--question", type=float, default=4.8, help="seconds of each question")
    parser.add_argument("--seconds", type=float, default=20.0, help="that are counted")
    parser.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    given = parser.parse_args(arguments)
    frames = round(given.question / FRAME_SECONDS)
    if frames <= ANSWER_SHORTER:
        parser.error(f"--question {given.question:g} is {frames} frames, expected more than {ANSWER_SHORTER}")
    script, bound = Script(frames, frames - ANSWER_SHORTER), given.bound_ms / 1e3
    *others, core = sorted(os.sched_getaffinity(0))
    if not others:
        parser.error("one core, expected two or more: the orchestrator has one for itself")
    os.sched_setaffinity(0, others)
    outcomes: list[Outcome] = []

    def holds(sessions: int) -> bool:
        with running(stack_of_stubs(core, sessions, script.groups), ready_in) as stack:
            outcomes.append(run(measure(stack, sessions, script, given.seconds)))
        print(row(outcomes[-1], bound), flush=True)
        return outcomes[-1].holds(bound)

    print(f"questions of {frames} frames, answers of {script.groups} groups; orchestrator on core {core}")
    print(HEAD, flush=True)
    figures: dict[str, object] = {"bound_seconds": bound}
    if given.sessions is not None:
        holds(given.sessions)
    else:
        found = figures["largest"] = largest(holds, given.start, given.most)
        print(f"{found} live sessions hold p99 ≤ {given.bound_ms:g} ms (goal: at least {GOAL})")
    for outcome in outcomes:
        print(limits(outcome, bound))
    if given.out is not None:
        figures["outcomes"] = [asdict(o) | {"limit": o.limit(bound)} for o in outcomes]
        given.out.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

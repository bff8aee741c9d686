"""How soon an answer is heard: questions fed in real time to a warm bundle, in pieces of 120 ms.

    python -m benchmarks.latency --bundle models/nano --n 30

The clock of a turn starts when the question's last sample has been spoken, not when the pipeline got round
to it: a backlog counts. Loading and memory are told apart.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from aqaa.audio.decode import read_audio
from aqaa.audio.resample import resample

Pcm = NDArray[np.float32]
RATE = 16000
PIECE_SECONDS = 0.12


class Turn(Protocol):
    def push(self, pcm: Pcm) -> None: ...
    def finish(self) -> Iterator[object]: ...


class Listens(Protocol):
    """What is needed of ``aqaa.engine.pipeline.Pipeline``."""

    def listen(self, *, seed: int = 0) -> Turn: ...


@dataclass(frozen=True)
class Wall:
    """The clock that paces the feed; a test brings its own."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class TurnTime:
    """Seconds from the last sample of the question to the first and the last PCM (None: there was none), the
    answer's length, and how far the feed lagged behind at the end."""

    first_pcm: float | None
    last_pcm: float | None
    answer_seconds: float
    backlog: float

    @property
    def rtf(self) -> float | None:
        """Seconds to the last PCM per second of answer."""
        return self.last_pcm / self.answer_seconds if self.last_pcm is not None else None


@dataclass(frozen=True)
class Spread:
    """Median and 95th percentile over ``n`` turns."""

    n: int
    median: float
    p95: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread:
        """Leaves None out; raises ValueError when nothing is left."""
        found = [value for value in values if value is not None]
        if not found:
            raise ValueError("no turn gave a value, expected at least one answer with sound")
        return cls(len(found), float(np.median(found)), float(np.percentile(found, 95)))


def time_turn(pipeline: Listens, pcm: Pcm, answer_rate: int, seed: int, wall: Wall) -> TurnTime:
    """Feeds (n,) samples at 16 kHz as they would be spoken; reads the whole answer at ``answer_rate`` Hz."""
    turn = pipeline.listen(seed=seed)
    piece = round(PIECE_SECONDS * RATE)
    start = wall.now()
    for at in range(0, len(pcm), piece):
        end = min(at + piece, len(pcm))
        if (wait := start + end / RATE - wall.now()) > 0:
            wall.sleep(wait)
        turn.push(pcm[at:end])
    asked = start + len(pcm) / RATE
    backlog = wall.now() - asked
    first = last = None
    samples = 0
    for event in turn.finish():
        sound = getattr(event, "pcm", None)
        if sound is not None and len(sound):
            last = wall.now() - asked
            first = last if first is None else first
            samples += len(sound)
    return TurnTime(first, last, samples / answer_rate, backlog)


def report(turns: Sequence[TurnTime]) -> dict[str, object]:
    """Medians and 95th percentiles. Turns without sound are counted, not timed."""
    spoken = [turn for turn in turns if turn.rtf is not None]
    return {
        "turns": len(turns),
        "silent": len(turns) - len(spoken),
        "first_pcm_seconds": asdict(Spread.of(turn.first_pcm for turn in spoken)),
        "rtf": asdict(Spread.of(turn.rtf for turn in spoken)),
        "backlog_seconds": asdict(Spread.of(turn.backlog for turn in turns)),
        "answer_seconds": asdict(Spread.of(turn.answer_seconds for turn in spoken)),
    }


def questions(folder: Path) -> list[Pcm]:
    """Every WAV of a folder at 16 kHz. Raises FileNotFoundError when there is none."""
    found = []
    for path in sorted(folder.glob("*.wav")):
        audio = read_audio(path)
        found.append(resample(audio.samples, audio.sample_rate, RATE))
    if not found:
        raise FileNotFoundError(f"{folder}: no .wav in it, expected recorded questions")
    return found


def peak_megabytes() -> float:
    """The most memory this process has held so far, in MB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("models/nano"))
    parser.add_argument("--questions", type=Path, default=Path("examples"), help="a folder of WAV")
    parser.add_argument("--n", type=int, default=30, help="turns; with few questions, asked again")
    parser.add_argument("--threads", type=int, default=1, help="of a pass")
    parser.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    given = parser.parse_args(arguments)
    asked = questions(given.questions)

    from aqaa.engine.pipeline import Pipeline

    wall = Wall()
    before, began = peak_megabytes(), wall.now()
    pipeline = Pipeline.load(given.bundle, threads=given.threads)
    load_seconds, loaded = wall.now() - began, peak_megabytes()
    rate = pipeline.manifest.vocoder.sample_rate
    # Spread over the folder, so that a few turns are a fair sample of many questions.
    chosen = [asked[turn * len(asked) // given.n % len(asked)] for turn in range(given.n)]
    time_turn(pipeline, chosen[0], rate, 0, wall)
    turns = [
        time_turn(pipeline, pcm, rate, seed, wall)
        for seed, pcm in enumerate(track(chosen, "asking in real time"), 1)
    ]
    figures = report(turns) | {
        "threads": given.threads,
        "load_seconds": load_seconds,
        "peak_megabytes": {"libraries": before, "loaded": loaded, "answering": peak_megabytes()},
    }
    text = json.dumps(figures, indent=1)
    if given.out is not None:
        given.out.write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()

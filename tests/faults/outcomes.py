"""What became of a turn, and the table of many: phase × process × outcome."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from aqaa.errors import AqaaError, CapacityError, Deadline, LogDiverged, LogLost, Stalled, Unavailable
from tests.faults.caller import Heard, Phase
from tests.faults.faults import FAULTS, role_of

MEANT = (Unavailable, CapacityError, Stalled, Deadline, LogLost, LogDiverged)
"""What a caller may be told who did nothing wrong."""
MOST_ERRORS = 0.05
"""Of all turns."""


class Outcome(StrEnum):
    SAME = "same"
    """Every sample once, in order, bit for bit those of the undisturbed turn; text and manifest too."""
    ERROR = "error"
    """A typed error that names what is missing, or the stage that is; or a refusal at the door."""
    WRONG = "wrong"
    """Anything else: lost, doubled, other samples, an error that nobody meant, no end."""


@dataclass(frozen=True)
class Verdict:
    outcome: Outcome
    reason: str = ""
    detail: str = ""


def judge(heard: Heard, error: BaseException | None, undisturbed: Heard) -> Verdict:
    """What a caller was given, against what the same question and seed give where nothing happens."""
    if error is not None:
        return _judge_error(heard, error, undisturbed)
    faults = []
    if heard.manifest is None:
        faults.append("no manifest")
    elif heard.manifest != undisturbed.manifest:
        faults.append(f"manifest {heard.manifest} instead of {undisturbed.manifest}")
    if heard.sequences != undisturbed.sequences:
        faults.append(f"chunks {heard.sequences} instead of {undisturbed.sequences}")
    if heard.sound != undisturbed.sound:
        faults.append(_difference(heard.sound, undisturbed.sound))
    if heard.texts != undisturbed.texts:
        faults.append(f"text {heard.texts} instead of {undisturbed.texts}")
    if heard.transcript != undisturbed.transcript:
        faults.append(f"transcript {heard.transcript!r} instead of {undisturbed.transcript!r}")
    return Verdict(Outcome.WRONG, "DIFFERENT", "; ".join(faults)) if faults else Verdict(Outcome.SAME)


def _judge_error(heard: Heard, error: BaseException, undisturbed: Heard) -> Verdict:
    if not isinstance(error, AqaaError):
        return Verdict(Outcome.WRONG, type(error).__name__, str(error) or "the turn has no end")
    detail = f"{error} {error.metadata}"
    if not undisturbed.sound.startswith(heard.sound):
        return Verdict(Outcome.WRONG, "DIFFERENT", f"before {error.reason}: {detail}")
    names = isinstance(error, CapacityError) or bool({"missing", "stage"} & error.metadata.keys())
    meant = names and isinstance(error, MEANT)
    return Verdict(Outcome.ERROR if meant else Outcome.WRONG, error.reason, detail)


def _difference(given: bytes, expected: bytes) -> str:
    same = next((i for i, (a, b) in enumerate(zip(given, expected, strict=False)) if a != b), None)
    where = min(len(given), len(expected)) if same is None else same
    return f"{len(given) // 2} samples instead of {len(expected) // 2}, other from sample {where // 2} on"


@dataclass(frozen=True)
class Result:
    """One turn of the drill.

    held   whether the process that it happened to worked for the turn; None where it happened to none
    leaks  what was still held afterwards
    """

    phase: str
    fault: str
    seed: int
    verdict: Verdict
    seconds: float
    held: bool | None = None
    resumed: int = 0
    told: Sequence[str] = ()
    leaks: Sequence[str] = ()

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Result":
        """Raises ValueError or TypeError for anything else."""
        fields = json.loads(line)
        verdict = fields.pop("verdict")
        outcome = Outcome(verdict.pop("outcome"))
        return cls(verdict=Verdict(outcome, **verdict), **fields)

    @property
    def good(self) -> bool:
        return self.verdict.outcome is not Outcome.WRONG and not self.leaks

    @property
    def again(self) -> str:
        """The arguments that do it again."""
        return f"--case {self.phase}/{self.fault} --seed {self.seed}"

    def __str__(self) -> str:
        verdict = self.verdict
        notes = [f"{self.seconds:.1f} s", *self.told]
        notes += [f"resumed {self.resumed}×"] if self.resumed else []
        line = f"{self.phase:9} {self.fault:20} {verdict.outcome:6} {verdict.reason:12} ({', '.join(notes)})"
        if not self.good or verdict.outcome is Outcome.ERROR:
            line += f"\n    {verdict.detail}\n    {self.again}"
        return line + "".join(f"\n    left over: {leak}" for leak in self.leaks)


@dataclass
class Table:
    """Results, by phase and whom it happened to."""

    results: list[Result] = field(default_factory=list)

    def failures(self) -> list[str]:
        """Why the whole has failed; nothing if it has not."""
        bad = [str(result) for result in self.results if not result.good]
        errors = [r for r in self.results if r.verdict.outcome is Outcome.ERROR]
        if len(errors) > MOST_ERRORS * len(self.results):
            bad.append(f"{len(errors)} typed errors of {len(self.results)} turns, at most 5 % are allowed")
        return bad

    def __str__(self) -> str:
        rows = [("phase", "happened to", "turns", "held it", "same PCM", "typed error", "wrong", "left over")]
        groups: dict[tuple[str, str], list[Result]] = {}
        for result in sorted(self.results, key=_place):
            groups.setdefault((result.phase, role_of(result.fault)), []).append(result)
        for (phase, whom), results in [*groups.items(), (("all", ""), self.results)]:
            by = {outcome: [r for r in results if r.verdict.outcome is outcome] for outcome in Outcome}
            rows.append(
                (
                    phase,
                    whom,
                    str(len(results)),
                    _held(results),
                    str(len(by[Outcome.SAME])),
                    _counted(by[Outcome.ERROR]),
                    _counted(by[Outcome.WRONG]),
                    str(sum(bool(r.leaks) for r in results)),
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [[f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)] for row in rows]
        return "\n".join("  ".join(line).rstrip() for line in lines)


def _place(result: Result) -> tuple[int, int]:
    """Phases and faults as they are listed."""
    return list(Phase).index(Phase(result.phase)), list(FAULTS).index(result.fault)


def _held(results: Sequence[Result]) -> str:
    """How many hit a process that worked for the turn, of those that hit a process at all."""
    hits = [result.held for result in results if result.held is not None]
    return f"{sum(hits)} of {len(hits)}" if hits else "-"


def _counted(results: Sequence[Result]) -> str:
    reasons = Counter(result.verdict.reason for result in results)
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "0"

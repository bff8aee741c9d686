"""What `aqaa up` starts: which programs, with which flags and environment, in which order. Pure.

What the stack decides (addresses, the bundle, how long a drain may take) goes in as flags. What it only
proposes (the profile) goes in as environment, and only where neither environment nor settings file says
otherwise. The turn log's URL may hold a password, so it is never on a command line.
"""

import sys
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aqaa.errors import SettingsError

HOST: Final = "127.0.0.1"
STAGES: Final = ("tokenizer", "llm", "vocoder")
ORCHESTRATOR: Final = "orchestrator"
VALKEY: Final = "valkey"
SERVICES: Final = (ORCHESTRATOR, *STAGES)

STOP_ORDER: Final = ((ORCHESTRATOR,), ("llm", "vocoder", "tokenizer"), (VALKEY,))
"""Who is stopped together; the next ones when these are gone. The turns of the first need all the others."""

QUIET: Final[Mapping[str, str]] = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Of every child: no numeric library takes threads that nobody asked for, none spins while it waits. How many
compute a pass is the service's setting ``threads``, which goes before these."""

DEFAULT_PORT: Final = 50050
"""Of the orchestrator: where `aqaa talk` looks first."""


@dataclass(frozen=True)
class Plan:
    """Everything `aqaa up` was told.

    environ        of this process
    redis_url      a Redis or Valkey that runs already; None starts one of our own
    data           folder that keeps its data; None keeps nothing
    port           of the orchestrator, 0 for any free one
    ready_seconds  until a part that is not ready counts as failed
    drain_seconds  for turns that are live when all is stopped
    given          what a settings file sets, as ``given_in`` reads it
    programs       the first words of each service's command
    stages         those that are started; tests start fewer
    """

    bundle: Path
    environ: Mapping[str, str]
    redis_url: str | None = None
    data: Path | None = None
    port: int = DEFAULT_PORT
    ready_seconds: float = 120.0
    drain_seconds: float = 10.0
    given: Mapping[str, Collection[str]] = field(default_factory=dict)
    programs: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: PROGRAMS)
    stages: tuple[str, ...] = STAGES


@dataclass(frozen=True)
class Command:
    """One child: ``argv[0]`` is a path."""

    part: str
    argv: tuple[str, ...]
    environ: Mapping[str, str]


PROGRAMS: Final[Mapping[str, tuple[str, ...]]] = {
    # -P: a folder named services where the user stands is not ours
    service: (sys.executable, "-P", "-m", f"services.{service}")
    for service in SERVICES
}


def stage_command(plan: Plan, stage: str) -> Command:
    """A stage on any free ports, or on those that its settings name."""
    return _command(plan, stage, {"bundle": str(plan.bundle)}, {})


def orchestrator_command(plan: Plan, addresses: Mapping[str, str], redis_url: str) -> Command:
    """The orchestrator between the stages, which listen on ``addresses``, and the turn log."""
    secret = {"AQAA_ORCHESTRATOR_REDIS_URL": redis_url}
    return _command(plan, ORCHESTRATOR, {"port": str(plan.port), **addresses}, secret)


def given_in(file: Path) -> dict[str, frozenset[str]]:
    """Service → the settings that a TOML file has for it.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file}: expected a TOML file of settings: {error}") from error
    return {name: frozenset(table) for name, table in tables.items() if isinstance(table, dict)}


def _command(plan: Plan, service: str, flags: Mapping[str, str], secret: Mapping[str, str]) -> Command:
    flags = {
        "host": HOST,
        "metrics-host": HOST,
        "drain-seconds": f"{plan.drain_seconds:g}",
        **flags,
    }
    words = tuple(word for name, value in flags.items() for word in (f"--{name}", value))
    said = "profile" in plan.given.get(service, ())
    proposed = {} if said else {f"AQAA_{service.upper()}_PROFILE": "development"}
    # a log line shall not wait for a buffer to fill
    environ = {**QUIET, "PYTHONUNBUFFERED": "1", **proposed, **plan.environ, **secret}
    return Command(service, (*plan.programs[service], *words), environ)

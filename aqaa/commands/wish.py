"""What ``aqaa ask`` asks of the services."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aqaa.audio.decode import Audio
from aqaa.stack.plan import DEFAULT_PORT, HOST

PORT_VARIABLE: Final = "AQAA_ORCHESTRATOR_PORT"
"""Tells `aqaa up` where to listen, and the others where to look."""


def usual_address(environ: Mapping[str, str]) -> str:
    """Where `aqaa up` listens on this machine unless told otherwise."""
    return f"{HOST}:{environ.get(PORT_VARIABLE) or DEFAULT_PORT}"


@dataclass(frozen=True)
class Wish:
    """What ``aqaa ask`` was told.

    address  of a stack that must answer
    usual    where one is looked for without an address
    bundle   that must answer; None: any that a running stack holds
    ours     of a stack of our own; None: there is none
    """

    question: Audio
    seed: int
    address: str | None
    usual: str
    bundle: Path | None
    ours: Path | None

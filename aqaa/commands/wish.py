"""What ``aqaa ask`` asks of the services."""

from dataclasses import dataclass
from pathlib import Path

from aqaa.audio.decode import Audio


@dataclass(frozen=True)
class Wish:
    """What ``aqaa ask`` was told.

    address  of a stack that must be used; None looks at the default one
    bundle   that must answer; None: any that a running stack holds
    ours     of a stack of our own; None: there is none
    """

    question: Audio
    seed: int
    address: str | None
    bundle: Path | None
    ours: Path | None

"""Holding a role of a turn: owner = (epoch, nonce), both compared by every write."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aqaa.errors import AqaaError, Cancelled, LogDiverged, LogLost, Superseded
from aqaa.telemetry import catalogue
from aqaa.turnlog import scripts
from aqaa.turnlog.link import Call, Link
from aqaa.turnlog.names import Role, TurnRef
from aqaa.turnlog.settings import ms
from aqaa.turnlog.state import Phase


@dataclass(frozen=True)
class Refused:
    """A role that could not be taken.

    why    LEASED: someone alive holds it; ENDED: the turn is over; GONE: there is no such turn
    left   seconds that the lease still has
    entry  the dispatch entry that the holder works on
    """

    why: str
    left: float = 0.0
    entry: str = ""


def acquiring(
    link: Link, turn: TurnRef, role: Role, nonce: str, *, force: bool = False, known: int = 0, entry: str = ""
) -> Call:
    """The call that takes a role."""
    args = (role, nonce, ms(link.settings.lease), int(force), known, entry, link.publish)
    return Call(scripts.ACQUIRE, [turn.state], [*args, turn.channel(Role.FRONT), turn.channel(Role.RUNNER)])


class Tenure:
    """A role that this process holds, until it is released, fenced or lost.

        tenure = await Tenure.acquire(link, turn, Role.RUNNER, nonce)
        ...
        tenure.check()      # raises why it was lost

    ``lost`` is set when it was. Nothing may be done for the turn after that.
    """

    def __init__(self, link: Link, turn: TurnRef, role: Role, nonce: str, epoch: int) -> None:
        self.link = link
        self.turn = turn
        self.role = role
        self.nonce = nonce
        self.epoch = epoch
        self.error: AqaaError | None = None
        self.lost = asyncio.Event()

    @classmethod
    async def acquire(
        cls, link: Link, turn: TurnRef, role: Role, nonce: str, *, force: bool = False, entry: str = ""
    ) -> "Tenure | Refused":
        """Takes the role if nobody alive holds it; with ``force`` from whoever does (Resume).

        nonce: 64 random bits in hexadecimal, drawn for this acquiring.
        """
        call = acquiring(link, turn, role, nonce, force=force, entry=entry)
        reply = await link.run(call.script, call.keys, call.args)
        if reply[0] == "OK":
            epoch = int(reply[1])
            if epoch > 1:
                link.metrics[catalogue.LOG_TAKE_OVERS].labels(role).inc()
            return cls(link, turn, role, nonce, epoch)
        if reply[0] == "LEASED":
            return Refused("LEASED", int(reply[1]) / 1000, reply[2].decode())
        return Refused(reply[0])

    @property
    def owner(self) -> str:
        return f"{self.epoch}.{self.nonce}"

    def check(self) -> None:
        """Raises why the role was lost, if it was."""
        if self.error is not None:
            raise self.error

    def lose(self, error: AqaaError) -> AqaaError:
        """The role is gone; the first reason stays."""
        if self.error is None:
            self.error = error
            self.lost.set()
        return self.error

    async def refused(self, reply: Sequence[Any]) -> None:
        """What a script's FENCED or GONE means. Returns if the write may be tried again; raises otherwise.

        A server that lost its last writes may not know of this owner yet: then the role is taken again.
        """
        if reply[0] == "GONE":
            raise self.lose(
                LogLost(f"the log of turn {self.turn.turn_id} is gone", missing=self.turn.turn_id)
            )
        phase, epoch = Phase(reply[1].decode()), int(reply[2])
        told = self.role is Role.FRONT and phase is Phase.COMPLETED  # sound is made after tokens
        if (told or not phase.terminal) and epoch < self.epoch:
            call = acquiring(self.link, self.turn, self.role, self.nonce, known=self.epoch)
            again = await self.link.run(call.script, call.keys, call.args)
            if again[0] == "OK":
                self.epoch = int(again[1])
                return
        if phase is Phase.CANCELLED:
            raise self.lose(Cancelled(f"turn {self.turn.turn_id} was cancelled"))
        if phase.terminal:
            raise self.lose(Superseded(f"turn {self.turn.turn_id} has {phase}"))
        raise self.replaced(f"another {self.role} has taken turn {self.turn.turn_id} over")

    def replaced(self, message: str) -> AqaaError:
        """Another owner has the turn."""
        if self.error is None:
            self.link.metrics[catalogue.LOG_LEASES_LOST].labels(self.role).inc()
        return self.lose(Superseded(message))

    def diverged(self, message: str, missing: str) -> AqaaError:
        """The log holds something else than what was written; the turn cannot go on."""
        return self.lose(LogDiverged(message, missing=missing))

    def renewal(self) -> Call:
        """The call that renews the lease."""
        settings = self.link.settings
        args = (self.role, self.owner, ms(settings.lease), ms(settings.turn_ttl), ms(settings.session_ttl))
        return Call(scripts.RENEW, [*self.turn.keys, self.turn.meta], args)

    async def release(self) -> None:
        """Gives the role back at once. Harmless if it was lost already."""
        channels = (self.turn.channel(Role.FRONT), self.turn.channel(Role.RUNNER))
        self.lose(Superseded(f"this {self.role} has handed turn {self.turn.turn_id} over"))
        args = (self.role, self.owner, self.link.publish, *channels)
        await self.link.run(scripts.RELEASE, [self.turn.state], args)

"""Where a turn stands, as its state hash says it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from aqaa.turnlog.names import Role, Stream
from aqaa.turnlog.records import Cursor
from aqaa.v1.tokens_pb2 import EndReason
from aqaa.v1.turnlog_pb2 import TerminalState


class Phase(StrEnum):
    """``open → running → completed | cancelled | failed``; a turn may also end while it is open."""

    OPEN = "open"
    RUNNING = "running"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def terminal(self) -> bool:
        return self not in (Phase.OPEN, Phase.RUNNING)

    @classmethod
    def ended(cls, reason: "EndReason.ValueType") -> "Phase":
        """The phase of a turn that ended so."""
        return _ENDED[reason]


_ENDED = {
    EndReason.END_REASON_STOP: Phase.COMPLETED,
    EndReason.END_REASON_LENGTH: Phase.COMPLETED,
    EndReason.END_REASON_CANCELLED: Phase.CANCELLED,
    EndReason.END_REASON_FAILED: Phase.FAILED,
}

_STREAM_FIELDS = [(stream, f"last:{stream}".encode(), f"hash:{stream}".encode()) for stream in Stream]
_ROLE_FIELDS = [(role, f"{role}_owner".encode(), f"{role}_until".encode()) for role in Role]


@dataclass(frozen=True)
class TurnState:
    """One reading of the hash.

    last       the last entry of each stream
    owners     who holds each role, "epoch.nonce"; absent: nobody
    leases     until when, in milliseconds of the server's clock; renewing alone makes no other state
    opened     when it was, in milliseconds of the server's clock
    commit     groups of the question, once it is over and shall be answered
    frontier   groups of sound that may be written; None: nothing was said
    played     samples that the caller has heard, as far as it is known
    cancel     when its caller took it back, in milliseconds of the server's clock; a turn that was completed
               before stays so, but is told no further
    terminal   how it ended
    """

    phase: Phase
    caller: str
    last: Mapping[Stream, Cursor]
    owners: Mapping[Role, str]
    opened: int | None = None
    commit: int | None = None
    frontier: int | None = None
    played: int | None = None
    cancel: int | None = None
    terminal: TerminalState | None = None
    leases: Mapping[Role, int] = field(default_factory=dict, compare=False)

    @classmethod
    def parse(cls, raw: Mapping[bytes, bytes]) -> "TurnState | None":
        """From HGETALL; None if there is no such turn."""
        if b"phase" not in raw:
            return None

        def number(field: bytes) -> int | None:
            return int(raw[field]) if field in raw else None

        return cls(
            phase=Phase(raw[b"phase"].decode()),
            caller=raw.get(b"caller", b"").decode(),
            last={
                stream: Cursor(int(raw.get(last, 0)), raw.get(hashed, b""))
                for stream, last, hashed in _STREAM_FIELDS
            },
            owners={role: raw[owner].decode() for role, owner, _ in _ROLE_FIELDS if raw.get(owner)},
            opened=number(b"opened"),
            commit=number(b"commit"),
            frontier=number(b"frontier"),
            played=number(b"played_samples"),
            cancel=number(b"cancel"),
            leases={role: int(raw.get(until, 0)) for role, _, until in _ROLE_FIELDS},
            terminal=TerminalState.FromString(raw[b"terminal"]) if b"terminal" in raw else None,
        )

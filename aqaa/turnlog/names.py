"""Ids, keys and channels: all of a session lies in one slot of a cluster."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from aqaa.errors import FieldFault, InvalidRequest

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_ID = re.compile(r"[a-z0-9]{26}")
_TENANT = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")

RandomBytes = Callable[[int], bytes]

DISPATCH = "aqaa:dispatch"
SLOTS = "aqaa:slots"
LIVE = "aqaa:live"
DEAD = "aqaa:dead"
RUNNERS = "runners"
"""The consumer group of the dispatch stream."""


class Stream(StrEnum):
    """The streams of a turn."""

    QUERY = "query"
    ANSWER = "answer"
    DELIVERY = "delivery"


class Role(StrEnum):
    """Who may write: the front the query and the delivery, the runner the answer."""

    FRONT = "front"
    RUNNER = "runner"


WRITER = {Stream.QUERY: Role.FRONT, Stream.ANSWER: Role.RUNNER, Stream.DELIVERY: Role.FRONT}
READER = {Stream.QUERY: Role.RUNNER, Stream.ANSWER: Role.FRONT}
"""Whom an append wakes; nobody follows the delivery, it is read when a front takes over."""


def new_id(random_bytes: RandomBytes) -> str:
    """128 random bits in 26 characters of [a-z2-7]."""
    number = int.from_bytes(random_bytes(16), "big")
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def check_id(value: str, field: str) -> str:
    """``value`` if it can be an id. Raises InvalidRequest."""
    if not _ID.fullmatch(value):
        fault = f"is {value[:40]!r}, expected 26 characters of a-z and 0-9"
        raise InvalidRequest(faults=[FieldFault(field, fault)])
    return value


@dataclass(frozen=True)
class SessionRef:
    """A tenant's session. Raises InvalidRequest for names that could not be one."""

    tenant: str
    session: str

    def __post_init__(self) -> None:
        if not _TENANT.fullmatch(self.tenant):
            raise InvalidRequest(
                f"tenant is {self.tenant[:80]!r}, expected 1 to 64 of a-z, 0-9 and - between them"
            )
        check_id(self.session, "session_id")

    def turn(self, turn: str) -> "TurnRef":
        return TurnRef(self.tenant, self.session, turn)

    @cached_property
    def tag(self) -> str:
        return f"aqaa:{{{self.tenant}.{self.session}}}"

    @property
    def meta(self) -> str:
        return f"{self.tag}:meta"


@dataclass(frozen=True)
class TurnRef(SessionRef):
    """A turn of a session."""

    turn_id: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_id(self.turn_id, "turn_id")

    def __str__(self) -> str:
        """``tenant.session.turn``, as in the sorted set of live turns."""
        return f"{self.tenant}.{self.session}.{self.turn_id}"

    @property
    def session_ref(self) -> SessionRef:
        return SessionRef(self.tenant, self.session)

    @cached_property
    def state(self) -> str:
        return f"{self.tag}:{self.turn_id}:state"

    def stream(self, stream: Stream) -> str:
        return f"{self.tag}:{self.turn_id}:{stream}"

    def channel(self, role: Role) -> str:
        """Where readers of this role are woken."""
        return f"{self.tag}:{self.turn_id}:wake:{role}"

    @property
    def keys(self) -> tuple[str, str, str, str]:
        """State, query, answer, delivery."""
        return (self.state, *(self.stream(stream) for stream in Stream))  # type: ignore[return-value]


def request_key(tenant: str, caller: str, request_id: str) -> str:
    """Where a repeated call finds the turn that it opened. It names no one who reads the keys."""
    digest = hashlib.sha256("\0".join((tenant, caller, request_id)).encode()).hexdigest()
    return f"aqaa:{{{tenant}.request.{digest[:32]}}}"

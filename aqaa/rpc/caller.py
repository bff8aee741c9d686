"""Who calls: the identity that owns sessions, and how it travels.

A service believes what the metadata says. Whoever exposes the orchestrator puts something before it that
authenticates the caller, drops ``x-aqaa-caller`` from outside and sets its own.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from aqaa.errors import FieldFault, Forbidden, InvalidRequest

CALLER_KEY: Final = "x-aqaa-caller"
TRACEPARENT_KEY: Final = "traceparent"

_TENANT = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?", re.ASCII)
_USER = re.compile(r"[A-Za-z0-9_@-][A-Za-z0-9_@.-]{0,63}", re.ASCII)

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Caller:
    """A tenant and, if the tenant tells them apart, one of its users. Another user is another caller.

        Caller("acme"), Caller("acme", "alice"), Caller.parse("acme/alice")

    ``tenant``: 1 to 32 of ``a-z 0-9 -``, no hyphen at its ends; it is safe in a Redis key. ``user``: at most
    64 of ``A-Z a-z 0-9 _ @ . -``, no dot first, or empty.

    Raises:
        InvalidRequest: another character or length.
    """

    tenant: str
    user: str = ""

    def __post_init__(self) -> None:
        if not _TENANT.fullmatch(self.tenant):
            raise _refused("a tenant of 1 to 32 of a-z, 0-9 and inner hyphens")
        if self.user and not _USER.fullmatch(self.user):
            raise _refused("after the slash a user of 1 to 64 of A-Z, a-z, 0-9, _, @, inner dots and hyphens")

    @classmethod
    def parse(cls, text: str) -> Self:
        """``tenant`` or ``tenant/user``.

        Raises:
            InvalidRequest: neither.
        """
        tenant, slash, user = text.partition("/")
        if slash and not user:
            raise _refused("a user after the slash")
        return cls(tenant, user)

    def __str__(self) -> str:
        return f"{self.tenant}/{self.user}" if self.user else self.tenant


LOCAL: Final = Caller("local")
"""Who calls in the development profile when nobody says."""


def caller_of(metadata: Metadata | None, *, default: Caller | None) -> Caller:
    """Who a call's metadata says it is from; ``default`` where it says nothing.

    Raises:
        Forbidden: it says nothing and there is no default.
        InvalidRequest: it says it twice, or not as a Caller is written.
    """
    said = [value for key, value in metadata or () if key == CALLER_KEY]
    if not said:
        if default is None:
            raise Forbidden(
                f"the call does not say whose it is, expected metadata {CALLER_KEY}: tenant[/user]"
            )
        return default
    if len(said) > 1:
        raise _refused(f"one value, got {len(said)}")
    return Caller.parse(said[0] if isinstance(said[0], str) else said[0].decode("ascii", "replace"))


def call_metadata(
    *, caller: Caller | None = None, traceparent: str | None = None
) -> tuple[tuple[str, str], ...]:
    """What a call carries besides its request; ``traceparent`` as W3C Trace Context writes it."""
    pairs = ((CALLER_KEY, str(caller) if caller else None), (TRACEPARENT_KEY, traceparent))
    return tuple((key, value) for key, value in pairs if value is not None)


def _refused(expected: str) -> InvalidRequest:
    # what was given may be anything, a secret too, and is not repeated
    return InvalidRequest(faults=[FieldFault(f"metadata.{CALLER_KEY}", f"expected {expected}")])

"""Every error that AQAA raises on purpose.

AqaaError
├── InvalidRequest      a field is missing, out of range or out of order
├── InvalidAudio        the caller's audio cannot be used
├── InvalidToken        an id outside the range that is legal at this door
├── GrammarError        a token sequence that the answer grammar forbids
├── BundleError         a model bundle that must not be loaded
│   ├── BundleCorrupt       a file is missing or its checksum differs
│   └── BundleUnsupported   a manifest version or module this code does not know
├── SettingsError       a service cannot start with these settings
├── CapacityError       no free slot, or a request larger than a slot
├── Stalled             the consumer has taken nothing for too long
├── NotFound            no such session or turn, or it is not the caller's
├── Forbidden           the deployment does not allow this call
├── Unsupported         this bundle or deployment cannot do it
├── Cancelled           the caller took the request back
├── Deadline            the caller's time ran out
├── Superseded          another call has taken this turn over
├── StateError          restart state that does not belong to this bundle, seed or stream
├── BundleChanged       the turn began with a bundle that no replica holds any more
├── LogDiverged         the log of a turn holds something else than what was sent
├── LogLost             the log of a turn is gone
├── DeliveryBroken      an answer arrived with a hole, or changed
└── Unavailable         a stage or the log cannot be reached
    └── Draining            this replica is shutting down

Each message says what was given, what was expected and, where it helps, what to do. Those of BundleError and
SettingsError are for the one who starts a service; a caller never sees them. DeliveryBroken is the client's
own finding; no service raises it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class AqaaError(Exception):
    """The root. ``reason`` is a stable UPPER_SNAKE_CASE code that machines may rely on.

        raise Unavailable("the vocoder does not answer", stage="vocoder")

    ``metadata`` holds what machines may want besides, by snake_case key; it travels with the error. Where a
    service failed in a way that nobody foresaw, its caller gets an AqaaError; the service's log explains its
    ``error_id``.
    """

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str = "", **metadata: str) -> None:
        super().__init__(message)
        self.metadata = metadata


@dataclass(frozen=True)
class FieldFault:
    """What is wrong with one field: ``field`` is its path in the request, ``open.format.channels``."""

    field: str
    fault: str


class InvalidRequest(AqaaError):
    """``faults``: each field that is wrong; more than one where they were found together."""

    reason = "INVALID_REQUEST"

    def __init__(self, message: str = "", *, faults: Sequence[FieldFault] = (), **metadata: str) -> None:
        message = message or "; ".join(f"{fault.field}: {fault.fault}" for fault in faults)
        super().__init__(message, **metadata)
        self.faults = tuple(faults)


class InvalidAudio(AqaaError):
    reason = "INVALID_AUDIO"


class InvalidToken(AqaaError):
    reason = "INVALID_TOKEN"


class GrammarError(AqaaError):
    reason = "GRAMMAR_VIOLATED"


class BundleError(AqaaError):
    reason = "BUNDLE_INVALID"


class BundleCorrupt(BundleError):
    reason = "BUNDLE_CORRUPT"


class BundleUnsupported(BundleError):
    reason = "BUNDLE_UNSUPPORTED"


class SettingsError(AqaaError):
    """One line for each setting that is wrong: its key, its value, what is allowed."""

    reason = "SETTINGS_INVALID"


class CapacityError(AqaaError):
    """``retry_after``: seconds after which to try again."""

    reason = "CAPACITY"

    def __init__(self, message: str = "", *, retry_after: float = 1.0, **metadata: str) -> None:
        super().__init__(message, **metadata)
        self.retry_after = retry_after


class Stalled(AqaaError):
    reason = "STALLED"


class NotFound(AqaaError):
    """Says the same for what does not exist and for what is another caller's."""

    reason = "NOT_FOUND"


class Forbidden(AqaaError):
    reason = "FORBIDDEN"


class Unsupported(AqaaError):
    reason = "UNSUPPORTED"


class Cancelled(AqaaError):
    reason = "CANCELLED"


class Deadline(AqaaError):
    """Metadata ``stage``: where the time ran out."""

    reason = "DEADLINE"


class Superseded(AqaaError):
    reason = "SUPERSEDED"


class StateError(AqaaError):
    reason = "STATE_MISMATCH"


class BundleChanged(AqaaError):
    reason = "BUNDLE_CHANGED"


class LogDiverged(AqaaError):
    """Metadata ``missing``: from where on."""

    reason = "LOG_DIVERGED"


class LogLost(AqaaError):
    """Metadata ``missing``: from where on."""

    reason = "LOG_LOST"


class DeliveryBroken(AqaaError):
    """Metadata ``missing``: from where on, ``chunk:13,sample:57600`` or ``text:0:12`` (segment, byte)."""

    reason = "DELIVERY_BROKEN"


class Unavailable(AqaaError):
    """Metadata ``stage``: what cannot be reached."""

    reason = "UNAVAILABLE"


class Draining(Unavailable):
    reason = "DRAINING"

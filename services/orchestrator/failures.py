"""Errors as the end of a turn says them, and back."""

from aqaa.errors import AqaaError, CapacityError
from aqaa.rpc.status import CODES
from aqaa.v1.errors_pb2 import ErrorReason
from aqaa.v1.orchestrator_pb2 import TurnFailed
from aqaa.v1.tokens_pb2 import EndReason
from aqaa.v1.turnlog_pb2 import TerminalState

_PREFIX = "ERROR_REASON_"
_KINDS: dict[str, type[AqaaError]] = {kind.reason: kind for kind in CODES}
_PRIVATE = "a fault of the service"


def terminal_of(error: BaseException) -> TerminalState:
    """How a turn ends because of it. What nobody foresaw keeps its message to itself."""
    told = isinstance(error, AqaaError) and error.reason in _KINDS
    name = error.reason if isinstance(error, AqaaError) and told else AqaaError.reason
    return TerminalState(
        reason=EndReason.END_REASON_FAILED,
        error=ErrorReason.Value(f"{_PREFIX}{name}"),
        message=str(error) if told else _PRIVATE,
        stage=error.metadata.get("stage", "") if isinstance(error, AqaaError) and told else "",
    )


def error_of(terminal: TerminalState) -> AqaaError:
    """What the caller of a failed turn gets."""
    name = ErrorReason.Name(terminal.error).removeprefix(_PREFIX)
    kind = _KINDS.get(name, AqaaError)
    metadata = {"stage": terminal.stage} if terminal.stage else {}
    return kind(terminal.message, **metadata)


def event_of(error: AqaaError, *, resumable: bool) -> TurnFailed:
    """The same inside a conversation."""
    told = error.reason in _KINDS
    failed = TurnFailed(
        reason=error.reason if told else AqaaError.reason,
        message=str(error) if told else _PRIVATE,
        resumable=resumable,
    )
    if isinstance(error, CapacityError):
        failed.retry_delay.FromMilliseconds(round(error.retry_after * 1000))
    return failed

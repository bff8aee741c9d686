"""Errors as gRPC statuses, and back: the one place that knows which is which."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeVar

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status  # type: ignore[import-untyped]

from aqaa import errors
from aqaa.errors import AqaaError, CapacityError, FieldFault, InvalidRequest

DOMAIN = "aqaa"
"""Of every google.rpc.ErrorInfo."""

# A status travels as metadata, its message twice and once with three bytes for one. gRPC takes 8 KiB.
_MESSAGE_BYTES = 512
_DETAIL_BYTES = 192  # of a field's path, of what is wrong with it, of a value in metadata
_FAULTS = 6  # that are told

CODES: Final[Mapping[type[AqaaError], grpc.StatusCode]] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidAudio: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidToken: grpc.StatusCode.INVALID_ARGUMENT,
    errors.GrammarError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.CapacityError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Stalled: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.Deadline: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Superseded: grpc.StatusCode.ABORTED,
    errors.StateError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.BundleChanged: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LogDiverged: grpc.StatusCode.DATA_LOSS,
    errors.LogLost: grpc.StatusCode.DATA_LOSS,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Draining: grpc.StatusCode.UNAVAILABLE,
}
"""What may be told to a caller, as protos/aqaa/v1/errors.proto says it. All else is INTERNAL."""

_KINDS: Final[Mapping[str, type[AqaaError]]] = {AqaaError.reason: AqaaError} | {
    kind.reason: kind for kind in CODES
}
_CODE_OF: Final[Mapping[str, grpc.StatusCode]] = {kind.reason: code for kind, code in CODES.items()}

_FOREIGN: Final[Mapping[grpc.StatusCode, type[AqaaError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.PERMISSION_DENIED: errors.Forbidden,
    grpc.StatusCode.UNAUTHENTICATED: errors.Forbidden,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unsupported,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.CapacityError,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.Deadline,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
}
"""Codes that gRPC itself or a proxy gave, without an ErrorInfo of ours. All else is an AqaaError."""

_TOO_LARGE = "larger than max"  # how gRPC says RESOURCE_EXHAUSTED when it means the size of a message


def is_told(error: BaseException) -> bool:
    """Whether a caller may read the message. What is not told is INTERNAL with an error id."""
    return isinstance(error, AqaaError) and error.reason in _CODE_OF


def to_status(error: AqaaError) -> grpc.Status:
    """``error`` with its ErrorInfo, BadRequest and RetryInfo, for ``context.abort``.

    The message of an error that is not told stays here: the caller gets INTERNAL and the metadata.
    """
    told = is_told(error)
    code = _CODE_OF.get(error.reason, grpc.StatusCode.INTERNAL)
    message = _cut(str(error), _MESSAGE_BYTES) if told else _internal(error)
    status = status_pb2.Status(code=code.value[0], message=message)
    reason = error.reason if told else AqaaError.reason
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(
            reason=reason,
            domain=DOMAIN,
            metadata={key: _cut(value, _DETAIL_BYTES) for key, value in error.metadata.items()},
        )
    )
    if isinstance(error, InvalidRequest) and error.faults:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(
                field=_cut(fault.field, _DETAIL_BYTES), description=_cut(fault.fault, _DETAIL_BYTES)
            )
            for fault in error.faults[:_FAULTS]
        ]
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=violations))
    if isinstance(error, CapacityError):
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_after * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    made: grpc.Status = rpc_status.to_status(status)
    return made


def from_rpc_error(error: grpc.aio.AioRpcError, *, stage: str = "") -> AqaaError:
    """The exception that the service raised; for a status without our ErrorInfo, the nearest one.

    ``stage`` names the service that was called. It becomes metadata where the error has none, and begins the
    message where gRPC made the status. What gRPC said then is a note of the exception, not its message: it
    holds addresses, and a service may pass the exception on to its own caller.
    """
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # a proxy changed the code or the message
        status = None
    details = [] if status is None else status.details
    ours = [info for info in _unpack(details, error_details_pb2.ErrorInfo) if info.domain == DOMAIN]
    if not ours:
        return _foreign(error, stage)
    kind = _KINDS.get(ours[0].reason) or _FOREIGN.get(error.code(), AqaaError)  # else a newer service
    metadata = dict(ours[0].metadata)
    if stage:
        metadata.setdefault("stage", stage)
    message = error.details() or ""
    if kind is InvalidRequest:
        faults = [
            FieldFault(violation.field, violation.description)
            for request in _unpack(details, error_details_pb2.BadRequest)
            for violation in request.field_violations
        ]
        return InvalidRequest(message, faults=faults, **metadata)
    if kind is CapacityError:
        delays = [
            info.retry_delay.ToMilliseconds() / 1000 for info in _unpack(details, error_details_pb2.RetryInfo)
        ]
        return CapacityError(message, retry_after=delays[0] if delays else 1.0, **metadata)
    return kind(message, **metadata)


@contextmanager
def typed_errors(stage: str = "") -> Iterator[None]:
    """Calls inside raise what the service raised, not AioRpcError.

        with typed_errors(stage="tokenizer"):
            response = await stub.Tokenize(request, timeout=5)

    Raises:
        AqaaError: of the kind that ``from_rpc_error`` says; the AioRpcError is its cause.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, stage=stage) from error


def _internal(error: AqaaError) -> str:
    error_id = error.metadata.get("error_id")
    return "a fault of the service" + (f"; its log explains error {error_id}" if error_id else "")


def _foreign(error: grpc.aio.AioRpcError, stage: str) -> AqaaError:
    code, said = error.code(), error.details() or ""
    kind = _FOREIGN.get(code, AqaaError)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in said:
        kind = InvalidRequest
    made = kind(
        f"{stage or 'the service'} ended the call with {code.name}", **({"stage": stage} if stage else {})
    )
    made.add_note(f"gRPC said: {said}")
    return made


_Detail = TypeVar("_Detail", bound=Message)


def _unpack(details: Iterable[Any], kind: type[_Detail]) -> Iterator[_Detail]:
    for packed in details:
        detail = kind()
        if packed.Unpack(detail):
            yield detail


def _cut(text: str, size: int) -> str:
    raw = text.encode("utf-8", "replace")
    return text if len(raw) <= size else f"{raw[: size - 3].decode('utf-8', 'ignore')}…"

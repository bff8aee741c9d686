"""Calls that may break: what may be tried again, how often, how long after, and until when."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status  # type: ignore[import-untyped]

from aqaa.errors import AqaaError, CapacityError, Stalled, Unavailable
from aqaa.rpc.status import CODES, DOMAIN, from_rpc_error
from aqaa.v1 import orchestrator_pb2

STAGE: Final = "orchestrator"

_WRITE_FAILED: Final = "Internal error from Core"
_STATUS_SECONDS: Final = 0.5

_MENDABLE: Final = (Unavailable, CapacityError, Stalled)
_TRANSPORT: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
    }
)
"""Codes with which a connection, a proxy or a dying server ends a call; they come without our ErrorInfo."""


@dataclass(frozen=True)
class Patience:
    """How long a client waits and how often it tries. Times in seconds.

    A call that breaks is tried again after ``first_wait``, then twice as long and so on up to
    ``longest_wait``, each time between half and all of it, or after what the server asks for if that is
    longer.
    """

    call_seconds: float = 10.0
    """For an answer that is one message, and for a conversation to be let in."""
    answer_seconds: float = 300.0
    """From the end of a question to the end of its answer."""
    idle_seconds: float = 30.0
    """Without any event, where one is due: then the answer's call counts as broken."""
    attempts: int = 8
    """In a row that bring nothing new, the first one included."""
    first_wait: float = 0.2
    longest_wait: float = 5.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} = {value}, expected more than 0")


@dataclass(frozen=True)
class Timing:
    """Clock, sleep and chance; a test puts its own in place."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    chance: Callable[[], float] = random.random


DEFAULT_PATIENCE: Final = Patience()
DEFAULT_TIMING: Final = Timing()


class Broken(Exception):
    """A call has ended before its time. ``error`` is what its caller gets if nothing helps."""

    def __init__(
        self, error: AqaaError, *, mendable: bool, retry_after: float = 0.0, spoken: bool = False
    ) -> None:
        """``spoken``: the service itself says so, not what lies between."""
        super().__init__(str(error))
        self.error = error
        self.mendable = mendable
        self.retry_after = retry_after
        self.spoken = spoken

    @classmethod
    def by(cls, error: AqaaError) -> "Broken":
        """By an error whose kind says whether another attempt may help."""
        after = error.retry_after if isinstance(error, CapacityError) else 0.0
        return cls(error, mendable=isinstance(error, _MENDABLE), retry_after=after)

    @classmethod
    def by_rpc(cls, error: grpc.aio.AioRpcError) -> "Broken":
        """By the status that a call has ended with."""
        typed = from_rpc_error(error, stage=STAGE)
        typed.__cause__ = error
        spoken, delay = _details(error)
        mendable = isinstance(typed, _MENDABLE) or (not spoken and error.code() in _TRANSPORT)
        if delay is None:
            delay = typed.retry_after if isinstance(typed, CapacityError) else 0.0
        return cls(typed, mendable=mendable, retry_after=delay, spoken=spoken)


def _details(error: grpc.aio.AioRpcError) -> tuple[bool, float | None]:
    """Whether the service itself has spoken, and the delay in seconds that it asks for."""
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError):  # a proxy changed the code or the message
        status = None
    spoken, delay = False, None
    for packed in [] if status is None else status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if packed.Unpack(info):
            spoken = spoken or info.domain == DOMAIN
        elif packed.Unpack(retry):
            delay = retry.retry_delay.ToMilliseconds() / 1000
    return spoken, delay


def failure_of(failed: orchestrator_pb2.TurnFailed) -> Broken:
    """What a conversation says of a turn that ended in a fault."""
    kinds = {kind.reason: kind for kind in CODES}
    error = kinds.get(failed.reason, AqaaError)(failed.message)
    if isinstance(error, CapacityError) and failed.HasField("retry_delay"):
        error.retry_after = failed.retry_delay.ToMilliseconds() / 1000
    broken = Broken.by(error)
    broken.mendable, broken.spoken = broken.mendable or failed.resumable, True
    return broken


class Backoff:
    """Attempts in a row, and the pauses between them."""

    def __init__(self, patience: Patience, timing: Timing) -> None:
        self._patience = patience
        self._timing = timing
        self._failures = 0
        self.total = 0
        """Pauses so far."""

    def progress(self) -> None:
        """The attempt has brought something new: attempts count anew."""
        self._failures = 0

    async def pause(self, broken: Broken, until: float | None) -> None:
        """Waits for the next attempt; ``until``: when the caller's time ends, on the clock.

        Raises:
            AqaaError: that of ``broken``, if another attempt does not help or is not to be made any more.
        """
        self._failures += 1
        if not broken.mendable or self._failures >= self._patience.attempts:
            raise broken.error
        longest = min(self._patience.first_wait * 2 ** (self._failures - 1), self._patience.longest_wait)
        chance = self._timing.chance()  # so that those who broke together do not come back together
        seconds = max(longest * (0.5 + 0.5 * chance), broken.retry_after * (1 + 0.25 * chance))
        if until is not None and self._timing.clock() + seconds >= until:
            raise broken.error
        self.total += 1
        await self._timing.sleep(seconds)


class Ending:
    """The status with which the server ends a call that is written to.

    A write that finds the call ended makes grpc.aio (1.81.1) put an INTERNAL of its own in place of the
    status that came, and reading raises that. This keeps the true one.
    """

    def __init__(self, call: Any) -> None:
        self._found: grpc.aio.AioRpcError | None = None
        self._came = asyncio.Event()
        call.add_done_callback(self._note)

    async def of(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """What reading should have raised instead of ``error``."""
        if error.details() != _WRITE_FAILED:
            return error
        try:
            async with asyncio.timeout(_STATUS_SECONDS):
                await self._came.wait()
        except TimeoutError:
            return error
        return self._found or error

    def _note(self, call: Any) -> None:
        details = _at_once(call.details())
        if self._found is None and details != _WRITE_FAILED:
            self._found = grpc.aio.AioRpcError(
                _at_once(call.code()),
                grpc.aio.Metadata(),
                _at_once(call.trailing_metadata()),
                details=details,
            )
            self._came.set()


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine that need not wait returns."""
    try:
        coroutine.send(None)
    except StopIteration as returned:
        return returned.value
    coroutine.close()
    return None


class Source(Protocol):
    """Where a turn's events come from."""

    own_call: bool
    """Whether it is the turn's own, and ends with it."""

    async def next(self) -> orchestrator_pb2.TurnEvent | None:
        """The next event; None at the end. Raises Broken."""

    def close(self) -> None:
        """No more is wanted."""


class CallSource:
    """The events of one Ask, Resume or Replay."""

    own_call = True

    def __init__(self, call: "grpc.aio.UnaryStreamCall[Any, Any]") -> None:
        self._call = call

    async def next(self) -> orchestrator_pb2.TurnEvent | None:
        try:
            response: Any = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise Broken.by_rpc(error) from None
        if response is grpc.aio.EOF:
            return None
        event: orchestrator_pb2.TurnEvent = response.event
        return event

    def close(self) -> None:
        self._call.cancel()

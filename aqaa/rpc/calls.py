"""What happens around every call that comes in: trace, metrics, log, errors, and a count for the drain."""

import asyncio
import inspect
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from opentelemetry import context as trace_context
from opentelemetry import trace
from opentelemetry.trace import Span
from prometheus_client import Counter

from aqaa.errors import AqaaError, Cancelled, Deadline, Draining, Forbidden, InvalidRequest
from aqaa.rpc.caller import TRACEPARENT_KEY, caller_of
from aqaa.rpc.status import from_rpc_error, is_told, to_status
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import Log, bind, traceback_of
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing, failed

Context = grpc.aio.ServicerContext[Any, Any]

APART: Final = ("/grpc.health.", "/grpc.reflection.")
"""Calls about the server itself: they are served while it drains, never waited for, and leave no line."""

POLLED: Final = frozenset(
    {"/aqaa.v1.BackboneService/GetCapacity", "/aqaa.v1.VocoderService/StreamSynthesize"}
)
"""Calls by which the orchestrator looks, all day long, what there is. One that ended well, or was left, with
no more than a first response leaves its line for debugging.
"""
CUT_OFF: Final = "this replica has shut down before the call was done"
_UNEVENTFUL: Final = (grpc.StatusCode.OK.name, grpc.StatusCode.CANCELLED.name)

Decode = Callable[[bytes], Any]

_UNARY_UNARY: Final[Any] = grpc.unary_unary_rpc_method_handler
_UNARY_STREAM: Final[Any] = grpc.unary_stream_rpc_method_handler
_STREAM_UNARY: Final[Any] = grpc.stream_unary_rpc_method_handler
_STREAM_STREAM: Final[Any] = grpc.stream_stream_rpc_method_handler


@dataclass
class _Call:
    """One call that is open."""

    method: str
    peer: str
    ends: float | None
    """When the caller's time runs out, by our clock. Asked for at the beginning, like ``peer``: gRPC frees
    what its context reads when the call ends, and asking after that crashes the process."""
    span: Span
    began: float
    code: str = grpc.StatusCode.OK.name
    sent: int = 0
    """Responses of a stream."""
    writing: bool = False
    """gRPC is sending one, and must not be told to end the call before that is done."""
    reason: str = ""
    error_id: str = ""
    caller: str = ""
    task: "asyncio.Task[Any] | None" = field(default_factory=asyncio.current_task)


class Calls(grpc.aio.ServerInterceptor):
    """Wraps every handler of a server.

    An AqaaError reaches the caller as ``status`` maps it. Any other exception becomes INTERNAL with an error
    id; the log has its traceback under that id, the caller nothing else. A handler that streams must be an
    async generator.
    """

    def __init__(
        self,
        *,
        log: Log,
        metrics: Metrics,
        tracing: Tracing,
        messages: bool,
        clock: Callable[[], float] = time.monotonic,
        new_error_id: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        """``messages``: whether logged tracebacks hold the messages of exceptions."""
        self._log = log
        self._metrics = metrics
        self._tracing = tracing
        self._messages = messages
        self._clock = clock
        self._new_error_id = new_error_id
        self._open: dict[int, _Call] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._cut = False

    @property
    def in_flight(self) -> int:
        """Calls that are open, but those about the server itself."""
        return len(self._open)

    def refuse(self) -> None:
        """From now on new calls end with Draining."""
        self._draining = True

    async def idle(self) -> None:
        """Returns when no call is open."""
        await self._idle.wait()

    async def cut_off(self, *, within: float) -> None:
        """Ends every open call with Draining; gives handlers ``within`` seconds to clean up.

        A call that is being written to ends itself when that is done.
        """
        self._cut = True
        calls = list(self._open.values())
        tasks = [call.task for call in calls if call.task is not None]
        for call in calls:
            if call.task is not None and not call.writing:
                call.task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=within)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """gRPC's door."""
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(APART):
            return handler
        decode = _decoder(handler.request_deserializer)
        if handler.response_streaming:
            behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
            make = _STREAM_STREAM if handler.request_streaming else _UNARY_STREAM
            wrapped: Any = self._streaming(method, behaviour, decode, requests=handler.request_streaming)
        else:
            behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
            make = _STREAM_UNARY if handler.request_streaming else _UNARY_UNARY
            wrapped = self._single(method, behaviour, decode, requests=handler.request_streaming)
        # requests come to us as bytes: gRPC would call those that it cannot decode a fault of the service
        return make(wrapped, None, handler.response_serializer)

    def _single(self, method: str, behaviour: Any, decode: Decode, *, requests: bool) -> Any:
        async def call(request: Any, context: Context) -> Any:
            async with self._around(method, context):
                received = self._received(method, request, decode, stream=requests)
                response = await behaviour(received, context)
                self._messages_of(method, "out").inc()
            return response

        return call

    def _streaming(self, method: str, behaviour: Any, decode: Decode, *, requests: bool) -> Any:
        if not inspect.isasyncgenfunction(behaviour):
            raise TypeError(f"{method} streams: its handler must be an async generator")

        # a coroutine that writes, not a generator that gRPC takes from: what writing meets is met here
        async def call(request: Any, context: Context) -> None:
            sent = self._messages_of(method, "out")
            async with self._around(method, context) as open_call:
                received = self._received(method, request, decode, stream=requests)
                async with aclosing(behaviour(received, context)) as responses:
                    async for response in responses:
                        sent.inc()
                        open_call.sent += 1
                        open_call.writing = True
                        await context.write(response)
                        open_call.writing = False
                        if self._cut:
                            raise Draining(CUT_OFF)

        return call

    def _messages_of(self, method: str, direction: str) -> Counter:
        return self._metrics[catalogue.RPC_MESSAGES].labels(method=method, direction=direction)

    def _received(self, method: str, request: Any, decode: Decode, *, stream: bool) -> Any:
        count = self._messages_of(method, "in")
        if not stream:
            count.inc()
            return decode(request)

        async def counted() -> AsyncIterator[Any]:
            async for message in request:
                count.inc()
                yield decode(message)

        return counted()

    @asynccontextmanager
    async def _around(self, method: str, context: Context) -> AsyncIterator[_Call]:
        call = self._begin(method, context)
        refusal: AqaaError | None = None
        try:
            if self._draining:
                raise Draining("this replica is shutting down, call again: another will answer")
            yield call
        except asyncio.CancelledError as error:
            refusal = self._taken_back(call, error)
            if refusal is None:
                raise
        except grpc.aio.InternalError as error:  # gRPC refuses what is written just as the caller leaves
            self._left(call)
            raise asyncio.CancelledError from error
        except grpc.aio.AbortError:  # the handler has spoken with gRPC itself
            call.code = (
                grpc.StatusCode(context.code()).name if context.code() else grpc.StatusCode.UNKNOWN.name
            )
            raise
        except Exception as error:
            refusal = self._refusal(call, error)
        finally:
            if refusal is not None:
                status = to_status(refusal)
                call.code, call.reason = status.code.name, refusal.reason
            self._end(call)
        if refusal is not None:
            await context.abort(status.code, status.details, status.trailing_metadata)

    def _begin(self, method: str, context: Context) -> _Call:
        metadata = list(context.invocation_metadata() or ())
        sent = next((value for key, value in metadata if key == TRACEPARENT_KEY), None)
        span = self._tracing.begin_call(method, sent if isinstance(sent, str) else None)
        # never detached: every call has a task, and so a context, of its own
        trace_context.attach(trace.set_span_in_context(span))
        bind(method=method, trace_id=trace.format_trace_id(span.get_span_context().trace_id))
        now, left = self._clock(), context.time_remaining()
        call = _Call(method, context.peer(), None if left is None else now + left, span, now)
        with suppress(InvalidRequest, Forbidden):  # who must know the caller asks, and refuses
            call.caller = str(caller_of(metadata, default=None))
            bind(caller=call.caller)
        self._open[id(call)] = call
        self._idle.clear()
        self._metrics[catalogue.RPC_IN_FLIGHT].labels(method=method).inc()
        return call

    def _end(self, call: _Call) -> None:
        seconds = self._clock() - call.began
        labels = {"method": call.method}
        self._metrics[catalogue.RPC_IN_FLIGHT].labels(**labels).dec()
        self._metrics[catalogue.RPC_SECONDS].labels(**labels).observe(seconds)
        self._metrics[catalogue.RPC_CALLS].labels(**labels, code=call.code, reason=call.reason).inc()
        if call.code != grpc.StatusCode.OK.name:
            failed(call.span, call.reason or call.code)
        call.span.end()
        fields: dict[str, Any] = {"method": call.method, "code": call.code, "peer": call.peer}
        fields["seconds"] = round(seconds, 6)
        fields |= {"reason": call.reason} if call.reason else {}
        fields |= {"error_id": call.error_id} if call.error_id else {}
        quiet = call.method in POLLED and call.code in _UNEVENTFUL and call.sent <= 1
        self._log.log(logging.DEBUG if quiet else logging.INFO, "a call has ended", **fields)
        del self._open[id(call)]
        if not self._open:
            self._idle.set()

    def _taken_back(self, call: _Call, error: BaseException) -> AqaaError | None:
        """What to tell the caller when its handler was cancelled; None if it is the caller who left."""
        asked = call.task is None or call.task.cancelling() > 0
        if not asked:  # something inside was cancelled, not the call
            return self._refusal(call, error)
        if self._cut:
            return Draining(CUT_OFF)
        self._left(call)
        return None

    def _left(self, call: _Call) -> None:
        """Its caller has taken it back, or its time is over."""
        late = self._is_late(call)
        call.code = (grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED).name
        call.reason = (Deadline if late else Cancelled).reason

    def _is_late(self, call: _Call) -> bool:
        return call.ends is not None and self._clock() >= call.ends

    def _refusal(self, call: _Call, error: BaseException) -> AqaaError:
        """What to tell the caller; what must not be told is logged under an error id."""
        if isinstance(error, TimeoutError) and self._is_late(call):
            return Deadline("the call's time ran out", stage="rpc")
        known = from_rpc_error(error) if isinstance(error, grpc.aio.AioRpcError) else error
        if isinstance(known, AqaaError) and is_told(known):
            return known
        behind = known.metadata.get("error_id") if isinstance(known, AqaaError) else None
        call.error_id = behind or self._new_error_id()
        self._metrics[catalogue.RPC_FAULTS].labels(method=call.method).inc()
        self._log.error(
            "a call has failed and nobody foresaw it",
            error_id=call.error_id,
            traceback=traceback_of(error, messages=self._messages),
        )
        return AqaaError("", error_id=call.error_id)


def _decoder(given: Decode | None) -> Decode:
    def decode(raw: bytes) -> Any:
        try:
            return raw if given is None else given(raw)
        except DecodeError as error:
            raise InvalidRequest("these bytes are no message of this method's request type") from error

    return decode

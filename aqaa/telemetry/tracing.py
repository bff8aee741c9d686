"""Traces: span names, a tracer for each service, and the traceparent that joins its spans to the caller's.

A turn lies in the trace of the call that asked it. gRPC calls carry its traceparent as metadata; the turn log
carries it in the turn's spec, so that each runner that has the turn, one after another, goes on in it. A pass
through a model serves several calls at once: its span lies in none of their traces and links to each.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import Attributes, AttributeValue

from aqaa.telemetry.log import FIELDS


class SpanName(StrEnum):
    """Every span but those of gRPC calls, which have the name of their method."""

    TURN = "turn"  # from the first accepted sound to the manifest, in the front
    QUESTION = "turn.question"  # while the user speaks
    RUN = "turn.run"  # in the runner, from taking the turn to its end
    TOKENIZE = "tokenizer.hop"  # a batch of hops through the model
    QUEUE = "llm.queue"  # waiting for a slot
    PREFILL = "llm.prefill"
    DECODE = "llm.decode"  # from the commit to the last token
    TILE = "vocoder.tile"  # a batch of tiles through the model


_PROPAGATOR: Final = TraceContextTextMapPropagator()
_KEY: Final = "traceparent"

UNRECORDED: Final = f"00-{'f' * 32}-{'f' * 16}-00"
"""The traceparent of a call that is part of nothing, as one that polls: whoever serves it records no span."""

CLOSE_SECONDS: Final = 2.0
"""For the last spans of a process: a collector that is away shall not hold up its end."""


class _Recorded(TraceIdRatioBased):
    """Records a share of the traces begun here; of those that serve calls, the ones of a recorded call."""

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if not links:
            return super().should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        serves = any(link.context.trace_flags.sampled for link in links)
        decided = ALWAYS_ON if serves else ALWAYS_OFF
        return decided.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)


@dataclass(frozen=True)
class Tracing:
    """The tracer of one service.

    tracing = Tracing.open("tokenizer", endpoint="http://collector:4317")
    with tracing.span(SpanName.TOKENIZE, groups=12):
        ...
    """

    tracer: Tracer
    provider: TracerProvider
    exporter: SpanExporter | None = None

    @classmethod
    def open(
        cls,
        service: str,
        *,
        endpoint: str | None = None,
        ratio: float = 1.0,
        processor: SpanProcessor | None = None,
    ) -> Self:
        """Spans go to ``endpoint`` by OTLP over gRPC; without it they only carry the trace on.

        ``ratio``: share of the traces begun here that are recorded; a caller decides about its own.
        ``processor``: gets the spans instead.
        """
        provider = TracerProvider(
            resource=Resource.create({"service.name": f"aqaa-{service}"}),
            sampler=ParentBased(_Recorded(ratio)),
            shutdown_on_exit=False,
        )
        exporter: SpanExporter | None = None
        if processor is None and endpoint is not None:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"))
            processor = BatchSpanProcessor(exporter)
        if processor is not None:
            provider.add_span_processor(processor)
        return cls(provider.get_tracer("aqaa"), provider, exporter)

    @contextmanager
    def span(
        self,
        name: SpanName,
        serves: Iterable[SpanContext] = (),
        /,
        *,
        traceparent: str | None = None,
        **attributes: AttributeValue,
    ) -> Iterator[Span]:
        """A span that is current inside; a child of the current one, or of ``traceparent``.

        ``serves``: calls that it is linked to; without a parent it is recorded where one of them is.
        Attributes have the names of log fields, for the same reason: what has no name here is not recorded.
        An error is recorded by its kind alone.

        Raises:
            ValueError: an attribute that is not a log field.
        """
        parent = context_from(traceparent) if traceparent is not None else None
        with self.tracer.start_as_current_span(
            name,
            parent,
            attributes=named(attributes),
            links=[Link(call) for call in serves],
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                failed(span, type(error).__name__)
                raise

    def begin_call(self, method: str, traceparent: str | None) -> Span:
        """The span of a gRPC call that came in, not yet current."""
        return self.tracer.start_span(
            method.removeprefix("/"), context_from(traceparent), kind=SpanKind.SERVER
        )

    def close(self) -> None:
        """Sends what is left, for ``CLOSE_SECONDS`` at most; what was not taken by then is lost."""
        if self.exporter is None:
            self.provider.shutdown()
            return
        late = threading.Timer(CLOSE_SECONDS, self.exporter.shutdown)
        late.start()
        self.provider.shutdown()  # ends its tries, too, as soon as the exporter is shut down
        late.cancel()


def traceparent_of(span: Span | None = None) -> str | None:
    """The current span, or ``span``, as W3C Trace Context writes it; None outside of any."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, None if span is None else trace.set_span_in_context(span))
    return carrier.get(_KEY)


def current_call() -> SpanContext:
    """The current span, for one that serves it elsewhere to link to."""
    return trace.get_current_span().get_span_context()


def context_from(traceparent: str | None) -> Context:
    """Where spans become children of ``traceparent``; of nothing if it is None or malformed."""
    return _PROPAGATOR.extract({} if traceparent is None else {_KEY: traceparent}, Context())


def failed(span: Span, reason: str) -> None:
    """Marks a span as failed, with a reason that is a name, not a message."""
    span.set_status(trace.StatusCode.ERROR, reason)


def named(attributes: dict[str, AttributeValue]) -> dict[str, AttributeValue]:
    """``attributes`` under their names in a trace, ``aqaa.turn_id``.

    Raises:
        ValueError: one is not a log field.
    """
    if unknown := sorted(set(attributes) - set(FIELDS)):
        raise ValueError(f"span attributes {', '.join(unknown)} are not in aqaa.telemetry.log.FIELDS")
    return {f"aqaa.{name}": value for name, value in attributes.items()}

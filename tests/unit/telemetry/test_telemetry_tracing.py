"""Spans join over processes by a traceparent and hold nothing that a caller said."""

import threading
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aqaa.telemetry.tracing import (
    UNRECORDED,
    SpanName,
    Tracing,
    context_from,
    current_call,
    traceparent_of,
)

SENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans():
    return InMemorySpanExporter()


@pytest.fixture
def tracing(spans):
    made = Tracing.open("orchestrator", processor=SimpleSpanProcessor(spans))
    yield made
    made.close()


def test_a_trace_crosses_the_log(tracing, spans):
    """The front writes its traceparent into a turn's spec; a runner elsewhere goes on from there."""
    runner_spans = InMemorySpanExporter()
    runner = Tracing.open("orchestrator", processor=SimpleSpanProcessor(runner_spans))
    with tracing.span(SpanName.TURN, turn_id="t") as turn:
        written = traceparent_of()
    with runner.span(SpanName.RUN, traceparent=written), runner.span(SpanName.DECODE):
        pass
    decode, run = runner_spans.get_finished_spans()
    assert run.context.trace_id == decode.context.trace_id == turn.get_span_context().trace_id
    assert run.parent.span_id == turn.get_span_context().span_id
    assert spans.get_finished_spans()[0].attributes == {"aqaa.turn_id": "t"}
    assert spans.get_finished_spans()[0].resource.attributes["service.name"] == "aqaa-orchestrator"


def test_outside_of_spans_there_is_no_traceparent_and_malformed_ones_begin_a_trace(tracing, spans):
    assert traceparent_of() is None
    for text in ("", "00-zz", SENT[:-1]):
        with tracing.span(SpanName.TURN, traceparent=text):
            pass
    assert all(span.parent is None for span in spans.get_finished_spans())


def test_a_context_never_takes_the_current_span_by_accident(tracing):
    with tracing.span(SpanName.TURN):
        assert len(context_from(None)) == 0


def test_an_error_is_recorded_by_its_kind_alone(tracing, spans):
    with pytest.raises(KeyError), tracing.span(SpanName.DECODE):
        raise KeyError("the caller's words")
    (span,) = spans.get_finished_spans()
    assert span.status.description == "KeyError"
    assert not span.events


def test_attributes_are_log_fields(tracing):
    with pytest.raises(ValueError, match="transcript"), tracing.span(SpanName.TURN, transcript="hello"):
        pass


def test_a_ratio_of_nothing_records_nothing_but_what_a_caller_asked_for():
    spans = InMemorySpanExporter()
    tracing = Tracing.open("llm", ratio=0.0, processor=SimpleSpanProcessor(spans))
    with tracing.span(SpanName.DECODE):
        assert not int(traceparent_of()[-2:], 16) & 1, "not sampled"
    with tracing.span(SpanName.DECODE, traceparent=SENT):
        pass
    assert [span.parent.span_id for span in spans.get_finished_spans()] == [0xB7AD6B7169203331]


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@pytest.mark.parametrize(
    ("flags", "recorded"), [(("01", "01"), True), (("01", "00"), True), (("00",), False)]
)
def test_who_serves_several_calls_is_linked_to_each_and_recorded_where_one_of_them_is(ratio, flags, recorded):
    spans = InMemorySpanExporter()
    tracing = Tracing.open("vocoder", ratio=ratio, processor=SimpleSpanProcessor(spans))
    calls = []
    for number, flag in enumerate(flags):
        with tracing.span(SpanName.RUN, traceparent=f"00-{number + 1:032x}-b7ad6b7169203331-{flag}"):
            calls.append(current_call())
    spans.clear()
    with tracing.span(SpanName.TILE, calls):
        pass
    found = spans.get_finished_spans()
    assert len(found) == recorded
    assert all([link.context for link in tile.links] == calls and tile.parent is None for tile in found)


def test_without_an_endpoint_nothing_is_sent_and_the_trace_goes_on():
    tracing = Tracing.open("llm")
    with tracing.span(SpanName.DECODE, traceparent=SENT):
        assert traceparent_of().split("-")[1] == SENT.split("-")[1]
    tracing.close()


def test_who_is_part_of_nothing_is_recorded_nowhere(tracing, spans):
    with tracing.span(SpanName.DECODE, traceparent=UNRECORDED), tracing.span(SpanName.TILE):
        pass
    tracing.begin_call("/aqaa.v1.BackboneService/GetCapacity", UNRECORDED).end()
    assert not spans.get_finished_spans()


class Stuck(SpanExporter):
    """Sends to a collector that never answers."""

    def __init__(self) -> None:
        self._given_up = threading.Event()
        self.outcomes: list[bool] = []

    def export(self, spans):
        self.outcomes.append(self._given_up.wait(20.0))
        return SpanExportResult.FAILURE

    def shutdown(self):
        self._given_up.set()


def test_a_collector_that_never_answers_is_given_up():
    stuck = Stuck()
    tracing = replace(Tracing.open("llm", processor=BatchSpanProcessor(stuck)), exporter=stuck)
    with tracing.span(SpanName.DECODE):
        pass
    tracing.close()
    assert stuck.outcomes == [True]

"""Traces as an operator gets them, over OTLP: one for a turn, whoever works on it, and none of its sound."""

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from orchestrator_cases import (
    PATIENCE,
    Replica,
    Told,
    ask,
    asking,
    hear,
    metadata,
    nothing_left,
    pcm,
    replica,
    until,
)
from orchestrator_processes import Running, process_of
from prometheus_client import CollectorRegistry

from aqaa.errors import InvalidToken
from aqaa.rpc.caller import call_metadata
from aqaa.rpc.calls import Calls
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import make_log
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing
from tests.stages import WORDS, StubStages

TRACE, CALLERS_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = f"00-{TRACE}-{CALLERS_SPAN}-01"

ASK, TURN, QUESTION, RUN = "aqaa.v1.OrchestratorService/Ask", "turn", "turn.question", "turn.run"
TOKENIZE = "aqaa.v1.TokenizerService/StreamTokenize"
GENERATE = "aqaa.v1.BackboneService/StreamGenerate"
SYNTHESIZE = "aqaa.v1.VocoderService/StreamSynthesize"
TREE = sorted(
    [
        (CALLERS_SPAN, ASK),
        (ASK, TURN),
        (TURN, QUESTION),
        (QUESTION, TOKENIZE),
        (TURN, SYNTHESIZE),
        (ASK, RUN),
        (RUN, GENERATE),
    ]
)


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes what OTLP exporters send. ``exports``: every request, as it came."""

    exports: list[trace_service_pb2.ExportTraceServiceRequest] = field(default_factory=list)

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self.exports.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[tuple[dict[str, str], Span]]:
        """Each with what is said of the process that it comes from."""
        return [
            ({pair.key: pair.value.string_value for pair in resource.resource.attributes}, span)
            for export in self.exports
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self, name: str) -> list[Span]:
        return [span for _, span in self.spans if span.name == name]

    @property
    def edges(self) -> list[tuple[str, str]]:
        """(parent, span) by name; a parent that no one has sent by its id."""
        names = {span.span_id: span.name for _, span in self.spans}
        spans = [span for _, span in self.spans]
        return sorted((names.get(s.parent_span_id, s.parent_span_id.hex()), s.name) for s in spans)


@pytest.fixture
def collector(monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")  # what waits for the end of a process may be lost
    return Collector()


@asynccontextmanager
async def collecting(collector: Collector) -> AsyncIterator[str]:
    """Where it takes spans."""
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def traced(stages: StubStages, endpoint: str) -> AsyncIterator[str]:
    """The stages behind what surrounds every call of a service; their spans are sent at the end."""
    tracing = Tracing.open("stages", endpoint=endpoint)
    journal = make_log("stages", file=io.StringIO(), strict=True)
    metrics = Metrics(CollectorRegistry(), catalogue.RPC)
    calls = Calls(log=journal, metrics=metrics, tracing=tracing, messages=True)
    try:
        async with stages.serving(interceptors=[calls]) as address:
            yield address
    finally:
        await asyncio.to_thread(tracing.close)


async def stopped(*processes: Running) -> None:
    """As an operator ends them."""
    for running in processes:
        os.kill(running.pid, signal.SIGTERM)
    assert [await running.wait() for running in processes] == [0] * len(processes)


async def consumers(made: Replica) -> Any:
    """Every runner that has asked for turns."""
    return await made.orchestrator.shared.log.link.command("XINFO", "CONSUMERS", "aqaa:dispatch", "runners")


def attributes(span: Span) -> dict[str, Any]:
    return {pair["key"]: pair["value"] for pair in MessageToDict(span).get("attributes", [])}


async def test_a_turn_is_one_trace_through_front_log_and_runner(server, collector, monkeypatch):
    stages, question = StubStages(), pcm()
    # A stage ends its call when it likes, and nobody cuts it off.
    leaving = stages.faults.hold("tokenizer-end", 1)
    async with collecting(collector) as endpoint:
        monkeypatch.setenv("AQAA_ORCHESTRATOR_OTLP_ENDPOINT", endpoint)
        async with (
            traced(stages, endpoint) as address,
            process_of(server.url, address, role="front") as front,
            process_of(server.url, address, role="runner") as runner,
        ):
            sent = (*metadata(), *call_metadata(traceparent=SENT))
            turn = asyncio.create_task(
                hear(front.stub.Ask(asking(question), metadata=sent, timeout=PATIENCE))
            )
            await asyncio.wait_for(leaving.reached.wait(), PATIENCE)
            await asyncio.sleep(0.2)
            leaving.release()
            told = await turn
            await until(lambda: len(collector.spans) >= len(TREE))
            await stopped(front, runner)

    assert {span.trace_id.hex() for _, span in collector.spans} == {TRACE}, "a trace of nobody's turn"
    assert collector.edges == TREE
    process = {span.name: said["service.instance.id"] for said, span in collector.spans}
    assert process[ASK] == process[TURN] == process[QUESTION]
    assert process[TOKENIZE] == process[GENERATE] == process[SYNTHESIZE]
    assert len({process[TURN], process[RUN], process[GENERATE]}) == 3
    services = {span.name: said["service.name"] for said, span in collector.spans}
    assert (services[TURN], services[RUN], services[GENERATE]) == (
        "aqaa-orchestrator",
        "aqaa-orchestrator",
        "aqaa-stages",
    )
    ids = {"aqaa.session_id": told.opened.session_id, "aqaa.turn_id": told.turn_id}
    for _, span in collector.spans:
        wanted = ids if span.name in (TURN, RUN) else {}
        assert attributes(span) == {key: {"stringValue": value} for key, value in wanted.items()}
        assert not span.events
        assert not span.links
        assert span.status == Status(), span.name
    holds_nothing_of(collector, question, told)


def holds_nothing_of(collector: Collector, question: bytes, told: Told) -> None:
    """No piece of sound of 16 bytes, no word, no transcript, no text."""
    exported = b"".join(export.SerializeToString() for export in collector.exports)
    texts = [*told.texts.values(), *WORDS, told.transcript]
    assert all(texts)
    assert told.sound
    for sound in (question, told.sound):
        assert not any(sound[at : at + 16] in exported for at in range(0, len(sound), 16))
    assert not [text for text in texts if text.strip().encode() in exported]


async def test_a_turn_that_is_taken_over_stays_in_its_trace(server, collector):
    stages = StubStages()
    held = stages.faults.hold("llm", 12)
    async with (
        collecting(collector) as endpoint,
        stages.serving() as address,
        AsyncExitStack() as first,
        replica(server.url, address, role="front", otlp_endpoint=endpoint) as front,
    ):
        one = await first.enter_async_context(
            replica(server.url, address, role="runner", otlp_endpoint=endpoint)
        )
        call = front.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
        told = await hear(call, until="audio")
        await held.reached.wait()
        async with replica(server.url, address, role="runner", otlp_endpoint=endpoint) as two:
            while len(await consumers(two)) < 2:  # it has asked for turns, and so counts as alive
                await asyncio.sleep(0.005)
            await one.orchestrator.drain(PATIENCE)
            held.release()
            await hear(call, told)
            assert told.manifest is not None
            await nothing_left(stages, front, two)
            await until(lambda: collector.named(ASK) and len(collector.named(RUN)) == 2)
        await first.aclose()
    [turn], runs = collector.named(TURN), collector.named(RUN)
    assert [(run.trace_id, run.parent_span_id) for run in runs] == [(turn.trace_id, turn.parent_span_id)] * 2
    ended = sorted(run.status.message for run in runs)
    assert ended in (["", "Superseded"], ["", "CancelledError"]), "handing over and ending may meet"
    assert [attributes(run) for run in runs] == [attributes(turn)] * 2


async def test_a_turn_that_fails_says_in_its_trace_how_and_no_more(server, collector):
    said = "the words of a caller"
    stages = StubStages()
    stages.faults.fail("llm", 5, lambda: InvalidToken(said))
    async with (
        collecting(collector) as endpoint,
        stages.serving() as address,
        replica(server.url, address, otlp_endpoint=endpoint) as made,
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(made)
        await until(lambda: {ASK, RUN} <= {span.name for _, span in collector.spans})
    failed = {span.name: span.status for _, span in collector.spans}
    assert {name: status.code for name, status in failed.items()} == {
        ASK: Status.STATUS_CODE_ERROR,
        TURN: Status.STATUS_CODE_ERROR,
        QUESTION: Status.STATUS_CODE_UNSET,
        RUN: Status.STATUS_CODE_ERROR,
    }
    assert (failed[TURN].message, failed[RUN].message) == (InvalidToken.__name__,) * 2
    assert said.encode() not in b"".join(export.SerializeToString() for export in collector.exports)

"""Spans of the model's passes: linked to every call that they serve, recorded where one of those is."""

import asyncio

from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tokenizer_cases import Request, noise, served

from aqaa.telemetry.tracing import UNRECORDED

TRACES = [f"{number:032x}" for number in (1, 2, 3)]
CAME = {"method": "/aqaa.v1.TokenizerService/StreamTokenize", "direction": "in"}
REQUESTS = 3


async def heard(made, seed, parent):
    signal = noise(0.7, seed=seed)
    requests = [Request(open=signal.open), *signal.pieces([0.9])]
    call = made.stub.StreamTokenize(iter(requests), timeout=60, metadata=(("traceparent", parent),))
    assert [response async for response in call]


def test_hops_link_to_the_calls_that_they_serve():
    spans = InMemorySpanExporter()
    called = [f"00-{trace}-b7ad6b7169203331-01" for trace in TRACES]

    async def calls(made, parents):
        expected = made.value("aqaa_rpc_messages_total", **CAME) + REQUESTS * len(parents)
        async with asyncio.timeout(60):
            with made.thread_held():
                going = [
                    asyncio.ensure_future(heard(made, seed, parent)) for seed, parent in enumerate(parents)
                ]
                while made.value("aqaa_rpc_messages_total", **CAME) < expected:
                    await asyncio.sleep(0)
            await asyncio.gather(*going)

    async def all_and_one_that_is_part_of_nothing():
        async with served(SimpleSpanProcessor(spans)) as made:
            await calls(made, called)
            found = spans.get_finished_spans()
            await calls(made, [UNRECORDED])
            assert spans.get_finished_spans() == found
            return found

    found = asyncio.run(all_and_one_that_is_part_of_nothing())
    served_calls = {f"{span.context.trace_id:032x}": span.context.span_id for span in found if span.parent}
    assert set(served_calls) == set(TRACES)
    passes = [span for span in found if span.name == "tokenizer.hop"]
    assert len(passes) + len(served_calls) == len(found)
    links = [
        [(f"{link.context.trace_id:032x}", link.context.span_id) for link in span.links] for span in passes
    ]
    assert {link for own in links for link in own} == set(served_calls.items())
    assert [len(set(own)) for own in links] == [span.attributes["aqaa.batch"] for span in passes]
    assert all(span.parent is None for span in passes)
    assert any(len(own) > 1 for own in links)

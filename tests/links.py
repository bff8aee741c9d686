"""Spans of a model's passes: linked to every call that they serve, recorded where one of those is."""

import asyncio

from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aqaa.telemetry.tracing import UNRECORDED

TRACES = [f"{number:032x}" for number in (1, 2, 3)]


def check_passes_link_to_their_calls(served, call, method, messages, name):
    """Three calls at once, then one that is part of no trace.

    ``served(processor)`` starts the service; ``call(made, seed, traceparent)`` makes one whole call of
    ``messages`` requests to ``method``; ``name`` is that of a pass's span.
    """
    spans = InMemorySpanExporter()
    came = {"method": method, "direction": "in"}

    async def calls(made, parents):
        expected = made.value("aqaa_rpc_messages_total", **came) + messages * len(parents)
        async with asyncio.timeout(60):
            with made.thread_held():
                going = [
                    asyncio.ensure_future(call(made, seed, parent)) for seed, parent in enumerate(parents)
                ]
                while made.value("aqaa_rpc_messages_total", **came) < expected:
                    await asyncio.sleep(0)
            await asyncio.gather(*going)

    async def all_and_one_that_is_part_of_nothing():
        async with served(SimpleSpanProcessor(spans)) as made:
            await calls(made, [f"00-{trace}-b7ad6b7169203331-01" for trace in TRACES])
            found = spans.get_finished_spans()
            await calls(made, [UNRECORDED])
            assert spans.get_finished_spans() == found
            return found

    found = asyncio.run(all_and_one_that_is_part_of_nothing())
    served_calls = {f"{span.context.trace_id:032x}": span.context.span_id for span in found if span.parent}
    assert set(served_calls) == set(TRACES)
    passes = [span for span in found if span.name == name]
    assert len(passes) + len(served_calls) == len(found)
    links = [
        [(f"{link.context.trace_id:032x}", link.context.span_id) for link in span.links] for span in passes
    ]
    assert {link for own in links for link in own} == set(served_calls.items())
    assert [len(set(own)) for own in links] == [span.attributes["aqaa.batch"] for span in passes]
    assert all(span.parent is None for span in passes)
    assert any(len(own) > 1 for own in links)

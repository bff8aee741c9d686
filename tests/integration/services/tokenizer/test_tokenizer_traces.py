"""Spans of the tokenizer's hops."""

from tokenizer_cases import Request, noise, served

from tests.links import check_passes_link_to_their_calls

METHOD = "/aqaa.v1.TokenizerService/StreamTokenize"


async def heard(made, seed, parent):
    signal = noise(0.7, seed=seed)
    requests = [Request(open=signal.open), *signal.pieces([0.9])]
    call = made.stub.StreamTokenize(iter(requests), timeout=60, metadata=(("traceparent", parent),))
    assert [response async for response in call]


def test_hops_link_to_the_calls_that_they_serve():
    check_passes_link_to_their_calls(served, heard, METHOD, 3, "tokenizer.hop")

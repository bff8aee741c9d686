"""Spans of the vocoder's tiles."""

from vocoder_cases import SEED, codes, opening, said, served

from tests.links import check_passes_link_to_their_calls

METHOD = "/aqaa.v1.VocoderService/StreamSynthesize"


async def spoken(made, seed, parent):
    requests = [opening(SEED), *said(0, codes(5, seed=seed))]
    call = made.stub.StreamSynthesize(iter(requests), timeout=60, metadata=(("traceparent", parent),))
    assert [response async for response in call]


def test_tiles_link_to_the_calls_that_they_serve():
    check_passes_link_to_their_calls(served, spoken, METHOD, 4, "vocoder.tile")

"""The vocoder service over real gRPC: the library's sound in any company, from any place on; refusals."""

import asyncio
from collections.abc import Iterator

import grpc.aio
import numpy as np
import pytest
from vocoder_cases import (
    PLACES,
    SEED,
    Heard,
    Request,
    Served,
    audio_groups,
    begin,
    codes,
    end,
    groups,
    heard,
    opening,
    said,
    served,
)

from aqaa.audio.pcm import to_s16le
from aqaa.errors import BundleChanged, CapacityError, Deadline, InvalidRequest, InvalidToken, StateError
from aqaa.rpc.status import typed_errors
from aqaa.v1 import vocoder_pb2
from services.vocoder.servicer import VocoderServicer

FIRST, SECOND = codes(13), codes(5, seed=1)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def voice(runner: asyncio.Runner) -> Iterator[Served]:
    """The service; its loop runs inside a test only."""
    context = served()
    yield runner.run(context.__aenter__())
    runner.run(context.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def turn(runner: asyncio.Runner, voice: Served) -> Heard:
    """Two segments, the groups of the first one in pieces."""
    return runner.run(heard(voice, [opening(), *said(0, FIRST, [1, 1, 6, 12]), *said(1, SECOND)]))


def library(voice: Served, given: np.ndarray, segment: int, seed: int = SEED) -> bytes:
    return to_s16le(voice.vocoder.synthesize(given, seed, segment))


def test_it_is_ready_only_when_warm(voice):
    assert not voice.ready_before_warm
    assert voice.service.server.is_ready


def test_the_segments_of_a_turn_have_the_librarys_sound(voice, turn):
    assert turn.pcm(0) == library(voice, FIRST, 0)
    assert turn.pcm(1) == library(voice, SECOND, 1)
    assert turn.done == {0: 13 * 2880, 1: 5 * 2880}


def test_sound_comes_as_soon_as_the_groups_that_it_needs(runner, voice, turn):
    first = turn.audio[0][0]

    async def one_piece():
        call = voice.stub.StreamSynthesize(timeout=60)
        for request in (opening(), begin(0), groups(FIRST[: first.groups_needed])):
            await call.write(request)
        await call.read()
        piece = await call.read()
        call.cancel()
        return piece.audio

    assert first.groups_needed == 5
    assert runner.run(one_piece()) == first
    runner.run(voice.until_no_turn_is_open())


def test_every_piece_can_be_made_again_and_what_follows_it(runner, voice, turn):
    whole = turn.pcm(0)
    for piece in turn.audio[0]:
        again = runner.run(heard(voice, [opening(), *said(0, FIRST, restart=piece.restart)]))
        assert again.pcm(0) == whole[2 * piece.first_sample :]
        assert again.audio[0][0] == piece
        assert again.done == {0: 13 * 2880}


def test_sound_begins_at_any_sample(runner, voice, turn):
    whole, piece = turn.pcm(0), turn.audio[0][-1]
    for restart, sample in ((piece.restart, piece.first_sample + 77), (b"", 13 * 2880 - 1), (b"", 13 * 2880)):
        rest = runner.run(heard(voice, [opening(), *said(0, FIRST, restart=restart, from_sample=sample)]))
        assert rest.pcm(0) == whole[2 * sample :]
        assert rest.done == {0: 13 * 2880}


def test_a_whole_segment_has_the_streams_sound(runner, voice, turn):
    request = vocoder_pb2.SynthesizeRequest(open=opening().open, segment=1, groups=audio_groups(SECOND))

    async def call():
        return [response async for response in voice.stub.Synthesize(request, timeout=60)]

    responses = runner.run(call())
    assert b"".join(response.audio.pcm for response in responses) == turn.pcm(1)
    assert {response.sample_rate_hz for response in responses} == {24000}


def test_turns_at_once_share_passes_and_keep_their_sound(runner, voice):
    names = "aqaa_vocoder_batch_sum", "aqaa_vocoder_batch_count"
    before = [voice.value(name) for name in names]
    sent = voice.value("aqaa_rpc_messages_total", **STREAM)
    steps = [[opening(seed), *said(0, SECOND)] for seed in range(PLACES)]

    async def together():  # the first turn to come is computed alone, the others behind it together
        async with asyncio.timeout(60):
            with voice.thread_held():
                calls = [asyncio.ensure_future(heard(voice, own)) for own in steps]
                while voice.value("aqaa_rpc_messages_total", **STREAM) < sent + sum(map(len, steps)):
                    await asyncio.sleep(0)
            return await asyncio.gather(*calls)

    for seed, found in enumerate(runner.run(together())):
        assert found.pcm(0) == library(voice, SECOND, 0, seed)
    turns, passes = (voice.value(name) - old for name, old in zip(names, before, strict=True))
    assert turns / passes > 1 or voice.service.engine.sizes == (1,)


def test_a_turns_samples_tiles_and_waits_are_counted(runner, voice):
    def counted():
        names = (
            "aqaa_vocoder_samples_total",
            "aqaa_vocoder_batch_count",
            "aqaa_vocoder_real_time_factor_count",
            "aqaa_vocoder_tile_seconds_count",
            "aqaa_vocoder_queue_seconds_count",
        )
        return [voice.value(name) for name in names]

    before = counted()
    found = runner.run(heard(voice, [opening(), *said(0, FIRST)]))
    tiles = voice.vocoder.plan.count(len(FIRST))
    samples, passes, factors, steps, waits = (now - old for now, old in zip(counted(), before, strict=True))
    assert samples == len(found.pcm(0)) // 2
    assert passes == factors == tiles
    assert steps >= passes  # each of the model's networks has its own
    assert waits >= 1


STREAM = {"method": "/aqaa.v1.VocoderService/StreamSynthesize", "direction": "in"}


def of_range(place: int, code: int) -> Request:
    given = codes(3)
    given[1, place] = code
    return groups(given)


@pytest.mark.parametrize(
    ("requests", "kind", "says"),
    [
        ([], InvalidRequest, "open: "),
        ([begin(0)], InvalidRequest, "open: "),
        ([opening(), opening()], InvalidRequest, "open: expected segment"),
        ([opening(), groups(FIRST)], InvalidRequest, "groups: outside of a segment"),
        ([opening(), end(0)], InvalidRequest, "segment_end: outside of a segment"),
        ([opening(), begin(0), begin(1)], InvalidRequest, "segment: has begun before"),
        ([opening(), begin(0), groups(FIRST[:1], 1)], InvalidRequest, "groups.first_group: 1, expected 0"),
        ([opening(), *said(4, FIRST[:0]), begin(4)], InvalidRequest, "segment.segment: 4, expected 5"),
        ([opening(), begin(0), groups(FIRST[:1]), end(2)], InvalidRequest, "segment_end.groups: 2, but 1"),
        ([opening(), begin(0), groups(FIRST[:1])], InvalidRequest, "segment_end: missing after 1 groups"),
        ([opening(), begin(0), groups(FIRST[:, 1:])], InvalidRequest, "groups.semantic: 26 codes"),
        ([opening(), begin(0), groups(codes(2501))], InvalidRequest, "at most 2500"),
        ([opening(), begin(0), of_range(1, 1024)], InvalidToken, "group 1, place 1: code 1024"),
        ([opening(), begin(0), of_range(4, 4096)], InvalidToken, "group 1, place 4: code 4096"),
        ([opening(), begin(0, restart=b"short")], StateError, "restart state of 5 bytes"),
        ([opening(digest="1" * 64)], BundleChanged, "this replica holds"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(runner, voice, requests, kind, says):
    with pytest.raises(kind, match=says):
        runner.run(heard(voice, requests))
    runner.run(voice.until_no_turn_is_open())


def test_a_state_of_another_turn_segment_or_sample_is_refused(runner, voice, turn):
    restart, at = turn.audio[0][1].restart, turn.audio[0][1].first_sample
    for requests, kind in (
        ([opening(seed=1), begin(0, restart)], StateError),
        ([opening(), begin(1, restart)], StateError),
        ([opening(), begin(0, restart, at - 1)], InvalidRequest),
        ([opening(), *said(0, FIRST[:1], restart=restart)], StateError),
    ):
        with pytest.raises(kind):
            runner.run(heard(voice, requests))


def test_one_turn_too_many_is_refused_and_a_cancelled_one_stops_between_tiles(runner, voice):
    long = codes(90)
    tiles = voice.vocoder.plan.count(len(long))

    async def overload():
        before = voice.value("aqaa_vocoder_batch_sum")
        calls = [voice.stub.StreamSynthesize(timeout=60) for _ in range(PLACES)]
        for call in calls:
            await call.write(opening())
            await call.read()  # it has a place
        with pytest.raises(CapacityError) as refused:
            await heard(voice, [opening()])
        for request in said(0, long):
            await calls[0].write(request)
        await calls[0].read()
        for call in calls:
            call.cancel()
        await voice.until_no_turn_is_open()
        await heard(voice, [opening(), *said(0, SECOND)])  # the thread has gone on to the next
        return refused.value, voice.value("aqaa_vocoder_batch_sum") - before

    refused, solved = runner.run(overload())
    assert refused.retry_after == 1.0
    assert solved < tiles


def test_a_call_whose_time_is_over_frees_its_place_while_the_model_works(runner, voice):
    async def late():
        with voice.thread_held():
            call = voice.stub.StreamSynthesize(iter([opening(), *said(0, SECOND)]), timeout=0.2)
            await call.read()
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call.read()
            await voice.until_no_turn_is_open()
        return error.value.code()

    assert runner.run(late()) is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_caller_who_says_nothing_is_not_waited_for(runner, voice):
    impatient = VocoderServicer(voice.service.engine, max_segment_groups=9, idle_seconds=0.01)

    async def silent():
        yield opening()
        await asyncio.Event().wait()

    async def call():
        with typed_errors():
            async for _ in impatient.StreamSynthesize(silent(), None):
                pass

    with pytest.raises(Deadline, match=r"nothing has come for 0\.01 s"):
        runner.run(call())
    runner.run(voice.until_no_turn_is_open())

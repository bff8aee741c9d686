"""The tokenizer service over real gRPC: the library's tokens in any company, typed refusals."""

import asyncio
from collections.abc import Iterator

import grpc.aio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_cases import F32, KEPT, PLACES, S16, Request, Served, Signal, noise, rows, served, tokenized

from aqaa.errors import (
    BundleChanged,
    CapacityError,
    Deadline,
    InvalidAudio,
    InvalidRequest,
)
from aqaa.rpc.status import typed_errors
from aqaa.v1 import audio_pb2, tokenizer_pb2
from services.tokenizer.servicer import TokenizerServicer


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def tokens(runner: asyncio.Runner) -> Iterator[Served]:
    """The service; its loop runs inside a test only."""
    context = served()
    yield runner.run(context.__aenter__())
    runner.run(context.__aexit__(None, None, None))


def test_it_is_ready_only_when_warm(tokens):
    assert not tokens.ready_before_warm
    assert tokens.service.server.is_ready


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rate=st.sampled_from([8000, 16000, 44100, 48000]),
    channels=st.sampled_from([1, 2]),
    encoding=st.sampled_from([S16, F32]),
    level=st.sampled_from([0, KEPT]),
    seconds=st.floats(0.05, 1.3),
    cuts=st.lists(st.floats(0, 1), max_size=6),
)
def test_tokens_are_the_librarys_for_any_format_and_chunking(
    runner, tokens, rate, channels, encoding, level, seconds, cuts
):
    signal = noise(seconds, rate=rate, channels=channels, encoding=encoding, level=level)
    found = runner.run(tokenized(tokens, signal, cuts))
    assert np.array_equal(found, signal.expected(tokens.tokenizer))


def test_a_whole_recording_has_the_streams_tokens(runner, tokens):
    signal = noise(1.0, rate=24000)
    request = tokenizer_pb2.TokenizeRequest(open=signal.open, pcm=signal.raw)
    response = runner.run(_unary(tokens, request))
    last = tokenizer_pb2.StreamTokenizeResponse(groups=response.groups, end=True)
    assert np.array_equal(rows([last]), signal.expected(tokens.tokenizer))
    assert response.seconds == pytest.approx(1.0)


async def _unary(tokens, request):
    with typed_errors():
        return await tokens.stub.Tokenize(request, timeout=60)


def test_groups_come_while_the_signal_goes_on(runner, tokens):
    async def first_groups():
        signal = noise(1.0)
        call = tokens.stub.StreamTokenize(timeout=60)
        await call.write(Request(open=signal.open))
        await call.write(next(signal.pieces([])))
        responses = [await call.read()]
        await call.done_writing()
        while (response := await call.read()) is not grpc.aio.EOF:
            responses.append(response)
        return responses[0], rows(responses)

    response, whole = runner.run(first_groups())
    assert len(response.groups.linguistic) == 2 * 4
    assert not response.end
    assert np.array_equal(whole, noise(1.0).expected(tokens.tokenizer))


def test_signals_at_once_share_passes_and_keep_their_tokens(runner, tokens):
    signals = [noise(1.1 - seed / 10, seed=seed) for seed in range(PLACES)]
    names = "aqaa_tokenizer_batch_sum", "aqaa_tokenizer_batch_count"
    before = [tokens.value(name) for name in names]

    async def together():
        async with asyncio.timeout(60):
            with tokens.thread_held():
                calls = [asyncio.ensure_future(tokenized(tokens, signal)) for signal in signals]
                while tokens.value("aqaa_rpc_messages_total", **STREAM) < sent + 2 * PLACES:
                    await asyncio.sleep(0)
            return await asyncio.gather(*calls)

    sent = tokens.value("aqaa_rpc_messages_total", **STREAM)
    for signal, found in zip(signals, runner.run(together()), strict=True):
        assert np.array_equal(found, signal.expected(tokens.tokenizer))
    sessions, passes = (tokens.value(name) - old for name, old in zip(names, before, strict=True))
    assert sessions / passes > 1 or tokens.service.engine.sizes == (1,)


def test_a_signals_groups_passes_and_waits_are_counted(runner, tokens):
    def counted():
        steps = {
            network: tokens.value("aqaa_tokenizer_step_seconds_count", network=network)
            for network in ("linguistic", "semantic")
        }
        names = (
            "aqaa_tokenizer_groups_total",
            "aqaa_tokenizer_batch_count",
            "aqaa_tokenizer_queue_seconds_count",
        )
        return steps, [tokens.value(name) for name in names]

    steps, (groups, passes, waits) = counted()
    found = runner.run(tokenized(tokens, noise(1.1), [0.5]))
    more, (groups_then, passes_then, waits_then) = counted()
    assert groups_then - groups == len(found)
    assert waits_then > waits
    assert all(more[network] > steps[network] for network in steps)
    assert sum(more.values()) - sum(steps.values()) == passes_then - passes


STREAM = {"method": "/aqaa.v1.TokenizerService/StreamTokenize", "direction": "in"}


def audio(pcm: bytes, first_byte: int = 0) -> Request:
    return Request(audio=audio_pb2.QuestionAudio(first_byte=first_byte, pcm=pcm))


GOOD = Request(open=Signal(b"").open)
SECOND = b"\0" * 32000


@pytest.mark.parametrize(
    ("requests", "kind", "says"),
    [
        ([], InvalidRequest, "open: "),
        ([audio(SECOND)], InvalidRequest, "open: "),
        ([Request(open=Signal(b"", rate=7999).open)], InvalidRequest, "open.format.sample_rate_hz: 7999"),
        ([Request(open=Signal(b"", encoding=0).open)], InvalidRequest, "open.format.encoding: 0"),
        ([Request(open=Signal(b"", channels=3).open)], InvalidRequest, "open.format.channels: 3"),
        ([Request(open=tokenizer_pb2.OpenTokenize())], InvalidRequest, "open.format.encoding"),
        ([GOOD, GOOD], InvalidRequest, "open: expected audio"),
        ([GOOD, Request()], InvalidRequest, "step: "),
        ([GOOD, audio(b"\0\0\0")], InvalidRequest, "audio.pcm: 3 bytes, expected a multiple of 2"),
        ([GOOD, audio(SECOND), audio(SECOND, 1)], InvalidRequest, "audio.first_byte: 1, expected 32000"),
        ([GOOD, audio(bytes(2**20 + 2))], InvalidRequest, "audio.pcm: 1048578 bytes"),
        ([GOOD, audio(bytes(700_000))], InvalidAudio, "at most 20 s"),
        ([GOOD], InvalidAudio, "no samples"),
        (
            [Request(open=Signal(b"", encoding=F32).open), audio(np.array([0, np.nan], "<f4").tobytes())],
            InvalidAudio,
            "NaN or infinity",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(runner, tokens, requests, kind, says):
    async def call():
        made = tokens.stub.StreamTokenize(iter(requests), timeout=60)
        with typed_errors():
            return [response async for response in made]

    with pytest.raises(kind, match=says):
        runner.run(call())
    runner.run(tokens.until_no_stream_is_open())


def test_a_turn_of_another_bundle_is_refused(runner, tokens):
    opened = noise(0.1).open
    opened.bundle_digest = "0" * 64
    with pytest.raises(BundleChanged, match=tokens.digest):
        runner.run(_unary(tokens, tokenizer_pb2.TokenizeRequest(open=opened, pcm=SECOND)))
    opened.bundle_digest = tokens.digest
    runner.run(_unary(tokens, tokenizer_pb2.TokenizeRequest(open=opened, pcm=SECOND)))


def test_one_signal_too_many_is_refused_and_an_abandoned_one_leaves_nothing(runner, tokens):
    async def overload():
        calls = [tokens.stub.StreamTokenize(timeout=60) for _ in range(PLACES)]
        for call in calls:
            await call.write(GOOD)
            await call.write(audio(SECOND))
            await call.read()  # it has a place
        with pytest.raises(CapacityError) as refused, typed_errors():
            await tokens.stub.StreamTokenize(iter([GOOD]), timeout=60).read()
        for call in calls:
            call.cancel()
        await tokens.until_no_stream_is_open()
        return refused.value

    assert runner.run(overload()).retry_after == 1.0
    assert len(runner.run(tokenized(tokens, noise(0.2)))) == 2


def test_a_call_whose_time_is_over_frees_its_place_while_the_model_works(runner, tokens):
    async def late():
        with tokens.thread_held():
            call = tokens.stub.StreamTokenize(iter([GOOD, audio(SECOND)]), timeout=0.2)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call.read()
            await tokens.until_no_stream_is_open()
        return error.value.code()

    assert runner.run(late()) is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_caller_who_says_nothing_is_not_waited_for(runner, tokens):
    impatient = TokenizerServicer(
        tokens.service.engine, digest=tokens.digest, max_seconds=20, idle_seconds=0.01
    )

    async def silent():
        yield GOOD
        await asyncio.Event().wait()

    async def call():
        async for _ in impatient.StreamTokenize(silent(), None):
            pass

    with pytest.raises(Deadline, match=r"nothing has come for 0\.01 s"):
        runner.run(call())
    runner.run(tokens.until_no_stream_is_open())

"""Errors become statuses and errors again, over a real call."""

import re
from pathlib import Path

import grpc
import pytest
from rpc_cases import in_loop, serving

from aqaa import errors
from aqaa.errors import AqaaError, CapacityError, FieldFault, InvalidRequest
from aqaa.rpc.channel import ChannelSettings, open_channel
from aqaa.rpc.status import CODES, from_rpc_error, to_status, typed_errors
from aqaa.v1 import errors_pb2, tokenizer_pb2, tokenizer_pb2_grpc

PROTO = Path(__file__).parents[3] / "protos" / "aqaa" / "v1" / "errors.proto"
REQUEST = tokenizer_pb2.TokenizeRequest()


async def raised(error: BaseException, **settings) -> AqaaError:
    """What a client gets when a handler raises ``error``."""

    async def fail(request, context):
        raise error

    async with serving(fail, **settings) as served:
        with pytest.raises(AqaaError) as found, typed_errors():
            await served.stub.Tokenize(REQUEST)
    return found.value


def test_every_reason_of_the_contract_has_a_code_and_the_one_it_promises():
    said = re.findall(r"// ([A-Z_]+)[.,][^\n]*\n  ERROR_REASON_([A-Z_]+) = [1-9]", PROTO.read_text())
    promised = {reason: code for code, reason in said}
    assert len(promised) == len(errors_pb2.ErrorReason.keys()) - 1
    assert promised.pop("INTERNAL") == "INTERNAL"
    assert {kind.reason: code.name for kind, code in CODES.items()} == promised


@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.reason)
@in_loop
async def test_an_error_arrives_as_it_was_raised(kind):
    found = await raised(kind("17 given, 5 expected", stage="vocoder"))
    assert type(found) is kind
    assert str(found) == "17 given, 5 expected"
    assert found.metadata == {"stage": "vocoder"}
    assert found.__cause__.code() is CODES[kind]


@in_loop
async def test_field_faults_and_retry_delay_arrive():
    faults = (FieldFault("open.format.channels", "3 given, expected 1 or 2"), FieldFault("pcm", "empty"))
    found = await raised(InvalidRequest(faults=faults))
    assert isinstance(found, InvalidRequest)
    assert found.faults == faults
    assert str(found) == "open.format.channels: 3 given, expected 1 or 2; pcm: empty"

    full = await raised(CapacityError("all 4 slots are taken", retry_after=2.25))
    assert isinstance(full, CapacityError)
    assert full.retry_after == 2.25


@in_loop
async def test_a_long_message_and_many_faults_still_arrive():
    faults = [FieldFault("ф" * 3000, "ж" * 3000)] * 500
    found = await raised(InvalidRequest("ы" * 50_000, faults=faults, stage="ц" * 3000))
    assert isinstance(found, InvalidRequest)
    assert str(found).startswith("ыыы")
    assert found.faults[0].fault.startswith("жжж")


@pytest.mark.parametrize(
    "error",
    [
        KeyError("the caller's secret"),
        errors.BundleCorrupt("the caller's secret"),
        AqaaError("the caller's secret"),
        TimeoutError("the caller's secret"),
        ExceptionGroup("the caller's secret", [ValueError()]),
    ],
    ids=lambda error: type(error).__name__,
)
@in_loop
async def test_what_nobody_foresaw_is_told_by_its_id_alone(error):
    async def fail(request, context):
        raise error

    async with serving(fail) as served:
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await served.stub.Tokenize(REQUEST)
        assert found.value.code() is grpc.StatusCode.INTERNAL
        everything = repr(found.value) + repr(list(found.value.trailing_metadata()))
        assert "secret" not in everything
        assert "Traceback" not in everything
        typed = from_rpc_error(found.value)
        assert type(typed) is AqaaError
        (fault,) = served.lines("a call has failed and nobody foresaw it")
        assert typed.metadata == {"error_id": fault["error_id"]}
        assert "test_rpc_status.py" in fault["traceback"]
        assert type(error).__name__ in fault["traceback"]
        assert "secret" not in served.written.getvalue(), "production logs hold no messages"
        assert served.sample("aqaa_rpc_faults_total", method="/aqaa.v1.TokenizerService/Tokenize") == 1


@in_loop
async def test_a_tokenizers_error_id_survives_the_service_between():
    """Both logs hold one id, so that a fault is found where it happened."""

    async def fail(request, context):
        raise ValueError

    async with serving(fail) as behind:

        async def ask_behind(request, context):
            with typed_errors(stage="tokenizer"):
                await behind.stub.Tokenize(request)

        async with serving(ask_behind) as front:
            with pytest.raises(AqaaError) as found, typed_errors():
                await front.stub.Tokenize(REQUEST)
            ids = [line["error_id"] for s in (front, behind) for line in s.lines() if "traceback" in line]
    assert [found.value.metadata["error_id"]] * 2 == ids


@in_loop
async def test_a_status_that_grpc_made_becomes_the_nearest_error_without_its_addresses():
    async with serving() as served:
        target = served.target
    async with open_channel(target, ChannelSettings(health_check=False, attempts=1)) as channel:
        stub = tokenizer_pb2_grpc.TokenizerServiceStub(channel)
        with pytest.raises(errors.Unavailable) as found, typed_errors(stage="tokenizer"):
            await stub.Tokenize(REQUEST)
    assert str(found.value) == "tokenizer ended the call with UNAVAILABLE"
    assert found.value.metadata == {"stage": "tokenizer"}
    assert target in found.value.__notes__[0]


@in_loop
async def test_a_message_that_is_too_large_is_the_requests_fault_and_no_overload():
    async with serving(max_message_bytes=2**16) as served:
        with pytest.raises(InvalidRequest), typed_errors():
            await served.stub.Tokenize(tokenizer_pb2.TokenizeRequest(pcm=bytes(2**17)))


def test_a_reason_of_a_newer_service_becomes_what_its_code_says():
    known = to_status(errors.Unavailable("gone", stage="log"))
    payload = known.trailing_metadata[0][1].replace(b"UNAVAILABLE", b"UNHEARD__OF")
    error = grpc.aio.AioRpcError(
        known.code, grpc.aio.Metadata(), grpc.aio.Metadata((known.trailing_metadata[0][0], payload)), "gone"
    )
    assert type(from_rpc_error(error)) is errors.Unavailable


def test_an_error_that_is_a_kind_of_a_known_one_is_told():
    class TooShort(errors.InvalidAudio):
        pass

    assert to_status(TooShort("0.1 s, expected at least 0.2 s")).code is grpc.StatusCode.INVALID_ARGUMENT

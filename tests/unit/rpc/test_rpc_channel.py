"""Channels: what they promise gRPC, and that gRPC keeps it."""

import json

import pytest
from rpc_cases import TOKENIZE, in_loop, serving

from aqaa.errors import InvalidRequest, Unavailable
from aqaa.rpc.channel import RETRY_SAFE, ChannelSettings, channel_options, open_channel, service_config
from aqaa.rpc.status import typed_errors
from aqaa.v1 import backbone_pb2, orchestrator_pb2, tokenizer_pb2, tokenizer_pb2_grpc, vocoder_pb2

REQUEST = tokenizer_pb2.TokenizeRequest()


def test_calls_are_spread_and_health_is_watched():
    config = service_config(ChannelSettings())
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert config["healthCheckConfig"] == {"serviceName": ""}
    assert "healthCheckConfig" not in service_config(ChannelSettings(health_check=False))


def test_only_calls_that_are_declared_safe_are_repeated():
    (method,) = service_config(ChannelSettings(), ["/p.S/Read"])["methodConfig"]
    assert method["name"] == [{"service": "p.S", "method": "Read"}]
    assert method["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert "methodConfig" not in service_config(ChannelSettings(), [])
    assert "methodConfig" not in service_config(ChannelSettings(attempts=1))


@pytest.mark.parametrize("name", ["p.S/Read", "/p.S", "/p.S/", "/p.S/Read/More", ""])
def test_a_name_that_is_no_method_is_refused(name):
    with pytest.raises(ValueError, match="expected /package"):
        service_config(ChannelSettings(), [name])


def test_the_safe_calls_are_calls_of_the_contract():
    files = (tokenizer_pb2, backbone_pb2, vocoder_pb2, orchestrator_pb2)
    services = [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]
    there = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert there >= RETRY_SAFE
    assert not {name for name in RETRY_SAFE if "Stream" in name or name.endswith(("/Ask", "/Converse"))}


@pytest.mark.parametrize(("safe", "calls"), [([TOKENIZE], 3), ([], 1)])
@in_loop
async def test_a_safe_call_is_repeated_within_its_bound_and_another_never(safe, calls):
    seen = 0

    async def fail(request, context):
        nonlocal seen
        seen += 1
        raise Unavailable("redis is away", stage="log")

    async with serving(fail) as served, open_channel(served.target, retry_safe=safe) as chosen:
        stub = tokenizer_pb2_grpc.TokenizerServiceStub(chosen)
        with pytest.raises(Unavailable), typed_errors():
            await stub.Tokenize(REQUEST, timeout=30)
    assert seen == calls


@in_loop
async def test_a_refused_request_is_not_repeated():
    seen = 0

    async def fail(request, context):
        nonlocal seen
        seen += 1
        raise InvalidRequest("no")

    async with serving(fail) as served, open_channel(served.target) as chosen:
        with pytest.raises(InvalidRequest), typed_errors():
            await tokenizer_pb2_grpc.TokenizerServiceStub(chosen).Tokenize(REQUEST)
    assert seen == 1


@in_loop
async def test_calls_go_round_and_only_where_health_says_serving():
    async with serving() as one, serving() as two, serving(ready=False) as cold:
        target = "ipv4:" + ",".join(served.target for served in (one, two, cold))
        async with open_channel(target) as chosen:
            stub = tokenizer_pb2_grpc.TokenizerServiceStub(chosen)

            def answered(served):
                return served.sample("aqaa_rpc_calls_total", method=TOKENIZE, code="OK", reason="") or 0

            while not (answered(one) and answered(two)):  # until it has met both
                await stub.Tokenize(REQUEST, wait_for_ready=True)
            assert not answered(cold)

            one.server.not_ready()
            before = answered(one)
            while answered(one) > before or answered(two) < 50:  # until it has heard
                before = answered(one)
                await stub.Tokenize(REQUEST, wait_for_ready=True)
                await stub.Tokenize(REQUEST, wait_for_ready=True)
                await stub.Tokenize(REQUEST, wait_for_ready=True)
            cold.server.ready()
            while not answered(cold):
                await stub.Tokenize(REQUEST, wait_for_ready=True)


def test_limits_and_pings_are_told_to_grpc():
    options = dict(channel_options(ChannelSettings(max_message_bytes=7, keepalive_seconds=1.5)))
    assert options["grpc.max_receive_message_length"] == 7
    assert options["grpc.max_send_message_length"] == 7
    assert options["grpc.keepalive_time_ms"] == 1500
    assert json.loads(options["grpc.service_config"])

"""The server: health, reflection, drain, limits, metrics, log, trace and deadline, over real calls."""

import asyncio
import io
import json
import os
import signal
import urllib.request
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry
from rpc_cases import NAME, STREAM, TOKENIZE, ToySettings, in_loop, serving

from aqaa import errors
from aqaa.rpc.caller import Caller, call_metadata
from aqaa.rpc.calls import Calls
from aqaa.rpc.health import READINESS
from aqaa.rpc.server import run
from aqaa.rpc.status import typed_errors
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import bind, make_log
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing, traceparent_of
from aqaa.v1 import tokenizer_pb2

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
REQUEST = tokenizer_pb2.TokenizeRequest(pcm=b"abcd")
PIECE = tokenizer_pb2.StreamTokenizeRequest(audio={"pcm": b"abc"})


def health(served):
    return health_pb2_grpc.HealthStub(served.channel)


async def watch(served, service=""):
    """A watcher that has heard its first answer, and that answer."""
    call = health(served).Watch(health_pb2.HealthCheckRequest(service=service))
    return call, (await call.read()).status


@in_loop
async def test_health_says_serving_only_when_the_service_says_it_is_ready():
    async with serving(ready=False) as served:
        watcher, first = await watch(served, NAME)
        assert first == NOT_SERVING
        assert (await health(served).Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
        assert served.sample("aqaa_ready") == 0
        served.server.ready()
        assert (await watcher.read()).status == SERVING
        assert served.sample("aqaa_ready") == 1
        served.server.not_ready()
        assert (await watcher.read()).status == NOT_SERVING


@in_loop
async def test_only_readiness_says_that_there_is_no_room():
    async with serving() as served:
        watcher, first = await watch(served, READINESS)
        assert first == SERVING
        served.server.full(True)
        assert (await watcher.read()).status == NOT_SERVING
        assert (await health(served).Check(health_pb2.HealthCheckRequest(service=NAME))).status == SERVING
        served.server.full(False)
        assert (await watcher.read()).status == SERVING
        served.server.not_ready()
        assert (await watcher.read()).status == NOT_SERVING


@in_loop
async def test_watchers_do_not_go_deaf_when_another_leaves():
    async with serving() as served:
        one, _ = await watch(served)
        other, _ = await watch(served)
        one.cancel()
        served.server.not_ready()
        assert (await other.read()).status == NOT_SERVING


@in_loop
async def test_health_of_a_service_that_is_not_here():
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await health(served).Check(health_pb2.HealthCheckRequest(service="other"))
        assert found.value.code() is grpc.StatusCode.NOT_FOUND
        _, status = await watch(served, "other")
        assert status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.mark.parametrize(("profile", "there"), [("development", True), ("production", False)])
@in_loop
async def test_reflection_is_for_development(profile, there):
    async with serving(profile=profile) as served:
        stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        if there:
            names = {service.name for service in (await call.read()).list_services_response.service}
            assert {NAME, "grpc.health.v1.Health"} <= names
        else:
            assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
        call.cancel()


@in_loop
async def test_a_drain_hands_over_lets_streams_finish_and_refuses_new_calls():
    async with serving() as served:
        watcher, _ = await watch(served)
        call = served.stub.StreamTokenize()
        await call.write(PIECE)
        assert (await call.read()).seconds == 3

        given = asyncio.get_running_loop().create_future()

        async def hand_over(seconds):
            given.set_result(seconds)

        serving_task = asyncio.create_task(served.server.until_stopped(drain=hand_over))
        await asyncio.sleep(0)  # until it waits
        assert served.sample("aqaa_draining") == 0
        os.kill(os.getpid(), signal.SIGTERM)

        assert (await watcher.read()).status == NOT_SERVING
        assert await given == served.server._settings.drain_seconds
        assert served.sample("aqaa_draining") == 1
        with pytest.raises(errors.Draining), typed_errors():
            await served.stub.Tokenize(REQUEST)

        await call.write(PIECE)  # still served
        assert (await call.read()).seconds == 3
        await call.done_writing()
        assert (await call.read()).end
        assert await call.read() is grpc.aio.EOF
        await serving_task
        assert served.lines("a signal has come")[0]["signal"] == "SIGTERM"
        assert served.lines("draining")[0]["in_flight"] == 1
        assert not served.lines("calls are cut off")


@in_loop
async def test_what_outlives_the_grace_is_ended_with_a_reason_and_cleans_up():
    async with serving(drain_seconds=0) as served:
        call = served.stub.StreamTokenize()
        await call.write(PIECE)
        await call.read()
        task = asyncio.create_task(served.server.until_stopped())
        await asyncio.sleep(0)
        served.server.stop()
        with pytest.raises(errors.Draining), typed_errors():
            await call.read()
        await served.toy.closed.wait()
        await task
        assert (
            served.sample("aqaa_rpc_calls_total", method=STREAM, code="UNAVAILABLE", reason="DRAINING") == 1
        )


@in_loop
async def test_a_second_signal_does_not_wait_for_the_grace():
    async with serving(drain_seconds=3600) as served:
        call = served.stub.StreamTokenize()
        await call.write(PIECE)
        await call.read()
        begun = asyncio.Event()

        async def never(seconds):
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(served.server.until_stopped(drain=never))
        await asyncio.sleep(0)
        served.server.stop()
        await begun.wait()
        served.server.stop()
        await task


@in_loop
async def test_a_hand_over_that_fails_does_not_take_the_open_calls_with_it():
    async with serving() as served:
        call = served.stub.StreamTokenize()
        await call.write(PIECE)
        await call.read()
        watcher, _ = await watch(served)

        async def fail(seconds):
            raise OSError("redis is gone")

        task = asyncio.create_task(served.server.until_stopped(drain=fail))
        await asyncio.sleep(0)
        served.server.stop()
        await watcher.read()
        await call.done_writing()
        assert (await call.read()).end
        await task
        assert "OSError" in served.lines("handing over has failed")[0]["traceback"]


@in_loop
async def test_a_signal_while_the_model_warms_up_ends_the_service_quietly():
    stopped = asyncio.Event()

    async def service():
        async with serving(ready=False) as served:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()  # a model that is never warm
        assert served.lines()[-1]["event"] == "stopped"
        stopped.set()

    await asyncio.create_task(service())
    assert stopped.is_set()


@in_loop
async def test_metrics_are_on_their_own_port():
    async with serving() as served:
        await served.stub.Tokenize(REQUEST)
        call = served.stub.StreamTokenize()
        await call.write(PIECE)
        await call.read()
        url = f"http://127.0.0.1:{served.server.metrics_port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
        assert f'aqaa_rpc_calls_total{{code="OK",method="{TOKENIZE}",reason=""}} 1.0' in text
        assert f'aqaa_rpc_in_flight{{method="{STREAM}"}} 1.0' in text
        assert f'aqaa_rpc_messages_total{{direction="out",method="{STREAM}"}} 1.0' in text
        assert f'aqaa_rpc_seconds_count{{method="{TOKENIZE}"}} 1.0' in text
        assert "grpc.health" not in text
        assert served.server.port != served.server.metrics_port
        call.cancel()


@in_loop
async def test_two_servers_in_one_process_share_nothing():
    async with serving() as one, serving() as other:
        await one.stub.Tokenize(REQUEST)
        assert one.sample("aqaa_rpc_calls_total", method=TOKENIZE, code="OK", reason="") == 1
        assert other.sample("aqaa_rpc_calls_total", method=TOKENIZE, code="OK", reason="") is None
        assert not other.lines("a call has ended")


@in_loop
async def test_a_port_that_is_taken_is_refused_at_start_up():
    async with serving() as served:
        with pytest.raises(errors.SettingsError, match=f"port = {served.server.port}"):
            async with serving(port=served.server.port):
                pass
        with pytest.raises(errors.SettingsError, match="metrics_port"):
            async with serving(metrics_port=served.server.metrics_port):
                pass


@in_loop
async def test_the_caller_who_leaves_cancels_the_handler_and_is_counted():
    async with serving() as served:
        call = served.stub.StreamTokenize()
        await call.write(PIECE)
        await call.read()
        call.cancel()
        await served.toy.closed.wait()
        await served.server.calls.idle()
        assert served.sample("aqaa_rpc_calls_total", method=STREAM, code="CANCELLED", reason="CANCELLED") == 1
        assert served.sample("aqaa_rpc_in_flight", method=STREAM) == 0


class FakeContext:
    """Of a call whose gRPC the test plays."""

    def invocation_metadata(self):
        return ()

    def time_remaining(self):
        return None

    def peer(self):
        return "ipv4:127.0.0.1:1"


def repeating(closed):
    """A handler that says its request again and again, and notes in ``closed`` that it was ended."""

    async def answer(request, context):
        try:
            while True:
                yield request
        finally:
            closed.append(True)

    return answer


async def wrapped_by_calls(behaviour, written, registry):
    """Calls, and its wrapped handler of a method that streams."""

    async def handler(details):
        return grpc.unary_stream_rpc_method_handler(behaviour)

    calls = Calls(
        log=make_log("toy", file=written, strict=True),
        metrics=Metrics(registry, catalogue.RPC),
        tracing=Tracing.open("toy"),
        messages=True,
    )
    return calls, await calls.intercept_service(handler, SimpleNamespace(method=STREAM))


@in_loop
async def test_a_call_that_is_cut_off_is_ended_once_grpc_has_sent_what_it_is_sending():
    written, closed = io.StringIO(), []

    class Sending(FakeContext):
        """gRPC takes a status only while it sends nothing."""

        def __init__(self):
            self.begun, self.taken, self.sending, self.told = asyncio.Event(), asyncio.Event(), False, None

        async def write(self, response):
            self.sending = True
            self.begun.set()
            await self.taken.wait()
            self.sending = False

        async def abort(self, code, details, trailing_metadata):
            assert not self.sending
            self.told = code
            raise grpc.aio.AbortError

    context = Sending()
    calls, wrapped = await wrapped_by_calls(repeating(closed), written, CollectorRegistry())
    call = asyncio.create_task(wrapped.unary_stream(b"", context))
    await context.begun.wait()
    cutting = asyncio.create_task(calls.cut_off(within=60))
    await asyncio.sleep(0)
    context.taken.set()
    await cutting
    with pytest.raises(grpc.aio.AbortError):
        await call
    assert context.told is grpc.StatusCode.UNAVAILABLE
    assert closed
    [line] = [json.loads(line) for line in written.getvalue().splitlines()]
    assert line["reason"] == "DRAINING"


@in_loop
async def test_a_caller_who_leaves_just_while_it_is_written_to_is_no_fault():
    written, registry, closed = io.StringIO(), CollectorRegistry(), []

    class Leaving(FakeContext):
        """The context of a call; its caller takes one response, and is gone with the next."""

        left = 1

        async def write(self, response):
            self.left -= 1
            if self.left < 0:
                raise grpc.aio.InternalError('Failed "execute_batch"')

    calls, wrapped = await wrapped_by_calls(repeating(closed), written, registry)
    with pytest.raises(
        asyncio.CancelledError
    ):  # as if gRPC itself had seen it first: it says nothing of that
        await wrapped.unary_stream(b"", Leaving())
    [line] = [json.loads(line) for line in written.getvalue().splitlines()]
    assert (line["level"], line["code"], line["reason"]) == ("info", "CANCELLED", "CANCELLED")
    assert registry.get_sample_value("aqaa_rpc_faults_total", {"method": STREAM}) in (None, 0)
    assert closed
    assert calls.in_flight == 0


@in_loop
async def test_a_cancellation_from_inside_is_a_fault_and_not_the_callers():
    async def lose(request, context):
        inner = asyncio.create_task(asyncio.Event().wait())
        inner.cancel()
        await inner

    async with serving(lose) as served:
        with pytest.raises(errors.AqaaError) as found, typed_errors():
            await served.stub.Tokenize(REQUEST, timeout=30)
        assert "error_id" in found.value.metadata


@in_loop
async def test_the_deadline_of_the_caller_ends_the_handler():
    async def for_ever(request, context):
        await asyncio.Event().wait()

    async with serving(for_ever) as served:
        with pytest.raises(errors.Deadline), typed_errors():
            await served.stub.Tokenize(REQUEST, timeout=0.05)
        await served.server.calls.idle()
        labels = {"code": "DEADLINE_EXCEEDED", "reason": "DEADLINE"}
        assert served.sample("aqaa_rpc_calls_total", method=TOKENIZE, **labels) == 1


@in_loop
async def test_a_trace_goes_through_and_nothing_of_it_is_shared_between_calls():
    seen = []

    async def look(request, context):
        seen.append(traceparent_of())

    async with serving(look) as served:
        sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        await served.stub.Tokenize(REQUEST, metadata=call_metadata(traceparent=sent))
        await served.stub.Tokenize(REQUEST)
        await served.stub.Tokenize(REQUEST, metadata=call_metadata(traceparent="not a traceparent"))
        traces = [one.split("-")[1] for one in seen]
        assert traces[0] == "0af7651916cd43dd8448eb211c80319c"
        assert len(set(traces)) == 3
        first = served.spans.get_finished_spans()[0]
        assert first.name == TOKENIZE.removeprefix("/")
        assert first.parent.span_id == 0xB7AD6B7169203331
        assert served.lines("a call has ended")[0]["trace_id"] == traces[0]


@in_loop
async def test_a_line_a_call_with_its_ids_and_without_its_payload():
    async def name_turn(request, context):
        bind(session_id="s" * 26, turn_id="t" * 26)

    async with serving(name_turn) as served:
        request = tokenizer_pb2.TokenizeRequest(pcm=b"spoken words")
        await served.stub.Tokenize(request, metadata=call_metadata(caller=Caller("acme", "alice")))
        await served.stub.Tokenize(request)
        one, other = served.lines("a call has ended")
        assert one.keys() == {
            "event", "level", "time", "service", "method", "code", "peer", "seconds", "caller", "session_id",
            "turn_id", "trace_id",
        }  # fmt: skip
        assert (one["method"], one["code"], one["service"]) == (TOKENIZE, "OK", "toy")
        assert one["caller"] == "acme/alice"
        assert "caller" not in other
        assert "spoken" not in served.written.getvalue()


@in_loop
async def test_the_tracebacks_of_development_have_messages():
    async def fail(request, context):
        raise ValueError("of use to a developer")

    async with serving(fail, profile="development") as served:
        with pytest.raises(errors.AqaaError), typed_errors():
            await served.stub.Tokenize(REQUEST)
        assert "of use to a developer" in served.written.getvalue()


def test_services_run_on_uvloop():
    async def kind() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert run(kind()) == "uvloop"


def test_a_service_listens_to_this_machine_alone_unless_told():
    assert (ToySettings().host, ToySettings().metrics_host) == ("127.0.0.1", "127.0.0.1")


@in_loop
async def test_a_poll_that_succeeds_leaves_no_line_at_info(monkeypatch):
    monkeypatch.setattr("aqaa.rpc.calls.POLLED", frozenset({TOKENIZE, STREAM}))

    async def refuse_without_sound(request, context):
        if not request.pcm:
            raise errors.InvalidAudio("no sound")

    async with serving(refuse_without_sound) as served:
        await served.stub.Tokenize(tokenizer_pb2.TokenizeRequest(pcm=b"spoken words"))
        assert not served.lines("a call has ended")
        with pytest.raises(grpc.aio.AioRpcError):
            await served.stub.Tokenize(tokenizer_pb2.TokenizeRequest())
        assert [line["reason"] for line in served.lines("a call has ended")] == ["INVALID_AUDIO"]

        for pieces in (0, 1):  # so many responses, and the end's
            call = served.stub.StreamTokenize()
            for _ in range(pieces):
                await call.write(PIECE)
                await call.read()
            await call.done_writing()
            assert (await call.read()).end
            assert await call.read() is grpc.aio.EOF
        assert [line["method"] for line in served.lines("a call has ended")] == [TOKENIZE, STREAM]

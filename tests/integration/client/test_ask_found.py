"""``aqaa ask`` and a stack that runs already: used, or left alone, or named in one line."""

import asyncio
from contextlib import asynccontextmanager

import grpc.aio
import numpy as np
import pytest
from client_cases import Fault, Orchestrator, Script, in_loop
from grpc_health.v1 import health_pb2_grpc

from aqaa.audio.decode import Audio
from aqaa.audio.resample import StreamResampler
from aqaa.client.health import SERVICE
from aqaa.commands import asking
from aqaa.commands.wish import Wish
from aqaa.errors import BundleError, InvalidAudio, Unavailable, Unsupported
from aqaa.rpc.health import Health
from aqaa.v1 import orchestrator_pb2_grpc
from aqaa.v1.orchestrator_pb2 import TurnTokens

QUESTION = Audio(np.sin(np.arange(8000) / 9).astype(np.float32), 8000)
OURS = object()
"""Stands for the answer of a stack of our own."""


class Telling(Orchestrator):
    """Tells the tokens, of which it has none, to who asks for them."""

    async def Ask(self, request, context):  # noqa: N802 - gRPC's name
        async for response in super().Ask(request, context):
            if response.event.HasField("manifest") and request.options.with_tokens:
                response.event.manifest.tokens.CopyFrom(TurnTokens())
            yield response


@asynccontextmanager
async def running(*faults, kind=Telling, ready=True):
    orchestrator, server, health = kind(Script(), list(faults)), grpc.aio.server(), Health([SERVICE])
    health.say(serving=ready)
    orchestrator.health = health
    orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(orchestrator, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield orchestrator, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def wish(**changes):
    nothing = {"address": None, "usual": "127.0.0.1:1", "bundle": None, "ours": None}
    return Wish(**{"question": QUESTION, "seed": 7, **nothing, **changes})


@pytest.fixture
def asked(monkeypatch):
    """Asks without a stack of our own, which would answer OURS; gives what the person saw besides."""
    told = []

    async def ours(wish, bundle, progress):
        return OURS

    monkeypatch.setattr(asking, "_answer_of_our_own", ours)

    async def ask(**changes):
        return await asking._ask(wish(**changes), lambda step, share: told.append(step))

    ask.told = told
    return ask


def bundle(folder):
    (folder / "manifest.json").write_text("{}")
    return folder


@in_loop
async def test_a_stack_at_the_usual_address_answers(asked):
    async with running() as (orchestrator, address):
        answer = await asked(usual=address)
        (request,) = orchestrator.named("Ask")
        assert request.options.seed == 7
        resampler = StreamResampler(8000, 16000)
        expected = np.concatenate((resampler.push(QUESTION.samples), resampler.flush()))
        np.testing.assert_array_equal(np.frombuffer(request.pcm, "<f4"), expected)
        script = orchestrator.script
        np.testing.assert_array_equal(np.rint(answer.pcm * 32768), script.pcm)
        assert (answer.question_text, answer.answer_text) == (script.transcript, "Hello, wörld. Goodbye.")
        assert asked.told == [f"asking the stack at {address}"]


@in_loop
async def test_another_bundle_than_the_wished_one_is_left_alone(asked, tmp_path):
    async with running() as (orchestrator, address):
        orchestrator.hold = 2
        assert await asked(usual=address, bundle=bundle(tmp_path), ours=tmp_path) is OURS
        assert orchestrator.named("Cancel")


@in_loop
async def test_another_bundle_at_a_named_address_is_refused(asked, tmp_path):
    async with running() as (_, address):
        with pytest.raises(BundleError, match=f"{address} holds bundle bbbbbbbbbbbb…, not 44136fa355b3"):
            await asked(address=address, bundle=bundle(tmp_path), ours=tmp_path)


@in_loop
async def test_a_stack_that_warms_up_is_waited_for(asked, tmp_path):
    async with running(ready=False) as (orchestrator, address):
        waiting = asyncio.create_task(asked(usual=address, ours=tmp_path))
        while not asked.told:
            await asyncio.sleep(0.005)
        assert asked.told == [f"waiting until the stack at {address} is ready"]
        orchestrator.health.say(serving=True)
        assert await waiting is not OURS
        assert len(orchestrator.named("Ask")) == 1
        assert asked.told[1:] == [f"asking the stack at {address}"]


@in_loop
async def test_a_stack_that_goes_while_it_is_waited_for_is_not_there(asked, tmp_path):
    async with running(ready=False) as (_, address):
        waiting = asyncio.create_task(asked(usual=address, ours=tmp_path))
        while not asked.told:
            await asyncio.sleep(0.005)
    assert await waiting is OURS


@in_loop
async def test_a_stack_that_is_never_ready_is_not_waited_for_for_ever(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "WARM_SECONDS", 0.01)
    async with running(ready=False) as (orchestrator, address):
        assert await asked(usual=address, ours=tmp_path) is OURS
        with pytest.raises(Unavailable, match=f"the stack at {address} is not ready"):
            await asked(address=address, ours=tmp_path)
        assert orchestrator.calls == []


@in_loop
async def test_where_nothing_runs_a_stack_needs_a_bundle_and_no_address(asked, tmp_path):
    assert await asked(ours=tmp_path) is OURS
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 is not there: start one with aqaa up"):
        await asked(address="127.0.0.1:1", ours=tmp_path)
    with pytest.raises(BundleError, match="there is no bundle to start one"):
        await asked()


@in_loop
async def test_errors_of_the_services_come_out(asked):
    async with running(Fault("error", 2, error=InvalidAudio("no speech in it"))) as (_, address):
        with pytest.raises(InvalidAudio, match="no speech"):
            await asked(usual=address)
    async with running(kind=Orchestrator) as (_, address):
        with pytest.raises(Unsupported, match="tokens"):
            await asked(usual=address)


@in_loop
async def test_who_is_interrupted_takes_the_question_back(asked):
    async with running() as (orchestrator, address):
        orchestrator.hold = 4
        waiting = asyncio.create_task(asked(usual=address))
        while not orchestrator.named("Ask"):
            await asyncio.sleep(0.005)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert orchestrator.named("Cancel")

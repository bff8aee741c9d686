"""Calls to a stage: what it says is kept in order, and one that takes or says nothing is given up."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from aqaa.errors import Unavailable
from aqaa.turnlog import MonotonicClock
from services.orchestrator.stages import StageCall

SECONDS = 0.2


@asynccontextmanager
async def calling(handler):
    """A call to a stage that does as the handler says; messages are bytes."""
    server = grpc.aio.server()
    method = grpc.stream_stream_rpc_method_handler(handler)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("stage", {"Do": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = StageCall(channel.stream_stream("/stage/Do")(), "stub", SECONDS, MonotonicClock())
        try:
            yield call
        finally:
            await call.aclose()
    await server.stop(None)


async def echo(requests, context):
    async for request in requests:
        yield request


async def deaf(requests, context):
    await asyncio.Event().wait()
    yield b""


async def test_a_response_that_was_not_in_time_is_not_lost():
    async with calling(echo) as call:
        for i in range(20):
            with pytest.raises(TimeoutError):
                await call.receive(0.001)
            await call.send(b"%d" % i)
            assert await call.receive() == b"%d" % i
        for i in range(20):
            await call.send(b"%d" % i)
        await call.close()
        said = [await call.receive() for _ in range(21)]
        assert said == [*(b"%d" % i for i in range(20)), None]
        assert await call.receive() is None


async def fill(call):
    """Sends for ever."""
    while True:
        await call.send(bytes(100_000))


async def test_a_stage_that_takes_nothing_is_given_up_by_who_writes_and_who_reads():
    async with calling(deaf) as call:
        reading = asyncio.create_task(call.receive())
        with pytest.raises(Unavailable, match="the stub has been silent"):
            await fill(call)
        with pytest.raises(Unavailable, match="the stub has been silent"):
            await reading
        assert asyncio.current_task().cancelling() == 0


async def test_a_stage_that_owes_something_and_says_nothing_is_given_up():
    async with calling(deaf) as call:
        call.owes()
        with pytest.raises(Unavailable, match="the stub has been silent"):
            await call.receive()


async def test_a_sender_that_is_cancelled_is_not_told_that_the_stage_hangs():
    async with calling(deaf) as call:
        sending = asyncio.create_task(fill(call))
        await asyncio.sleep(SECONDS / 4)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

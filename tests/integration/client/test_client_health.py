"""Whether an orchestrator is there and ready, and what is none."""

import asyncio
from contextlib import asynccontextmanager

import grpc.aio
import pytest
from client_cases import in_loop
from grpc_health.v1 import health_pb2_grpc

from aqaa.client.health import SERVICE, Standing, standing
from aqaa.rpc.health import Health

SECONDS = 20.0


@asynccontextmanager
async def grpc_server(health=None):
    server = grpc.aio.server()
    if health is not None:
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def other_program(answer):
    async def talk(reader, writer):
        writer.write(answer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@in_loop
async def test_an_orchestrator_serves_or_is_not_ready():
    health = Health([SERVICE])
    async with grpc_server(health) as address:
        assert await standing(address, SECONDS) is Standing.NOT_READY
        health.say(serving=True)
        assert await standing(address, SECONDS) is Standing.SERVING


@pytest.mark.parametrize("health", [None, Health(["another.Service"])])
@in_loop
async def test_another_grpc_service_is_nobody(health):
    async with grpc_server(health) as address:
        assert await standing(address, SECONDS) is Standing.NOBODY


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.0 400 Bad Request\r\n\r\n"])
@in_loop
async def test_another_program_on_the_port_is_nobody(answer):
    async with other_program(answer) as address:
        assert await standing(address, 0.5 if not answer else SECONDS) is Standing.NOBODY


@in_loop
async def test_nothing_on_the_port_is_nobody():
    async with other_program(b"") as address:
        pass
    assert await standing(address, SECONDS) is Standing.NOBODY

"""One Valkey for the whole run, emptied before each test; coroutine tests run with a deadline."""

import asyncio
import inspect
from collections.abc import Iterator

import pytest

from tests.integration.turnlog.turnlog_servers import Server, binary

TEST_SECONDS = 300.0


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames

    async def within() -> None:
        async with asyncio.timeout(TEST_SECONDS):
            await pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})

    asyncio.run(within())
    return True


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(binary("valkey9"), tmp_path_factory.mktemp("valkey"))
    yield server
    server.kill()


@pytest.fixture
def server(shared_server: Server) -> Server:
    assert shared_server.ask("FLUSHALL") == b"+OK\r\n"
    return shared_server

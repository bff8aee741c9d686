"""Users with few rights, as docs/turnlog.md gives them: each role can do its part and nothing else."""

import re

import pytest
import redis
from turnlog_cases import everything, turn_log
from turnlog_rules import RULES
from turnlog_servers import Server, binary

from aqaa.turnlog import Consumer


def url_of(server: Server, name: str) -> str:
    return f"redis://{name}:SECRET@127.0.0.1:{server.port}"


def allowed(name: str) -> set[str]:
    return {word[1:].split("|")[0] for word in RULES[name] if word.startswith("+")}


@pytest.fixture(params=["redis62", "redis7", "valkey9"])
def guarded(request, folder):
    """A server that knows the two users, and its administrator's connection."""
    server = Server(binary(request.param), folder)
    with redis.Redis(port=server.port, protocol=2) as admin:
        for name, words in RULES.items():
            admin.execute_command("ACL", "SETUSER", name, *words)
        yield server, admin
    server.kill()


async def test_each_role_does_its_part_with_its_own_rights_and_needs_them_all(guarded):
    server, admin = guarded
    admin.config_resetstat()
    admin.execute_command("ACL", "LOG", "RESET")
    async with (
        turn_log(url_of(server, "front")) as front,
        turn_log(url_of(server, "runner"), seed=1) as runner,
    ):
        await everything(front, runner)
        assert await Consumer(runner.link, "runner-3").scan(1) == []
    assert admin.execute_command("ACL", "LOG") == []
    asked = {name.removeprefix("cmdstat_").split("|")[0] for name in admin.info("commandstats")}
    rare = {"ping"}  # on a connection that has been silent
    assert asked - {"acl", "config", "auth", "info"} | rare == allowed("front") | allowed("runner")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("front", "XREADGROUP GROUP runners me STREAMS aqaa:dispatch >"),
        ("front", "XACK aqaa:dispatch runners 0-1"),
        ("front", "XADD aqaa:dead * reason none"),
        ("front", "SUBSCRIBE elsewhere"),
        ("runner", "SET aqaa:{tenant.request.abc} x"),
        ("runner", "GET aqaa:{tenant.request.abc}"),
        ("runner", "UNLINK aqaa:dispatch"),
        ("runner", "HGETALL aqaa:{tenant.request.abc}"),
        *[
            (name, words)
            for name in ("front", "runner")
            for words in ("FLUSHALL", "KEYS *", "SCAN 0", "CONFIG GET *", "HGETALL other", "MONITOR",
                          "ACL LIST", "SCRIPT FLUSH", "EVAL return{redis.call('KEYS','*')} 0")
        ],
    ],
)  # fmt: skip
def test_neither_role_can_do_more(guarded, name, words):
    server, _ = guarded
    with (
        redis.Redis.from_url(url_of(server, name), protocol=2) as client,
        pytest.raises(redis.ResponseError) as caught,
    ):
        client.execute_command(*words.split())
    assert re.search("No permissions|no permissions|can't run this command", str(caught.value))

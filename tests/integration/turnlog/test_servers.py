"""What a turn log runs on: the oldest Redis, a server that stands still, TLS, users with few rights."""

import asyncio
import shutil
import subprocess
import time

import pytest
from turnlog_cases import BUNDLE, CALLER, everything, open_turn, text, texts, turn_log
from turnlog_servers import Server, binary, free_port

from aqaa.errors import Unavailable
from aqaa.turnlog import Appender, Consumer, Link, Role, Stream, Tenure, TurnLogSettings, post


@pytest.fixture(params=["redis62", "redis7", "valkey9"])
def fresh(request, folder):
    server = Server(binary(request.param), folder)
    yield server
    server.kill()


async def test_a_turn_lives_on_every_server_from_redis_62_on(fresh):
    async with turn_log(fresh.url) as front, turn_log(fresh.url, seed=1) as runner:
        await everything(front, runner)


async def test_entries_that_were_deleted_are_skipped_by_a_scan(fresh):
    """Redis 6.2 names them among what was claimed, 7 does not."""
    async with turn_log(fresh.url) as log:
        consumer = Consumer(log.link, "runner-1")
        for _ in range(3):
            await post(log.link, log.new_turn("tenant"), BUNDLE)
        found = await consumer.take(3)
        for dispatched in found:
            assert await consumer.hand_over(dispatched)
        await log.link.command("XDEL", "aqaa:dispatch", found[1].entry)
        scanned = await Consumer(log.link, "runner-2").scan(5)
        assert [one.turn for one in scanned] == [found[0].turn, found[2].turn]
        assert [one.deliveries for one in scanned] == [1, 1]


async def test_a_turn_goes_on_after_its_server_stood_still_for_longer_than_a_lease(fresh):
    settings = TurnLogSettings(lease=1.0, heartbeat=0.5, dispatch_block=0.02)
    async with (
        turn_log(fresh.url, settings=settings) as one,
        turn_log(fresh.url, seed=1, settings=settings) as two,
    ):
        live = await open_turn(one)
        consumer = Consumer(one.link, "runner-1")
        await post(one.link, live.turn, BUNDLE)
        [found] = await consumer.take(1)
        runner = await one.acquire_runner(consumer, found)
        assert isinstance(runner, Tenure)
        answer = Appender(runner, Stream.ANSWER)
        keeper = one.keeper(consumer)
        keeper.keep(live.front)
        keeper.keep(runner, found, [answer])
        async with one.following.follow(live.turn, Stream.ANSWER) as follower:
            await answer.append(text("One"))
            assert await texts(follower, 1) == ["One"]
            fresh.pause()
            try:
                writing = asyncio.create_task(answer.append(text(" two")))
                beating = asyncio.create_task(keeper.beat())
                await asyncio.sleep(2.0)
                assert not writing.done()
            finally:
                fresh.go_on()
            assert await writing == 2
            await beating
            assert await texts(follower, 1) == [" two"]
        assert {held.tenure for held in keeper.held} == {live.front, runner}
        assert await Consumer(two.link, "runner-2").scan(1) == []
        assert (await Tenure.acquire(two.link, live.turn, Role.RUNNER, two.nonce())).why == "LEASED"
        assert (await two.state(live.turn, CALLER)).last[Stream.ANSWER].seq == 2


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A certificate authority, and a server's certificate for 127.0.0.1."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: it makes the certificates of this test")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    request = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2")
    for name in ("ca", "other"):
        openssl(*request, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN=aqaa test {name}")
    for name in ("server", "client"):
        openssl(*request, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}",
                "-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1")  # fmt: skip
    return folder


@pytest.fixture(params=["server", "cluster"])
def encrypted(request, folder, certificates):
    """A server, or a cluster of one, that speaks nothing but TLS with those who have a certificate."""
    port = free_port()
    options = ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "yes"]
    for option, file in (("cert", "server.pem"), ("key", "server.key"), ("ca-cert", "ca.pem")):
        options += [f"--tls-{option}-file", str(certificates / file)]
    clustered = request.param == "cluster"
    if clustered:
        options += ["--cluster-enabled", "yes", "--tls-cluster", "yes"]
    server = Server(binary("redis7"), folder, *options, port=port, tls=certificates)
    if clustered:
        assert server.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383") == b"+OK\r\n"
        while b"cluster_state:ok" not in server.ask("CLUSTER", "INFO"):
            time.sleep(0.02)
    yield server, clustered
    server.kill()


async def test_a_turn_lives_behind_tls_that_the_url_alone_describes(encrypted, certificates):
    server, clustered = encrypted
    files = {"ssl_ca_certs": "ca.pem", "ssl_certfile": "client.pem", "ssl_keyfile": "client.key"}
    query = "&".join(f"{name}={certificates / file}" for name, file in files.items())
    url = f"rediss://127.0.0.1:{server.port}"
    async with (
        turn_log(f"{url}?{query}", cluster=clustered) as front,
        turn_log(f"{url}?{query}", cluster=clustered, seed=1) as runner,
    ):
        await everything(front, runner)
    impatient = TurnLogSettings(call_timeout=0.5, socket_timeout=2.0)
    stranger = query.replace("ca.pem", "other.pem")
    for wrong in (f"redis://127.0.0.1:{server.port}", url, f"{url}?{stranger}"):
        with pytest.raises(Unavailable):
            await Link.connect(wrong, impatient, cluster=clustered)

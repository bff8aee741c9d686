"""Where processes are born: forks of one that has imported everything, so a restart costs no second of CPU.

``python -m tests.faults.nursery MODULE…`` reads a line of JSON for each process to be started, on standard
input, and writes one for each that began or ended, on standard output. What it imports starts no thread, so
forks are safe; each is a process of its own in every other way, and the kernel ends it with its parent.
"""

import asyncio
import ctypes
import importlib
import json
import os
import runpy
import selectors
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from aqaa.stack.children import LAUNCHER

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


class Nursery:
    """The nursery as its parent sees it.

    nursery = await Nursery.open(["services.orchestrator.service"], environ)
    pid, ended = await nursery.bear("front-0", ["services.orchestrator", "--role", "front"], log)
    status = await ended                      # negative for the number of a signal
    await nursery.aclose()
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._born: dict[str, asyncio.Future[int]] = {}
        self._ended: dict[int, asyncio.Future[int]] = {}
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def open(cls, modules: Sequence[str], environ: Mapping[str, str], folder: Path) -> "Nursery":
        """``folder``: where it runs."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()),
            sys.executable, "-m", "tests.faults.nursery", *modules,
            cwd=folder, env=dict(environ), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            process_group=0,
        )  # fmt: skip
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def bear(self, name: str, words: Sequence[str], log: Path) -> tuple[int, "asyncio.Future[int]"]:
        """Starts ``python -m words…``: its pid, and its exit status in time. Raises RuntimeError."""
        if self._listening.done():
            raise RuntimeError("the nursery has ended")
        born = self._born[name] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        line = json.dumps({"name": name, "words": list(words), "log": str(log)})
        self._process.stdin.write(line.encode() + b"\n")
        pid = await born
        return pid, self._ended[pid]

    async def aclose(self) -> None:
        """Its processes have been stopped before."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        self._listening.cancel()
        await asyncio.wait({self._listening})

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            if "status" in told:
                self._ended.pop(told["pid"]).set_result(told["status"])
            else:
                self._ended[told["pid"]] = asyncio.get_running_loop().create_future()
                self._born.pop(told["name"]).set_result(told["pid"])
        for waiting in (*self._born.values(), *self._ended.values()):
            waiting.set_exception(RuntimeError("the nursery has ended"))


def main(modules: Sequence[str]) -> None:
    """Until standard input ends."""
    for module in modules:
        importlib.import_module(module)
    assert threading.active_count() == 1, "what was imported has started threads"
    with open(0, "rb", buffering=0) as orders, selectors.DefaultSelector() as watched:
        watched.register(orders, selectors.EVENT_READ)
        while True:
            for key, _ in watched.select():
                if key.data is not None:
                    _reap(watched, key.fd, key.data)
                elif line := orders.readline():
                    _fork(watched, json.loads(line))
                else:
                    return


def _fork(watched: selectors.BaseSelector, order: dict[str, Any]) -> None:
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        _be(parent, order["name"], order["words"], order["log"])
    watched.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
    print(json.dumps({"name": order["name"], "pid": pid}), flush=True)


def _reap(watched: selectors.BaseSelector, pidfd: int, pid: int) -> None:
    watched.unregister(pidfd)
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    print(json.dumps({"pid": pid, "status": os.waitstatus_to_exitcode(status)}), flush=True)


def _be(parent: int, name: str, words: Sequence[str], log: str) -> NoReturn:
    """The rest of a process's life as ``python -m words``."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel knew that we care
        os._exit(1)
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 1)
    os.dup2(1, 2)
    os.closerange(3, 1024)
    module, *sys.argv[1:] = words
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])

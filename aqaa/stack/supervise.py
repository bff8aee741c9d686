"""Starts the parts in order, watches them, stops them in order: all of them run, or none.

The turn log comes first, then the stages, at once, and the orchestrator as soon as it can be told where they
listen, while their models still warm up. Ready is when health of all four says SERVING.
"""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from aqaa.errors import SettingsError
from aqaa.stack import valkey
from aqaa.stack.children import Child, how_it_ended
from aqaa.stack.health import Listening, listening_of, until_serving
from aqaa.stack.plan import (
    HOST,
    STOP_ORDER,
    VALKEY,
    Command,
    Plan,
    orchestrator_command,
    stage_command,
)
from aqaa.stack.ports import free_port
from aqaa.stack.screen import Ready, Screen

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AFTER_DRAIN_SECONDS: Final = 5.0
"""Between the end of a drain and a kill."""
BROKEN_SECONDS: Final = 5.0
"""For each of the others when one has failed: their turns cannot be finished."""
CLEAN: Final = (0, -signal.SIGTERM)
"""How a part that was told to end may end; the signal itself when it came before the part could handle it."""


class PartFailed(Exception):
    """One part is to blame. ``tail``: its last lines."""

    def __init__(self, part: str, how: str, tail: Sequence[str] = ()) -> None:
        super().__init__(f"{part} {how}")
        self.tail = tuple(tail)


class Supervisor:
    """One run of the stack.

        status = await Supervisor(plan, screen).run()

    ``work``: begins when everything serves, and the stack ends with it. Without it only a signal or a failure
    ends the stack; they also end the work.
    """

    def __init__(
        self, plan: Plan, screen: Screen, work: Callable[[Ready], Awaitable[None]] | None = None
    ) -> None:
        self._plan = plan
        self._screen = screen
        self._work = work
        self.stopped_by: signal.Signals | None = None
        """The first signal that came."""
        self._children: dict[str, Child[Any]] = {}
        self._asked = asyncio.Event()
        self._stopping = False
        self._killed_by: signal.Signals | None = None
        self._failure: asyncio.Future[PartFailed] = asyncio.get_running_loop().create_future()
        self._lacks: dict[str, str] = {}
        self._watchers: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Until the work is done, a signal or a failure. The exit status: 0 when all has ended as it should.

        Raises:
            SettingsError: something that the plan needs is not there.
            Exception: of the work. Nothing runs any more.
        """
        with self._signals(), contextlib.ExitStack() as folders:
            serving = asyncio.create_task(self._serve(folders))
            asked = asyncio.create_task(self._asked.wait())
            try:
                await _first(serving, asked, self._failure)
            finally:
                asked.cancel()
                error = await _outcome(serving)
                failed = self._failure.result() if self._failure.done() else None
                clean = await self._stop(in_haste=failed is not None or error is not None)
        if failed is None and isinstance(error, PartFailed):
            failed = error
        if failed is not None:
            self._screen.failed(str(failed), failed.tail)
            return 1
        if error is not None:
            raise error
        if self._killed_by is not None:
            return 128 + self._killed_by
        return 0 if clean else 1

    async def _serve(self, folders: contextlib.ExitStack) -> None:
        try:
            async with asyncio.timeout(self._plan.ready_seconds):
                ready = await self._start(folders)
        except TimeoutError:
            part, lacks = next(iter(self._lacks.items()))
            tail = self._children[part].tail if part in self._children else ()
            how = f"is not ready after {self._plan.ready_seconds:g} s: {lacks}"
            raise PartFailed(part, how, tail) from None
        self._screen.ready(ready)
        if self._work is None:
            await asyncio.Event().wait()
        else:
            await self._work(ready)

    async def _start(self, folders: contextlib.ExitStack) -> Ready:
        plan = self._plan
        self._check_port()
        self._lacks[VALKEY] = "it takes no connections"
        redis_url = plan.redis_url
        if redis_url is None:
            redis_url = await self._embedded(folders.enter_context(valkey.data_folder(plan.data)))
        else:
            await valkey.check(redis_url)
        self._serves(VALKEY)
        stages = [await self._service(stage_command(plan, stage)) for stage in plan.stages]
        async with asyncio.TaskGroup() as waiting:
            for child in stages:
                waiting.create_task(self._until_serving(child))
            addresses = {child.part: (await child.said).address for child in stages}
            orchestrator = await self._service(orchestrator_command(plan, addresses, redis_url))
            waiting.create_task(self._until_serving(orchestrator))
        where = {child.part: child.said.result() for child in (orchestrator, *stages)}
        return Ready(
            {part: listening.address for part, listening in where.items()},
            {part: listening.metrics_address for part, listening in where.items()},
            {part: child.pid for part, child in self._children.items()},
            valkey.masked(redis_url),
        )

    def _check_port(self) -> None:
        """Long before the orchestrator would find out."""
        try:
            free_port(self._plan.port)
        except OSError as error:
            raise SettingsError(
                f"--port {self._plan.port} is taken ({error.strerror}); does another aqaa up run? "
                "--port 0 takes any free one"
            ) from error

    async def _service(self, command: Command) -> Child[Listening]:
        self._lacks[command.part] = "it has not said where it listens"
        child = await Child.start(command, hears=listening_of, on_line=self._screen.line)
        self._children[command.part] = child
        self._watch(child)
        return child

    async def _until_serving(self, child: Child[Listening]) -> None:
        address = (await child.said).address
        self._lacks[child.part] = f"it listens on {address}, and its health is not SERVING"
        await until_serving(address)
        self._serves(child.part)

    def _serves(self, part: str) -> None:
        del self._lacks[part]
        self._screen.serves(part)

    async def _embedded(self, folder: Path) -> str:
        """Starts Valkey, on another port if someone was faster; its URL."""
        server = valkey.program()
        for attempt in range(1, valkey.PORT_ATTEMPTS + 1):
            port = free_port()
            command = valkey.command(
                server, port, folder, self._plan.environ, keep=self._plan.data is not None
            )
            child = await Child.start(command, hears=valkey.ready_in, on_line=self._screen.line)
            self._children[VALKEY] = child
            await _first(child.said, child.ended)
            if child.said.done():
                self._watch(child)
                return f"redis://{HOST}:{port}"
            if not valkey.port_taken(child.tail) or attempt == valkey.PORT_ATTEMPTS:
                break
        raise PartFailed(VALKEY, f"{how_it_ended(await child.ended)} while it started", child.tail)

    def _watch(self, child: Child[Any]) -> None:
        task = asyncio.create_task(self._until_ended(child))
        self._watchers.add(task)
        task.add_done_callback(self._watchers.discard)

    async def _until_ended(self, child: Child[Any]) -> None:
        status = await child.ended
        if not self._stopping and not self._failure.done():
            when = "while it started" if child.part in self._lacks else "although nobody asked it to"
            self._failure.set_result(PartFailed(child.part, f"{how_it_ended(status)} {when}", child.tail))

    async def _stop(self, *, in_haste: bool) -> bool:
        """Whether every part ended as it should. Afterwards none runs."""
        self._stopping = True
        clean = True
        for parts in STOP_ORDER:
            children = [child for child in map(self._children.get, parts) if child is not None]
            clean &= all(await asyncio.gather(*(self._end(child, in_haste) for child in children)))
        return clean

    async def _end(self, child: Child[Any], in_haste: bool) -> bool:
        if not child.alive:
            await child.ended
            return True
        patience = self._plan.drain_seconds + AFTER_DRAIN_SECONDS
        seconds = min(patience, BROKEN_SECONDS) if in_haste else patience
        by_itself = await child.stop(seconds)
        status = await child.ended
        if not by_itself:
            self._screen.say(f"{child.part} has not ended within {seconds:g} s and was killed", "warning")
        elif status not in CLEAN and self._killed_by is None:
            self._screen.say(f"{child.part} {how_it_ended(status)} as it was stopped", "warning")
        return by_itself and status in CLEAN

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if not self._asked.is_set():
            self.stopped_by = number
            self._screen.say(f"{number.name}: stopping; once more kills")
            self._stopping = True
            self._asked.set()
            return
        self._killed_by = self._killed_by or number
        for child in self._children.values():
            if child.alive:
                child.kill()


async def _first(*futures: "asyncio.Future[Any]") -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _outcome(task: "asyncio.Task[None]") -> BaseException | None:
    """Cancels it if it still runs; the error it ended with, if any."""
    task.cancel()
    await asyncio.wait({task})
    return None if task.cancelled() else task.exception()

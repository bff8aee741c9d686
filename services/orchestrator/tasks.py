"""Tasks that belong together: an error ends them all, and none is left behind."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aqaa.telemetry.log import Log, traceback_of

T = TypeVar("T")

Work = Coroutine[Any, Any, None]


async def all_of(*work: Work) -> None:
    """Runs them together; returns when all are done. The first error ends the others and is raised itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


@asynccontextmanager
async def beside(*work: Work) -> AsyncIterator[None]:
    """Runs them while the body runs and ends them with it. An error of theirs ends the body and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
            yield
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


async def ended(*tasks: "asyncio.Task[Any]") -> None:
    """Cancels them, and returns when they have ended, whatever they raised."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@dataclass(frozen=True)
class _End:
    error: BaseException | None


class Outbox(Generic[T]):
    """What a task makes for one who takes it at his own pace: when it is full, whoever puts waits."""

    def __init__(self, size: int) -> None:
        self._queue: asyncio.Queue[T | _End] = asyncio.Queue(size)

    async def put(self, item: T) -> None:
        await self._queue.put(item)

    async def taken(self, work: Callable[["Outbox[T]"], Awaitable[None]]) -> AsyncGenerator[T, None]:
        """What ``work`` puts, until it ends; then raises what it raised. Who stops taking cancels it."""
        task = asyncio.create_task(self._run(work))
        try:
            while not isinstance(item := await self._queue.get(), _End):
                yield item
            if item.error is not None:
                raise item.error
        finally:
            await ended(task)

    async def _run(self, work: Callable[["Outbox[T]"], Awaitable[None]]) -> None:
        try:
            await work(self)
        except BaseException as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            await self._queue.put(_End(error))
        else:
            await self._queue.put(_End(None))


class Background:
    """Tasks that live as long as the service: one that fails is logged and begun again."""

    def __init__(self, log: Log, *, pause: float = 1.0) -> None:
        self._log = log
        self._pause = pause
        self._tasks: set[asyncio.Task[None]] = set()

    def forever(self, name: str, work: Callable[[], Work]) -> "asyncio.Task[None]":
        """``work`` until it returns; again whenever it raises."""

        async def run() -> None:
            while True:
                try:
                    await work()
                except Exception as error:
                    where = traceback_of(error, messages=False)
                    self._log.error("a background task has failed", key=name, traceback=where)
                    await asyncio.sleep(self._pause)
                else:
                    return

        return self._add(run(), name)

    def once(self, name: str, work: Work) -> "asyncio.Task[None]":
        """``work`` once; what it raises is logged."""

        async def run() -> None:
            try:
                await work
            except Exception as error:
                where = traceback_of(error, messages=False)
                self._log.error("a background task has failed", key=name, traceback=where)

        return self._add(run(), name)

    async def aclose(self) -> None:
        """Ends them all."""
        await ended(*self._tasks)

    def _add(self, work: Work, name: str) -> "asyncio.Task[None]":
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

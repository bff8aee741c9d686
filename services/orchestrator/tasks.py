"""Tasks that belong together: an error ends them all, and none is left behind."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aqaa.errors import Stalled
from aqaa.telemetry.log import Log, traceback_of

T = TypeVar("T")

Work = Coroutine[Any, Any, None]


# Not asyncio.TaskGroup: before Python 3.13 an error that reaches it while it waits for its tasks leaves the
# task that runs it marked as being cancelled, for good.


async def all_of(*work: Work) -> None:
    """Runs them together; returns when all are done. The first error ends the others and is raised itself."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        error = _error(*tasks)
    finally:
        await ended(*tasks)
    if error is not None:
        raise error


@asynccontextmanager
async def beside(*work: Work) -> AsyncIterator[None]:
    """Runs them while the body runs and ends them with it. An error of theirs ends the body and is raised."""
    body = asyncio.current_task()
    assert body is not None
    before, open_, interrupted = body.cancelling(), True, False

    def done(task: "asyncio.Task[None]") -> None:
        nonlocal interrupted
        if open_ and not interrupted and _error(task) is not None:
            interrupted = True
            body.cancel()

    tasks = [asyncio.create_task(one) for one in work]
    for task in tasks:
        task.add_done_callback(done)
    error: BaseException | None = None
    try:
        yield
    except asyncio.CancelledError:
        if not interrupted or body.cancelling() > before + 1:  # somebody else's, too
            raise
    except BaseException as raised:
        error = raised
    finally:
        open_ = False
        if interrupted:
            body.uncancel()
        error = (_error(*tasks) if error is None or interrupted else None) or error
        await ended(*tasks)
    if error is not None:
        raise error


async def ended(*tasks: "asyncio.Task[Any]") -> None:
    """Cancels them, and returns when they have ended, whatever they raised."""
    for task in tasks:
        task.cancel()
    cancelled: asyncio.CancelledError | None = None
    while running := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError as error:  # they have been told to end, and are waited for all the same
            cancelled = error
    _error(*tasks)
    if cancelled is not None:
        raise cancelled


def _error(*tasks: "asyncio.Task[Any]") -> BaseException | None:
    """What the first of them that failed has raised; of all of them it counts as noticed."""
    errors = [task.exception() for task in tasks if task.done() and not task.cancelled()]
    return next((error for error in errors if error is not None), None)


@dataclass(frozen=True)
class _End:
    error: BaseException | None


class Outbox(Generic[T]):
    """What a task makes for one who takes it at his own pace: when it is full, whoever puts waits.

    unread_seconds: after which the task ends with Stalled, if nothing of what is there was taken.
    """

    def __init__(self, size: int, unread_seconds: float) -> None:
        self._queue: asyncio.Queue[T | _End] = asyncio.Queue(size)
        self._unread_seconds = unread_seconds
        self._unread = False
        self._taken_at = 0.0
        self._waiting = 0
        self._waits = asyncio.Event()

    async def put(self, item: T) -> None:
        if not self._queue.full():
            self._queue.put_nowait(item)
            return
        self._waiting += 1
        self._waits.set()
        try:
            await self._queue.put(item)
        finally:
            self._waiting -= 1

    async def taken(self, work: Callable[["Outbox[T]"], Awaitable[None]]) -> AsyncGenerator[T, None]:
        """What ``work`` puts, until it ends; then raises what it raised. Who stops taking cancels it."""
        clock = asyncio.get_running_loop().time
        self._taken_at = clock()
        task = asyncio.create_task(self._run(work))
        try:
            while not isinstance(item := await self._queue.get(), _End):
                self._taken_at = clock()
                yield item
            if item.error is not None:
                raise item.error
        finally:
            await ended(task)

    async def _run(self, work: Callable[["Outbox[T]"], Awaitable[None]]) -> None:
        try:
            async with beside(self._watch()):
                await work(self)
        except BaseException as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            await self._end(error)
        else:
            await self._end(None)

    async def _end(self, error: BaseException | None) -> None:
        if self._unread:
            while not self._queue.empty():  # it can be had again, and nobody knows whether it will be
                self._queue.get_nowait()
        await self._queue.put(_End(error))

    async def _watch(self) -> None:
        """Returns never. Raises Stalled."""
        clock = asyncio.get_running_loop().time
        while True:
            while self._waiting:
                left = self._taken_at + self._unread_seconds - clock()
                if left <= 0:
                    self._unread = True
                    raise Stalled(
                        f"nothing was taken for {self._unread_seconds:g} s, Resume goes on from there"
                    )
                await asyncio.sleep(left)
            self._waits.clear()
            await self._waits.wait()


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

"""An answer as it comes: read, checked, taken up again where its call breaks."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final, Self

import numpy as np

from aqaa.client.calls import Backoff, Broken, Source, failure_of
from aqaa.client.delivery import Delivery, Position
from aqaa.client.events import (
    AnswerAudio,
    AnswerText,
    EndReason,
    Event,
    Int16,
    Manifest,
    QuestionCommitted,
    SegmentStarted,
    TurnOpened,
)
from aqaa.client.line import Line
from aqaa.errors import AqaaError, Cancelled, CapacityError, Deadline, Superseded, Unavailable
from aqaa.v1 import orchestrator_pb2

_END_SECONDS: Final = 2.0
"""From the manifest until the call has ended; after that nobody waits for it."""

_SILENCED: Final = (SegmentStarted, AnswerText, AnswerAudio)


class AnswerStream(AsyncIterator[Event]):
    """The events of one turn, to the manifest.

        async for event in client.ask(question):
            match event:
                case AnswerText(text=text):
                    print(text, end="", flush=True)
                case AnswerAudio(pcm=pcm):
                    player.play(pcm)

    or, for the sound alone, ``pcm = await client.ask(question).pcm()``. The call is made when the first event
    is asked for. Where it breaks it is taken up again, with the attempts and pauses of ``Patience``; nothing
    is given twice. A consumer that is cancelled while it waits, by ``asyncio.timeout`` for example, loses
    nothing. Whoever stops before the end calls ``aclose``, or uses the stream as a context manager.

    If this client resumes the same turn elsewhere, this stream ends without a word; ``superseded`` is true.

    Raises:
        DeliveryBroken: what came is not what was sent; the message says what is missing.
        Superseded: somebody else has taken the turn over.
        Deadline: the answer did not end within ``Patience.answer_seconds``.
        AqaaError: whatever the service raised; Unavailable or CapacityError once the attempts are used up.
            Metadata ``missing`` says from where on the answer is missing.
    """

    def __init__(
        self,
        line: Line,
        first: Callable[[float], Source] | None,
        *,
        start: Position | None = None,
        repeats: bool = False,
    ) -> None:
        """``first``: opens the call that begins the turn, within so many seconds; it is kept and made again
        until the question is committed, or always if it ``repeats``. None: the turn goes on from ``start``.
        """
        self._line = line
        self._first = first
        self._repeats = repeats
        self._delivery = Delivery(start)
        self._backoff = Backoff(line.patience, line.timing)
        self._until: float | None = None
        self._source: Source | None = None
        self._step: asyncio.Task[Event | None] | None = None
        self._pulling = False
        self._over = False
        self._error: AqaaError | None = None
        self._silenced = False
        self._named = asyncio.Event()
        self._chunks: list[Int16] = []
        self._texts: list[str] = []
        self.superseded = False
        """Whether a newer stream of this client has the turn."""
        line.open.add(self)
        if start is not None:
            self._named.set()
            if not repeats:
                line.claim(start.turn_id, self)

    @property
    def manifest(self) -> Manifest | None:
        """What the turn had; None until it has come."""
        return self._delivery.manifest

    @property
    def opened(self) -> TurnOpened | None:
        """What the turn is; None until it is let in."""
        return self._delivery.opened

    @property
    def position(self) -> Position:
        """How far the answer has been received: what ``resume`` goes on from."""
        return self._delivery.position

    @property
    def resumed(self) -> int:
        """How often the stream was taken up again."""
        return self._backoff.total

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return "".join(self._texts)

    async def pcm(self) -> Int16:
        """Reads to the end; (n,) int16, all sound that this stream gave, from its first sample on.

        Raises:
            Superseded: a newer stream has the rest.
            AqaaError: as iterating does.
        """
        async for _ in self:
            pass
        if self.superseded:
            raise Superseded(f"turn {self.position.turn_id} goes on in a newer stream of this client")
        if self.manifest is None:
            raise self._delivery.unfinished()
        return np.concatenate([np.empty(0, np.int16), *self._chunks])

    async def cancel(self, played_samples: int | None = None) -> EndReason:
        """Stops the turn; gives how it ended, which may be what came before. Of the answer nothing is given
        any more, only the manifest. ``played_samples``: what the listener has heard, if known: that is what
        later turns of the session know of it.

        Raises:
            AqaaError: as iterating does.
        """
        self._silenced = True
        await self._until_named()
        position = self.position
        return await self._line.cancel(position.session_id, position.turn_id, played_samples)

    async def aclose(self) -> None:
        """Stops reading. The turn goes on; ``position`` says where to take it up."""
        self._over = True
        self._named.set()
        if (step := self._step) is not None:
            step.cancel()
            with suppress(asyncio.CancelledError, AqaaError):
                await step
            self._step = None
        self._let_go()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._pulling:
            raise RuntimeError("an answer has one consumer: another one waits for its next event")
        self._pulling = True
        try:
            while (event := await self._pull()) is not None:
                if self._silenced and isinstance(event, _SILENCED):
                    continue
                if isinstance(event, AnswerAudio):
                    self._chunks.append(event.pcm)
                elif isinstance(event, AnswerText):
                    self._texts.append(event.text)
                return event
        finally:
            self._pulling = False
        raise StopAsyncIteration

    async def _pull(self) -> Event | None:
        """One step. It goes on if its consumer is cancelled, and what it brings is there the next time."""
        if self._error is not None:
            raise self._error
        step = self._begin_step()
        if step is None:
            return None
        try:
            event = await asyncio.shield(step)
        except asyncio.CancelledError:
            if self._over and step.cancelled():  # closed meanwhile
                return None
            raise
        except AqaaError as error:
            self._step, self._error = None, error
            raise
        self._step = None
        return event

    def _begin_step(self) -> "asyncio.Task[Event | None] | None":
        if self._step is None and not self._over and self._error is None:
            self._step = asyncio.ensure_future(self._next())
        return self._step

    async def _until_named(self) -> None:
        self._begin_step()
        try:
            async with asyncio.timeout(self._line.patience.call_seconds):
                await self._named.wait()
        except TimeoutError:
            raise Deadline("the turn is not open yet, it cannot be cancelled", stage="client") from None
        if self._over and not self.position.turn_id:
            raise self._error or Cancelled("the stream ended before its turn was opened")

    async def _next(self) -> Event | None:
        try:
            return await self._next_or_raise()
        except AqaaError as error:
            self._over = True
            self._let_go()
            self._named.set()
            if self.position.turn_id:
                error.metadata.setdefault("missing", self._delivery.unfinished().metadata["missing"])
            raise

    async def _next_or_raise(self) -> Event | None:
        if self._until is None:
            self._until = self._deadline()
        while not self._over:
            if self.manifest is not None:
                await self._finish(self.manifest)
                break
            if not self._repeats and not self._line.reads(self.position.turn_id, self):
                self._leave()
                return None
            try:
                if self._source is None:
                    self._source = self._connect()
                message = await self._read(self._source)
                if message is None:
                    raise Broken(self._delivery.unfinished(), mendable=True)
                if message.WhichOneof("event") == "failed":
                    raise failure_of(message.failed)
            except Broken as broken:
                self._let_go()
                if isinstance(broken.error, Superseded) and not self._line.reads(self.position.turn_id, self):
                    self._leave()
                    return None
                if broken.spoken and self.opened and isinstance(broken.error, CapacityError):
                    broken.mendable = False  # of a turn that was let in this is the end
                await self._backoff.pause(broken, self._until)
                continue
            event = self._delivery.take(message)
            if event is not None:
                self._note(event)
                return event
        self._over = True
        return None

    def _note(self, event: Event) -> None:
        """What the event means for the calls to come."""
        if isinstance(event, TurnOpened):
            self._named.set()
            if not self._repeats:
                self._line.claim(event.turn_id, self)
            return
        self._backoff.progress()
        if isinstance(event, QuestionCommitted) and not self._repeats:
            self._first = None  # and the question's sound with it

    def _connect(self) -> Source:
        """The next call: the first one again, or one that goes on."""
        seconds = self._seconds_left()
        if self._first is not None:
            return self._first(seconds)
        return self._line.resume(self.position, seconds)

    async def _read(self, source: Source) -> orchestrator_pb2.TurnEvent | None:
        idle = self._line.patience.idle_seconds
        while True:
            left = self._seconds_left()
            try:
                async with asyncio.timeout(min(left, idle)):
                    return await source.next()
            except TimeoutError:
                self._seconds_left()
                if left < idle:
                    raise self._late() from None
                if not self._may_rest():
                    late = Unavailable(f"no event for {idle:g} s", stage="orchestrator")
                    raise Broken(late, mendable=True) from None

    async def _finish(self, manifest: Manifest) -> None:
        """The call's end. After a failure it says why."""
        failed = manifest.reason is EndReason.FAILED
        source, error = self._source, None
        if source is not None and (source.own_call or failed):
            try:
                async with asyncio.timeout(_END_SECONDS):
                    last = await source.next()
                if last is not None and last.WhichOneof("event") == "failed":
                    error = failure_of(last.failed).error
            except Broken as broken:
                error = broken.error
            except TimeoutError:
                pass
        self._let_go()
        if failed:
            raise error or AqaaError(f"turn {self.position.turn_id} could not be completed")

    def _leave(self) -> None:
        self.superseded = self._over = True
        self._let_go()

    def _let_go(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None

    def _deadline(self) -> float | None:
        return self._line.timing.clock() + self._line.patience.answer_seconds

    def _seconds_left(self) -> float:
        if self._until is None:  # the question is still being spoken
            return math.inf
        left = self._until - self._line.timing.clock()
        if left <= 0:
            raise self._late()
        return left

    def _late(self) -> Deadline:
        seconds = self._line.patience.answer_seconds
        return Deadline(f"the answer did not end within {seconds:g} s", stage="client")

    def _may_rest(self) -> bool:
        """Whether no event is due although none has come for long."""
        return False

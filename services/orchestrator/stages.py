"""The services that compute, as the orchestrator calls them: typed errors, deadlines, what they hold."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar, cast

import grpc
import grpc.aio

from aqaa.errors import AqaaError, Cancelled, CapacityError, Draining, Stalled, StateError, Unavailable
from aqaa.rpc.caller import call_metadata
from aqaa.rpc.channel import ChannelSettings, open_channel
from aqaa.rpc.status import typed_errors
from aqaa.telemetry.tracing import UNRECORDED, traceparent_of
from aqaa.turnlog import Bell, Clock
from aqaa.v1 import backbone_pb2, backbone_pb2_grpc, tokenizer_pb2_grpc, vocoder_pb2, vocoder_pb2_grpc
from services.orchestrator.config import OrchestratorSettings
from services.orchestrator.tasks import ended

TOKENIZER, LLM, VOCODER = "tokenizer", "llm", "vocoder"

_HUNG = "silent_seconds"
"""Metadata of the error of a stage that says nothing although it is its turn."""

_DETAILS = "grpc-status-details-bin"
"""Where a status has what our services say of it."""

Request = TypeVar("Request")
Response = TypeVar("Response")


@dataclass(frozen=True)
class Facts:
    """What a turn that is opened now is answered with.

    chunk_groups    where its sound is cut, as TurnSpec says it
    context_groups  that must be known behind a cut
    """

    bundle_digest: str
    sample_rate_hz: int
    chunk_groups: tuple[int, ...]
    context_groups: int


class Attempts:
    """How often one turn takes up its call to one stage again.

    attempts = Attempts(shared.settings, shared.clock, VOCODER)
    while not done:
        try:
            await call_the_stage()
        except AqaaError as error:
            await attempts.again(error, progress=moved)
    """

    def __init__(self, settings: OrchestratorSettings, clock: Clock, stage: str) -> None:
        self._settings = settings
        self._clock = clock
        self._stage = stage
        self._failed, self._hung = 0, 0

    async def again(self, error: AqaaError, *, progress: bool) -> None:
        """Returns when it is time for the next attempt. Raises ``error`` if there shall be none.

        progress: whether the attempt that failed brought anything. Without it the last of ``stage_attempts``
        is final, and so is the second that hung.
        """
        settings = self._settings
        if progress:
            self._failed, self._hung = 0, 0
        self._failed += 1
        self._hung += _HUNG in error.metadata
        passing = isinstance(error, Unavailable | Draining | CapacityError | Stalled)
        mine = error.metadata.get("stage") == self._stage
        if not (passing and mine) or self._failed >= settings.stage_attempts or self._hung > 1:
            raise error
        await self._clock.sleep(settings.retry_seconds * 2 ** (self._failed - 1))


class StageCall(Generic[Request, Response]):
    """One stream to a stage. Whatever it does raises what the stage raised.

    It reads on by itself, at most two responses ahead of who takes them.
    """

    def __init__(
        self, call: "grpc.aio.StreamStreamCall[Request, Response]", stage: str, seconds: float, clock: Clock
    ) -> None:
        self._call = call
        self._stage = stage
        self._seconds = seconds
        self._clock = clock
        self._reader: asyncio.Task[None] | None = None
        self._ahead: deque[Response] = deque()
        self._news = Bell()
        self._room = asyncio.Event()
        self._asked = False  # for the response that is due next
        self._stuck = False
        self._owing = False
        self._since = clock.now()

    def owes(self, something: bool = True) -> None:
        """Whether it is the stage's turn to say something: then ``receive`` does not wait for ever."""
        if something and not self._owing:
            self._since = self._clock.now()
        self._owing = something

    async def send(self, request: Request) -> None:
        """Raises Unavailable if the stage takes nothing for ``stage_seconds``: then the call is over, too."""
        task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        timer = asyncio.get_running_loop().call_later(self._seconds, self._give_up, task)
        try:
            await self._call.write(request)
            return
        except asyncio.CancelledError:
            if self._stuck and task.uncancel() <= before:
                raise self._hung() from None
            raise
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        finally:
            timer.cancel()
        if await self._call.code() is not grpc.StatusCode.OK:
            with self._typed():
                raise await self._status() from None
        await asyncio.Event().wait()  # the call is over, and whoever reads it knows

    def _give_up(self, sender: "asyncio.Task[Any]") -> None:
        """As asyncio.timeout would, which costs more than the message."""
        self._stuck = True
        sender.cancel()

    async def close(self) -> None:
        """Says that no more requests come."""
        try:
            with self._typed():
                await self._call.done_writing()
        except asyncio.InvalidStateError:
            pass

    async def receive(self, within: float | None = None) -> Response | None:
        """The next response, or None behind the last one.

        Raises TimeoutError after ``within`` seconds: ask again for the same one. Raises Unavailable when
        the stage has owed it for ``stage_seconds``.
        """
        now = self._clock.now()
        if not self._asked:
            self._asked, self._since = True, now  # whoever was slow before was not the stage
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        ends = None if within is None else now + within
        while not self._ahead:
            if self._reader.done():
                if self._stuck:
                    raise self._hung()
                return self._reader.result()
            patience = self._seconds - (now - self._since if self._owing else 0.0)
            if patience <= 0:
                raise self._hung()
            if ends is not None and now >= ends:
                raise TimeoutError
            await self._news.heard(patience if ends is None else min(patience, ends - now))
            now = self._clock.now()
        self._asked = False
        self._room.set()
        return self._ahead.popleft()

    async def _status(self) -> grpc.aio.AioRpcError:
        call = self._call
        return grpc.aio.AioRpcError(
            await call.code(),
            await call.initial_metadata(),
            await call.trailing_metadata(),
            await call.details(),
        )

    def _hung(self) -> Unavailable:
        silent = f"{self._seconds:g}"
        return Unavailable(
            f"the {self._stage} has been silent for {silent} s", stage=self._stage, **{_HUNG: silent}
        )

    async def _read(self) -> None:
        try:
            with self._typed():
                while (response := await self._call.read()) is not grpc.aio.EOF:
                    self._ahead.append(cast(Response, response))
                    self._news.ring()
                    while len(self._ahead) > 1:
                        self._room.clear()
                        await self._room.wait()
        finally:
            self._news.ring()

    @contextmanager
    def _typed(self) -> Iterator[None]:
        """As ``typed_errors``; and what only gRPC says of a call that was cut is passing.

        A request that meets the end of its call makes it "Internal error from Core", whatever it ended with.
        """
        try:
            with typed_errors(self._stage):
                yield
        except AqaaError as error:
            cause = error.__cause__
            cut = isinstance(cause, grpc.aio.AioRpcError) and not any(
                key == _DETAILS for key, _ in cause.trailing_metadata() or ()
            )
            if cut and type(error) in (AqaaError, Cancelled):
                raise Unavailable(f"the {self._stage} was cut off", stage=self._stage) from cause
            raise

    async def aclose(self) -> None:
        try:
            if self._reader is not None:
                await ended(self._reader)
        finally:
            self._call.cancel()


class Stages:
    """Channels to the three services.

    async with Stages(settings, clock) as stages:
        facts = await stages.probe()
        async with stages.calling(stages.vocoder.StreamSynthesize, VOCODER) as call:
            ...
    """

    def __init__(self, settings: OrchestratorSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        wire = ChannelSettings(max_message_bytes=settings.max_message_bytes)
        self._channels = {
            TOKENIZER: open_channel(settings.tokenizer, wire),
            LLM: open_channel(settings.llm, wire),
            VOCODER: open_channel(settings.vocoder, wire),
        }
        self.tokenizer = tokenizer_pb2_grpc.TokenizerServiceStub(self._channels[TOKENIZER])
        self.llm = backbone_pb2_grpc.BackboneServiceStub(self._channels[LLM])
        self.vocoder = vocoder_pb2_grpc.VocoderServiceStub(self._channels[VOCODER])
        self.known: Facts | None = None
        """``facts``, or None before them."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels.values():
            await channel.close()

    @property
    def facts(self) -> Facts:
        """As of the last probe. Raises Unavailable before the first that succeeded."""
        if self.known is None:
            raise Unavailable("the stages have not answered yet, try again", stage="orchestrator")
        return self.known

    @asynccontextmanager
    async def calling(
        self,
        method: "grpc.aio.StreamStreamMultiCallable[Request, Response]",
        stage: str,
        ends: float | None = None,
    ) -> AsyncIterator[StageCall[Request, Response]]:
        """A stream to a stage, cancelled at the end of the body if it is not over.

        ends: when nobody needs it any more, by the clock; at the latest it ends after ``turn_seconds``.
        """
        seconds = self._settings.turn_seconds
        if ends is not None:
            seconds = max(0.0, min(seconds, ends - self._clock.now()))
        call = method(timeout=seconds, metadata=_metadata())
        made = StageCall(call, stage, self._settings.stage_seconds, self._clock)
        try:
            yield made
        finally:
            await made.aclose()

    async def capacity(self) -> backbone_pb2.GetCapacityResponse:
        """Of one llm replica. Raises Unavailable."""
        with typed_errors(LLM):
            return await self.llm.GetCapacity(
                backbone_pb2.GetCapacityRequest(),
                timeout=self._settings.stage_seconds,
                metadata=_metadata(),
            )

    async def probe(self) -> Facts:
        """Asks the vocoder and the llm which bundle they hold.

        Raises Unavailable, or StateError if they hold different ones.
        """
        async with self.calling(self.vocoder.StreamSynthesize, VOCODER) as call:
            await call.send(vocoder_pb2.StreamSynthesizeRequest(open=vocoder_pb2.OpenSynthesis()))
            await call.close()
            call.owes()
            response = await call.receive()
        if response is None or not response.HasField("opened"):
            raise Unavailable("the vocoder did not say what it holds", stage=VOCODER)
        opened = response.opened
        llm = (await self.capacity()).bundle_digest
        if llm != opened.bundle_digest:
            raise StateError(f"the llm holds bundle {llm}, the vocoder {opened.bundle_digest}", stage=LLM)
        if not opened.chunk_groups:
            raise StateError("the vocoder did not say where it cuts its sound", stage=VOCODER)
        self.known = Facts(
            opened.bundle_digest, opened.sample_rate_hz, tuple(opened.chunk_groups), opened.context_groups
        )
        return self.known


def _metadata() -> tuple[tuple[str, str], ...]:
    """Of a call on behalf of the current span; who only looks what there is begins no trace with it."""
    return call_metadata(traceparent=traceparent_of() or UNRECORDED)

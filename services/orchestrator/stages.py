"""The services that compute, as the orchestrator calls them: typed errors, deadlines, what they hold."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Generic, Self, TypeVar, cast

import grpc
import grpc.aio

from aqaa.errors import AqaaError, Cancelled, CapacityError, Draining, Stalled, StateError, Unavailable
from aqaa.rpc.caller import call_metadata
from aqaa.rpc.channel import ChannelSettings, open_channel
from aqaa.rpc.status import typed_errors
from aqaa.telemetry.tracing import traceparent_of
from aqaa.turnlog import Clock
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
    """One stream to a stage. Whatever it does raises what the stage raised."""

    def __init__(
        self, call: "grpc.aio.StreamStreamCall[Request, Response]", stage: str, seconds: float, clock: Clock
    ) -> None:
        self._call = call
        self._stage = stage
        self._seconds = seconds
        self._clock = clock
        self._reading: asyncio.Task[Response | None] | None = None
        self._owing = False
        self._since = clock.now()

    def owes(self, something: bool = True) -> None:
        """Whether it is the stage's turn to say something: then ``receive`` does not wait for ever."""
        if something and not self._owing:
            self._since = self._clock.now()
        self._owing = something

    async def send(self, request: Request) -> None:
        """Raises Unavailable if the stage takes nothing for ``stage_seconds``."""
        try:
            async with asyncio.timeout(self._seconds):
                await self._call.write(request)
        except TimeoutError:
            raise self._hung() from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            if await self._call.code() is not grpc.StatusCode.OK:
                with self._typed():
                    raise await self._status() from None
            await asyncio.Event().wait()  # the call is over, and whoever reads it knows

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
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
            self._since = now  # whoever was slow before was not the stage
        ends = None if within is None else now + within
        while not self._reading.done():
            patience = self._seconds - (now - self._since if self._owing else 0.0)
            if patience <= 0:
                raise self._hung()
            if ends is not None and now >= ends:
                raise TimeoutError
            left = patience if ends is None else min(patience, ends - now)
            await asyncio.wait({self._reading}, timeout=left)
            now = self._clock.now()
        reading, self._reading = self._reading, None
        return reading.result()

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

    async def _read(self) -> Response | None:
        with self._typed():
            response = await self._call.read()
        if response is grpc.aio.EOF:
            return None
        return cast(Response, response)

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
            if self._reading is not None:
                await ended(self._reading)
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
        self._facts: Facts | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels.values():
            await channel.close()

    @property
    def facts(self) -> Facts:
        """As of the last probe. Raises Unavailable before the first that succeeded."""
        if self._facts is None:
            raise Unavailable("the stages have not answered yet, try again", stage="orchestrator")
        return self._facts

    @asynccontextmanager
    async def calling(
        self, method: "grpc.aio.StreamStreamMultiCallable[Request, Response]", stage: str
    ) -> AsyncIterator[StageCall[Request, Response]]:
        """A stream to a stage, cancelled at the end of the body if it is not over."""
        metadata = call_metadata(traceparent=traceparent_of())
        call = method(timeout=self._settings.turn_seconds, metadata=metadata)
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
                metadata=call_metadata(),
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
        self._facts = Facts(
            opened.bundle_digest, opened.sample_rate_hz, tuple(opened.chunk_groups), opened.context_groups
        )
        return self._facts

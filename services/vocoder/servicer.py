"""The gRPC surface of the vocoder service: checks what comes, hands it on, writes what is made."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

from aqaa.audio.pcm import to_s16le
from aqaa.errors import Deadline
from aqaa.v1 import tokens_pb2, vocoder_pb2, vocoder_pb2_grpc
from services.vocoder.engine import Sound, Speaking, VocoderEngine
from services.vocoder.requests import Turn, fault

_GROUPS = 512  # of a step that a whole segment is cut into


class VocoderServicer(vocoder_pb2_grpc.VocoderServiceServicer):
    """Gives every call a ``Speaking`` of its own; nothing else changes with a request."""

    def __init__(self, engine: VocoderEngine, *, max_segment_groups: int, idle_seconds: float) -> None:
        self._engine = engine
        self._max_groups, self._idle_seconds = max_segment_groups, idle_seconds

    async def StreamSynthesize(  # noqa: N802 - gRPC's name
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[vocoder_pb2.StreamSynthesizeResponse]:
        """Sound, tile by tile."""
        async with aclosing(self._synthesize(request_iterator)) as responses:
            async for response in responses:
                yield response

    async def Synthesize(  # noqa: N802 - gRPC's name
        self, request: vocoder_pb2.SynthesizeRequest, context: Any
    ) -> AsyncIterator[vocoder_pb2.SynthesizeResponse]:
        """The sound of a stream with this one segment."""
        if request.groups.first_group:
            raise fault("groups.first_group", f"{request.groups.first_group}, expected 0: all groups")
        rate = self._engine.vocoder.sample_rate
        async with aclosing(self._synthesize(_steps(request))) as responses:
            async for response in responses:
                if response.WhichOneof("event") == "audio":
                    yield vocoder_pb2.SynthesizeResponse(sample_rate_hz=rate, audio=response.audio)

    async def _synthesize(
        self, requests: AsyncIterator[vocoder_pb2.StreamSynthesizeRequest]
    ) -> AsyncGenerator[vocoder_pb2.StreamSynthesizeResponse, None]:
        vocoder = self._engine.vocoder
        opening = await self._next(requests)
        if opening is None or opening.WhichOneof("step") != "open":
            raise fault("open", "expected in the first request")
        turn = Turn.opened(opening.open, vocoder, self._max_groups)
        async with self._engine.speaking() as speaking:
            yield vocoder_pb2.StreamSynthesizeResponse(
                opened=vocoder_pb2.SynthesisOpened(
                    sample_rate_hz=vocoder.sample_rate,
                    bundle_digest=vocoder.digest,
                    chunk_groups=vocoder.plan.schedule,
                    context_groups=vocoder.plan.right,
                )
            )
            reading = asyncio.create_task(self._read(requests, turn, speaking))
            try:
                async for made in speaking:
                    if isinstance(made, Sound):
                        yield vocoder_pb2.StreamSynthesizeResponse(audio=_audio(made))
                    else:
                        done = vocoder_pb2.SegmentSynthesized(segment=made.segment, samples=made.samples)
                        yield vocoder_pb2.StreamSynthesizeResponse(segment_done=done)
            finally:
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading

    async def _read(
        self,
        requests: AsyncIterator[vocoder_pb2.StreamSynthesizeRequest],
        turn: Turn,
        speaking: Speaking,
    ) -> None:
        """Gives all that comes to ``speaking``, and what is wrong with it."""
        try:
            while (request := await self._next(requests)) is not None:
                await speaking.give(*turn.step(request))
            await speaking.give(turn.close())
        except Exception as error:
            speaking.fail(error)

    async def _next(self, requests: AsyncIterator[Any]) -> Any:
        """The next request, None at the end. Raises Deadline for one that does not come."""
        try:
            async with asyncio.timeout(self._idle_seconds):
                return await anext(requests, None)
        except TimeoutError:
            raise Deadline(
                f"nothing has come for {self._idle_seconds:g} s, expected groups or the end", stage="vocoder"
            ) from None


async def _steps(
    request: vocoder_pb2.SynthesizeRequest,
) -> AsyncIterator[vocoder_pb2.StreamSynthesizeRequest]:
    step, given = vocoder_pb2.StreamSynthesizeRequest, request.groups
    yield step(open=request.open)
    yield step(segment=vocoder_pb2.SynthesisSegment(segment=request.segment))
    count = -(-len(given.linguistic) // 2)
    if len(given.semantic) != 3 * count:  # to be refused as a whole, not in its last part
        yield step(groups=given)
    for first in range(0, count, _GROUPS):
        last = first + _GROUPS
        part = tokens_pb2.AudioGroups(
            first_group=first,
            linguistic=given.linguistic[2 * first : 2 * last],
            semantic=given.semantic[3 * first : 3 * last],
        )
        yield step(groups=part)
    yield step(segment_end=vocoder_pb2.SynthesisSegmentEnd(groups=count))


def _audio(sound: Sound) -> vocoder_pb2.SynthesizedAudio:
    chunk = sound.chunk
    return vocoder_pb2.SynthesizedAudio(
        segment=sound.segment,
        first_sample=chunk.start,
        pcm=to_s16le(chunk.pcm),
        restart=chunk.before.to_bytes(),
        groups_needed=chunk.needs,
    )

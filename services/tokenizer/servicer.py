"""The gRPC surface of the tokenizer service: checks what comes, hands it on, writes what is made."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any, Final

import numpy as np

from aqaa.audio.pcm import SAMPLE_BYTES, Encoding
from aqaa.engine.tokenizer import Groups, Level
from aqaa.errors import AqaaError, BundleChanged, Deadline, FieldFault, InvalidAudio, InvalidRequest
from aqaa.v1 import audio_pb2, tokenizer_pb2, tokenizer_pb2_grpc, tokens_pb2
from services.tokenizer.engine import Format, Hearing, TokenizerEngine

_ENCODINGS: Final[dict[int, Encoding]] = {
    audio_pb2.AUDIO_ENCODING_PCM_S16LE: "s16le",
    audio_pb2.AUDIO_ENCODING_PCM_F32LE: "f32le",
}
_LEVELS: Final[dict[int, Level]] = {
    tokenizer_pb2.LEVEL_MODE_UNSPECIFIED: "normalised",
    tokenizer_pb2.LEVEL_MODE_NORMALISED: "normalised",
    tokenizer_pb2.LEVEL_MODE_KEPT: "kept",
}
_RATES = (8000, 48000)
_PIECE_BYTES = 2**20
_WHOLE_BYTES = 4 * 2**20


class TokenizerServicer(tokenizer_pb2_grpc.TokenizerServiceServicer):
    """Gives every call a ``Hearing`` of its own; nothing else changes with a request."""

    def __init__(
        self, engine: TokenizerEngine, *, digest: str, max_seconds: float, idle_seconds: float
    ) -> None:
        """``digest``: of the bundle. ``max_seconds``: of a signal."""
        self._engine, self._digest = engine, digest
        self._max_seconds, self._idle_seconds = max_seconds, idle_seconds

    async def StreamTokenize(  # noqa: N802 - gRPC's name
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[tokenizer_pb2.StreamTokenizeResponse]:
        """Groups as soon as they are decided."""
        async with aclosing(self._tokenize(request_iterator)) as responses:
            async for response in responses:
                yield response

    async def Tokenize(  # noqa: N802 - gRPC's name
        self, request: tokenizer_pb2.TokenizeRequest, context: Any
    ) -> tokenizer_pb2.TokenizeResponse:
        """All of a stream's groups."""
        if len(request.pcm) > _WHOLE_BYTES:
            raise _fault("pcm", f"{len(request.pcm)} bytes, expected at most {_WHOLE_BYTES}")
        made = tokenizer_pb2.TokenizeResponse()
        async with aclosing(self._tokenize(_steps(request))) as responses:
            async for response in responses:
                made.groups.linguistic.extend(response.groups.linguistic)
                made.groups.semantic.extend(response.groups.semantic)
                made.seconds = response.seconds
        return made

    async def _tokenize(
        self, requests: AsyncIterator[tokenizer_pb2.StreamTokenizeRequest]
    ) -> AsyncGenerator[tokenizer_pb2.StreamTokenizeResponse, None]:
        opening = await self._next(requests)
        if opening is None or opening.WhichOneof("step") != "open":
            raise _fault("open", "expected in the first request")
        form = self._format(opening.open)
        count = 0
        async with self._engine.hearing(form) as hearing:
            signal = _Signal(form, self._max_seconds)
            reading = asyncio.create_task(self._read(requests, signal, hearing))
            try:
                async for groups in hearing:
                    yield tokenizer_pb2.StreamTokenizeResponse(
                        groups=_message(groups, count), seconds=signal.seconds
                    )
                    count += len(groups)
            finally:
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading
        nothing = tokens_pb2.AudioGroups(first_group=count)
        yield tokenizer_pb2.StreamTokenizeResponse(groups=nothing, seconds=signal.seconds, end=True)

    async def _read(
        self,
        requests: AsyncIterator[tokenizer_pb2.StreamTokenizeRequest],
        signal: "_Signal",
        hearing: Hearing,
    ) -> None:
        """Gives all that comes to ``hearing``, and what is wrong with it."""
        try:
            while (request := await self._next(requests)) is not None:
                if request.WhichOneof("step") != "audio":
                    raise _fault(
                        request.WhichOneof("step") or "step", "expected audio after the first request"
                    )
                seconds = signal.take(request.audio)
                if request.audio.pcm:
                    await hearing.give(request.audio.pcm, seconds)
            signal.end()
            await hearing.give(None)
        except Exception as error:
            hearing.fail(error)

    async def _next(self, requests: AsyncIterator[Any]) -> Any:
        """The next request, None at the end. Raises Deadline for one that does not come."""
        try:
            async with asyncio.timeout(self._idle_seconds):
                return await anext(requests, None)
        except TimeoutError:
            raise Deadline(
                f"nothing has come for {self._idle_seconds:g} s, expected sound or its end", stage="tokenizer"
            ) from None

    def _format(self, opened: tokenizer_pb2.OpenTokenize) -> Format:
        given, faults = opened.format, []
        if given.encoding not in _ENCODINGS:
            faults.append(
                FieldFault("open.format.encoding", f"{given.encoding}, expected PCM S16LE or F32LE")
            )
        if not _RATES[0] <= given.sample_rate_hz <= _RATES[1]:
            faults.append(
                FieldFault(
                    "open.format.sample_rate_hz",
                    f"{given.sample_rate_hz}, expected {_RATES[0]} to {_RATES[1]}",
                )
            )
        if given.channels not in (1, 2):
            faults.append(FieldFault("open.format.channels", f"{given.channels}, expected 1 or 2"))
        if opened.level not in _LEVELS:
            faults.append(FieldFault("open.level", f"{opened.level}, expected a LevelMode"))
        if faults:
            raise InvalidRequest(faults=faults)
        if opened.bundle_digest not in ("", self._digest):
            raise BundleChanged(
                f"open.bundle_digest is {opened.bundle_digest[:64]}, this replica holds {self._digest}"
            )
        return Format(_ENCODINGS[given.encoding], given.sample_rate_hz, given.channels, _LEVELS[opened.level])


class _Signal:
    """What has come of a signal, checked piece by piece."""

    def __init__(self, form: Format, max_seconds: float) -> None:
        self._frame_bytes = SAMPLE_BYTES[form.encoding] * form.channels
        self._rate, self._max_seconds = form.sample_rate, max_seconds
        self._bytes = 0

    @property
    def seconds(self) -> float:
        return self._bytes / self._frame_bytes / self._rate

    def take(self, audio: audio_pb2.QuestionAudio) -> float:
        """Seconds of this piece. Raises InvalidRequest, InvalidAudio."""
        size = len(audio.pcm)
        if audio.first_byte != self._bytes:
            raise _fault("audio.first_byte", f"{audio.first_byte}, expected {self._bytes}")
        if size % self._frame_bytes:
            raise _fault("audio.pcm", f"{size} bytes, expected a multiple of {self._frame_bytes}")
        if size > _PIECE_BYTES:
            raise _fault("audio.pcm", f"{size} bytes, expected at most {_PIECE_BYTES}")
        self._bytes += size
        if self.seconds > self._max_seconds:
            raise InvalidAudio(
                f"{self.seconds:.2f} s of sound so far, expected at most {self._max_seconds:g} s"
            )
        return size / self._frame_bytes / self._rate

    def end(self) -> None:
        """Raises InvalidAudio if there was no sound at all."""
        if not self._bytes:
            raise InvalidAudio("the signal has no samples, expected sound")


async def _steps(
    request: tokenizer_pb2.TokenizeRequest,
) -> AsyncIterator[tokenizer_pb2.StreamTokenizeRequest]:
    yield tokenizer_pb2.StreamTokenizeRequest(open=request.open)
    size = _PIECE_BYTES // 8 * 8  # whole samples in every format
    for first in range(0, len(request.pcm), size):
        piece = audio_pb2.QuestionAudio(first_byte=first, pcm=request.pcm[first : first + size])
        yield tokenizer_pb2.StreamTokenizeRequest(audio=piece)


def _message(groups: Groups, first: int) -> tokens_pb2.AudioGroups:
    linguistic, semantic = np.split(groups, [2], axis=1)
    return tokens_pb2.AudioGroups(
        first_group=first,
        linguistic=linguistic.reshape(-1).tolist(),
        semantic=semantic.reshape(-1).tolist(),
    )


def _fault(field: str, fault: str) -> AqaaError:
    return InvalidRequest(faults=[FieldFault(field, fault)])

"""A question on its way into the log: PCM to the tokenizer, groups to the query, while the caller speaks."""

import asyncio

from aqaa.errors import AqaaError, Deadline, InvalidAudio, InvalidRequest, LogDiverged, Unavailable
from aqaa.turnlog import Appender
from aqaa.v1.audio_pb2 import AudioFormat, QuestionAudio
from aqaa.v1.tokenizer_pb2 import (
    LevelMode,
    OpenTokenize,
    StreamTokenizeRequest,
    StreamTokenizeResponse,
)
from aqaa.v1.turnlog_pb2 import QueryEnd, QueryRecord
from services.orchestrator import groups as groups_of
from services.orchestrator.doors import MAX_PIECE_BYTES, frame_bytes, question_bytes
from services.orchestrator.shared import Shared
from services.orchestrator.stages import TOKENIZER, Attempts, StageCall
from services.orchestrator.tasks import beside

LEAD_SECONDS = 0.02
"""What the first message to the tokenizer holds beyond a hop: a resampler keeps so much to itself."""

Call = StageCall[StreamTokenizeRequest, StreamTokenizeResponse]


class Question:
    """Takes pieces as they come, whoever waits for whom.

    question = Question(shared, audio_format, ends)
    question.add(pcm)
    question.commit()
    groups = await question.into(pen, bundle_digest)

    The sound stays here until it is safe in the log as groups: a tokenizer that fails is given it again.
    ``ends``: when its caller waits no longer, by the clock.
    """

    def __init__(self, shared: Shared, audio_format: AudioFormat, ends: float | None = None) -> None:
        self._shared = shared
        self._format = audio_format
        self._ends = ends
        self._pcm = bytearray()
        self._most = question_bytes(audio_format, shared.settings.question_seconds)
        self._begun: float | None = None
        self._groups = 0
        self._whole = False
        self._error: AqaaError | None = None
        self._news = asyncio.Event()

    @property
    def received(self) -> int:
        """Bytes."""
        return len(self._pcm)

    def add(self, pcm: bytes) -> None:
        """The next piece, checked. Raises InvalidAudio if the question becomes too long."""
        if len(self._pcm) + len(pcm) > self._most:
            raise InvalidAudio(
                f"the question has more than {self._most} bytes "
                f"({self._shared.settings.question_seconds:g} s), ask a shorter one"
            )
        if self._begun is None:
            self._begun = self._shared.clock.now()
        self._pcm += pcm
        self._news.set()

    def commit(self, count: int) -> None:
        """The question is over. Raises InvalidRequest if another number of bytes has come."""
        if count != len(self._pcm):
            raise InvalidRequest(f"commit.bytes is {count}, but {len(self._pcm)} bytes have come")
        self._whole = True
        self._news.set()

    def fail(self, error: AqaaError) -> None:
        """The question cannot be used: whoever brings it into the log raises this."""
        self._error = error
        self._news.set()

    async def into(self, pen: Appender, bundle_digest: str) -> int:
        """Appends the question to the query: its groups.

        Raises what the tokenizer raises, Unavailable when it fails again and again, Deadline when the caller
        falls silent or speaks more slowly than anybody does.
        """
        attempts = Attempts(self._shared.settings, self._shared.clock, TOKENIZER)
        while True:
            before = self._groups
            try:
                await self._tokenize(pen, bundle_digest)
                break
            except AqaaError as error:
                await attempts.again(error, progress=self._groups > before)
        await pen.append(QueryRecord(end=QueryEnd(groups=self._groups)))
        self._pcm.clear()
        return self._groups

    async def _tokenize(self, pen: Appender, bundle_digest: str) -> None:
        stages = self._shared.stages
        async with stages.calling(stages.tokenizer.StreamTokenize, TOKENIZER, self._ends) as call:
            opening = OpenTokenize(
                format=self._format, level=LevelMode.LEVEL_MODE_NORMALISED, bundle_digest=bundle_digest
            )
            await call.send(StreamTokenizeRequest(open=opening))
            async with beside(self._send(call)):
                await self._receive(call, pen)

    async def _send(self, call: Call) -> None:
        sent, whole = 0, frame_bytes(self._format)
        piece, lead = (
            max(1, round(seconds * self._format.sample_rate_hz)) * whole
            for seconds in (self._shared.settings.question_piece_seconds, LEAD_SECONDS)
        )
        least = piece + lead
        while True:
            while not self._whole and len(self._pcm) - sent < least and self._error is None:
                await self._more()
            if self._error is not None:
                raise self._error
            if sent == len(self._pcm):
                break
            pcm = bytes(self._pcm[sent : sent + MAX_PIECE_BYTES // whole * whole])
            await call.send(StreamTokenizeRequest(audio=QuestionAudio(first_byte=sent, pcm=pcm)))
            sent, least = sent + len(pcm), piece
        await call.close()
        call.owes()  # the rest of the groups, and the end

    async def _receive(self, call: Call, pen: Appender) -> None:
        """Up to the end of the call itself: who leaves at the last response cancels a call that went well."""
        at, ended = 0, False
        while (response := await call.receive()) is not None:
            groups, number = response.groups, groups_of.count(response.groups)
            if number and groups.first_group != at:
                raise Unavailable(
                    f"the tokenizer gave group {groups.first_group}, expected {at}", stage=TOKENIZER
                )
            at += number
            if at > self._groups:
                new = groups_of.since(groups, max(self._groups, groups.first_group))
                self._groups = at
                await pen.append(QueryRecord(groups=new))
            ended = ended or response.end
        if not ended:
            raise Unavailable("the tokenizer left the question without its end", stage=TOKENIZER)
        if at < self._groups:
            raise LogDiverged(
                f"the question has {at} groups, but {self._groups} were logged before", missing="query"
            )

    async def _more(self) -> None:
        settings = self._shared.settings
        idle, most = settings.question_idle_seconds, settings.question_lag_seconds
        left = most - self._behind()
        self._news.clear()
        try:
            async with asyncio.timeout(max(0.0, min(idle, left))):
                await self._news.wait()
        except TimeoutError:
            message = f"nothing of the question has come for {idle:g} s"
            if left < idle:
                message = (
                    f"the question is {self._behind():.1f} s behind real time, expected at most {most:g} s"
                )
            raise Deadline(message, stage="question") from None

    def _behind(self) -> float:
        """Seconds since its first sound for which no sound has come."""
        if self._begun is None:
            return 0.0
        sound = len(self._pcm) / (frame_bytes(self._format) * self._format.sample_rate_hz)
        return self._shared.clock.now() - self._begun - sound

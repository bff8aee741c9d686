"""Live sessions at the pace of people: each speaks a question, hears its answer, and again, by the clock.

A session is one Converse call over a connection of its own. A cycle is two questions' length: in its first
half the session sends a frame of 120 ms every 120 ms, in its second half it hears. Cycles begin by the
clock, be the last answer over or not, so a slow server is asked no less. Sessions begin spread over a cycle:
half of them talk.

Messages are made once for all sessions and sent as bytes: the load shall cost less than what it loads.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc.aio

from aqaa.rpc.channel import ChannelSettings, open_channel
from aqaa.v1.audio_pb2 import AnswerAudio, AudioEncoding, AudioFormat, QuestionAudio
from aqaa.v1.orchestrator_pb2 import (
    CommitQuestion,
    ConverseRequest,
    ConverseResponse,
    OpenConversation,
    OpenTurn,
    TurnEvent,
    TurnOptions,
)
from aqaa.v1.tokens_pb2 import END_REASON_CANCELLED
from tests.stages import GROUP_SAMPLES, RIGHT

CONVERSE: Final = "/aqaa.v1.OrchestratorService/Converse"
FRAME_SECONDS: Final = 0.12
RATE: Final = 16000
FRAME_BYTES: Final = round(FRAME_SECONDS * RATE) * 2
GRACE_SECONDS: Final = 60.0
"""For the last answers of a server that is late."""
PLAIN: Final = ChannelSettings(health_check=False, attempts=1)


@dataclass(frozen=True)
class Script:
    """What every session does: a question of so many frames, an answer of so many groups, both of 120 ms."""

    frames: int
    groups: int

    @property
    def cycle(self) -> float:
        """Seconds."""
        return 2 * self.frames * FRAME_SECONDS

    def opening(self) -> bytes:
        """The first message of a call."""
        pcm_format = AudioFormat(
            encoding=AudioEncoding.AUDIO_ENCODING_PCM_S16LE, sample_rate_hz=RATE, channels=1
        )
        return ConverseRequest(open=OpenConversation(format=pcm_format)).SerializeToString()

    def question(self) -> list[list[bytes]]:
        """Messages of a question: those that are due when its first frame has been spoken, and so on."""
        frame = bytes(range(256)) * (FRAME_BYTES // 256) + bytes(FRAME_BYTES % 256)
        steps = [
            [ConverseRequest(audio=QuestionAudio(first_byte=i * FRAME_BYTES, pcm=frame)).SerializeToString()]
            for i in range(self.frames)
        ]
        opening = ConverseRequest(turn=OpenTurn(options=TurnOptions(seed=7)))
        steps[0].insert(0, opening.SerializeToString())
        commit = ConverseRequest(commit=CommitQuestion(bytes=self.frames * FRAME_BYTES))
        steps[-1].append(commit.SerializeToString())
        return steps

    def groups_for(self, chunk: AnswerAudio) -> int:
        """Groups of the answer that must be written before the stub vocoder can have made this chunk."""
        end = chunk.first_sample + len(chunk.pcm) // 2
        return min(self.groups, end // GROUP_SAMPLES + RIGHT)


@dataclass
class Record:
    """What all sessions have seen. Of chunks and frames: (when it was due, seconds behind that)."""

    chunks: list[tuple[float, float]] = field(default_factory=list)
    frames: list[tuple[float, float]] = field(default_factory=list)
    asked: int = 0
    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)


class Session:
    """One caller."""

    def __init__(self, script: Script, record: Record) -> None:
        self._script = script
        self._record = record
        self._committed: list[float] = []
        """When each question's last frame was spoken, by the clock."""
        self._turns: dict[str, int] = {}
        self._ended = 0

    async def run(self, address: str, begin: float, until: float) -> None:
        """From ``begin`` on, on ``time.monotonic``; no question begins that is not answered by ``until``."""
        try:
            async with open_channel(address, PLAIN) as channel, asyncio.TaskGroup() as both:
                await _until(begin)
                # no serializers: bytes as they are
                call: Any = channel.stream_stream(CONVERSE)(timeout=until - begin + GRACE_SECONDS)
                both.create_task(self._speak(call, begin, until))
                both.create_task(self._hear(call))
        except* grpc.aio.AioRpcError as errors:
            for error in errors.exceptions:
                assert isinstance(error, grpc.aio.AioRpcError)
                self._record.failures[f"a call ended {error.code().name}"] += 1

    async def _speak(self, call: Any, begin: float, until: float) -> None:
        try:
            await call.write(self._script.opening())
            async for due, messages in self._schedule(begin, until):
                self._record.frames.append((due, time.monotonic() - due))
                for message in messages:
                    await call.write(message)
            await call.done_writing()
        except asyncio.InvalidStateError:  # the call is over; who reads it may know why
            self._record.failures["a call ended early"] += 1

    async def _schedule(self, begin: float, until: float) -> AsyncIterator[tuple[float, list[bytes]]]:
        """Each message at its time."""
        steps = _QUESTIONS.setdefault(self._script, self._script.question())
        questions = int((until - begin) / self._script.cycle + 1e-6)  # floats may fall short
        for question in range(questions):
            for i, messages in enumerate(steps, 1):
                due = begin + question * self._script.cycle + i * FRAME_SECONDS
                await _until(due)
                if i == len(steps):
                    self._committed.append(due)
                    self._record.asked += 1
                yield due, messages

    async def _hear(self, call: Any) -> None:
        while (raw := await call.read()) is not grpc.aio.EOF:
            response = ConverseResponse.FromString(raw)
            if response.HasField("turn"):
                self._note(response.turn)

    def _note(self, event: TurnEvent) -> None:
        now = time.monotonic()
        match event.WhichOneof("event"):
            case "opened":
                self._turns[event.turn_id] = len(self._turns)
            case "audio":
                due = self._committed[self._turns[event.turn_id]]
                due += self._script.groups_for(event.audio) * FRAME_SECONDS
                self._record.chunks.append((due, now - due))
            case "manifest" if event.manifest.reason == END_REASON_CANCELLED:
                self._record.failures["spoken over"] += 1  # its session has begun its next question
            case "manifest":
                self._record.answered += 1
            case "failed":
                self._turns.setdefault(event.turn_id, len(self._turns))
                self._record.failures[event.failed.reason] += 1


_QUESTIONS: dict[Script, list[list[bytes]]] = {}


async def _until(due: float) -> None:
    if (wait := due - time.monotonic()) > 0:
        await asyncio.sleep(wait)


def within(noted: Sequence[tuple[float, float]], begin: float, end: float) -> list[float]:
    """Seconds behind of all that was due in an interval."""
    return [behind for due, behind in noted if begin <= due < end]

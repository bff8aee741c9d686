"""One turn of the served stack as its caller hears it: a question in real time, the clock of its answer."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from aqaa.client import (
    AnswerAudio,
    AnswerText,
    AsyncClient,
    Manifest,
    QuestionCommitted,
    Turn,
    TurnOptions,
)
from benchmarks.latency import PIECE_SECONDS, RATE, Pcm


@dataclass(frozen=True)
class Dry:
    """How often a caller's playback ran dry, and for how many seconds in all."""

    times: int
    seconds: float


@dataclass
class Heard:
    """A turn. Seconds count from the moment when the question's last sample was spoken.

    chunks  (when it came, seconds of sound) of each, in order
    again   how often the call had to be taken up again
    """

    committed: float = 0.0
    first_text: float = 0.0
    chunks: list[tuple[float, float]] = field(default_factory=list)
    text: str = ""
    again: int = 0

    @property
    def first_pcm(self) -> float | None:
        return self.chunks[0][0] if self.chunks else None

    @property
    def answer_seconds(self) -> float:
        return sum(seconds for _, seconds in self.chunks)

    @property
    def rtf(self) -> float | None:
        """Seconds to the last PCM per second of answer."""
        return self.chunks[-1][0] / self.answer_seconds if self.chunks else None

    @property
    def dry(self) -> Dry:
        return playback(self.chunks)


def playback(chunks: Iterable[tuple[float, float]]) -> Dry:
    """Plays from the first chunk's arrival on, without a reserve; waits where the next one is not there."""
    ends: float | None = None
    times, waited = 0, 0.0
    for came, seconds in chunks:
        if ends is not None and came > ends:
            times, waited = times + 1, waited + came - ends
        ends = max(came, ends or came) + seconds
    return Dry(times, waited)


async def ask(client: AsyncClient, pcm: Pcm, seed: int) -> Heard:
    """Asks (n,) samples at 16 kHz as they would be spoken, in a conversation of its own that is open before.

    Raises:
        AqaaError: the turn was refused or has failed.
    """
    piece = round(PIECE_SECONDS * RATE)
    async with client.converse(RATE) as conversation:
        turn = await conversation.turn(options=TurnOptions(seed=seed))
        start = time.perf_counter()
        hearing = asyncio.create_task(hear(turn, start + len(pcm) / RATE))
        try:
            for at in range(0, len(pcm), piece):
                end = min(at + piece, len(pcm))
                await asyncio.sleep(start + end / RATE - time.perf_counter())
                await turn.push(pcm[at:end])
            await turn.commit()
            return await hearing
        finally:
            hearing.cancel()


async def hear(turn: Turn, asked: float) -> Heard:
    """The answer to its end. ``asked``: when the last sample was spoken, by ``time.perf_counter``."""
    heard = Heard()
    async for event in turn:
        now = time.perf_counter() - asked
        match event:
            case QuestionCommitted():
                heard.committed = now
            case AnswerText():
                heard.first_text = heard.first_text or now
            case AnswerAudio():
                heard.chunks.append((now, event.seconds))
            case Manifest():
                heard.text = event.text
    heard.again = turn.resumed
    return heard

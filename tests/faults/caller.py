"""A caller with one live turn: what it hears, and in which phase the turn is."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from aqaa.client import (
    AnswerAudio,
    AnswerStream,
    AnswerText,
    AsyncClient,
    Event,
    Manifest,
    Patience,
    Position,
    QuestionCommitted,
    Transcript,
    Turn,
    TurnOpened,
    TurnOptions,
)
from aqaa.client.events import Int16
from services.orchestrator.tasks import all_of

PATIENCE = Patience(call_seconds=10.0, answer_seconds=60.0, idle_seconds=20.0, attempts=10)
TENANT = "faults"


class Phase(StrEnum):
    """Where a turn is when something happens to it."""

    QUESTION = "question"
    """The question is half said."""
    DISPATCH = "dispatch"
    """It is open, and no runner has it yet."""
    COMMIT = "commit"
    """The question is in the log, nothing of the answer is."""
    TEXT = "text"
    """The first text has come."""
    AUDIO = "audio"
    """Two chunks of sound have come."""
    END = "end"
    """The answer's end marker is in the log, the manifest has not left."""


@dataclass(frozen=True)
class Question:
    """``pcm``: (n,) int16 at ``rate`` Hz. ``whole``: asked at once, else spoken piece by piece."""

    pcm: Int16
    seed: int
    rate: int = 16000
    whole: bool = False
    pace: float = 0.25
    """Seconds that a second of it takes to say."""


@dataclass
class Heard:
    """All that a caller was given of one turn, in the order in which it came."""

    pcm: list[Int16] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict)
    transcript: str = ""
    manifest: Manifest | None = None

    def note(self, event: Event) -> None:
        match event:
            case AnswerAudio():
                self.pcm.append(event.pcm)
                self.sequences.append(event.sequence)
            case AnswerText():
                self.texts[event.segment] = self.texts.get(event.segment, "") + event.text
            case Transcript():
                self.transcript = event.text
            case Manifest():
                self.manifest = event

    @property
    def sound(self) -> bytes:
        """Samples as they came, (n,) little-endian int16."""
        return b"".join(pcm.astype("<i2").tobytes() for pcm in self.pcm)


class Caller:
    """One turn, from its question to its manifest.

    caller = Caller(address, question, "request-7")
    task = asyncio.create_task(caller.run())
    await caller.reached[Phase.AUDIO].wait()
    heard = await task                      # raises what the client raises
    """

    def __init__(self, address: str, question: Question, request_id: str) -> None:
        self.address = address
        self.question = question
        self.request_id = request_id
        self.heard = Heard()
        self.reached = {phase: asyncio.Event() for phase in Phase}
        self.opened = asyncio.Event()
        self.position: Position | None = None
        """Behind what was heard; None before the turn is open. Where there is one, ``run`` goes on there."""
        self.resumed = 0
        self.over = False
        """Nothing comes any more."""
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Hears nothing any more, and does not say so: the call stays open for as long as ``run`` does."""
        self._leaving.set()

    def heir(self, address: str) -> "Caller":
        """Goes on behind what this one has heard; before the commit, asks the same request again."""
        made = Caller(address, self.question, self.request_id)
        made.heard = self.heard
        made.position = self.position if self.reached[Phase.COMMIT].is_set() else None
        return made

    async def run(self) -> Heard:
        """Raises AqaaError."""
        question = self.question
        async with AsyncClient(self.address, caller=TENANT, patience=PATIENCE) as client:
            options = TurnOptions(seed=question.seed)
            if self.position is not None:
                await self._listen(client.resume(self.position))
            elif question.whole:
                ask = client.ask(question.pcm, question.rate, request_id=self.request_id, options=options)
                await self._listen(ask)
            else:
                async with client.converse(question.rate, dtype=np.int16) as conversation:
                    turn = await conversation.turn(request_id=self.request_id, options=options)
                    await all_of(self._say(turn), self._listen(turn))
        return self.heard

    async def _say(self, turn: Turn) -> None:
        pcm, piece = self.question.pcm, self.question.rate * 12 // 100
        for at in range(0, len(pcm), piece):
            if self._leaving.is_set():
                return
            await turn.push(pcm[at : at + piece])
            if at >= len(pcm) // 2:
                self.reached[Phase.QUESTION].set()
            await asyncio.sleep(0.12 * self.question.pace)
        await turn.commit()

    async def _listen(self, answer: AnswerStream) -> None:
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            while not self._leaving.is_set():
                coming = asyncio.ensure_future(anext(answer, None))
                await asyncio.wait({coming, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    await self._deaf(coming)
                    return
                event = coming.result()
                if event is None:
                    self.over = True
                    return
                self.heard.note(event)
                self.position, self.resumed = answer.position, answer.resumed
                self._phase(event)
        finally:
            leaving.cancel()

    async def _deaf(self, coming: "asyncio.Future[Event | None]") -> None:
        """Until this caller's ``run`` is cancelled. One event may come that nobody hears."""
        with contextlib.suppress(Exception):
            await coming
        await asyncio.Event().wait()

    def _phase(self, event: Event) -> None:
        match event:
            case TurnOpened():
                self.opened.set()
            case QuestionCommitted():
                self.reached[Phase.COMMIT].set()
            case AnswerText():
                self.reached[Phase.TEXT].set()
            case AnswerAudio() if len(self.heard.pcm) >= 2:
                self.reached[Phase.AUDIO].set()

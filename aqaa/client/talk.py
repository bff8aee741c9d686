"""A conversation in the terminal: questions one after another, a line for each turn, Ctrl-C to barge in."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from aqaa.client.asynchronous import AsyncClient
from aqaa.client.conversation import Conversation
from aqaa.client.events import AnswerAudio, EndReason, Float32, Int16, Transcript
from aqaa.client.playback import Player
from aqaa.client.turn import Turn


@dataclass(frozen=True)
class Spoken:
    """A question: its name for the reader, its rate in Hz, its sound in (n,) pieces as it is spoken."""

    name: str
    sample_rate: int
    pieces: AsyncIterator[Float32]


class Speaker(Player, Protocol):
    """What sounds while an answer comes."""

    async def play(self, pcm: Int16, sample_rate: int) -> None:
        """More of the answer."""

    async def finish(self) -> None:
        """Until all has been heard."""

    def hush(self) -> None:
        """At once silent; ``played_samples`` stays."""


@dataclass(frozen=True, eq=False)
class Exchange:
    """A turn as it was: what was heard, what was answered; ``seconds`` until the first sound, if any came."""

    number: int
    name: str
    question: str
    answer: str
    pcm: Int16
    sample_rate: int
    first_sound: float | None
    cut_off: bool


class Talk:
    """Asks one question after the other in one session.

        talk = Talk(client, tell)
        loop.add_signal_handler(signal.SIGINT, talk.interrupt)
        await talk.run(questions)

    ``tell`` gets each Exchange when its turn is over. ``interrupt`` during an answer is a barge-in; a second
    one, or one while nothing is answered, ends the talk: ``run`` returns, and ``interrupted`` is true.
    """

    def __init__(
        self,
        client: AsyncClient,
        tell: Callable[[Exchange], None],
        *,
        speaker: Callable[[], Speaker] | None = None,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._tell = tell
        self._speaker = speaker
        self._clock = clock
        self._answering: tuple[Turn, Speaker | None] | None = None
        self._cutting: asyncio.Task[EndReason] | None = None
        self._main: asyncio.Task[None] | None = None
        self.interrupted = False

    def interrupt(self) -> None:
        """Ctrl-C."""
        if self._answering is not None and self._cutting is None:
            turn, speaker = self._answering
            if speaker is not None:
                speaker.hush()
            self._cutting = asyncio.ensure_future(turn.cancel())
            return
        self.interrupted = True
        if self._main is not None:
            self._main.cancel()

    async def run(self, questions: AsyncIterator[Spoken]) -> None:
        """Until the questions end. Raises AqaaError for the first turn that failed."""
        self._main = asyncio.ensure_future(self._converse(questions))
        try:
            await self._main
        except asyncio.CancelledError:
            if not self.interrupted:
                self._main.cancel()
                raise

    async def _converse(self, questions: AsyncIterator[Spoken]) -> None:
        conversation: Conversation | None = None
        number = 0
        try:
            async for question in questions:
                number += 1
                if conversation is None or conversation.format.sample_rate != question.sample_rate:
                    session = "" if conversation is None else conversation.session_id
                    if conversation is not None:
                        await conversation.aclose()
                    conversation = self._client.converse(question.sample_rate, session_id=session)
                    await conversation.__aenter__()
                self._tell(await self._turn(conversation, number, question))
        finally:
            if conversation is not None:
                await conversation.aclose()

    async def _turn(self, conversation: Conversation, number: int, question: Spoken) -> Exchange:
        speaker = self._speaker() if self._speaker is not None else None
        turn = await conversation.turn(player=speaker)
        async for piece in question.pieces:
            await turn.push(piece)
        await turn.commit()
        asked, first, heard = self._clock(), None, ""
        self._answering, self._cutting = (turn, speaker), None
        try:
            async for event in turn:
                if isinstance(event, Transcript):
                    heard = event.text
                elif isinstance(event, AnswerAudio):
                    first = self._clock() - asked if first is None else first
                    if speaker is not None:
                        await speaker.play(event.pcm, event.sample_rate)
            if speaker is not None and self._cutting is None:
                await speaker.finish()
            if self._cutting is not None:
                await self._cutting
        finally:
            self._answering = None
            if speaker is not None:
                speaker.hush()  # nothing is left to be heard, or the turn has failed
        rate = turn.opened.sample_rate if turn.opened else question.sample_rate
        return Exchange(
            number, question.name, heard, turn.text, await turn.pcm(), rate, first, self._cutting is not None
        )

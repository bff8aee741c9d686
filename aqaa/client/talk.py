"""A conversation in the terminal: one question after the other, a line for each turn, and barge-in."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from aqaa.client.asynchronous import AsyncClient
from aqaa.client.conversation import Conversation
from aqaa.client.events import AnswerAudio, EndReason, Float32, Int16, Transcript
from aqaa.client.playback import Player
from aqaa.client.turn import Turn
from aqaa.errors import AqaaError, Forbidden, NotFound, Unavailable, Unsupported

_LOST: Final = (Unavailable, NotFound, Forbidden, Unsupported)
"""What no other question would mend: the server, the session or a device is gone, or was never to be had."""


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
    """A turn as it was: what was heard, what was answered; ``seconds`` until the first sound, if any came.

    ``fault``: why the question was refused, or its answer broken off.
    """

    number: int
    name: str
    question: str
    answer: str
    pcm: Int16
    sample_rate: int
    first_sound: float | None
    cut_off: bool
    fault: AqaaError | None = None


@dataclass(eq=False)
class _Answer:
    """To a question that was asked.

    ``cutting``: its cancel, once somebody wants no more of it. ``fault``: why it does not come, or not whole.
    """

    number: int
    question: Spoken
    turn: Turn
    speaker: Speaker | None
    cutting: asyncio.Task[EndReason] | None = None
    fault: AqaaError | None = None

    def cut_off(self) -> None:
        """At once silent; the server is told, also how much was heard."""
        if self.cutting is None:
            if self.speaker is not None:
                self.speaker.hush()
            self.cutting = asyncio.ensure_future(self.turn.cancel())


class Talk:
    """Asks one question after the other in one session.

        talk = Talk(client, tell, clock=time.monotonic)
        loop.add_signal_handler(signal.SIGINT, talk.interrupt)
        await talk.run(questions)

    ``tell`` gets each Exchange when its turn is over. One that was refused, or failed, says why and the talk
    goes on; a server that is lost ends it. ``interrupt`` during an answer is a barge-in; a second one, or one
    while nothing is answered, ends the talk: ``run`` returns, and ``interrupted`` is true. With ``barge_in``
    the next question may come at any time, and cuts off what is still answered; without, it is waited for
    when the answer is over.
    """

    def __init__(
        self,
        client: AsyncClient,
        tell: Callable[[Exchange], None],
        *,
        speaker: Callable[[], Speaker] | None = None,
        barge_in: bool = False,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._tell = tell
        self._speaker = speaker
        self._barge_in = barge_in
        self._clock = clock
        self._answering: _Answer | None = None
        self._main: asyncio.Task[None] | None = None
        self.interrupted = False

    def interrupt(self) -> None:
        """Ctrl-C."""
        if self._answering is not None and self._answering.cutting is None:
            self._answering.cut_off()
            return
        self.interrupted = True
        if self._main is not None:
            self._main.cancel()

    async def run(self, questions: AsyncIterator[Spoken]) -> None:
        """Until the questions end. Raises Unavailable, NotFound, Forbidden or Unsupported if no other could
        be answered either: the server, the session or a device is lost; AqaaError of ``tell``."""
        self._main = asyncio.ensure_future(self._converse(questions))
        try:
            await self._main
        except asyncio.CancelledError:
            if not self.interrupted:
                self._main.cancel()
                raise

    async def _converse(self, questions: AsyncIterator[Spoken]) -> None:
        conversation: Conversation | None = None
        hearing: asyncio.Task[None] | None = None  # the last answer, to its end
        number = 0
        try:
            while (question := await self._next(questions, hearing)) is not None:
                number += 1
                if conversation is None or conversation.format.sample_rate != question.sample_rate:
                    session = "" if conversation is None else conversation.session_id
                    if conversation is not None:
                        if hearing is not None:
                            await hearing
                        await conversation.aclose()
                    conversation = self._client.converse(question.sample_rate, session_id=session)
                    await conversation.__aenter__()
                answer = await self._ask(conversation, number, question)
                self._answering = answer if answer.fault is None else None
                hearing = asyncio.ensure_future(self._hear(answer, hearing))
        finally:
            if hearing is not None:
                hearing.cancel()
                await asyncio.gather(hearing, return_exceptions=True)
            if conversation is not None:
                await conversation.aclose()

    async def _next(
        self, questions: AsyncIterator[Spoken], hearing: "asyncio.Task[None] | None"
    ) -> Spoken | None:
        """The next question, None behind the last one. Raises what the answer that is heard raised."""
        if hearing is not None and not self._barge_in:
            await hearing
        coming = asyncio.ensure_future(_one(questions))
        try:
            if hearing is not None:
                await asyncio.wait({coming, hearing}, return_when=asyncio.FIRST_COMPLETED)
                if hearing.done() or coming.result() is None:
                    await hearing
                elif self._answering is not None:
                    self._answering.cut_off()
            return await coming
        finally:
            coming.cancel()

    async def _ask(self, conversation: Conversation, number: int, question: Spoken) -> _Answer:
        speaker = self._speaker() if self._speaker is not None else None
        turn = await conversation.turn(player=speaker)
        answer = _Answer(number, question, turn, speaker)
        try:
            async for piece in question.pieces:
                await turn.push(piece)
            await turn.commit()
        except _LOST:
            raise
        except AqaaError as error:
            answer.fault = error
            await turn.aclose()
            async for _ in question.pieces:
                pass  # it is still spoken: the next one begins behind its end
        return answer

    async def _hear(self, answer: _Answer, before: "asyncio.Task[None] | None") -> None:
        """To its end, and tells it. ``before``: the answer that this question has cut off, if it has."""
        turn, speaker = answer.turn, answer.speaker
        asked, first, heard, sound = self._clock(), None, "", [np.empty(0, np.int16)]
        try:
            if before is not None:
                await before  # soon over, and told first
            try:
                async for event in turn:
                    if isinstance(event, Transcript):
                        heard = event.text
                    elif isinstance(event, AnswerAudio):
                        first = self._clock() - asked if first is None else first
                        sound.append(event.pcm)
                        if speaker is not None:
                            await speaker.play(event.pcm, event.sample_rate)
                if speaker is not None and answer.cutting is None:
                    await speaker.finish()
            except AqaaError as error:
                if answer.cutting is None:  # else nobody waits for it: if all is lost, the next one says so
                    if isinstance(error, _LOST):
                        raise
                    answer.fault = error
                    await turn.aclose()
            if answer.cutting is not None:
                with suppress(AqaaError):  # the turn is called off once it is known, or never was
                    await answer.cutting
        finally:
            if self._answering is answer:
                self._answering = None
            if speaker is not None:
                speaker.hush()  # nothing is left to be heard, or the turn has failed
        rate = turn.opened.sample_rate if turn.opened else answer.question.sample_rate
        pcm, cut_off = np.concatenate(sound), answer.cutting is not None
        name = answer.question.name
        self._tell(Exchange(answer.number, name, heard, turn.text, pcm, rate, first, cut_off, answer.fault))


async def _one(questions: AsyncIterator[Spoken]) -> Spoken | None:
    return await anext(questions, None)

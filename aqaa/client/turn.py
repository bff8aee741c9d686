"""One turn of a conversation: its question as it is spoken, and its answer."""

import asyncio
from typing import TYPE_CHECKING, Final

import numpy.typing as npt

from aqaa.client.answer import AnswerStream
from aqaa.client.calls import Broken, Source
from aqaa.client.events import EndReason, Event, Manifest, TurnOpened, manifest_of
from aqaa.client.line import Line
from aqaa.client.playback import Acks, Player
from aqaa.client.question import TurnOptions
from aqaa.errors import Cancelled, Deadline, InvalidAudio, InvalidRequest
from aqaa.v1 import orchestrator_pb2

if TYPE_CHECKING:
    from aqaa.client.conversation import Conversation

MAX_QUESTION_BYTES: Final = 32 * 2**20
"""Of a question's kept sound: three minutes of 48 kHz float32. The server takes less."""


class Turn(AnswerStream):
    """A question and its answer; made by ``Conversation.turn``.

        turn = await conversation.turn()
        await turn.push(pcm)  # as often as there is more
        await turn.commit()
        async for event in turn:
            ...

    Iterating may begin before the commit. The question's sound is kept until the server has it in its log,
    and said again if the call breaks before. A turn that is cancelled before the server has heard of it
    raises Cancelled to its consumer.
    """

    def __init__(
        self,
        conversation: "Conversation",
        line: Line,
        request_id: str,
        options: TurnOptions,
        player: Player | None,
    ) -> None:
        super().__init__(line, None)
        self._conversation = conversation
        self.request_id = request_id
        self.options = options
        self.turn_id = ""
        """Empty until the turn is let in."""
        self.question = bytearray()
        """Its sound, kept for as long as it may have to be said again."""
        self.spoken = 0
        """Bytes of the question so far."""
        self.question_over = False
        self.safe = False
        """Whether the question is in the server's log."""
        self.called_off = False
        """Whether the caller wants no answer any more."""
        self._feed: asyncio.Queue[orchestrator_pb2.TurnEvent | Broken] = asyncio.Queue()
        self._parted = False
        self._refusal: Broken | None = None
        self._ended: asyncio.Future[EndReason] = asyncio.get_running_loop().create_future()
        self._acks = Acks(self._say_played, line.timing.sleep, player, lambda: self.position.next_sample)
        self._until = None

    async def push(self, pcm: npt.ArrayLike) -> None:
        """More of the question: (n,) floating point within ±1, or int16, at the conversation's rate.

        Raises:
            InvalidRequest: the question is over.
            InvalidAudio: samples that cannot be used, or too many of them.
            AqaaError: the turn was refused.
        """
        self._check_open("push")
        raw = self._conversation.format.encode(pcm)
        if self.spoken + len(raw) > MAX_QUESTION_BYTES:
            raise InvalidAudio(
                f"a question of {self.spoken + len(raw)} bytes, at most {MAX_QUESTION_BYTES} are kept"
            )
        self.spoken += len(raw)
        if not self.safe:
            self.question += raw
            self._conversation.say()
        await asyncio.sleep(0)  # a caller that pushes much at once lets it be sent

    async def commit(self) -> None:
        """The question is over: answer it. ``Patience.answer_seconds`` begin.

        Raises:
            InvalidRequest: it is over already.
            InvalidAudio: nothing was pushed.
            AqaaError: the turn was refused.
        """
        self._check_open("commit")
        if not self.spoken:
            raise InvalidAudio("the question is empty, expected sound before the commit")
        self.question_over = True
        self._until = self._deadline_from_now()
        self._conversation.say()
        await asyncio.sleep(0)

    async def played(self, samples: int) -> None:
        """So many samples of the answer, from its first one, have been heard. Sent at most four times a
        second, the newest each time. A turn of which nobody says it counts as played in real time.

        Raises:
            ValueError: less than before, or more than has come.
        """
        self._acks.report(samples)

    async def cancel(self, played_samples: int | None = None) -> EndReason:
        """Barge-in, as ``AnswerStream.cancel``."""
        self._silenced = self.called_off = True
        self._acks.end()
        if played_samples is None:
            played_samples = self._acks.played
        if not self._conversation.knows(self):
            return self._call_off_unheard()
        told = bool(self.turn_id) and self._conversation.call_off(self, played_samples)
        if not self.turn_id:
            await self._until_named()
            told = True  # by the conversation, as soon as it knew the turn
        if not self.turn_id:  # refused meanwhile
            return EndReason.CANCELLED
        if told:
            try:
                return await asyncio.wait_for(asyncio.shield(self._ended), self._line.patience.call_seconds)
            except TimeoutError:
                pass
        return await self._line.cancel(self._conversation.session_id, self.turn_id, played_samples)

    async def aclose(self) -> None:
        """As ``AnswerStream.aclose``. A question that is not over is given up."""
        if not self.question_over and not self.called_off:
            self.called_off = True
            if self.turn_id:
                self._conversation.call_off(self, None)
            elif not self._conversation.knows(self):
                self._call_off_unheard()
        self._acks.end()
        await super().aclose()

    def hang_up(self) -> None:
        """Nobody hears any more how far the turn is played."""
        self._acks.end()

    # what the conversation's call brings

    @property
    def over(self) -> bool:
        """Whether the conversation's call has nothing more to bring."""
        return self._parted or self._ended.done()

    def hear(self, event: orchestrator_pb2.TurnEvent) -> None:
        """An event of this turn."""
        kind = event.WhichOneof("event")
        if kind == "opened":
            self.turn_id = event.turn_id
            self._named.set()
        elif kind == "question_committed":
            self.safe = True
            self.question.clear()
        elif kind == "manifest" and not self._ended.done():
            self._ended.set_result(manifest_of(event.manifest).reason)
        self._feed.put_nowait(event)

    def part(self, broken: Broken, *, known: bool = False) -> None:
        """The conversation's call brings nothing more: what is left of the answer has to come by Resume.
        ``known``: the consumer knows it already."""
        if self._parted:
            return
        self._parted = True
        if not broken.mendable or not self.turn_id:
            self._refusal = Broken(broken.error, mendable=False)
            self._named.set()
        self.question.clear()
        if not known:
            self._feed.put_nowait(self._refusal or broken)

    # the stream's calls

    def _connect(self) -> Source:
        if not self._parted or not self._feed.empty():
            return _Feed(self, self._feed)
        if self._refusal is not None:
            raise self._refusal
        return self._line.resume(self.position, self._seconds_left())

    def _let_go(self) -> None:
        given_up = self._source is not None and not self._source.own_call and not self.over
        super()._let_go()
        if given_up and not self._over:  # it is silent: let the conversation call anew, or call by oneself
            self._conversation.give_up_on(self)

    def _late(self) -> Deadline:
        if self.turn_id and not self.called_off:  # the conversation's call has no end to tell the server
            self.called_off = True
            self._conversation.call_off(self, self._acks.played)
        return super()._late()

    def _note(self, event: Event) -> None:
        if isinstance(event, TurnOpened):
            self._acks.begin()
        elif isinstance(event, Manifest):
            self._acks.total = event.samples
            if not self._ended.done():
                self._ended.set_result(event.reason)
        super()._note(event)

    def _deadline(self) -> float | None:
        return self._until  # it begins with the commit

    def _deadline_from_now(self) -> float:
        return self._line.timing.clock() + self._line.patience.answer_seconds

    def _may_rest(self) -> bool:
        if not self.question_over:
            return True
        played = self._acks.played
        return played is not None and played < self.position.next_sample  # the server need not send ahead

    def _say_played(self, samples: int) -> None:
        self._conversation.say_played(self, samples)

    def _call_off_unheard(self) -> EndReason:
        """The server has not heard of the turn: it ends here."""
        self._conversation.forget(self)
        if not self._parted:
            self.part(Broken(Cancelled("the turn was called off before it was opened"), mendable=False))
        return EndReason.CANCELLED

    def _check_open(self, what: str) -> None:
        if self._refusal is not None:
            raise self._refusal.error
        if self._error is not None:
            raise self._error
        if self.question_over or self.called_off:
            raise InvalidRequest(f"{what}: the question is over, expected a new turn")


class _Feed:
    """What the conversation's call brings for one turn."""

    own_call = False

    def __init__(self, turn: Turn, waiting: "asyncio.Queue[orchestrator_pb2.TurnEvent | Broken]") -> None:
        self._waiting = waiting

    async def next(self) -> orchestrator_pb2.TurnEvent | None:
        found = await self._waiting.get()
        if isinstance(found, Broken):
            raise found
        return found

    def close(self) -> None:
        """The conversation goes on."""

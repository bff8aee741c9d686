"""A conversation of many turns over one call, which is made again where it breaks."""

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4
from weakref import WeakSet

import grpc
import grpc.aio

from aqaa.client.calls import Backoff, Broken, Ending, failure_of
from aqaa.client.line import Line
from aqaa.client.playback import Player
from aqaa.client.question import DEFAULT_OPTIONS, MAX_PIECE_BYTES, PcmFormat, TurnOptions
from aqaa.client.turn import Turn
from aqaa.errors import AqaaError, Cancelled, InvalidRequest, NotFound, Unavailable
from aqaa.v1 import audio_pb2
from aqaa.v1.orchestrator_pb2 import (
    CancelTurn,
    CommitQuestion,
    ConverseRequest,
    ConverseResponse,
    OpenConversation,
    OpenTurn,
    Played,
    TurnEvent,
)
from aqaa.v1.tokens_pb2 import END_REASON_FAILED

if TYPE_CHECKING:
    Call = grpc.aio.StreamStreamCall[ConverseRequest, ConverseResponse]

_CLOSE_SECONDS: Final = 2.0


class Conversation:
    """A conversation; made by ``AsyncClient.converse``.

        async with client.converse(sample_rate=16000) as conversation:
            turn = await conversation.turn()
            await turn.push(pcm)
            await turn.commit()
            async for event in turn:
                ...

    One question is open at a time; its first sound silences what is still answered. If the call breaks,
    questions that are not safe in the server's log are said again, and answers go on by ``Resume``, each in
    its own stream. If it breaks while nothing is said, the next turn opens it again. The call itself has no
    deadline: its parts have, ``Patience.call_seconds`` to be let in and ``answer_seconds`` for each answer.

    Raises, when entered and by ``turn.push`` and the turn's stream:
        AqaaError: the conversation cannot be had; Unavailable or CapacityError after all attempts.
    """

    def __init__(self, line: Line, session_id: str, pcm_format: PcmFormat) -> None:
        self.session_id = session_id
        """Names it in other calls; empty before it is let in."""
        self.format = pcm_format
        self.linked = False
        """Whether its call is up."""
        self._line = line
        self._turns: list[Turn] = []  # whose events come by this call, oldest first
        self._by_id: dict[str, Turn] = {}
        self._named = session_id  # what is asked for in the next call
        self._confirmed = bool(session_id)  # it is in the server's log
        self._sent: dict[Turn, int] = {}  # bytes of each question that this call has carried
        self._speaking: Turn | None = None  # begun on this call, its commit not yet said
        self._here: set[str] = set()  # turns that this call has told of
        self._unnamed: deque[Turn] = deque()  # opened on this call, in order; their ids are to come
        self._asides: deque[ConverseRequest] = deque()
        self._wake = asyncio.Event()
        self._needed = asyncio.Event()
        self._closing = False
        self._call: Call | None = None
        self._given_up: Broken | None = None
        self._opened: asyncio.Future[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._said: WeakSet[Turn] = WeakSet()  # all that there were
        line.open.add(self)

    async def __aenter__(self) -> Self:
        self._opened = asyncio.get_running_loop().create_future()
        self._needed.set()
        self._running = asyncio.ensure_future(self._run())
        try:
            await self._opened
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Hangs up. Answers that are not over can be taken up by their ``position``."""
        self._closing = True
        if (running := self._running) is not None:
            self._running = None
            if self.linked and not self._turns:
                self._wake.set()
                await asyncio.wait({running}, timeout=_CLOSE_SECONDS)
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
        self._part_all(Broken(Cancelled("the conversation was closed"), mendable=False))
        for turn in self._said:
            turn.hang_up()

    async def turn(
        self,
        *,
        request_id: str | None = None,
        options: TurnOptions = DEFAULT_OPTIONS,
        player: Player | None = None,
    ) -> Turn:
        """A question begins. Its first sound is a barge-in: an answer that is not over ends as CANCELLED.

        ``player``: asked up to four times a second how far it is, until it has played all or the turn is
        cancelled; the server then paces the answer by it, and knows what was heard.

        Raises:
            InvalidRequest: the last question is not over, or the conversation is closed.
        """
        if self._running is None or self._closing:
            raise InvalidRequest("the conversation is closed, expected `async with client.converse(…)`")
        if self._turns and not (self._turns[-1].question_over or self._turns[-1].called_off):
            raise InvalidRequest("the last question is not over, expected its commit or cancel before")
        turn = Turn(self, self._line, request_id or uuid4().hex, options, player)
        self._turns.append(turn)
        self._said.add(turn)
        self._needed.set()
        self._wake.set()
        return turn

    # for its turns

    def say(self) -> None:
        """There is more to be said."""
        self._wake.set()

    def knows(self, turn: Turn) -> bool:
        """Whether the server may have heard of the turn."""
        return bool(turn.turn_id) or turn in self._sent

    def forget(self, turn: Turn) -> None:
        """A turn that the server has not heard of ends."""
        if turn in self._turns:
            self._turns.remove(turn)

    def call_off(self, turn: Turn, played_samples: int | None) -> bool:
        """Barge-in over this call; False if it is not up or no longer has the turn."""
        if not self.linked or turn not in self._turns:
            return False
        cancel = CancelTurn(turn_id=turn.turn_id, played_samples=played_samples)
        self._aside(ConverseRequest(cancel=cancel))
        return True

    def say_played(self, turn: Turn, samples: int) -> None:
        """Tells how far a turn is played, if the call is up."""
        if self.linked and turn.turn_id in self._here:  # another call's turn is unknown to this one
            self._aside(ConverseRequest(played=Played(turn_id=turn.turn_id, samples=samples)))

    def give_up_on(self, turn: Turn) -> None:
        """Nothing has come for a turn for too long."""
        broken = Broken(Unavailable("the conversation's call is silent", stage="orchestrator"), mendable=True)
        if turn.safe:
            self._drop(turn)
            turn.part(broken, known=True)
        elif self._call is not None:  # the question has to be said again, on another call
            self._given_up = broken
            self._call.cancel()

    # the call

    def _aside(self, request: ConverseRequest) -> None:
        self._asides.append(request)
        self._wake.set()

    async def _run(self) -> None:
        backoff = Backoff(self._line.patience, self._line.timing)
        while not self._closing:
            await self._needed.wait()
            try:
                await self._converse(backoff)
                if self._closing:
                    return
                ended = Unavailable("the server has ended the conversation", stage="orchestrator")
                raise Broken(ended, mendable=True)
            except Broken as broken:
                self._part_safe(broken)
                if isinstance(broken.error, NotFound) and self._named and not self._confirmed:
                    self._named = ""  # nothing of the session had reached the server's log
                    continue
                if not self._turns and self._opened is not None and self._opened.done():
                    self._needed.clear()  # until the next turn
                    backoff = Backoff(self._line.patience, self._line.timing)
                    continue
                try:
                    await backoff.pause(broken, None)
                    self._part_safe(broken)  # what was called off meanwhile is not said again
                except AqaaError as error:
                    self._fail(error)
                    backoff = Backoff(self._line.patience, self._line.timing)

    async def _converse(self, backoff: Backoff) -> None:
        """One call, to its end. Raises Broken."""
        self._sent, self._speaking, self._unnamed, self._here = {}, None, deque(), set()
        self._asides.clear()
        self._given_up = None
        call: Call = self._line.stub.Converse(metadata=self._line.metadata)
        self._call, ending = call, Ending(call)
        sender = asyncio.ensure_future(self._send(call))
        try:
            async with asyncio.timeout(self._line.patience.call_seconds):
                first = await self._read(call, ending)
            if first is None or first.WhichOneof("event") != "opened":
                raise Broken(
                    Unavailable("the conversation was not opened", stage="orchestrator"), mendable=True
                )
            self._let_in(first.opened.session_id)
            while (response := await self._read(call, ending)) is not None:
                if response.WhichOneof("event") == "turn":
                    self._route(response.turn, backoff)
        except TimeoutError:
            late = Unavailable("the conversation was not opened in time", stage="orchestrator")
            raise Broken(late, mendable=True) from None
        finally:
            self.linked, self._call = False, None
            call.cancel()
            sender.cancel()
            with suppress(asyncio.CancelledError):
                await sender

    async def _read(self, call: "Call", ending: Ending) -> ConverseResponse | None:
        try:
            response: Any = await call.read()
        except grpc.aio.AioRpcError as error:
            raise Broken.by_rpc(await ending.of(error)) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._given_up is None or (task is not None and task.cancelling()):
                raise
            raise self._given_up from None
        return None if response is grpc.aio.EOF else response

    def _let_in(self, session_id: str) -> None:
        self.session_id = self._named = session_id
        self.linked = True
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    def _route(self, event: TurnEvent, backoff: Backoff) -> None:
        kind = event.WhichOneof("event")
        turn = self._by_id.get(event.turn_id)
        if turn is None or turn not in self._turns:
            if kind not in ("opened", "failed") or turn is not None or not self._unnamed:
                return  # of a turn that goes on elsewhere
            turn = self._unnamed[0]
        if kind in ("opened", "failed") and turn in self._unnamed:
            self._unnamed.remove(turn)
        if kind == "failed":
            self._failed(turn, failure_of(event.failed))
            return
        if kind == "opened":
            self._by_id[event.turn_id] = turn
            self._here.add(event.turn_id)
            self._confirmed = True
        elif kind == "question_committed":
            backoff.progress()
        turn.hear(event)
        if kind == "opened" and turn.called_off:
            self.call_off(turn, None)
        elif kind == "manifest" and event.manifest.reason != END_REASON_FAILED:
            self._drop(turn)
        self._wake.set()

    def _failed(self, turn: Turn, broken: Broken) -> None:
        if broken.mendable and not turn.safe and not turn.called_off:
            raise broken  # the question is said again, on another call
        self._drop(turn)
        turn.part(broken)
        self._wake.set()

    def _drop(self, turn: Turn) -> None:
        if turn in self._turns:
            self._turns.remove(turn)

    def _part_safe(self, broken: Broken) -> None:
        """Turns whose question need not be said again go on by themselves."""
        gone = Broken(broken.error, mendable=True)
        for turn in [turn for turn in self._turns if turn.safe or turn.called_off]:
            self._drop(turn)
            turn.part(gone)

    def _part_all(self, broken: Broken) -> None:
        for turn in self._turns:
            turn.part(broken)
        self._turns.clear()

    def _fail(self, error: AqaaError) -> None:
        self._needed.clear()
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(error)
        self._part_all(Broken(error, mendable=False))

    async def _send(self, call: "Call") -> None:
        """All that is to be said on this call, in order; the reader tells if it cannot be said."""
        opening = OpenConversation(session_id=self._named, format=self.format.message())
        try:
            await call.write(ConverseRequest(open=opening))
            while not self._closing:
                self._wake.clear()
                while (request := self._next_request()) is not None:
                    await call.write(request)
                if not self._closing:
                    await self._wake.wait()
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return

    def _next_request(self) -> ConverseRequest | None:
        if self._asides:
            return self._asides.popleft()
        if self._speaking is not None:
            return self._more_of(self._speaking)
        for turn in self._turns:
            if turn.question and not (turn.safe or turn.called_off or turn in self._sent):
                self._speaking, self._sent[turn] = turn, 0
                self._unnamed.append(turn)
                opening = OpenTurn(request_id=turn.request_id, options=turn.options.message())
                return ConverseRequest(turn=opening)
        return None

    def _more_of(self, turn: Turn) -> ConverseRequest | None:
        """The rest of the question that this call is in. Nothing behind it may begin before its commit."""
        sent = self._sent[turn]
        done = turn.safe or turn.over or turn not in self._turns  # the server wants no more of it
        if not done and (not turn.called_off or not sent) and sent < len(turn.question):
            piece = bytes(turn.question[sent : sent + _piece_bytes(self.format)])
            self._sent[turn] = sent + len(piece)
            return ConverseRequest(audio=audio_pb2.QuestionAudio(first_byte=sent, pcm=piece))
        if done or turn.called_off or turn.question_over:
            self._speaking = None
            return ConverseRequest(commit=CommitQuestion(bytes=sent))
        return None


def _piece_bytes(pcm_format: PcmFormat) -> int:
    return MAX_PIECE_BYTES - MAX_PIECE_BYTES % pcm_format.frame_bytes

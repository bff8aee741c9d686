"""A conversation: questions while they are spoken, answers while they are made; who speaks silences them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from aqaa.errors import (
    AqaaError,
    CapacityError,
    Deadline,
    Draining,
    InvalidAudio,
    InvalidRequest,
    LogDiverged,
    NotFound,
)
from aqaa.rpc.caller import Caller
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import traceback_of
from aqaa.turnlog import TurnRef
from aqaa.v1.orchestrator_pb2 import (
    ConversationOpened,
    ConverseRequest,
    ConverseResponse,
    OpenTurn,
    Played,
    TurnEvent,
)
from services.orchestrator import doors
from services.orchestrator.failures import event_of
from services.orchestrator.front.front import Asked, Front
from services.orchestrator.front.question import Question
from services.orchestrator.front.turn import FrontTurn
from services.orchestrator.tasks import Outbox, ended

_REMEMBERED = 16
"""Turns that are over and may still be acknowledged."""


class _Open:
    """The question that is being spoken: its turn begins with its first sound."""

    def __init__(self, opening: OpenTurn, question: Question) -> None:
        self.opening = opening
        self.question = question
        self.received = 0
        self.failed = False
        """Its turn is over: what still comes of it is dropped."""
        self.turn: FrontTurn | None = None
        self.committed_at: float | None = None


class Conversation:
    """One Converse call.

    await Conversation(front, caller, seconds).run(requests, outbox)
    """

    def __init__(self, front: Front, caller: Caller, seconds: float | None) -> None:
        self._front = front
        self._shared = front.shared
        self._caller = caller
        self._ends = None if seconds is None else front.shared.clock.now() + seconds
        self._session_id = ""
        self._open: _Open | None = None
        self._turns: dict[str, FrontTurn] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, requests: AsyncIterator[ConverseRequest], outbox: Outbox[ConverseResponse]) -> None:
        """Until the caller has said everything and every turn is told. Raises what was wrong with a step."""
        self._outbox = outbox
        gauge = self._shared.metrics[catalogue.SESSIONS_LIVE]
        steps = aiter(requests)
        self._stopping = asyncio.create_task(self._front.draining.wait())
        try:
            with gauge.track_inprogress():
                await self._begin(await self._step(steps))
                while (step := await self._step(steps)) is not None:
                    await self._take(step)
                if self._open is not None and not self._open.failed:
                    raise InvalidRequest("the call ended inside a question, expected its commit")
                while self._tasks:
                    await asyncio.wait(self._tasks)
                for turn in self._turns.values():
                    await turn.remember()
        finally:
            await ended(self._stopping, *self._tasks)

    async def _step(self, steps: AsyncIterator[ConverseRequest]) -> ConverseRequest | None:
        """The next step; None behind the last one. Raises Deadline, or Draining when it may leave."""
        idle, draining = self._shared.settings.conversation_idle_seconds, self._front.draining
        coming = asyncio.ensure_future(anext(steps, None))
        stopping = self._stopping
        try:
            while True:
                done, _ = await asyncio.wait(
                    {coming, stopping, *self._tasks}, timeout=idle, return_when=asyncio.FIRST_COMPLETED
                )
                if coming in done:
                    return coming.result()
                if draining.is_set() and not self._tasks:
                    raise Draining("this replica is shutting down, open the conversation again")
                if draining.is_set():
                    await asyncio.wait({coming, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
                elif not done and not self._tasks:
                    raise Deadline(f"nothing has been said for {idle:g} s", stage="conversation")
        finally:
            if not coming.done():
                await ended(coming)

    async def _begin(self, step: ConverseRequest | None) -> None:
        if step is None or not step.HasField("open"):
            raise InvalidRequest("the first step of a conversation is open")
        self._format = doors.check_format(step.open.format)
        self._session_id = step.open.session_id
        if self._session_id:
            await self._front.session(self._caller, self._session_id)
        else:
            self._session_id = self._shared.log.new_turn(self._caller.tenant).session
        await self._outbox.put(ConverseResponse(opened=ConversationOpened(session_id=self._session_id)))

    async def _take(self, step: ConverseRequest) -> None:
        kind = step.WhichOneof("step")
        match kind:
            case "turn":
                self._question(step.turn)
            case "audio":
                await self._audio(step)
            case "commit":
                await self._commit(step.commit.bytes)
            case "played":
                self._played(step.played)
            case "cancel":
                given = step.cancel.HasField("played_samples")
                played = step.cancel.played_samples if given else None
                await self._cancel(step.cancel.turn_id, played)
            case _:
                raise InvalidRequest(f"{kind or 'an empty step'} cannot stand here")

    # -- questions --

    def _question(self, opening: OpenTurn) -> None:
        if self._open is not None:
            raise InvalidRequest("turn: a question is open, expected its commit first")
        doors.check_options(opening.options)
        doors.check_request_id(opening.request_id)
        self._open = _Open(opening, Question(self._shared, self._format, self._ends))

    async def _audio(self, step: ConverseRequest) -> None:
        current = self._asked("audio")
        try:
            pcm = doors.check_piece(step.audio, self._format, current.received)
            if not current.failed:
                current.question.add(pcm)
        except InvalidAudio as error:  # the turn's fault, not the conversation's
            if not current.failed:
                await self._spoil(current, error)
        current.received += len(step.audio.pcm)
        if current.failed:
            return
        if current.turn is None:
            await self._begin_turn(current)

    async def _spoil(self, current: _Open, error: AqaaError) -> None:
        current.failed = True
        if current.turn is not None:
            current.question.fail(error)
        else:
            turn_id = self._shared.log.new_turn(self._caller.tenant, self._session_id).turn_id
            await self._fail(turn_id, error, resumable=False)

    async def _commit(self, count: int) -> None:
        current = self._asked("commit")
        if count != current.received:
            raise InvalidRequest(f"commit.bytes is {count}, but {current.received} bytes have come")
        if not current.received:
            raise InvalidRequest("commit: the question has no sound")
        self._open = None
        if current.turn is not None and not current.failed:
            current.turn.telling.asked_at = self._shared.clock.now()
            current.question.commit(count)

    def _asked(self, kind: str) -> _Open:
        if self._open is None:
            raise InvalidRequest(f"{kind}: no question is open, expected turn first")
        return self._open

    async def _begin_turn(self, current: _Open) -> None:
        """Opens the turn of a question; a refusal ends the turn, not the conversation."""
        fresh = self._shared.log.new_turn(self._caller.tenant, self._session_id)
        options, request_id = current.opening.options, current.opening.request_id
        asked = Asked(self._caller, "", request_id, options, self._ends)
        try:
            named = await self._front.turn_of(asked, fresh)
            silenced = await self._silence(named)
            if len(self._tasks) >= self._shared.settings.turns_per_conversation:
                raise CapacityError(f"{len(self._tasks)} turns of this conversation are still to be told")
            for turn in self._turns.values():
                if turn.turn.turn_id not in silenced:
                    await turn.remember()
            opened = await self._front.open(asked, named, current.question, self._send)
        except AqaaError as error:
            current.failed = True
            await self._fail(fresh.turn_id, error, resumable=False)
            return
        if opened is None:
            current.failed = True
            return
        current.turn = turn = opened
        while len(self._turns) >= _REMEMBERED:
            del self._turns[next(iter(self._turns))]
        self._turns[turn.turn.turn_id] = turn
        task = asyncio.create_task(self._tell(turn, current), name=f"tell {turn.turn.turn_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: turn.leave())

    async def _silence(self, speaking: TurnRef) -> list[str]:
        """New speech is a barge-in: what of the session was asked before it and is still answered ends."""
        tenant, caller = self._caller.tenant, str(self._caller)
        live = await self._front.book.live(tenant, self._session_id, caller, before=speaking.turn_id)
        for turn_id in live:
            with suppress(LogDiverged):  # it has ended, only what was heard of it cannot be told
                await self._cancel(turn_id, None)
        return live

    # -- answers --

    async def _tell(self, turn: FrontTurn, current: _Open) -> None:
        try:
            await turn.run(self._shared.stages.facts.sample_rate_hz)
        except AqaaError as error:
            await self._fail(turn.turn.turn_id, error, resumable=turn.resumable)
        except Exception as error:
            where = traceback_of(error, messages=False)
            self._shared.journal.error("a turn has failed and nobody foresaw it", traceback=where)
            await self._fail(turn.turn.turn_id, AqaaError(), resumable=False)
        finally:
            current.failed = current.failed or self._open is current

    async def _fail(self, turn_id: str, error: AqaaError, *, resumable: bool) -> None:
        await self._send(TurnEvent(turn_id=turn_id, failed=event_of(error, resumable=resumable)))

    async def _send(self, event: TurnEvent) -> None:
        await self._outbox.put(ConverseResponse(turn=event))

    async def _cancel(self, turn_id: str, played: int | None) -> None:
        mine = self._turns.get(turn_id)
        if mine is not None and played is None:
            played = mine.telling.played
        session = mine.turn.session if mine is not None else self._session_id
        try:
            await self._front.cancel(self._caller, session, turn_id, played)
        except NotFound:  # it was refused, say, when its caller took it back: there is nothing to end
            self._shared.journal.info("cancel names a turn that there is not")

    def _played(self, played: Played) -> None:
        """Of a turn that is not, or no more, of this conversation it says nothing that is needed."""
        turn = self._turns.get(played.turn_id)
        if turn is None:
            self._shared.journal.info("played names a turn that the conversation does not have")
        else:
            turn.telling.acknowledge(played.samples)

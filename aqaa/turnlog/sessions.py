"""What a session keeps between turns: its caller, and its history as text, of which what was heard counts."""

from collections.abc import Mapping
from dataclasses import dataclass

from aqaa.errors import LogDiverged, LogLost, NotFound
from aqaa.turnlog import scripts
from aqaa.turnlog.link import Link
from aqaa.turnlog.names import SessionRef, TurnRef, request_key
from aqaa.turnlog.records import history_digest
from aqaa.turnlog.settings import ms
from aqaa.v1.orchestrator_pb2 import TurnSummary
from aqaa.v1.tokens_pb2 import Message, Role
from aqaa.v1.turnlog_pb2 import History


@dataclass(frozen=True)
class Session:
    """A session as its hash says it.

    turns  what it keeps of each turn, oldest first; of one that nobody has written about yet, only the id
    """

    ref: SessionRef
    caller: str
    turns: tuple[TurnSummary, ...]

    @classmethod
    def parse(cls, ref: SessionRef, raw: Mapping[bytes, bytes]) -> "Session":
        """From HGETALL of the meta hash."""
        numbers = sorted(
            (int(value), field.removeprefix(b"number:"))
            for field, value in raw.items()
            if field.startswith(b"number:")
        )
        turns = []
        for _, turn_id in numbers:
            summary = raw.get(b"turn:" + turn_id)
            turns.append(
                TurnSummary.FromString(summary) if summary else TurnSummary(turn_id=turn_id.decode())
            )
        return cls(ref, raw[b"caller"].decode(), tuple(turns))

    def history(self) -> History:
        """What the next turn knows: questions as they were understood, answers as far as they were heard."""
        messages = []
        for turn in self.turns:
            if turn.question_text:
                messages.append(Message(role=Role.ROLE_HUMAN, text=turn.question_text))
            if turn.heard_text:
                messages.append(Message(role=Role.ROLE_ASSISTANT, text=turn.heard_text))
        return History(messages=messages)


class Sessions:
    """The sessions in the log. Whatever is another caller's is NotFound, as if it did not exist."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def get(self, ref: SessionRef, caller: str) -> Session:
        """Raises NotFound."""
        raw: dict[bytes, bytes] = await self.link.command("HGETALL", ref.meta)
        if raw.get(b"caller") != caller.encode():
            raise NotFound(f"there is no session {ref.session}")
        return Session.parse(ref, raw)

    async def remember(self, turn: TurnRef, caller: str, summary: TurnSummary, *, over: bool) -> None:
        """Writes what is kept of a turn, in place of what was written before.

        over: the turn will not be taken over any more. Raises NotFound.
        """
        args = (
            caller,
            turn.turn_id,
            summary.SerializeToString(),
            int(over),
            ms(self.link.settings.session_ttl),
        )
        if (await self.link.run(scripts.REMEMBER, [turn.meta], args))[0] != "OK":
            raise NotFound(f"there is no turn {turn.turn_id} in session {turn.session}")

    async def known(self, turn: TurnRef, digest: bytes) -> History:
        """The history that a turn was opened with. Raises LogLost, LogDiverged if its spec says another."""
        raw: bytes | None = await self.link.command("HGET", turn.meta, f"known:{turn.turn_id}")
        if raw is None:
            raise LogLost(f"the history of turn {turn.turn_id} is gone", missing="history")
        history = History.FromString(raw)
        if history_digest(history) != digest:
            raise LogDiverged(
                f"the history of turn {turn.turn_id} is not the one in its spec", missing="history"
            )
        return history

    async def close(self, ref: SessionRef, caller: str) -> int:
        """Removes the session and every key of its turns at once: how many there were. Raises NotFound."""
        session = await self.get(ref, caller)
        keys = [ref.meta]
        for summary in session.turns:
            keys += ref.turn(summary.turn_id).keys
        return int(await self.link.command("UNLINK", *keys))

    async def attach(self, caller: str, request_id: str, turn: TurnRef) -> TurnRef:
        """The turn that this request opened before, or ``turn`` if it is new: then it belongs to the request.

        ``turn``'s ids are fresh ones, which are thrown away if the request is repeated. The request is known
        for a lease, and longer by ``remember_request`` alone: of those that are refused at the door nothing
        stays.
        """
        key = request_key(turn.tenant, caller, request_id)
        value = f"{turn.session}.{turn.turn_id}"
        if await self.link.command("SET", key, value, "NX", "PX", ms(self.link.settings.lease)):
            return turn
        found: bytes | None = await self.link.command("GET", key)
        if found is None:  # it ran out in between
            return await self.attach(caller, request_id, turn)
        return TurnRef(turn.tenant, *found.decode().split("."))

    async def remember_request(self, caller: str, request_id: str, turn: TurnRef) -> None:
        """Its turn is open: a repeated request finds it for as long as a session lives."""
        key, ttl = request_key(turn.tenant, caller, request_id), ms(self.link.settings.session_ttl)
        await self.link.command("SET", key, f"{turn.session}.{turn.turn_id}", "PX", ttl)

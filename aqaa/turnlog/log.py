"""The turn log's front door: opening, taking over, steering and ending turns.

async with TurnLog(link) as log:
    opened = await log.open(turn, caller, spec, history)             # a front
    ...
    tenure = await log.acquire_runner(consumer, dispatched)          # a runner
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from aqaa.errors import BundleChanged, CapacityError, Deadline, InvalidRequest, LogLost, NotFound, Superseded
from aqaa.turnlog import scripts
from aqaa.turnlog.append import Appender
from aqaa.turnlog.capacity import Capacity
from aqaa.turnlog.dispatch import Consumer, Dispatched, post
from aqaa.turnlog.follow import Follower, Following, read_all
from aqaa.turnlog.keeper import Keeper
from aqaa.turnlog.link import Call, Link, granted
from aqaa.turnlog.names import RandomBytes, Role, SessionRef, Stream, TurnRef, new_id
from aqaa.turnlog.records import Cursor, Entry, encode, history_digest
from aqaa.turnlog.sessions import Sessions
from aqaa.turnlog.settings import ms
from aqaa.turnlog.state import Phase, TurnState
from aqaa.turnlog.tenure import Refused, Tenure
from aqaa.v1.errors_pb2 import ErrorReason
from aqaa.v1.tokens_pb2 import EndReason
from aqaa.v1.turnlog_pb2 import History, QueryRecord, TerminalState, TurnSpec


@dataclass(frozen=True)
class Opened:
    """A turn that this front has opened: its role, the pen of its question, the entry of its spec."""

    tenure: Tenure
    query: Appender
    spec: Entry


class TurnLog:
    """One process's view of the log. ``random_bytes`` draws ids and nonces."""

    def __init__(self, link: Link, random_bytes: RandomBytes = secrets.token_bytes) -> None:
        self.link = link
        self.following = Following(link)
        self.sessions = Sessions(link)
        self.capacity = Capacity(link)
        self._random_bytes = random_bytes

    async def __aenter__(self) -> Self:
        await self.following.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.following.__aexit__(*exc)

    def new_turn(self, tenant: str, session: str = "") -> TurnRef:
        """Fresh ids: of a turn, and of its session where none is named. Nothing is written."""
        return TurnRef(tenant, session or new_id(self._random_bytes), new_id(self._random_bytes))

    def nonce(self) -> str:
        """64 random bits, for one acquiring."""
        return self._random_bytes(8).hex()

    # -- fronts --

    async def open(self, turn: TurnRef, caller: str, spec: TurnSpec, history: History) -> Opened | TurnState:
        """Writes the spec and holds the turn as its front; the state of a turn that was opened before.

        Raises InvalidRequest if spec and arguments differ, NotFound if session or turn are another caller's.
        """
        given = (spec.session_id, spec.turn_id, spec.caller, spec.history_digest)
        if given != (turn.session, turn.turn_id, caller, history_digest(history)):
            raise InvalidRequest(
                f"the spec of turn {turn.turn_id} names another session, turn, caller or history"
            )
        entry = Cursor().after(encode(QueryRecord(spec=spec)))
        nonce, settings = self.nonce(), self.link.settings
        times = (ms(settings.lease), ms(settings.turn_ttl), ms(settings.session_ttl))
        args = (caller, entry.data, entry.hash, turn.turn_id, encode(history), nonce, *times)
        reply = await self.link.run(scripts.OPEN, [turn.state, turn.stream(Stream.QUERY), turn.meta], args)
        if reply[0] == "FOREIGN":
            raise NotFound(f"there is no turn {turn.turn_id} in session {turn.session}")
        if reply[0] == "EXISTS":
            state = await self.state(turn, caller)
            if state.owners.get(Role.FRONT) != f"1.{nonce}":  # else the first reply was lost
                return state
        tenure = Tenure(self.link, turn, Role.FRONT, nonce, 1)
        return Opened(tenure, Appender(tenure, Stream.QUERY, [entry]), entry)

    async def dispatch(
        self, turn: TurnRef, bundle_digest: str, answer: Follower, timeout: float
    ) -> TurnState:
        """Tells the runners of the turn, every ``dispatch_again``, until one has acquired it or it is over.

        answer: the front's reader, which sees the state. Raises CapacityError when nobody took it in time.
        """
        clock = self.link.clock
        until = clock.now() + timeout
        while True:
            await post(self.link, turn, bundle_digest)
            left = until - clock.now()
            try:
                return await answer.seen(
                    lambda state: state.phase is not Phase.OPEN,
                    max(0.0, min(left, self.link.settings.dispatch_again)),
                )
            except Deadline:
                if clock.now() >= until:
                    raise CapacityError(
                        f"nobody took turn {turn.turn_id} within {timeout:g} s, try again", retry_after=1.0
                    ) from None

    async def keep_dispatched(self, turn: TurnRef, bundle_digest: str, answer: Follower) -> None:
        """Tells the runners of a running turn again when nobody has had it for a while; until it is over.

        A successor claims the entry of its runner. This is for an entry that was lost with a part of the log:
        its runner stops, and nothing else stands for the turn. While nobody takes it, for want of a slot
        perhaps, each wait is twice the one before, up to ``dispatch_longest``. answer: as for ``dispatch``.
        """
        settings = self.link.settings
        silence = max(settings.lease, settings.sweep) + settings.dispatch_again
        wait = settings.dispatch_again
        while (state := answer.state) is not None and not state.phase.terminal:
            owned = Role.RUNNER in state.owners
            await self.link.clock.sleep(silence if owned else wait)
            now = answer.state
            if now is None or now.phase.terminal:
                continue
            if now.leases[Role.RUNNER] != state.leases[Role.RUNNER]:
                wait = settings.dispatch_again
                continue
            await post(self.link, turn, bundle_digest)
            wait = min(2 * wait, settings.dispatch_longest)

    async def resume(self, turn: TurnRef, caller: str) -> Tenure:
        """Takes the turn over from whichever front has it. Raises NotFound, Superseded if it was given up."""
        await self.state(turn, caller)
        tenure = await Tenure.acquire(self.link, turn, Role.FRONT, self.nonce(), force=True)
        if isinstance(tenure, Refused):
            if tenure.why == "GONE":
                raise NotFound(f"there is no turn {turn.turn_id} in session {turn.session}")
            raise Superseded(f"turn {turn.turn_id} has ended")
        return tenure

    async def pen(self, tenure: Tenure, stream: Stream) -> tuple[Appender, list[Entry]]:
        """The pen of a stream that someone wrote before, and what they wrote. Raises LogDiverged."""
        written = await read_all(self.link, tenure.turn, stream)
        return Appender(tenure, stream, written), written

    async def control(
        self,
        tenure: Tenure,
        *,
        commit: int | None = None,
        frontier: int | None = None,
        played: int | None = None,
    ) -> None:
        """Tells the runner: the question is over and has so many groups; how far to write; what was heard.

        Of a completed turn, too: its sound is still played.
        Raises Superseded, Cancelled, LogLost, LogDiverged (a commit of another number of groups).
        """
        turn = tenure.turn
        given = {"commit": commit, "frontier": frontier, "played_samples": played}
        fields = [word for name, value in given.items() if value is not None for word in (name, value)]
        while True:
            tenure.check()
            head = (tenure.role, tenure.owner, self.link.publish, turn.channel(Role.RUNNER))
            reply = await self.link.run(scripts.CONTROL, [turn.state], [*head, *fields])
            match reply[0]:
                case "OK":
                    return
                case "CONFLICT":
                    raise tenure.diverged(
                        f"turn {turn.turn_id} was committed with {int(reply[1])} groups, not {commit}",
                        "commit",
                    )
                case "ENDED":
                    await tenure.refused(["FENCED", reply[1], b"0"])
                case _:
                    await tenure.refused(reply)

    # -- both --

    async def state(self, turn: TurnRef, caller: str) -> TurnState:
        """Raises NotFound if there is no such turn, or it is another caller's."""
        state = TurnState.parse(await self.link.command("HGETALL", turn.state))
        if state is None or state.caller != caller:
            raise NotFound(f"there is no turn {turn.turn_id} in session {turn.session}")
        return state

    async def spec(self, turn: TurnRef) -> TurnSpec:
        """Raises LogLost, LogDiverged."""
        entries = await read_all(self.link, turn, Stream.QUERY)
        if not entries:
            raise LogLost(f"turn {turn.turn_id} has no spec", missing="query:1")
        record: QueryRecord = entries[0].record(Stream.QUERY)
        return record.spec

    async def finish(self, tenure: Tenure, terminal: TerminalState) -> tuple[Phase, TerminalState]:
        """Ends the turn as its owner; what the first one decided. Raises Superseded, LogLost."""
        while True:
            reply = await self._finish(tenure.turn, terminal, tenure=tenure)
            if reply[0] in ("OK", "ENDED"):
                return Phase(reply[1].decode()), TerminalState.FromString(reply[2])
            if reply[0] == "EARLY":
                raise ValueError(f"turn {tenure.turn.turn_id} is {reply[1].decode()}: it cannot be completed")
            await tenure.refused(reply)

    async def cancel(
        self, turn: TurnRef, caller: str, *, played_samples: int | None = None
    ) -> tuple[Phase, TerminalState]:
        """Ends the turn for its caller, from any front; what the first one decided. Raises NotFound.

        A turn that has ended stays as it is: the largest ``played_samples`` is kept, and the front that still
        tells it sees ``TurnState.cancel``.
        """
        await self.state(turn, caller)
        terminal = TerminalState(reason=EndReason.END_REASON_CANCELLED)
        reply = await self._finish(turn, terminal, played=played_samples)
        if reply[0] == "GONE":
            raise NotFound(f"there is no turn {turn.turn_id} in session {turn.session}")
        return Phase(reply[1].decode()), TerminalState.FromString(reply[2])

    async def _finish(
        self,
        turn: TurnRef,
        terminal: TerminalState,
        *,
        tenure: Tenure | None = None,
        played: int | None = None,
    ) -> list[Any]:
        call = self._finishing(turn, terminal, tenure=tenure, played=played)
        return await self.link.run(call.script, call.keys, call.args)

    def _finishing(
        self,
        turn: TurnRef,
        terminal: TerminalState,
        *,
        tenure: Tenure | None = None,
        absent: Role | None = None,
        after: float = 0.0,
        played: int | None = None,
    ) -> Call:
        """absent: only if nobody has held this role for ``after`` seconds."""
        link = self.link
        who = (tenure.role, tenure.owner) if tenure is not None else ("", "")
        condition = (absent or "", round(after * 1000), "" if played is None else played)
        tail = (ms(link.settings.turn_ttl), link.publish, turn.channel(Role.FRONT), turn.channel(Role.RUNNER))
        args = (Phase.ended(terminal.reason), encode(terminal), *who, *condition, *tail)
        return Call(scripts.FINISH, turn.keys, args)

    # -- runners --

    async def acquire_runner(self, consumer: Consumer, dispatched: Dispatched) -> Tenure | None:
        """Takes the turn of a dispatch entry; None if there is nothing to do: then the entry is dealt with.

        A turn that has been given out too often is ended and buried.
        """
        turn = dispatched.turn
        if dispatched.deliveries > self.link.settings.max_deliveries and await self._bury(
            consumer, dispatched
        ):
            return None
        got = await Tenure.acquire(self.link, turn, Role.RUNNER, self.nonce(), entry=dispatched.entry)
        if isinstance(got, Tenure):
            return got
        if got.why == "LEASED" and got.entry == dispatched.entry:
            # from a runner that is silent, but not for long enough: its entry is all that stands for the turn
            await consumer.hand_over(dispatched, after=got.left)
        else:
            await consumer.done(dispatched)
        return None

    async def refuse_bundle(self, consumer: Consumer, dispatched: Dispatched, tenure: Tenure) -> None:
        """Ends a turn whose bundle no replica holds any more, for its caller as BUNDLE_CHANGED."""
        message = (
            f"turn {dispatched.turn.turn_id} began with bundle {dispatched.bundle_digest}, which is gone"
        )
        await self.finish(
            tenure,
            TerminalState(
                reason=EndReason.END_REASON_FAILED,
                error=ErrorReason.ERROR_REASON_BUNDLE_CHANGED,
                message=message,
            ),
        )
        await consumer.bury(dispatched, BundleChanged.reason)

    async def _bury(self, consumer: Consumer, dispatched: Dispatched) -> bool:
        """False if someone alive runs the turn."""
        terminal = TerminalState(
            reason=EndReason.END_REASON_FAILED,
            error=ErrorReason.ERROR_REASON_UNAVAILABLE,
            message=f"{dispatched.deliveries - 1} runners could not answer it",
        )
        call = self._finishing(dispatched.turn, terminal, absent=Role.RUNNER)
        reply = await self.link.run(call.script, call.keys, call.args)
        if reply[0] == "LEASED":
            return False
        await consumer.bury(dispatched, "GONE" if reply[0] == "GONE" else "MAX_DELIVERIES")
        return True

    async def end_abandoned(self, turns: Sequence[TurnRef], *, after: float) -> list[TurnRef]:
        """Cancels those of the turns whose front has been gone for ``after`` seconds beyond its lease; which.

        For a runner to ask, once a lease or so, of the turns that it holds: nobody will read their answers.
        Each gives its place among the live turns back; its runner sees the end as it sees any cancel. A turn
        that a front holds, or that has ended, stays as it is.
        """
        message = f"its front has not come back within {after:g} s"
        terminal = TerminalState(reason=EndReason.END_REASON_CANCELLED, message=message)
        calls = [self._finishing(turn, terminal, absent=Role.FRONT, after=after) for turn in turns]
        ended = []
        for turn, reply in zip(turns, await self.link.pipeline(calls), strict=True):
            if granted(reply)[0] == "OK" or (reply[0] == "ENDED" and reply[2] == encode(terminal)):
                await self.capacity.leave(turn)
                ended.append(turn)
        return ended

    def session(self, tenant: str, session: str) -> SessionRef:
        """A caller's session id, checked. Raises InvalidRequest."""
        return SessionRef(tenant, session)

    def keeper(self, consumer: Consumer | None = None) -> Keeper:
        """What renews the roles of this process; its ``run`` is a task of the service."""
        return Keeper(self.link, consumer)

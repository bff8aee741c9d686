"""What is kept of turns: how each stands, and the history that the next one knows."""

from collections.abc import Sequence
from itertools import takewhile

from aqaa.errors import AqaaError, NotFound
from aqaa.turnlog import Phase, Session, SpokenSegment, Stream, TurnLog, TurnRef, TurnState, heard, read_all
from aqaa.v1.orchestrator_pb2 import TurnManifest, TurnPhase, TurnSummary
from aqaa.v1.tokens_pb2 import EndReason
from aqaa.v1.turnlog_pb2 import AnswerRecord, DeliveryRecord, History, TurnSpec
from services.orchestrator.answer import Answer
from services.orchestrator.sound import Sound, delivered

_LONGEST_HISTORY = 8 * 1024
"""Characters: what is older is left out, a whole question with its answer at a time."""


def summary_of(
    turn_id: str,
    answer: Answer,
    sound: Sound,
    *,
    played: int | None,
    phase: "TurnPhase.ValueType",
    reason: "EndReason.ValueType" = EndReason.END_REASON_UNSPECIFIED,
) -> TurnSummary:
    """played: samples that the caller has heard; None if all that left counts as heard."""
    samples = sound.place.sample
    extents = sound.extents(len(answer.segments))
    spoken = [
        SpokenSegment(segment.text, length, complete=sound.is_complete(segment))
        for segment, (_, length) in zip(answer.segments, extents, strict=True)
    ]
    if not answer.spoken:  # a written answer is read as it comes
        said, estimated = answer.text, False
    else:
        found = heard(spoken, samples if played is None else min(played, samples))
        said, estimated = found.text, found.estimated
    return TurnSummary(
        turn_id=turn_id,
        phase=phase,
        reason=reason,
        question_text=answer.transcript.text if answer.transcript else "",
        answer_text=answer.text,
        heard_text=said,
        heard_estimated=estimated,
        samples=samples,
    )


class Book:
    """The sessions of the log, with the turns that nobody has summed up yet."""

    def __init__(self, log: TurnLog) -> None:
        self._log = log

    async def session(self, tenant: str, session: str, caller: str) -> Session:
        """With every turn as it stands now. Raises InvalidRequest, NotFound."""
        found = await self._log.sessions.get(self._log.session(tenant, session), caller)
        turns = []
        for kept in found.turns:
            over = kept.phase == TurnPhase.TURN_PHASE_ENDED
            turns.append(kept if over else await self._now(found.ref.turn(kept.turn_id), caller, kept))
        return Session(found.ref, found.caller, tuple(turns))

    async def history(self, turn: TurnRef, caller: str) -> History:
        """What a new turn of a session knows: nothing in a new session. Raises NotFound."""
        try:
            found = await self.session(turn.tenant, turn.session, caller)
        except NotFound:  # nothing was said in it yet, or it is not the caller's: opening a turn will tell
            return History()
        turns: Sequence[TurnSummary] = [kept for kept in found.turns if kept.turn_id != turn.turn_id]
        while turns:
            history = Session(found.ref, caller, tuple(turns)).history()
            if sum(len(message.text) for message in history.messages) <= _LONGEST_HISTORY:
                return history
            turns = turns[1:]
        return History()

    async def live(self, tenant: str, session: str, caller: str, *, before: str) -> list[str]:
        """Turns of a session, older than the turn ``before``, of which it is not known that they are over."""
        try:
            found = await self._log.sessions.get(self._log.session(tenant, session), caller)
        except NotFound:  # nothing was said in it yet
            return []
        older = takewhile(lambda kept: kept.turn_id != before, found.turns)
        return [kept.turn_id for kept in older if kept.phase != TurnPhase.TURN_PHASE_ENDED]

    async def remember(self, turn: TurnRef, caller: str, summary: TurnSummary) -> None:
        """Keeps a summary; final once its phase is ENDED."""
        over = summary.phase == TurnPhase.TURN_PHASE_ENDED
        await self._log.sessions.remember(turn, caller, summary, over=over)

    async def settle(self, turn: TurnRef, caller: str) -> None:
        """Keeps how a turn stands by its log. Raises NotFound, LogDiverged."""
        state = await self._log.state(turn, caller)
        await self.remember(turn, caller, await summary_from_log(self._log, turn, state))

    async def _now(self, turn: TurnRef, caller: str, kept: TurnSummary) -> TurnSummary:
        try:
            state = await self._log.state(turn, caller)
            summary = await summary_from_log(self._log, turn, state)
        except NotFound:  # its log has run out
            kept.phase = TurnPhase.TURN_PHASE_ENDED
            return kept
        except AqaaError as error:
            if error.reason not in ("LOG_DIVERGED", "LOG_LOST"):
                raise
            kept.phase = TurnPhase.TURN_PHASE_ENDED
            return kept
        if kept.heard_text and state.played is None:  # a front has said better what was heard
            summary.heard_text, summary.heard_estimated = kept.heard_text, kept.heard_estimated
        return summary


async def summary_from_log(log: TurnLog, turn: TurnRef, state: TurnState) -> TurnSummary:
    """How a turn stands that no front here tells. Raises LogDiverged."""
    answer = await answer_from_log(log, turn)
    sound = delivered(1, await deliveries(log, turn))
    reason = state.terminal.reason if state.terminal else EndReason.END_REASON_UNSPECIFIED
    return summary_of(turn.turn_id, answer, sound, played=state.played, phase=phase_of(state), reason=reason)


def phase_of(state: TurnState) -> "TurnPhase.ValueType":
    """As callers see it: a runner may have an open turn already."""
    if state.phase.terminal:
        return TurnPhase.TURN_PHASE_ENDED
    if state.phase is Phase.RUNNING and state.commit is not None:
        return TurnPhase.TURN_PHASE_RUNNING
    return TurnPhase.TURN_PHASE_OPEN


async def answer_from_log(log: TurnLog, turn: TurnRef) -> Answer:
    """Raises LogDiverged."""
    entries = await read_all(log.link, turn, Stream.ANSWER)
    return Answer(entry.record(Stream.ANSWER) for entry in entries)


async def add_tokens(manifest: TurnManifest, log: TurnLog, turn: TurnRef, spec: TurnSpec) -> None:
    """Puts the turn's tokens into its manifest, if its caller wants them. Raises LogDiverged."""
    if not spec.with_tokens:
        return
    for entry in await read_all(log.link, turn, Stream.QUERY):
        groups = entry.record(Stream.QUERY).groups
        manifest.tokens.question.linguistic.extend(groups.linguistic)
        manifest.tokens.question.semantic.extend(groups.semantic)
    for entry in await read_all(log.link, turn, Stream.ANSWER):
        record: AnswerRecord = entry.record(Stream.ANSWER)
        if record.HasField("piece"):
            manifest.tokens.answer.append(record.piece)


async def deliveries(log: TurnLog, turn: TurnRef) -> dict[int, DeliveryRecord]:
    """Records of chunks by sequence, as far as they are kept. Raises LogDiverged."""
    entries = await read_all(log.link, turn, Stream.DELIVERY)
    return {entry.seq: entry.record(Stream.DELIVERY) for entry in entries}

"""An answer on its way to one caller: text as it is written, sound as it is made, the manifest last."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from aqaa.errors import AqaaError, Cancelled, Deadline, InvalidRequest, Unavailable
from aqaa.telemetry import catalogue
from aqaa.turnlog import (
    Appender,
    Follower,
    Phase,
    Role,
    Stream,
    Tenure,
    TurnState,
    played_by_the_clock,
)
from aqaa.v1.audio_pb2 import AnswerAudio
from aqaa.v1.orchestrator_pb2 import AnswerText, TurnEvent, TurnSummary
from aqaa.v1.tokens_pb2 import EndReason
from aqaa.v1.turnlog_pb2 import AnswerRecord, DeliveryRecord, TurnSpec
from services.orchestrator.answer import Answer, NewText
from services.orchestrator.failures import error_of
from services.orchestrator.front.speaking import Speaking
from services.orchestrator.groups import GROUP_SECONDS
from services.orchestrator.session import phase_of, summary_of
from services.orchestrator.shared import Shared
from services.orchestrator.sound import Sound
from services.orchestrator.tasks import all_of

Send = Callable[[TurnEvent], Awaitable[None]]


class Telling:
    """One call's view of one turn.

    state_before   the turn's, where it was opened before
    received       bytes of text that the caller has, by segment
    last_sequence  the last chunk that it has, which ends before ``next_sample``
    ends           when it waits no longer, by the clock; None: nobody knows
    acked          samples that it says it has played; None while it says nothing
    """

    def __init__(
        self,
        shared: Shared,
        spec: TurnSpec,
        tenure: Tenure,
        follower: Follower,
        sound: Sound,
        delivery: Appender,
        send: Send,
        *,
        state_before: TurnState | None = None,
        received: Mapping[int, int] | None = None,
        last_sequence: int = 0,
        next_sample: int = 0,
        ends: float | None = None,
    ) -> None:
        self._shared = shared
        self._spec = spec
        self._tenure = tenure
        self._follower = follower
        self._delivery = delivery
        self._sending = send
        self._unsent = 0
        self._unsent_since = 0.0
        self._received = dict(received or {})
        self._last_sequence = last_sequence
        self._next_sample = next_sample
        self._ends_at = ends
        self.answer = Answer()
        self.sound = sound
        self.acked: int | None = None
        self.silenced = False
        """Its tokens were complete when its caller took it back."""
        self._cancelled_before = state_before.cancel if state_before is not None else None
        self.asked_at: float | None = None
        """When the question ended, by the clock; None for who resumes."""
        self._ends: deque[tuple[int, int]] = deque()
        """Chunks that are not acknowledged, but for the last that is: sequence and end."""
        self._first_sent: float | None = None
        self._told_text = False
        self._stirred = asyncio.Event()

    async def tell(self) -> "EndReason.ValueType":
        """Everything up to the manifest, which it leaves to the caller of this: how the turn ended."""
        speaking = Speaking(self._shared, self._spec, self.answer, self.sound, self._deliver, self._ends_at)
        await all_of(self._read(), speaking.run())
        if self.sound.place.sequence < self._last_sequence:
            raise InvalidRequest(
                f"last_sequence is {self._last_sequence}, but the turn has {self.sound.place.sequence} chunks"
            )
        state = self._follower.state
        if state is None or state.terminal is None:
            raise Unavailable(f"turn {self._spec.turn_id} has not ended", stage="turnlog")
        return state.terminal.reason

    # -- what is told --

    async def send(self, event: TurnEvent) -> None:
        """Gives the caller the next event; waits while it takes nothing."""
        clock = self._shared.clock
        if not self._unsent:
            self._unsent_since = clock.now()
        self._unsent += 1
        try:
            await self._sending(event)
            self._unsent_since = clock.now()
        finally:
            self._unsent -= 1

    @property
    def unheard(self) -> float:
        """Seconds for which it has waited for its caller; 0 while it does not."""
        return self._shared.clock.now() - self._unsent_since if self._unsent else 0.0

    async def _read(self) -> None:
        while True:
            try:
                entry = await self._follower.next(self._shared.settings.answer_idle_seconds)
            except Deadline:
                if self.answer.end is None and self.answer.groups >= self._allowed():
                    continue  # it waits for its caller
                raise Unavailable(
                    f"nobody has written the answer on for {self._shared.settings.answer_idle_seconds:g} s",
                    stage="llm",
                ) from None
            if entry is None:
                break
            record: AnswerRecord = entry.record(Stream.ANSWER)
            new = self.answer.add(record)
            self._stirred.set()
            await self._say(record, new)

    async def _say(self, record: AnswerRecord, new: NewText | None) -> None:
        event = TurnEvent(turn_id=self._spec.turn_id)
        if record.HasField("transcript"):
            event.transcript.CopyFrom(record.transcript)
        elif record.piece.HasField("segment_start"):
            if record.piece.segment_start.segment in self._received:
                return
            event.segment_start.CopyFrom(record.piece.segment_start)
        elif new is not None and (rest := self._missing(new)).text:
            event.text.CopyFrom(rest)
            self._note_text()
        else:
            return
        await self.send(event)

    def _missing(self, new: NewText) -> AnswerText:
        """What the caller has not got of it."""
        raw = new.text.encode()
        skip = min(len(raw), max(0, self._received.get(new.segment, 0) - new.first_byte))
        try:
            text = raw[skip:].decode()
        except UnicodeDecodeError:
            raise InvalidRequest(
                f"text of segment {new.segment} was received up to inside a character"
            ) from None
        return AnswerText(segment=new.segment, text=text, first_byte=new.first_byte + skip)

    async def _deliver(self, event: AnswerAudio, record: DeliveryRecord) -> None:
        """Writes the chunk down, then sends it, unless the caller has it."""
        if event.sequence > self._delivery.cursor.seq:
            await self._delivery.append(record, below=self._heard_sequence())
        elif event.sequence == self._delivery.cursor.seq:
            await self._delivery.settle()  # an append that broke with the vocoder's call may be on its way
        self.sound.passed(event.sequence, record)
        if event.sequence == self._last_sequence and self.sound.place.sample != self._next_sample:
            raise InvalidRequest(
                f"next_sample is {self._next_sample}, but chunk {event.sequence} ends at "
                f"{self.sound.place.sample}"
            )
        self._ends.append((event.sequence, self.sound.place.sample))
        if event.sequence > self._last_sequence:
            await self.send(TurnEvent(turn_id=self._spec.turn_id, audio=event))
            self._note_audio(event)

    # -- who else has a say --

    async def watch(self) -> None:
        """Returns never: raises Cancelled, what the turn failed with, or Superseded."""
        while True:
            try:
                state = await self._follower.seen(self._is_news, self._shared.settings.turn_seconds)
            except Deadline:
                continue
            if state.phase is Phase.FAILED and state.terminal is not None:
                raise error_of(state.terminal)
            if self._is_silenced(state):
                self.silenced = True
                raise Cancelled(f"turn {self._spec.turn_id} was complete, and is to be heard no further")
            # someone else's name, or nobody's: the log itself must say what that means
            renewal = self._tenure.renewal()
            reply = await self._shared.log.link.run(renewal.script, renewal.keys, renewal.args)
            if reply[0] != "OK":
                await self._tenure.refused(reply)

    def _is_news(self, state: TurnState) -> bool:
        owner = state.owners.get(Role.FRONT, "")
        taken = not owner.endswith(f".{self._tenure.nonce}")
        return state.phase in (Phase.CANCELLED, Phase.FAILED) or taken or self._is_silenced(state)

    def _is_silenced(self, state: TurnState) -> bool:
        """A completed turn that its caller takes back stays completed, and is told no further."""
        return state.phase is Phase.COMPLETED and state.cancel != self._cancelled_before

    async def lost(self) -> None:
        """Returns never: raises why the turn is no longer this front's."""
        await self._tenure.lost.wait()
        self._tenure.check()

    # -- how far it was played --

    def acknowledge(self, samples: int) -> None:
        """What the caller says. Raises InvalidRequest for more than it was sent."""
        if samples > self.sound.place.sample:
            raise InvalidRequest(
                f"played.samples is {samples}, but {self.sound.place.sample} samples of turn "
                f"{self._spec.turn_id} were sent"
            )
        self.acked = max(self.acked or 0, samples)
        self._stirred.set()

    def _heard_sequence(self) -> int:
        """The last chunk that was acknowledged whole; 0 for none. Records before it are needed no more."""
        while len(self._ends) > 1 and self._ends[1][1] <= (self.acked or 0):
            self._ends.popleft()
        sequence, end = self._ends[0] if self._ends else (0, 0)
        return sequence if end <= (self.acked or 0) else 0

    @property
    def played(self) -> int:
        """Samples: acknowledged, or as many as time has passed since they were sent."""
        if self.acked is not None:
            return self.acked
        if self._first_sent is None:
            return min(self._next_sample, self.sound.place.sample)
        now, rate = self._shared.clock.now(), self.sound.sample_rate_hz
        sent = self.sound.place.sample - self._next_sample
        return self._next_sample + played_by_the_clock(self._first_sent, now, rate, sent)

    async def pace(self) -> None:
        """Moves the frontier ahead of what was played; returns never."""
        clock, interval = self._shared.clock, self._shared.log.link.settings.frontier_interval
        lookahead, acked = self._shared.lookahead_groups, 0
        while True:
            allowed = self._allowed()
            near = self.answer.end is None and self.answer.groups > allowed - lookahead / 2
            wanted = int(self.played / self.sound.sample_rate_hz / GROUP_SECONDS) + lookahead
            move = wanted if near and wanted > allowed else None
            ack = self.acked if (self.acked or 0) > acked else None
            if move is not None or ack is not None:
                await self._shared.log.control(self._tenure, frontier=move, played=ack)
                acked = max(acked, ack or 0)
            elif not near:
                self._stirred.clear()
                await self._stirred.wait()
            await clock.sleep(interval)

    def _allowed(self) -> int:
        state = self._follower.state
        told = state.frontier if state is not None and state.frontier is not None else 0
        return max(self._shared.lookahead_groups, told)

    # -- what is measured and kept --

    def _note_text(self) -> None:
        if not self._told_text and self.asked_at is not None:
            seconds = self._shared.clock.now() - self.asked_at
            self._shared.metrics[catalogue.TURN_FIRST_TEXT_SECONDS].observe(seconds)
        self._told_text = True

    def _note_audio(self, event: AnswerAudio) -> None:
        metrics, now = self._shared.metrics, self._shared.clock.now()
        if self._first_sent is None:
            self._first_sent = now
            if self.asked_at is not None:
                metrics[catalogue.TURN_FIRST_AUDIO_SECONDS].observe(now - self.asked_at)
            return
        due = self._first_sent + (event.first_sample - self._next_sample) / self.sound.sample_rate_hz
        metrics[catalogue.TURN_CHUNK_LATE_SECONDS].observe(max(0.0, now - due))
        if now > due:
            metrics[catalogue.TURN_UNDERRUNS].inc()

    def summary(self, *, all_heard: bool = False) -> TurnSummary:
        """How the turn stands, as this front knows it."""
        state = self._follower.state
        assert state is not None
        played: int | None = self.played
        if self.silenced or state.phase is Phase.CANCELLED:
            played = state.played if state.played is not None else played
        elif all_heard and self.acked is None:
            played = None
        reason = state.terminal.reason if state.terminal else EndReason.END_REASON_UNSPECIFIED
        return summary_of(
            self._spec.turn_id, self.answer, self.sound, played=played, phase=phase_of(state), reason=reason
        )


def is_resumable(error: AqaaError) -> bool:
    """Whether another call may go on with a turn that ended so for this one."""
    return isinstance(error, Unavailable)

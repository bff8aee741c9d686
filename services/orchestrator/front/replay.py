"""A turn that has ended, told once more from its tokens. Nothing is written."""

from contextlib import suppress

from aqaa.turnlog import Stream, TurnRef, read_all
from aqaa.v1.audio_pb2 import AnswerAudio
from aqaa.v1.orchestrator_pb2 import AnswerText, TurnEvent
from aqaa.v1.tokens_pb2 import EndReason
from aqaa.v1.turnlog_pb2 import AnswerRecord, DeliveryRecord, TurnSpec
from services.orchestrator.answer import Answer
from services.orchestrator.front.speaking import Speaking
from services.orchestrator.front.telling import Send
from services.orchestrator.session import add_tokens, deliveries
from services.orchestrator.shared import Shared
from services.orchestrator.sound import Sound


class _Enough(Exception):
    """Everything that the caller was sent has been sent again."""


async def replay(
    shared: Shared, turn: TurnRef, spec: TurnSpec, reason: "EndReason.ValueType", send: Send
) -> None:
    """Text, sound and manifest of the turn; of a cancelled one the chunks that left."""
    answer, id_ = Answer(), turn.turn_id
    for entry in await read_all(shared.log.link, turn, Stream.ANSWER):
        record: AnswerRecord = entry.record(Stream.ANSWER)
        new = answer.add(record)
        if new is not None and new.text:
            text = AnswerText(segment=new.segment, text=new.text, first_byte=new.first_byte)
            await send(TurnEvent(turn_id=id_, text=text))
        elif record.piece.HasField("segment_start"):
            await send(TurnEvent(turn_id=id_, segment_start=record.piece.segment_start))
        elif record.HasField("transcript"):
            await send(TurnEvent(turn_id=id_, transcript=record.transcript))
    records = await deliveries(shared.log, turn)
    sound = Sound(shared.stages.facts.sample_rate_hz, records=records)
    cancelled = reason == EndReason.END_REASON_CANCELLED

    async def deliver(event: AnswerAudio, record: DeliveryRecord) -> None:
        if cancelled and event.sequence > max(records, default=0):
            raise _Enough
        sound.passed(event.sequence, record)
        await send(TurnEvent(turn_id=id_, audio=event))
        if cancelled and event.sequence == max(records, default=0):
            raise _Enough

    if answer.spoken and (records or not cancelled):
        with suppress(_Enough):
            await Speaking(shared, spec, answer, sound, deliver).run()
    manifest = sound.manifest(answer, reason)
    await add_tokens(manifest, shared.log, turn, spec)
    await send(TurnEvent(turn_id=id_, manifest=manifest))

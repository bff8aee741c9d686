"""The delivery contract, checked: every sample once and in order, or an error that says what is missing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import google_crc32c
import numpy as np

from aqaa.client.events import (
    AnswerAudio,
    AnswerText,
    EndReason,
    Event,
    Manifest,
    QuestionCommitted,
    SegmentStarted,
    Transcript,
    TurnOpened,
    manifest_of,
)
from aqaa.errors import DeliveryBroken
from aqaa.v1 import audio_pb2, orchestrator_pb2, tokens_pb2

_SAMPLE_BYTES = 2


@dataclass(frozen=True)
class Position:
    """How far an answer has been received: all that is needed to go on elsewhere.

        position = answer.position
        rest = client.resume(position)

    ``Position(session_id, turn_id)`` is an answer's beginning. ``turn_crc32c`` is of the PCM so far;
    ``text`` the UTF-8 bytes received, by segment.
    """

    session_id: str
    turn_id: str
    last_sequence: int = 0
    next_sample: int = 0
    turn_crc32c: int = 0
    text: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))

    def message(self) -> orchestrator_pb2.ResumeRequest:
        """As the contract asks for what is missing."""
        return orchestrator_pb2.ResumeRequest(
            session_id=self.session_id,
            turn_id=self.turn_id,
            last_sequence=self.last_sequence,
            next_sample=self.next_sample,
            text=[
                orchestrator_pb2.TextReceived(segment=segment, bytes=size)
                for segment, size in sorted(self.text.items())
            ],
        )


class Delivery:
    """One turn's events, checked one by one. Of what comes again after a resume nothing is given twice.

        delivery = Delivery()
        event = delivery.take(message)  # None: nothing new

    A chunk is given only after its sequence number, first sample and both checksums are as they should be.
    """

    def __init__(self, start: Position | None = None) -> None:
        """``start``: how far a turn was received before; None for one that is not open yet."""
        self.opened: TurnOpened | None = None
        self.manifest: Manifest | None = None
        self.committed = start is not None
        """Whether the question is safe in the log."""
        self._start = start
        self._begin(start)

    def _begin(self, start: Position | None) -> None:
        self._session_id, self._turn_id = (start.session_id, start.turn_id) if start else ("", "")
        self._sequence, self._samples, self._crc = (
            (start.last_sequence, start.next_sample, start.turn_crc32c) if start else (0, 0, 0)
        )
        self._text = dict(start.text) if start else {}
        self._written: dict[int, bytearray] = {}
        self._segments = -1
        self._transcribed = False

    @property
    def position(self) -> Position:
        """How far everything is received."""
        return Position(
            self._session_id,
            self._turn_id,
            self._sequence,
            self._samples,
            self._crc,
            MappingProxyType(dict(self._text)),
        )

    @property
    def began(self) -> bool:
        """Whether anything of the answer has been given."""
        return bool(self._sequence or self._text or self._segments >= 0 or self._transcribed)

    def take(self, message: orchestrator_pb2.TurnEvent) -> Event | None:
        """Checks the next event; None for one that was received before, or that this client does not know.

        Raises:
            DeliveryBroken: something is missing, damaged, or of another turn.
        """
        kind = message.WhichOneof("event")
        if kind == "opened":
            return self._open(message.turn_id, message.opened)
        if message.turn_id != self._turn_id or self.opened is None:
            raise self._broken(f"{kind or 'an event'} of turn {message.turn_id or '(none)'}, not opened here")
        if self.manifest is not None:
            return None
        match kind:
            case "question_committed":
                return self._commit(message.question_committed)
            case "segment_start":
                return self._segment(message.segment_start)
            case "text":
                return self._write(message.text)
            case "audio":
                return self._sound(message.audio)
            case "transcript":
                if self._transcribed:
                    return None
                self._transcribed = True
                return Transcript(message.transcript.text)
            case "manifest":
                return self._end(message.manifest)
        return None

    def unfinished(self) -> DeliveryBroken:
        """What to raise for a stream that ended without its manifest."""
        return self._broken("the end of the stream", expected="the turn's manifest")

    def _open(self, turn_id: str, opened: orchestrator_pb2.TurnOpened) -> TurnOpened | None:
        found = TurnOpened(
            opened.session_id, turn_id, opened.sample_rate_hz, opened.bundle_digest, opened.seed
        )
        if self.opened == found:
            return None
        if self._turn_id not in ("", turn_id) or self.opened is not None:
            if self.began or self.committed:
                raise self._broken(f"turn {turn_id} of bundle {opened.bundle_digest[:12]}, reopened")
            self._begin(None)  # the turn was lost before anything came of it: a new one answers
        self._session_id, self._turn_id, self.opened = opened.session_id, turn_id, found
        return found

    def _commit(self, committed: orchestrator_pb2.QuestionCommitted) -> QuestionCommitted | None:
        if self.committed:
            return None
        self.committed = True
        return QuestionCommitted(committed.groups)

    def _segment(self, start: tokens_pb2.SegmentStart) -> SegmentStarted | None:
        if start.segment <= self._segments:
            return None
        if start.segment != self._segments + 1 and not self._resumed_behind(start.segment):
            raise self._broken(f"segment {start.segment}", expected=f"segment {self._segments + 1}")
        self._segments = start.segment
        return SegmentStarted(start.segment, start.style)

    def _resumed_behind(self, segment: int) -> bool:
        """Segments before the place where this client took over are not sent again."""
        return self._start is not None and self._segments < 0 and segment > 0

    def _write(self, piece: orchestrator_pb2.AnswerText) -> AnswerText | None:
        raw, received = piece.text.encode(), self._text.get(piece.segment, 0)
        if piece.first_byte > received:
            raise self._broken(
                f"text of segment {piece.segment} from byte {piece.first_byte} on",
                expected=f"byte {received}",
                missing=f"text:{piece.segment}:{received}",
            )
        fresh = raw[received - piece.first_byte :]
        if not fresh:
            return None
        try:
            text = fresh.decode()
        except UnicodeDecodeError:
            raise self._broken(
                f"text of segment {piece.segment} that differs from what came before byte {received}",
                missing=f"text:{piece.segment}:{received}",
            ) from None
        self._text[piece.segment] = received + len(fresh)
        self._written.setdefault(piece.segment, bytearray()).extend(fresh)
        return AnswerText(piece.segment, text)

    def _sound(self, chunk: audio_pb2.AnswerAudio) -> AnswerAudio | None:
        if 0 < chunk.sequence <= self._sequence:
            return None
        if chunk.sequence != self._sequence + 1:
            raise self._broken(f"chunk {chunk.sequence}", expected=f"chunk {self._sequence + 1}")
        where = f"chunk {chunk.sequence}"
        if chunk.first_sample != self._samples:
            raise self._broken(f"{where} from sample {chunk.first_sample} on")
        if len(chunk.pcm) % _SAMPLE_BYTES:
            raise self._broken(f"{where} of {len(chunk.pcm)} bytes", expected="whole samples of 2 bytes")
        if google_crc32c.value(chunk.pcm) != chunk.crc32c:
            raise self._broken(f"{where} with another checksum than its PCM has")
        turn_crc = google_crc32c.extend(self._crc, chunk.pcm)
        if turn_crc != chunk.turn_crc32c:
            raise self._broken(f"{where} after which the turn has another checksum than its PCM")
        event = AnswerAudio(
            sequence=chunk.sequence,
            segment=chunk.segment,
            first_sample=chunk.first_sample,
            sample_rate=self.opened.sample_rate if self.opened else 0,
            pcm=np.frombuffer(chunk.pcm, "<i2"),
        )
        self._sequence, self._crc = chunk.sequence, turn_crc
        self._samples += len(event.pcm)
        return event

    def _end(self, message: orchestrator_pb2.TurnManifest) -> Manifest:
        manifest = manifest_of(message)
        whole = manifest.reason in (EndReason.STOP, EndReason.LENGTH)
        there, here = (manifest.chunks, manifest.samples), (self._sequence, self._samples)
        # of a turn that was cut off, what was made last need not have been sent
        if there != here and (whole or there[0] < here[0] or there[1] < here[1]):
            raise self._broken(f"a manifest of {manifest.chunks} chunks, {manifest.samples} samples")
        if there == here and manifest.crc32c != self._crc:
            raise self._broken("a manifest with another checksum than the PCM that came")
        if whole:
            self._check_text(manifest)
        self.manifest = manifest
        return manifest

    def _check_text(self, manifest: Manifest) -> None:
        for part in manifest.segments:
            raw, received = part.text.encode(), self._text.get(part.segment, 0)
            written = bytes(self._written.get(part.segment, b""))
            if received != len(raw) or not raw.endswith(written):
                raise self._broken(
                    f"a manifest with {len(raw)} bytes of text in segment {part.segment}, {received} came",
                    missing=f"text:{part.segment}:{received}",
                )

    def _broken(self, given: str, *, expected: str = "", missing: str = "") -> DeliveryBroken:
        after = f"after chunk {self._sequence}, {self._samples} samples"
        return DeliveryBroken(
            f"turn {self._turn_id or '(not open)'}, {after}: got {given}"
            + (f", expected {expected}" if expected else "")
            + f"; missing from sample {self._samples} on",
            missing=missing or f"chunk:{self._sequence + 1},sample:{self._samples}",
        )

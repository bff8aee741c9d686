"""Where a turn's sound stands: the chunks that have left, the place to go on, the manifest."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import google_crc32c

from aqaa.errors import InvalidRequest, LogDiverged, Unavailable
from aqaa.v1.audio_pb2 import AnswerAudio
from aqaa.v1.orchestrator_pb2 import SegmentSummary, TurnManifest
from aqaa.v1.tokens_pb2 import EndReason
from aqaa.v1.turnlog_pb2 import DeliveryRecord
from aqaa.v1.vocoder_pb2 import SynthesizedAudio
from services.orchestrator.answer import Answer, Segment
from services.orchestrator.groups import group_at

_SAMPLE_BYTES = 2


@dataclass(frozen=True)
class Place:
    """Between two chunks.

    sequence  of the chunk before
    sample    of the turn; ``segment_sample``: the same one, from its segment's start
    crc       of all sound before; None where only the next chunk's record knows it
    restart   the vocoder's state at or before here, or empty for its segment's start
    """

    sequence: int = 0
    segment: int = 0
    sample: int = 0
    segment_sample: int = 0
    crc: int | None = 0
    restart: bytes = b""


@dataclass
class Sound:
    """The sound of one turn as one call makes it, and makes again.

    place     up to where it is made
    records   of chunks that left before, by sequence: sound that is made again must be the same
    starts    first sample of each segment that is known
    last      the record of the chunk before ``place``
    """

    sample_rate_hz: int
    place: Place = Place()
    records: dict[int, DeliveryRecord] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=lambda: {0: 0})
    last: DeliveryRecord | None = None

    @classmethod
    def resumed(
        cls, sample_rate_hz: int, records: dict[int, DeliveryRecord], last_sequence: int, next_sample: int
    ) -> "Sound":
        """Goes on behind a caller's last chunk, from the nearest place that the records know.

        Raises InvalidRequest if the caller's numbers cannot both be true.
        """
        known = records.get(last_sequence)
        end = known.first_sample + known.samples if known else 0 if last_sequence == 0 else None
        following = records.get(last_sequence + 1)
        if end is None and following is not None:
            end = following.first_sample
        if end is not None and end != next_sample:
            raise InvalidRequest(f"next_sample is {next_sample}, but chunk {last_sequence} ends at {end}")
        sound = cls(sample_rate_hz, records=records, starts=starts_of(records.values()))
        at = max((sequence for sequence in records if sequence <= last_sequence + 1), default=0)
        if at == 0 or not _connected(sound.starts, records[at].segment):
            sound.starts = {
                0: 0
            }  # the beginning is trimmed, and with it where segments begin: make all again
        elif at <= last_sequence:  # nothing is known behind it
            sound.place = _behind(at, records[at])
        else:
            sound.place = _before(at, records[at], records.get(at - 1))
        return sound

    def chunk(self, audio: SynthesizedAudio) -> tuple[AnswerAudio, DeliveryRecord]:
        """The next chunk, and its record; does not move on.

        Raises Unavailable if the vocoder gave other sound than was due, LogDiverged if it is not what left
        before.
        """
        place, size = self.place, len(audio.pcm)
        due = (place.segment, place.segment_sample)
        if (audio.segment, audio.first_sample) != due or not size or size % _SAMPLE_BYTES:
            raise Unavailable(
                f"the vocoder gave {size} bytes of segment {audio.segment} from sample {audio.first_sample}, "
                f"expected whole samples of segment {due[0]} from {due[1]}",
                stage="vocoder",
            )
        sequence, samples = place.sequence + 1, size // _SAMPLE_BYTES
        crc = google_crc32c.value(audio.pcm)
        before = self.records.get(sequence)
        if before is not None:
            made = (audio.segment, place.sample, samples, crc)
            if made != (before.segment, before.first_sample, before.samples, before.crc32c):
                raise LogDiverged(
                    f"chunk {sequence} was made again and is not the one that left before",
                    missing=f"delivery:{sequence}",
                )
        if place.crc is not None:
            turn_crc = google_crc32c.extend(place.crc, audio.pcm)
        elif before is not None:
            turn_crc = before.turn_crc32c
        else:
            raise LogDiverged(f"nothing is known before chunk {sequence}", missing=f"delivery:{sequence}")
        first = group_at(place.segment_sample, self.sample_rate_hz)
        record = DeliveryRecord(
            segment=audio.segment,
            first_group=first,
            groups=group_at(place.segment_sample + samples, self.sample_rate_hz) - first,
            first_sample=place.sample,
            samples=samples,
            crc32c=crc,
            turn_crc32c=turn_crc,
            restart=audio.restart,
            segment_sample=place.segment_sample,
        )
        event = AnswerAudio(
            sequence=sequence,
            segment=audio.segment,
            first_sample=place.sample,
            pcm=audio.pcm,
            crc32c=crc,
            turn_crc32c=turn_crc,
        )
        return event, record

    def passed(self, sequence: int, record: DeliveryRecord) -> None:
        """The chunk is made: go on behind it."""
        self.last = record
        self.place = _behind(sequence, record)

    def segment_done(self, segment: int, samples: int) -> None:
        """Raises Unavailable if the vocoder counted otherwise."""
        place = self.place
        if (segment, samples) != (place.segment, place.segment_sample):
            raise Unavailable(
                f"the vocoder ended segment {segment} at sample {samples}, expected segment {place.segment} "
                f"at {place.segment_sample}",
                stage="vocoder",
            )
        self.starts[segment + 1] = place.sample
        self.place = Place(place.sequence, segment + 1, place.sample, 0, place.crc)

    def extents(self, segments: int) -> list[tuple[int, int]]:
        """(first sample, samples) of each segment, as far as it is made.

        One whose records are trimmed, of which only another's start tells the end, counts for the one before.
        """
        edges = [self.place.sample]
        for i in reversed(range(segments)):
            edges.insert(0, self.starts.get(i, edges[0]))
        return [(edges[i], edges[i + 1] - edges[i]) for i in range(segments)]

    def is_complete(self, segment: Segment) -> bool:
        """Whether the segment and its sound are whole."""
        if not segment.ended or segment.index < self.place.segment:
            return segment.ended
        last = self.last
        covered = last is not None and last.first_group + last.groups >= segment.count
        return covered and segment.index == self.place.segment

    def manifest(self, answer: Answer, reason: "EndReason.ValueType") -> TurnManifest:
        """What the turn has had so far."""
        extents = self.extents(len(answer.segments))
        return TurnManifest(
            reason=reason,
            chunks=self.place.sequence,
            samples=self.place.sample,
            turn_crc32c=self.place.crc or 0,
            segments=[
                SegmentSummary(
                    segment=segment.index,
                    style=segment.style,
                    text=segment.text,
                    groups=segment.count,
                    first_sample=first,
                    samples=samples,
                )
                for segment, (first, samples) in zip(answer.segments, extents, strict=True)
            ],
        )


def delivered(sample_rate_hz: int, records: dict[int, DeliveryRecord]) -> Sound:
    """The sound that has left, as its records say it; for who only counts."""
    sound = Sound(sample_rate_hz, records=records, starts=starts_of(records.values()))
    if records:
        sound.passed(max(records), records[max(records)])
    return sound


def starts_of(records: Iterable[DeliveryRecord]) -> dict[int, int]:
    """First sample of each segment that a record is of."""
    return {0: 0} | {record.segment: record.first_sample - record.segment_sample for record in records}


def _connected(starts: dict[int, int], segment: int) -> bool:
    return all(i in starts for i in range(segment + 1))


def _before(sequence: int, record: DeliveryRecord, previous: DeliveryRecord | None) -> Place:
    crc = previous.turn_crc32c if previous else 0 if sequence == 1 else None
    at = (record.segment, record.first_sample, record.segment_sample)
    return Place(sequence - 1, *at, crc, record.restart)


def _behind(sequence: int, record: DeliveryRecord) -> Place:
    at = (record.first_sample + record.samples, record.segment_sample + record.samples)
    return Place(sequence, record.segment, *at, record.turn_crc32c, record.restart)

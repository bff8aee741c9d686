"""What a front notes of the turn that it tells: by a clock that stands still, to the second."""

import asyncio
from types import SimpleNamespace

from prometheus_client import CollectorRegistry

from aqaa.telemetry import catalogue
from aqaa.telemetry.metrics import Metrics
from aqaa.v1.tokens_pb2 import AnswerPiece, TextRun
from aqaa.v1.turnlog_pb2 import AnswerRecord, TurnSpec
from aqaa.v1.vocoder_pb2 import SynthesizedAudio
from services.orchestrator.front.telling import Telling
from services.orchestrator.sound import Sound

RATE = 24000
SECOND = bytes(2 * RATE)
ASKED = 100.0


class Delivery:
    """A log that takes every record at once."""

    def __init__(self) -> None:
        self.cursor = SimpleNamespace(seq=0)

    async def append(self, record, *, below=0) -> None:
        self.cursor.seq += 1


class Told:
    """A turn that is told to nobody, and what is counted of it."""

    def __init__(self, asked_at: float | None = ASKED) -> None:
        self.now = ASKED
        self.registry = CollectorRegistry()
        shared = SimpleNamespace(
            clock=SimpleNamespace(now=lambda: self.now),
            metrics=Metrics(self.registry, catalogue.ORCHESTRATOR),
        )
        self.sound = Sound(RATE)
        self.telling = Telling(shared, TurnSpec(), None, None, self.sound, Delivery(), self._send)
        self.telling.asked_at = asked_at

    async def _send(self, event) -> None:
        pass

    def chunk(self, at: float) -> None:
        """A second of sound that is there at this time."""
        self.now = at
        first = self.sound.place.segment_sample
        made = SynthesizedAudio(first_sample=first, pcm=SECOND, restart=b"")
        asyncio.run(self.telling._deliver(*self.sound.chunk(made)))

    def text(self, at: float, text: str) -> None:
        self.now = at
        record = AnswerRecord(piece=AnswerPiece(text=TextRun(text=text, token_ids=[1])))
        asyncio.run(self.telling._say(record, self.telling.answer.add(record)))

    def value(self, metric, suffix: str = "", **labels: str) -> float:
        return self.registry.get_sample_value(metric.name + suffix, labels) or 0.0


def test_a_chunk_is_late_behind_what_is_played_without_a_pause():
    told = Told()
    late, underruns = catalogue.TURN_CHUNK_LATE_SECONDS, catalogue.TURN_UNDERRUNS
    told.chunk(ASKED + 0.5)
    assert (told.value(late, "_count"), told.value(underruns)) == (0, 0)  # playback begins with it
    told.chunk(ASKED + 1.0)
    told.chunk(ASKED + 2.5)  # at the very moment
    assert (told.value(late, "_count"), told.value(late, "_sum")) == (2, 0.0)
    assert told.value(underruns) == 0
    told.chunk(ASKED + 4.25)
    assert (told.value(late, "_count"), told.value(late, "_sum")) == (3, 0.75)
    assert told.value(late, "_bucket", le="0.0005") == 2
    assert told.value(underruns) == 1


def test_the_first_text_and_the_first_sound_are_timed_from_the_questions_end_once():
    told = Told()
    told.text(ASKED + 0.25, "One ")
    told.text(ASKED + 0.5, "two.")
    told.chunk(ASKED + 0.75)
    told.chunk(ASKED + 1.0)
    for metric, seconds in (
        (catalogue.TURN_FIRST_TEXT_SECONDS, 0.25),
        (catalogue.TURN_FIRST_AUDIO_SECONDS, 0.75),
    ):
        assert (told.value(metric, "_count"), told.value(metric, "_sum")) == (1, seconds)


def test_a_turn_that_is_resumed_has_no_first_sound_of_its_own():
    told = Told(asked_at=None)
    told.text(ASKED, "One.")
    told.chunk(ASKED + 1.0)
    told.chunk(ASKED + 2.5)
    assert told.value(catalogue.TURN_FIRST_TEXT_SECONDS, "_count") == 0
    assert told.value(catalogue.TURN_FIRST_AUDIO_SECONDS, "_count") == 0
    assert told.value(catalogue.TURN_CHUNK_LATE_SECONDS, "_sum") == 0.5
    assert told.value(catalogue.TURN_UNDERRUNS) == 1

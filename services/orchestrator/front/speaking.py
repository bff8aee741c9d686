"""Groups to the vocoder, sound back: tile by tile, taken up again where a vocoder was lost."""

from collections.abc import Awaitable, Callable

from aqaa.errors import AqaaError, Unavailable
from aqaa.v1.audio_pb2 import AnswerAudio
from aqaa.v1.turnlog_pb2 import DeliveryRecord, TurnSpec
from aqaa.v1.vocoder_pb2 import (
    OpenSynthesis,
    StreamSynthesizeRequest,
    StreamSynthesizeResponse,
    SynthesisOpened,
    SynthesisSegment,
    SynthesisSegmentEnd,
)
from services.orchestrator import groups as groups_of
from services.orchestrator.answer import Answer, Segment
from services.orchestrator.groups import group_at, tile_end
from services.orchestrator.shared import Shared
from services.orchestrator.sound import Place, Sound
from services.orchestrator.stages import VOCODER, Attempts, StageCall
from services.orchestrator.tasks import beside

Deliver = Callable[[AnswerAudio, DeliveryRecord], Awaitable[None]]
Call = StageCall[StreamSynthesizeRequest, StreamSynthesizeResponse]


class Speaking:
    """Makes the sound of an answer from where ``sound`` stands, as the answer grows.

    deliver: what is done with each chunk, in order; it moves ``sound`` on.
    ends: when its caller waits no longer, by the clock.
    """

    def __init__(
        self,
        shared: Shared,
        spec: TurnSpec,
        answer: Answer,
        sound: Sound,
        deliver: Deliver,
        ends: float | None = None,
    ) -> None:
        self._shared = shared
        self._spec = spec
        self._answer = answer
        self._sound = sound
        self._deliver = deliver
        self._ends = ends
        self._fed, self._fed_groups = 0, 0  # segments that the vocoder has whole, and groups of the next one
        self._context = 0

    async def run(self) -> None:
        """Returns when the answer has ended and all its sound is delivered.

        Raises what the vocoder raises; Unavailable when it fails again and again without a chunk.
        """
        attempts = Attempts(self._shared.settings, self._shared.clock, VOCODER)
        while await self._more():
            before = self._sound.place
            try:
                await self._synthesize(before)
            except AqaaError as error:
                await attempts.again(error, progress=self._sound.place != before)

    async def _more(self) -> bool:
        """Waits until there are groups to say; False if there will be none."""
        while True:
            if any(segment.count for segment in self._answer.segments[self._sound.place.segment :]):
                return True
            if self._answer.end is not None:
                return False
            await self._answer.grown()

    async def _synthesize(self, place: Place) -> None:
        stages = self._shared.stages
        self._fed, self._fed_groups = place.segment, 0
        async with stages.calling(stages.vocoder.StreamSynthesize, VOCODER, self._ends) as call:
            opening = OpenSynthesis(bundle_digest=self._spec.bundle_digest, seed=self._spec.seed)
            await call.send(StreamSynthesizeRequest(open=opening))
            async with beside(self._feed(call, place)):
                await self._hear(call)

    async def _feed(self, call: Call, place: Place) -> None:
        index, restart, from_sample = place.segment, place.restart, place.segment_sample
        while (segment := await self._segment(index)) is not None:
            start = SynthesisSegment(segment=index, restart=restart, from_sample=from_sample)
            await call.send(StreamSynthesizeRequest(segment=start))
            sent = 0
            while not (segment.ended and sent == len(segment.groups)):
                if sent == len(segment.groups):
                    await self._answer.grown()
                    continue
                await call.send(StreamSynthesizeRequest(groups=segment.groups[sent]))
                sent += 1
                self._fed_groups += groups_of.count(segment.groups[sent - 1])
                self._settle(call)
            end = SynthesisSegmentEnd(groups=segment.count)
            await call.send(StreamSynthesizeRequest(segment_end=end))
            index, restart, from_sample = index + 1, b"", 0
            self._fed, self._fed_groups = index, 0
            self._settle(call)
        await call.close()

    async def _segment(self, index: int) -> Segment | None:
        while index >= len(self._answer.segments):
            if self._answer.end is not None:
                return None
            await self._answer.grown()
        return self._answer.segments[index]

    async def _hear(self, call: Call) -> None:
        while (response := await call.receive()) is not None:
            match response.WhichOneof("event"):
                case "opened":
                    self._check(response.opened)
                case "audio":
                    await self._deliver(*self._sound.chunk(response.audio))
                    self._settle(call)
                case "segment_done":
                    self._sound.segment_done(response.segment_done.segment, response.segment_done.samples)
                    self._settle(call)
        if self._answer.end is None or self._sound.place.segment < len(self._answer.segments):
            raise Unavailable("the vocoder left the turn before its end", stage=VOCODER)

    def _check(self, opened: SynthesisOpened) -> None:
        """Sound that is cut elsewhere than the turn's spec says is not the turn's."""
        given, expected = list(opened.chunk_groups), list(self._spec.chunk_groups)
        if given != expected:
            raise Unavailable(
                f"the vocoder cuts after {given} groups, the turn began with {expected}",
                stage=VOCODER,
            )
        self._context = opened.context_groups

    def _settle(self, call: Call) -> None:
        """A vocoder owes sound of which it has all groups: a whole segment's, or its next tile's."""
        place, sizes = self._sound.place, self._spec.chunk_groups
        made = group_at(place.segment_sample, self._sound.sample_rate_hz)
        needed = tile_end(sizes, tile_end(sizes, made)) + self._context
        call.owes(self._fed > place.segment or self._fed_groups >= needed)

"""What the vocoder service computes: tiles of all open turns, those first whose listeners need them first."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from aqaa.engine.shared_thread import Outcome, Session, SharedThread
from aqaa.engine.vocoder import PcmChunk, Vocoder, VocoderStream
from aqaa.engine.vocoder.parts import Codes
from aqaa.telemetry import catalogue
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import SpanName, Tracing, current_call


@dataclass(frozen=True)
class Begin:
    """A segment begins, at the place where ``stream`` stands."""

    segment: int
    stream: VocoderStream


@dataclass(frozen=True)
class End:
    """The segment is complete."""


@dataclass(frozen=True)
class Close:
    """The turn has no more segments."""


Step = Begin | Codes | End | Close


@dataclass(frozen=True)
class Sound:
    """The next piece of a segment."""

    segment: int
    chunk: PcmChunk


@dataclass(frozen=True)
class Done:
    """All sound of a segment has been given; it has so many samples from its start."""

    segment: int
    samples: int


class Speaking(Session[Step, Sound | Done]):
    """One turn. Give it its steps, a Close last; it gives Sound and, at the end of each segment, Done."""

    def __init__(self, engine: "VocoderEngine", limits: "Limits") -> None:
        super().__init__(
            engine.thread,
            room=limits.ahead_groups,
            most_made=limits.ready_pieces,
            stall_seconds=limits.stall_seconds,
        )
        self.call = current_call()
        self._engine = engine
        self._segments: deque[Begin] = deque()
        self._closed = False
        self._was_due = False
        self._played_until = 0.0

    @property
    def order(self) -> float:
        """When its listener has heard all that was made; for one who waits, since when."""
        return max(self._played_until, self.since)

    @property
    def shape(self) -> object:
        return self.current.stream.due

    @property
    def current(self) -> Begin:
        """The segment that is being said."""
        return self._segments[0]

    @property
    def _waits(self) -> bool:
        return self._was_due

    def settle(self) -> None:
        """Steps that came go to their streams, segments that are over are reported."""
        steps, self._inbox, self._inbox_size = self._inbox, [], 0.0
        for step in steps:
            self._take(step)
        moved = bool(steps)
        while self._segments and self.current.stream.finished:
            over = self._segments.popleft()
            samples = self._engine.vocoder.samples(over.stream.groups)
            self._made.append(Done(over.segment, samples))
            moved = True
        self._finished = self._finished or (self._closed and not self._segments)
        due = bool(self._segments) and self.current.stream.due is not None
        if due and not self._was_due:
            self.since = self._engine.clock()
        self._was_due = due
        self._held = sum(begin.stream.waiting for begin in self._segments) if due else 0.0
        if moved:
            self._changed.set()

    def done(self, outcome: Outcome[Sound | Done]) -> None:
        super().done(outcome)
        for made in outcome.made:
            if isinstance(made, Sound):
                seconds = len(made.chunk.pcm) / self._engine.vocoder.sample_rate
                self._played_until = max(self._played_until, self.since) + seconds

    def _take(self, step: Step) -> None:
        match step:
            case Begin():
                self._segments.append(step)
            case End():
                self._segments[-1].stream.end()
            case Close():
                self._closed = True
            case _:
                self._segments[-1].stream.feed(step)


@dataclass(frozen=True)
class Limits:
    """Of a turn: groups ahead of the model, pieces that wait to be taken, and how long they may."""

    ahead_groups: int
    ready_pieces: int
    stall_seconds: float


class VocoderEngine:
    """The model and its thread.

    async with VocoderEngine(vocoder, ...) as engine:
        await engine.warm_up()
        async with engine.speaking() as speaking: ...
    """

    def __init__(
        self,
        vocoder: Vocoder,
        limits: Limits,
        *,
        threads: int,
        max_batch: int,
        max_streams: int,
        retry_seconds: float,
        metrics: Metrics,
        tracing: Tracing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.vocoder = vocoder
        self.clock = clock
        self.sizes: tuple[int, ...] = (1,)
        self._limits, self._threads, self._max_batch = limits, threads, max_batch
        self._metrics, self._tracing = metrics, tracing
        self.thread: SharedThread[Speaking, Sound | Done] = SharedThread(
            "vocoder",
            self._compute,
            places=max_streams,
            batch=max_batch,
            retry_after=retry_seconds,
            clock=clock,
            on_places=metrics[catalogue.VOCODER_STREAMS].set,
            on_wait=metrics[catalogue.VOCODER_QUEUE_SECONDS].observe,
        )

    async def __aenter__(self) -> "VocoderEngine":
        await self.thread.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.thread.__aexit__(*error)

    async def warm_up(self) -> None:
        """Finds out which batches give equal bits here, and takes every kernel's first, slow call."""
        await self.thread.run(self._warm_up)

    def speaking(self) -> Speaking:
        """A turn's session; entering it raises CapacityError where there is no place."""
        return Speaking(self, self._limits)

    def _warm_up(self) -> None:
        torch.set_num_threads(self._threads)
        self.sizes = self.vocoder.equal_sizes(self._max_batch)
        silence = np.zeros((sum(self.vocoder.plan.schedule), len(self.vocoder.codebooks)), np.int64)
        self.vocoder.synthesize(silence, seed=0)

    def _compute(
        self, speakings: Sequence[Speaking], given: Sequence[list[Step]]
    ) -> list[Outcome[Sound | Done]]:
        began = self.clock()
        streams = [speaking.current.stream for speaking in speakings]
        calls = [speaking.call for speaking in speakings]
        with self._tracing.span(SpanName.TILE, calls, batch=len(streams)):
            chunks = self.vocoder.advance(streams, sizes=self.sizes, watch=self._watch)
        samples = sum(len(chunk.pcm) for own in chunks for chunk in own)
        if samples:
            self._metrics[catalogue.VOCODER_SAMPLES].inc(samples)
            seconds = samples / self.vocoder.sample_rate
            self._metrics[catalogue.VOCODER_FACTOR].observe((self.clock() - began) / seconds)
        return [
            Outcome([Sound(speaking.current.segment, chunk) for chunk in own])
            for speaking, own in zip(speakings, chunks, strict=True)
        ]

    def _watch(self, network: str, rows: int) -> AbstractContextManager[object]:
        if network == "flow":
            self._metrics[catalogue.VOCODER_BATCH].observe(rows)
        return self._timed()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = self.clock()
        yield
        self._metrics[catalogue.VOCODER_TILE_SECONDS].observe(self.clock() - began)

"""What the tokenizer service computes: the next hop of every open signal, some of them at once."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from aqaa.audio.pcm import Encoding, from_bytes
from aqaa.audio.resample import StreamResampler
from aqaa.engine.shared_thread import Outcome, Session, SharedThread
from aqaa.engine.tokenizer import Groups, Level, Tokenizer
from aqaa.errors import AqaaError, InvalidAudio
from aqaa.telemetry import catalogue
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import SpanName, Tracing, current_call

_WARM_UP_SECONDS = 1.2  # of sound: more than a hop with what it looks ahead
_MOST_MADE = 64  # hops whose groups may wait to be taken


@dataclass(frozen=True)
class Format:
    """Of a signal's bytes, and what its level means."""

    encoding: Encoding
    sample_rate: int
    channels: int
    level: Level


class Hearing(Session[bytes | None, Groups]):
    """One signal. Give it bytes of whole samples, then None: the end. It gives groups (G, 5), never none."""

    def __init__(self, engine: "TokenizerEngine", form: Format, *, ahead: float, stall: float) -> None:
        super().__init__(engine.thread, room=ahead, most_made=_MOST_MADE, stall_seconds=stall)
        self.form = form
        self.call = current_call()
        self.stream = engine.tokenizer.stream(form.level)
        self._resampler = StreamResampler(form.sample_rate, engine.tokenizer.sample_rate)

    def hear(self, given: Sequence[bytes | None]) -> None:
        """In the thread: what has come becomes PCM of the stream.

        Raises InvalidAudio for samples that are not finite.
        """
        for raw in given:
            if raw is None:
                self.stream.feed(self._resampler.flush())
                self.stream.end()
            else:
                pcm = from_bytes(raw, self.form.encoding, self.form.channels)
                if not np.isfinite(pcm).all():  # before the resampler, which would spread it
                    raise InvalidAudio("PCM holds NaN or infinity, expected finite samples")
                self.stream.feed(self._resampler.push(pcm))


class TokenizerEngine:
    """The model and its thread.

    async with TokenizerEngine(tokenizer, ...) as engine:
        await engine.warm_up()
        async with engine.hearing(form) as hearing: ...
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        threads: int,
        max_batch: int,
        max_streams: int,
        ahead_seconds: float,
        stall_seconds: float,
        retry_seconds: float,
        metrics: Metrics,
        tracing: Tracing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tokenizer = tokenizer
        self.sizes: tuple[int, ...] = (1,)
        self._threads, self._max_batch = threads, max_batch
        self._ahead, self._stall = ahead_seconds, stall_seconds
        self._metrics, self._tracing, self._clock = metrics, tracing, clock
        self.thread: SharedThread[Hearing, Groups] = SharedThread(
            "tokenizer",
            self._compute,
            places=max_streams,
            batch=max_batch,
            retry_after=retry_seconds,
            clock=clock,
            on_places=metrics[catalogue.TOKENIZER_STREAMS].set,
            on_wait=metrics[catalogue.TOKENIZER_QUEUE_SECONDS].observe,
        )

    async def __aenter__(self) -> "TokenizerEngine":
        await self.thread.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.thread.__aexit__(*error)

    async def warm_up(self) -> None:
        """Finds out which batches give equal bits here, and takes every kernel's first, slow call."""
        await self.thread.run(self._warm_up)

    def hearing(self, form: Format) -> Hearing:
        """A signal's session; entering it raises CapacityError where there is no place."""
        return Hearing(self, form, ahead=self._ahead, stall=self._stall)

    def _warm_up(self) -> None:
        torch.set_num_threads(self._threads)
        self.sizes = self.tokenizer.equal_sizes(self._max_batch)
        noise = np.random.default_rng(0).standard_normal(
            round(_WARM_UP_SECONDS * self.tokenizer.sample_rate), np.float32
        )
        self.tokenizer.tokenize(noise / 10)

    def _compute(
        self, hearings: Sequence[Hearing], given: Sequence[list[bytes | None]]
    ) -> list[Outcome[Groups]]:
        faults: dict[Hearing, Exception] = {}
        for hearing, pieces in zip(hearings, given, strict=True):
            try:
                hearing.hear(pieces)
            except AqaaError as error:
                faults[hearing] = error
        due = [hearing for hearing in hearings if hearing not in faults and hearing.stream.due]
        groups: dict[Hearing, Groups] = {}
        if due:
            streams = [hearing.stream for hearing in due]
            calls = [hearing.call for hearing in due]
            with self._tracing.span(SpanName.TOKENIZE, calls, batch=len(due)):
                found = self.tokenizer.advance(streams, sizes=self.sizes, watch=self._watch)
            groups = dict(zip(due, found, strict=True))
        return [self._outcome(hearing, groups.get(hearing), faults.get(hearing)) for hearing in hearings]

    def _outcome(self, hearing: Hearing, groups: Groups | None, error: Exception | None) -> Outcome[Groups]:
        if error is not None:
            return Outcome(error=error)
        stream = hearing.stream
        made = [groups] if groups is not None and len(groups) else []
        for found in made:
            self._metrics[catalogue.TOKENIZER_GROUPS].inc(len(found))
        held = stream.waiting / self.tokenizer.sample_rate if stream.due else 0.0
        return Outcome(made, held, more=stream.due, finished=stream.finished)

    def _watch(self, network: str, rows: int) -> AbstractContextManager[object]:
        self._metrics[catalogue.TOKENIZER_BATCH].observe(rows)
        return self._timed(network)

    @contextmanager
    def _timed(self, network: str) -> Iterator[None]:
        began = self._clock()
        yield
        self._metrics[catalogue.TOKENIZER_STEP_SECONDS].labels(network=network).observe(self._clock() - began)

"""The decode engine of one process: continuous batching over slots, one synchronous step at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from aqaa.engine.backbone.cache import SlotCache
from aqaa.engine.backbone.exactness import exact_tiles
from aqaa.engine.backbone.forward import TILE_ROWS, Forward, Row
from aqaa.engine.backbone.head import Head
from aqaa.engine.backbone.request import Ended, EndReason, Event, Observer, Priority, Request
from aqaa.engine.backbone.scheduler import Scheduler
from aqaa.engine.backbone.weights import DecoderWeights
from aqaa.errors import AqaaError, Cancelled, CapacityError, InvalidToken
from aqaa.models.step1 import Step1
from aqaa.tokens.grammar import Automaton
from aqaa.tokens.sampling import Sampler


@dataclass(frozen=True)
class EngineSettings:
    """How an engine is laid out.

    Attributes:
        mode: `exact`, every request's ids and logits equal bit for bit whatever runs beside it; or `fast`.
        slots: requests computed together; each costs `capacity` positions of keys and values.
        capacity: positions of a slot, prompt and answer together.
        max_waiting: requests that may wait for a slot before `open` refuses.
        prefill_rows: prompt positions a step may compute beside its decoding.
        urgent_tokens: tokens of a foreground answer that come before any background work; enough for first
            audio (one block of the answer grammar is 10 text tokens and 3 groups of 5).
        tiles: row counts that exact mode computes with; None leaves it to the start-up test to find them.
    """

    mode: Literal["exact", "fast"] = "exact"
    slots: int = 8
    capacity: int = 1024
    max_waiting: int = 0
    prefill_rows: int = 64
    urgent_tokens: int = 26
    tiles: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("exact", "fast"):
            raise ValueError(f"mode is {self.mode!r}, expected 'exact' or 'fast'")
        for key, least in (("slots", 1), ("capacity", 8), ("max_waiting", 0), ("prefill_rows", 8)):
            if getattr(self, key) < least:
                raise ValueError(f"{key} is {getattr(self, key)}, expected at least {least}")


@dataclass(frozen=True)
class EngineStats:
    """Counts since start-up: steps, rows computed, rows found in a shared prefix, requests preempted."""

    steps: int
    computed_rows: int
    reused_rows: int
    preemptions: int


class BackboneEngine:
    """Decodes many requests together. It has no threads: call `step` until nothing is left to do.

    >>> engine = BackboneEngine(model, EngineSettings())
    >>> request = engine.open(first_ids)             # while the user speaks
    >>> engine.append(request, more_ids)
    >>> engine.commit(request, grammar.start(max_tokens=engine.room(request)), sampler)
    >>> for token_id in engine.stream(request): ...

    All methods belong to one thread, except `cancel`, which any thread may call. A request that shares a
    prefix with another one, running or ended, reuses its keys and values: open the transcript with the
    question's ids and it forks from the answer's prompt.
    """

    def __init__(self, model: Step1, settings: EngineSettings | None = None) -> None:
        """Copies the weights (float32); raises AqaaError where exact mode does not hold on this machine."""
        self.settings = settings = settings or EngineSettings()
        self._weights = DecoderWeights.of(model)
        tiles: tuple[int, ...] = ()
        if settings.mode == "exact":
            tiles = settings.tiles or exact_tiles(self._weights, settings.capacity)
        self._cache = SlotCache(self._weights.config, settings.slots, settings.capacity)
        self._forward = Forward(self._weights, self._cache, tiles)
        self._head = Head(self._weights, tiles)
        self._scheduler = Scheduler(
            self._cache,
            max_waiting=settings.max_waiting,
            prefill_rows=settings.prefill_rows,
            urgent_tokens=settings.urgent_tokens,
            tile_rows=TILE_ROWS if tiles else 1,
        )
        self._opened = self._steps = self._computed_rows = 0

    @property
    def stats(self) -> EngineStats:
        scheduler = self._scheduler
        return EngineStats(self._steps, self._computed_rows, scheduler.reused_rows, scheduler.preemptions)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        scheduler = self._scheduler
        return any(r.runnable or r.cancelled for r in scheduler.running) or any(
            r.ids or r.cancelled for r in scheduler.waiting
        )

    def open(self, ids: Sequence[int] = (), *, priority: Priority = Priority.FOREGROUND) -> Request:
        """Begin a request with the prompt so far; its prefill may start at the next step.

        Raises:
            CapacityError: no slot is free and the waiting line is full, or the prompt exceeds a slot.
            InvalidToken: an id outside the vocabulary.
        """
        self._check(ids, 0)
        request = Request(self._opened, priority, list(ids))
        self._scheduler.add(request)
        self._opened += 1
        return request

    def append(self, request: Request, ids: Sequence[int]) -> None:
        """Add ids to the prompt of a request that is not committed.

        Raises:
            CapacityError, InvalidToken: as `open`.
            ValueError: the request is committed or has ended.
        """
        self._open_only(request)
        self._check(ids, len(request.ids))
        request.extend(ids)

    def room(self, request: Request) -> int:
        """How many tokens an answer to the prompt so far may have."""
        return self.settings.capacity - len(request.ids) + 1

    def commit(
        self,
        request: Request,
        automaton: Automaton,
        sampler: Sampler,
        *,
        resumed: Sequence[int] = (),
        observe: Observer | None = None,
    ) -> None:
        """The prompt is complete: start decoding.

        Args:
            automaton: a fresh one; let its `max_tokens` be at most `room(request)`, so that the grammar
                closes the answer before the slot is full.
            sampler: draws every token of the answer.
            resumed: tokens of this answer that an earlier engine emitted; decoding goes on after them, with
                the same tokens as the undisturbed answer.
            observe: called with each index and its scores, before the draw.

        Raises:
            GrammarError: `resumed` is not a beginning that the automaton allows, or is a whole answer.
            CapacityError, InvalidToken: as `open`.
            ValueError: the prompt is empty, or the request is committed or has ended.
        """
        self._open_only(request)
        if not request.ids:
            raise ValueError(f"request {request.number} has an empty prompt, expected at least one id")
        self._check(resumed, len(request.ids))
        for token_id in resumed:
            automaton.push(token_id)
        request.prompt_length = len(request.ids)
        request.automaton, request.sampler, request.observe = automaton, sampler, observe
        request.resumed = len(resumed)
        request.extend(resumed)

    def cancel(self, request: Request) -> None:
        """Take a request back; the next step frees its slot and reports it as `cancelled`."""
        request.cancelled = True

    def hold(self, request: Request) -> None:
        """Choose no further token of a request; it keeps its slot until `let_go`, `cancel` or preemption."""
        request.held = True

    def let_go(self, request: Request) -> None:
        """Go on with a request that is held, with the tokens that it would have had anyway."""
        request.held = False

    def promote(self, request: Request) -> None:
        """Make background work foreground, in the order of its arrival."""
        request.priority = Priority.FOREGROUND

    def step(self) -> list[Event]:
        """Compute one batch of rows and choose the tokens they lead to; events in order of choice."""
        events: list[Event] = [
            self._end(request, "cancelled", Cancelled(f"request {request.number} was taken back"))
            for request in (*self._scheduler.running, *self._scheduler.waiting)
            if request.cancelled
        ]
        self._scheduler.admit()
        work = self._scheduler.plan()
        if work:
            self._steps += 1
            self._compute(work)
            events += self._choose([r for r, _ in work if r.committed and not r.pending and not r.held])
        return events

    def stream(self, request: Request) -> Iterator[int]:
        """Step until a request ends, yielding its answer's tokens; closing the iterator cancels it.

        Several streams may be read in turn. Resumed tokens are not repeated.

        Raises:
            AqaaError: the error of `request.end`: the request failed, filled its slot or was cancelled.
            ValueError: the request is not committed.
        """
        if request.prompt_length is None:
            raise ValueError(f"request {request.number} is not committed, expected a complete prompt")
        sent = request.prompt_length + request.resumed
        try:
            while request.end is None or sent < len(request.ids):
                if sent < len(request.ids):
                    sent += 1
                    yield request.ids[sent - 1]
                else:
                    self.step()
        finally:
            if request.end is None:
                self.cancel(request)
        if request.end.error is not None:
            raise request.end.error

    def generate(self, ids: Sequence[int], automaton: Automaton, sampler: Sampler) -> Iterator[int]:
        """`open`, `commit` and `stream` in one call."""
        request = self.open(ids)
        self.commit(request, automaton, sampler)
        return self.stream(request)

    def _compute(self, work: Sequence[tuple[Request, int]]) -> None:
        rows: list[Row] = []
        ends = []
        for request, count in work:
            assert request.slot is not None
            stop = min(request.computed + count, len(request.ids))
            rows += [Row(request.ids[p], request.slot, p) for p in range(request.computed, stop)]
            self._cache.record(request.slot, request.ids[request.computed : stop])
            request.computed = stop
            ends.append((request, len(rows)))
        if not rows:
            return
        hidden_ND = self._forward.run(rows)
        self._computed_rows += len(rows)
        before = 0
        for request, after in ends:
            if after > before and not request.pending:
                request.state = hidden_ND[after - 1 : after].clone()
            before = after

    def _choose(self, ready: Sequence[Request]) -> list[Event]:
        if not ready:
            return []
        hidden_ND = torch.cat([r.state for r in ready if r.state is not None])
        scored = self._head.score(hidden_ND, [r.automaton.choices for r in ready if r.automaton is not None])
        events: list[Event] = []
        for request, row in zip(ready, scored, strict=True):
            assert request.automaton is not None
            try:
                events.append(request.choose(row))
            except AqaaError as error:
                events.append(self._end(request, "failed", error))
                continue
            if request.automaton.finish_reason is not None:
                events.append(self._end(request, request.automaton.finish_reason))
            elif len(request.ids) > self.settings.capacity:
                full = CapacityError(
                    f"request {request.number} filled its slot of {self.settings.capacity} positions after "
                    f"{request.generated} tokens, expected the grammar to end it; start it with max_tokens"
                )
                events.append(self._end(request, "capacity", full))
        return events

    def _end(self, request: Request, reason: EndReason, error: AqaaError | None = None) -> Ended:
        self._scheduler.remove(request)
        request.end = Ended(request, reason, error)
        return request.end

    def _open_only(self, request: Request) -> None:
        if request.committed or request.end is not None:
            state = "committed" if request.committed else "ended"
            raise ValueError(f"request {request.number} is {state}, expected an open prompt")

    def _check(self, ids: Sequence[int], before: int) -> None:
        if before + len(ids) > self.settings.capacity:
            raise CapacityError(
                f"a prompt of {before + len(ids)} ids, expected at most {self.settings.capacity} (a slot)"
            )
        for token_id in ids:
            if not 0 <= token_id < self._weights.config.vocab_size:
                raise InvalidToken(f"id {token_id}, expected [0, {self._weights.config.vocab_size})")

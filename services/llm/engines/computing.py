"""The thread that computes: it steps the decode engine while anything is to be done and sleeps otherwise."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from aqaa.engine.backbone import BackboneEngine, Emitted, Ended, Priority, Request
from aqaa.errors import AqaaError, Cancelled, Unavailable
from aqaa.telemetry import catalogue
from aqaa.telemetry.metrics import Metrics
from aqaa.tokens.classes import TokenClass
from aqaa.tokens.grammar import Grammar
from aqaa.tokens.sampling import Sampler
from services.llm.engines.interface import (
    Decoding,
    Failed,
    Finished,
    Happening,
    Listener,
    Placed,
    Written,
)

_CODES: Final = (TokenClass.LINGUISTIC, TokenClass.SEMANTIC)


@dataclass(eq=False)
class Work:
    """One request, as the computing thread sees it. Only that thread changes it, but for ``beside``.

    Attributes:
        opened, committed: clock readings.
        codes: audio codes of the answer so far.
        beside: work that takes this one's place when it has finished, and ends with it when it fails.
        taken_back_at: the step count when it was cancelled.
        error: why it was cancelled, where that was not its caller's wish.
    """

    listener: Listener
    opened: float
    request: Request | None = None
    committed: float | None = None
    placed: bool = False
    codes: int = 0
    until_group: int = 0
    beside: "Work | None" = None
    taken_back_at: int | None = None
    error: Exception | None = None
    over: bool = False
    finished: bool = False


Told = tuple[Work, Happening]
"""Something for the listener of a work."""

Deliver = Callable[[Sequence[Told]], None]
Act = Callable[[BackboneEngine], None]


@dataclass(eq=False)
class Computing:
    """Owns a BackboneEngine and a thread. Any thread may call its public methods; none of them waits.

    ``load`` and everything later run in the thread. ``deliver`` is called there with what each step brought.
    """

    load: Callable[[], BackboneEngine]
    grammar: Grammar
    deliver: Deliver
    metrics: Metrics
    clock: Callable[[], float]
    warm: Future[None] = field(default_factory=Future)
    """Done when the engine is loaded."""
    broken: Future[Exception] = field(default_factory=Future)
    """Done when the engine can compute no more."""
    steps: int = 0
    _asked: deque[tuple[Work, Act]] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stopping: bool = False
    _works: dict[Request, Work] = field(default_factory=dict)
    _told: list[Told] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="llm-computing", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after its present step; what was asked for before is not done any more."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self) -> None:
        """Waits for the thread, if it was ever started."""
        if self._thread.ident is not None:
            self._thread.join()

    def open(self, work: Work, ids: Sequence[int]) -> None:
        self._ask(work, lambda engine: self._open(engine, work, ids, Priority.FOREGROUND))

    def open_beside(self, answer: Work, work: Work, ids: Sequence[int], decoding: Decoding) -> None:
        def act(engine: BackboneEngine) -> None:
            self._open(engine, work, ids, Priority.BACKGROUND)
            self._commit(engine, work, decoding)
            if answer.over:
                self._succeed(engine, answer)

        answer.beside = work
        self._ask(work, act)

    def append(self, work: Work, ids: Sequence[int]) -> None:
        self._ask(work, lambda engine: engine.append(_request(work), ids))

    def commit(self, work: Work, decoding: Decoding) -> None:
        at = self.clock()

        def act(engine: BackboneEngine) -> None:
            work.committed = at
            self._commit(engine, work, decoding)

        self._ask(work, act)

    def advance(self, work: Work, until_group: int) -> None:
        def act(engine: BackboneEngine) -> None:
            work.until_group = until_group
            self._hold_at_frontier(engine, work)

        self._ask(work, act)

    def cancel(self, work: Work) -> None:
        at = self.steps

        def act(engine: BackboneEngine) -> None:
            work.taken_back_at = at
            engine.cancel(_request(work))

        self._ask(work, act)

    def _ask(self, work: Work, act: Act) -> None:
        with self._changed:
            self._asked.append((work, act))
            self._changed.notify()

    # What follows runs in the thread.

    def _run(self) -> None:
        try:
            engine = self.load()
        except BaseException as error:
            self.warm.set_exception(error)
            return
        self.warm.set_result(None)
        try:
            self._serve(engine)
        except Exception as error:
            self._fail_all(
                Unavailable("the decode engine has broken; another replica will answer", stage="llm")
            )
            self.broken.set_result(error)
        else:
            self._fail_all(Unavailable("the decode engine has stopped", stage="llm"))

    def _serve(self, engine: BackboneEngine) -> None:
        idle = True
        while True:
            with self._changed:
                while idle and not self._asked and not self._stopping:
                    self._changed.wait()
                if self._stopping:
                    return
                asked, self._asked = self._asked, deque()
            for work, act in asked:
                self._do(engine, work, act)
            # A step that changes nothing is followed by another such: only a wish can end the silence.
            idle = not engine.busy or not self._step(engine)
            self._hand_over()

    def _do(self, engine: BackboneEngine, work: Work, act: Act) -> None:
        if work.over:
            return
        try:
            act(engine)
        except Exception as error:
            if work.request is None:
                self._end(work, Failed(error))
            else:  # its slot is free after the next step; then its listener hears of it
                work.error = error
                engine.cancel(work.request)

    def _open(self, engine: BackboneEngine, work: Work, ids: Sequence[int], priority: Priority) -> None:
        work.request = engine.open(ids, priority=priority)
        self._works[work.request] = work

    def _commit(self, engine: BackboneEngine, work: Work, decoding: Decoding) -> None:
        request = _request(work)
        automaton = self.grammar.start(
            task=decoding.task,
            start_mode=decoding.start_mode,
            max_tokens=engine.room(request),
            spoken_text=decoding.spoken_text,
        )
        layout = self.grammar.ranges.layout
        engine.commit(request, automaton, Sampler(decoding.sampling, layout), resumed=decoding.given)
        low, high = layout.audio_range
        work.codes = sum(low <= token_id < high for token_id in decoding.given)
        work.until_group = decoding.until_group
        self._hold_at_frontier(engine, work)

    def _hold_at_frontier(self, engine: BackboneEngine, work: Work) -> None:
        """What comes behind the frontier's last group is written, up to the first code of another group."""
        frontier = work.until_group * self.grammar.ratios.group_size
        if frontier and work.codes > frontier:
            engine.hold(_request(work))
        else:
            engine.let_go(_request(work))

    def _step(self, engine: BackboneEngine) -> bool:
        """One step, and what came of it. Whether anything did."""
        began, before = self.clock(), engine.stats
        computed = [(work, _request(work).computed) for work in self._works.values()]
        events = engine.step()
        after = engine.stats
        self.steps = after.steps
        self._tell_placed()
        for event in events:
            work = self._works[event.request]
            if isinstance(event, Emitted):
                self._emitted(engine, work, event)
            else:
                self._ended(engine, work, event)
        decoded = sum(_decoded(work, computed_before) for work, computed_before in computed)
        prefilled = after.computed_rows - before.computed_rows - decoded
        self.metrics[catalogue.LLM_PREFILL_TOKENS].inc(max(prefilled, 0))
        if emitted := sum(isinstance(event, Emitted) for event in events):
            self.metrics[catalogue.LLM_BATCH].observe(emitted)
            self.metrics[catalogue.LLM_STEP_SECONDS].observe(self.clock() - began)
        return bool(events) or after.steps != before.steps

    def _tell_placed(self) -> None:
        for work in self._works.values():
            if not work.placed and _request(work).slot is not None:
                work.placed = True
                self.metrics[catalogue.LLM_QUEUE_SECONDS].observe(self.clock() - work.opened)
                self._told.append((work, Placed()))

    def _emitted(self, engine: BackboneEngine, work: Work, event: Emitted) -> None:
        if event.index == event.request.resumed and work.committed is not None:
            self.metrics[catalogue.LLM_FIRST_TOKEN_SECONDS].observe(self.clock() - work.committed)
        name = event.token_class.name.lower()
        self.metrics[catalogue.LLM_DECODE_TOKENS].labels(token_class=name).inc()
        self._told.append((work, Written((event.token_id,))))
        if event.token_class in _CODES:
            work.codes += 1
            self._hold_at_frontier(engine, work)

    def _ended(self, engine: BackboneEngine, work: Work, event: Ended) -> None:
        del self._works[event.request]
        if event.reason == "stop" or event.reason == "length":
            self._end(work, Finished(event.reason))
        else:
            error = work.error or event.error or AqaaError(f"the engine ended a request: {event.reason}")
            self._end(work, Failed(error))
        if work.taken_back_at is not None:
            self.metrics[catalogue.LLM_CANCEL_STEPS].observe(self.steps - work.taken_back_at)
        self._succeed(engine, work)

    def _succeed(self, engine: BackboneEngine, work: Work) -> None:
        """What stands beside a work that is over takes its place, or goes with it."""
        beside = work.beside
        if beside is None or beside.request is None:
            return
        if work.finished:
            engine.promote(beside.request)
        else:
            engine.cancel(beside.request)

    def _end(self, work: Work, happening: Happening) -> None:
        work.over, work.finished = True, isinstance(happening, Finished)
        self._told.append((work, happening))

    def _fail_all(self, error: Exception) -> None:
        with self._changed:
            self._stopping = True
            asked, self._asked = self._asked, deque()
        for work in {*self._works.values(), *(work for work, _ in asked)}:
            if not work.over:
                self._end(work, Failed(error))
        self._works.clear()
        self._hand_over()

    def _hand_over(self) -> None:
        if self._told:
            told, self._told = self._told, []
            self.deliver(told)


def _request(work: Work) -> Request:
    if work.request is None:
        raise Cancelled("the request never began")
    return work.request


def _decoded(work: Work, before: int) -> int:
    """Answer rows that a step has computed for a work which had ``before`` rows."""
    request = work.request
    if request is None or request.prompt_length is None:
        return 0
    # who has finished has no slot any more; only the id that was written last was never computed
    computed = len(request.ids) - 1 if work.finished else request.computed
    return max(0, computed - max(before, request.prompt_length + request.resumed))

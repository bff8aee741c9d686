"""The embedded engine: the library's decode engine in a thread of this process."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from aqaa.bundle import Bundle
from aqaa.engine.backbone import BackboneEngine, EngineSettings
from aqaa.errors import BundleUnsupported, CapacityError, Unavailable
from aqaa.models.step1 import Step1
from aqaa.telemetry import catalogue
from aqaa.telemetry.metrics import Metrics
from aqaa.tokens.grammar import Grammar
from aqaa.tokens.sampling import Sampler, SamplingSettings
from services.llm.engines.computing import Computing, Told, Work
from services.llm.engines.interface import Decoding, Engine, Failed, Finished, Generation, Listener, Room

_WARM_UP_TOKENS = 4


@dataclass(frozen=True)
class TorchSettings:
    """``decode`` lays the engine out; its ``max_waiting`` is the line of answers that wait for a slot.

    ``retry_seconds``: what a refused caller is told to wait. ``threads``: of each product.
    """

    decode: EngineSettings
    retry_seconds: float = 1.0
    threads: int = 1


class TorchEngine(Engine):
    """BackboneEngine behind the interface of the facade.

    Wishes reach the computing thread through a queue; what happens leaves it by ``call_soon_threadsafe``.
    Neither side ever waits for the other.
    """

    def __init__(
        self,
        load: Callable[[], Step1],
        grammar: Grammar,
        settings: TorchSettings,
        metrics: Metrics,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``load`` runs in the computing thread, once."""
        self._settings, self._metrics, self._clock = settings, metrics, clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._held: set[Work] = set()
        decode = settings.decode
        self._slots, self._most = decode.slots, decode.slots + decode.max_waiting
        # Who may come in is decided here; the decode engine also has what stands beside answers.
        inner = EngineSettings(**{**vars(decode), "max_waiting": 2 * self._most})

        def load_engine() -> BackboneEngine:
            torch.set_num_threads(settings.threads)  # of this thread; the exactness test must run with it
            engine = BackboneEngine(load(), inner)
            _warm_up(engine, grammar)
            return engine

        self._computing = Computing(load_engine, grammar, self._deliver, metrics, clock)

    @classmethod
    def of(cls, bundle: Bundle, grammar: Grammar, settings: TorchSettings, metrics: Metrics) -> "TorchEngine":
        """The engine of a bundle's backbone. `start` raises BundleError where it cannot be decoded."""

        def load() -> Step1:
            network = bundle.network("backbone")
            if not isinstance(network, Step1):
                kind = bundle.manifest.backbone.kind
                raise BundleUnsupported(
                    f"bundle {bundle.root}: backbone kind {kind!r}, this engine decodes 'step1'"
                )
            return network

        return cls(load, grammar, settings, metrics)

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._computing.start()
        await asyncio.shield(asyncio.wrap_future(self._computing.warm))
        self._metrics[catalogue.LLM_SLOTS].set(self._slots)
        self._show_room()

    async def close(self) -> None:
        self._computing.stop()
        await asyncio.to_thread(self._computing.join)

    async def until_broken(self) -> Exception:
        return await asyncio.shield(asyncio.wrap_future(self._computing.broken))

    @property
    def room(self) -> Room:
        held = len(self._held)
        free, waiting = max(0, self._slots - held), max(0, held - self._slots)
        return Room(self._slots, free, waiting, self._settings.decode.capacity)

    async def open(self, ids: Sequence[int], listener: Listener) -> Generation:
        if self._computing.broken.done():
            raise Unavailable("the decode engine has broken; another replica will answer", stage="llm")
        if len(self._held) >= self._most:
            raise CapacityError(
                f"{self._slots} slots are taken and {self.room.waiting} requests wait, as many as may",
                retry_after=self._settings.retry_seconds,
            )
        work = Work(listener, self._clock())
        self._held.add(work)
        self._show_room()
        self._computing.open(work, list(ids))
        return _TorchGeneration(self._computing, work)

    async def open_beside(
        self, answer: Generation, ids: Sequence[int], decoding: Decoding, listener: Listener
    ) -> Generation:
        if not isinstance(answer, _TorchGeneration):
            raise TypeError(f"{type(answer).__name__} is of another engine")
        work = Work(listener, self._clock())
        if answer.work not in self._held:  # over already: nothing is left to stand beside
            self._held.add(work)
        self._computing.open_beside(answer.work, work, list(ids), decoding)
        return _TorchGeneration(self._computing, work)

    def _deliver(self, told: Sequence[Told]) -> None:
        """From the computing thread to the event loop."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._hear, told)

    def _hear(self, told: Sequence[Told]) -> None:
        for work, happening in told:
            if isinstance(happening, Finished | Failed):
                self._held.discard(work)
                if isinstance(happening, Finished) and work.beside is not None and not work.beside.over:
                    self._held.add(work.beside)  # it has this one's place now
            work.listener(happening)
        self._show_room()

    def _show_room(self) -> None:
        room = self.room
        self._metrics[catalogue.LLM_SLOTS_FREE].set(room.free_slots)
        self._metrics[catalogue.LLM_WAITING].set(room.waiting)


class _TorchGeneration(Generation):
    def __init__(self, computing: Computing, work: Work) -> None:
        self._computing, self.work = computing, work

    async def append(self, ids: Sequence[int]) -> None:
        self._computing.append(self.work, list(ids))

    async def commit(self, decoding: Decoding) -> None:
        self._computing.commit(self.work, decoding)

    async def advance(self, until_group: int) -> None:
        self._computing.advance(self.work, until_group)

    def cancel(self) -> None:
        self._computing.cancel(self.work)


def _warm_up(engine: BackboneEngine, grammar: Grammar) -> None:
    """Touches every kernel once: prefill, decoding, the head, the release of a slot."""
    eot = grammar.ranges.eot
    request = engine.open([eot] * 9)
    automaton = grammar.start(task="transcript", max_tokens=engine.room(request))
    engine.commit(request, automaton, Sampler(SamplingSettings(), grammar.ranges.layout))
    for _ in islice(engine.stream(request), _WARM_UP_TOKENS):
        pass
    engine.cancel(request)
    engine.step()

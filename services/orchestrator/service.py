"""The orchestrator as a whole: its roles on one turn log, ready when the stages are."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

from aqaa.errors import AqaaError
from aqaa.telemetry.log import Log
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing
from aqaa.turnlog import Link, MonotonicClock, TurnLog, TurnLogSettings
from services.orchestrator.config import OrchestratorSettings
from services.orchestrator.front.front import Front
from services.orchestrator.runner import Runner
from services.orchestrator.shared import Shared
from services.orchestrator.stages import Stages
from services.orchestrator.tasks import Background

_DRAIN_SHARE = 0.8
"""Of the drain's time: until what is not answered is handed over."""


def log_settings(settings: OrchestratorSettings) -> TurnLogSettings:
    """The turn log's, as far as the orchestrator is told them."""
    return TurnLogSettings(
        lease=settings.lease_seconds,
        heartbeat=min(1.0, settings.lease_seconds / 5),
        turn_ttl=settings.turn_ttl_seconds,
        session_ttl=settings.session_ttl_seconds,
    )


class Orchestrator:
    """Front and runner of one process, or one of them.

    async with Orchestrator.over(settings, journal=..., name="replica-7", ...) as orchestrator:
        await orchestrator.until_ready()
    """

    def __init__(self, shared: Shared, name: str) -> None:
        role = shared.settings.role
        self.shared = shared
        self.front = Front(shared) if role != "runner" else None
        self.runner = Runner(shared, name) if role != "front" else None
        self._lacks: tuple[str, str] | None = None

    @classmethod
    @asynccontextmanager
    async def over(
        cls,
        settings: OrchestratorSettings,
        *,
        journal: Log,
        metrics: Metrics,
        tracing: Tracing,
        name: str,
    ) -> AsyncIterator[Self]:
        """On a turn log of its own link. ``name``: new at every start. Raises Unavailable without a log."""
        background, clock = Background(journal), MonotonicClock()
        async with (
            await Link.connect(
                settings.redis_url, log_settings(settings), cluster=settings.redis_cluster, metrics=metrics
            ) as link,
            TurnLog(link) as log,
            Stages(settings, clock) as stages,
        ):
            shared = Shared(settings, log, stages, clock, metrics, tracing, journal, background)
            try:
                yield cls(shared, name)
            finally:
                await background.aclose()

    async def until_ready(self) -> None:
        """Returns when the stages have answered once."""
        while True:
            try:
                await self.shared.stages.probe()
                self._lacks = None
                return
            except AqaaError as error:
                self._note(error)
            await self.shared.clock.sleep(self.shared.settings.retry_seconds)

    def watch(self, *, well: Callable[[bool], None], room: Callable[[bool], None]) -> None:
        """From now on says whether a turn could be answered, and whether the next one would be let in.

        A runner lets none in, and says nothing about it.
        """
        background = self.shared.background
        background.forever("watch stages", lambda: self._watch(well))
        if (front := self.front) is not None:
            background.forever("watch room", lambda: front.watch_room(room))

    async def _watch(self, say: Callable[[bool], None]) -> None:
        while True:
            await self.shared.clock.sleep(self.shared.settings.probe_seconds)
            try:
                await self.shared.stages.probe()
            except AqaaError as error:
                self._note(error)
                say(False)
            else:
                self._lacks = None
                say(True)

    def _note(self, error: AqaaError) -> None:
        """A line when another stage is not ready than before, or for another reason."""
        lacks = error.metadata.get("stage", ""), error.reason
        if lacks != self._lacks:
            self.shared.journal.warning("a stage is not ready", stage=lacks[0], reason=lacks[1])
        self._lacks = lacks

    async def drain(self, seconds: float) -> None:
        """Lets nothing new in and hands over what other replicas can go on with, in ``seconds``."""
        if self.front is not None:
            await self.front.drain()
        if self.runner is not None:
            await self.runner.drain(seconds * _DRAIN_SHARE)

    async def aclose(self) -> None:
        """Gives back what is still held."""
        if self.front is not None:
            await self.front.hand_over()

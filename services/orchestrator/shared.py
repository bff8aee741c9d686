"""What every part of one orchestrator works with."""

from dataclasses import dataclass

from aqaa.telemetry.log import Log, traceback_of
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing
from aqaa.turnlog import Clock, Keeper, TurnLog
from services.orchestrator.config import OrchestratorSettings
from services.orchestrator.groups import GROUP_SECONDS
from services.orchestrator.stages import Stages
from services.orchestrator.tasks import Background


@dataclass(frozen=True, eq=False)
class Shared:
    """``log`` is the turn log, ``journal`` the lines that people read."""

    settings: OrchestratorSettings
    log: TurnLog
    stages: Stages
    clock: Clock
    metrics: Metrics
    tracing: Tracing
    journal: Log
    background: Background

    @property
    def lookahead_groups(self) -> int:
        """Groups that may be written ahead of what was played."""
        return max(1, round(self.settings.lookahead_seconds / GROUP_SECONDS))

    async def hand_over(self, keeper: Keeper) -> None:
        """Gives every turn back that ``keeper`` holds; a line for each that could not be."""
        for held, error in await keeper.hand_over():
            turn, where = held.tenure.turn, traceback_of(error, messages=False)
            self.journal.error(
                "a turn could not be handed over",
                session_id=turn.session,
                turn_id=turn.turn_id,
                role=held.tenure.role,
                traceback=where,
            )

"""What every part of one orchestrator works with."""

from dataclasses import dataclass

from aqaa.telemetry.log import Log
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing
from aqaa.turnlog import Clock, TurnLog
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

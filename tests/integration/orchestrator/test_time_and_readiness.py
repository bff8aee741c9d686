"""Whose time a conversation has; what is said of stages that are not ready."""

import io
import json

from orchestrator_cases import Talking, one, pcm
from prometheus_client import CollectorRegistry

from aqaa.errors import Unavailable
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import make_log
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing
from aqaa.turnlog import Stream, read_all
from services.orchestrator.config import OrchestratorSettings
from services.orchestrator.service import Orchestrator


async def test_a_conversation_has_its_callers_time_and_each_turn_its_own(server):
    async with one(server.url, turn_seconds=2) as made:
        talking = await Talking(made).begin()
        await talking.question(pcm(0.3))
        told = await talking.hear("manifest")
        log = made.orchestrator.shared.log
        turn = log.session("acme", talking.session_id).turn(told.turn_id)
        spec = (await read_all(log.link, turn, Stream.QUERY))[0].record(Stream.QUERY).spec
        assert spec.deadline_unix_ms > await log.link.now_ms() + 2000
        await talking.end()


async def test_a_stage_that_is_not_ready_is_told_once(server):
    written = io.StringIO()
    parts = Orchestrator.over(
        OrchestratorSettings(profile="development", redis_url=server.url, retry_seconds=0),
        journal=make_log("orchestrator", file=written, strict=True),
        metrics=Metrics(CollectorRegistry(), catalogue.RPC, catalogue.TURNLOG, catalogue.ORCHESTRATOR),
        tracing=Tracing.open("orchestrator"),
        name="replica",
    )
    states = [*["llm"] * 3, *["vocoder"] * 2, "llm", None]

    async def probe():
        if (stage := states.pop(0)) is not None:
            raise Unavailable("not there yet", stage=stage)

    async with parts as orchestrator:
        orchestrator.shared.stages.probe = probe
        await orchestrator.until_ready()
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line["stage"] for line in lines if line["event"] == "a stage is not ready"] == [
        "llm",
        "vocoder",
        "llm",
    ]

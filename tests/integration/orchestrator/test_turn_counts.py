"""What the orchestrator counts of its turns: each once, by how it ended."""

from orchestrator_cases import (
    PATIENCE,
    ask,
    asking,
    hear,
    metadata,
    nothing_left,
    one,
    refused,
    replica,
    until,
)

from aqaa.errors import AqaaError
from tests.stages import StubStages


async def test_a_turn_is_counted_once_by_how_it_ended(server):
    stages = StubStages()
    async with one(server.url, stages) as made:
        told = await ask(made)
        assert made.sample("aqaa_turns_total", reason="STOP") == 1
        assert made.sample("aqaa_turn_first_text_seconds_count") == 1
        assert made.sample("aqaa_turn_first_audio_seconds_count") == 1
        assert made.sample("aqaa_turn_commit_seconds_count") == 1
        assert made.sample("aqaa_turn_chunk_late_seconds_count") == len(told.chunks) - 1
        assert made.sample("aqaa_turn_manifests_missing_total") == 0

        stages.faults.fail("llm", 4, lambda: AqaaError("a fault"), times=99)
        call = made.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
        assert (await refused(hear(call)))[0] == "INTERNAL"
        await nothing_left(stages, made)
        assert made.sample("aqaa_turns_total", reason="INTERNAL") == 1
        assert made.sample("aqaa_turns_total", reason="STOP") == 1
        assert made.sample("aqaa_turn_commit_seconds_count") == 2
        assert made.sample("aqaa_turn_manifests_missing_total") == 0  # it ended with an error


async def test_a_stream_that_breaks_misses_its_manifest_and_its_turn_ends_as_cancelled(server):
    stages = StubStages()
    async with stages.serving() as address, replica(server.url, address, resume_seconds=0.05) as made:
        held = stages.faults.hold("llm", 8)
        call = made.stub.Ask(asking(), metadata=metadata(), timeout=PATIENCE)
        await hear(call, until="text")
        await held.reached.wait()
        assert made.sample("aqaa_turns_live", role="front") == 1
        assert made.sample("aqaa_turn_manifests_missing_total") == 0
        call.cancel()
        await until(lambda: made.sample("aqaa_turns_total", reason="CANCELLED") == 1)
        assert made.sample("aqaa_turn_manifests_missing_total") == 1
        await nothing_left(stages, made)
        assert made.sample("aqaa_turns_live", role="front") == 0

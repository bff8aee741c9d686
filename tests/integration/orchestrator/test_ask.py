"""A question gets its whole answer, and nothing is left over."""

from orchestrator_cases import STOP, ask, nothing_left, one

from tests.stages import GROUP_SAMPLES, StubStages


async def test_a_question_gets_its_whole_answer(server):
    stages = StubStages()
    async with one(server.url, stages) as replica:
        told = await ask(replica)
        assert told.order[:2] == ["opened", "question_committed"]
        assert told.order[-1] == "manifest"
        assert told.committed == 9
        assert told.starts == [(0, ""), (1, "slow")]
        assert told.manifest.reason == STOP
        assert told.manifest.samples == 15 * GROUP_SAMPLES
        assert [(s.groups, s.first_sample, s.samples) for s in told.manifest.segments] == [
            (10, 0, 10 * GROUP_SAMPLES),
            (5, 10 * GROUP_SAMPLES, 5 * GROUP_SAMPLES),
        ]
        assert {s.segment: s.text for s in told.manifest.segments} == told.texts
        assert told.transcript.startswith("heard ")
        assert told.order.index("text") < told.order.index("audio")
        assert [len(chunk.pcm) // 2 // GROUP_SAMPLES for chunk in told.chunks] == [3, 3, 4, 3, 2]
        await nothing_left(stages, replica)


async def test_the_same_seed_has_the_same_answer(server):
    async with one(server.url) as replica:
        assert (await ask(replica)).whole == (await ask(replica)).whole

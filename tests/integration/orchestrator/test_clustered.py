"""An orchestrator whose turn log is a cluster of three."""

from orchestrator_cases import STOP, ask, asking, nothing_left, one

from tests.integration.turnlog.turnlog_servers import cluster
from tests.stages import StubStages


async def test_a_question_is_answered_over_a_cluster_as_over_one_server(server, tmp_path):
    stages = StubStages()
    async with one(server.url) as made:
        alone = await ask(made)
    async with cluster(tmp_path) as nodes, one(nodes[0].url, stages, redis_cluster=True) as made:
        told = await ask(made)
        assert (told.texts, told.sound, told.manifest.reason) == (alone.texts, alone.sound, STOP)
        after = await ask(made, asking(session_id=told.opened.session_id))
        assert [len(prompt.history) for prompt in stages.prompts] == [0, 2]
        assert after.manifest.reason == STOP
        await nothing_left(stages, made)
        keys = [node.ask("DBSIZE") for node in nodes]
        assert sum(key != b":0\r\n" for key in keys) > 1, "one node has it all"

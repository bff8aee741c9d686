"""The tokens of a turn come with its manifest, if its caller wants them, whoever tells it."""

from orchestrator_cases import ask, asking, hear, metadata, one

from aqaa.v1 import orchestrator_pb2 as pb

WANTED = pb.TurnOptions(seed=7, with_tokens=True)


async def test_the_manifest_holds_every_token_also_when_it_is_told_again(server):
    async with one(server.url) as made:
        told = await ask(made, asking(options=WANTED))
        tokens = told.manifest.tokens
        assert len(tokens.question.linguistic) == 2 * told.committed
        assert len(tokens.question.semantic) == 3 * told.committed
        kinds = [piece.WhichOneof("piece") for piece in tokens.answer]
        assert (kinds[0], kinds[-1]) == ("segment_start", "end")
        groups = [piece.groups for piece in tokens.answer if piece.HasField("groups")]
        assert sum(len(group.linguistic) for group in groups) == 2 * sum(
            segment.groups for segment in told.manifest.segments
        )
        runs = [piece.text for piece in tokens.answer if piece.HasField("text")]
        assert "".join(run.text for run in runs) == "".join(told.texts.values())
        assert all(run.token_ids for run in runs)
        resumed = pb.ResumeRequest(session_id=told.opened.session_id, turn_id=told.turn_id)
        again = await hear(made.stub.Resume(resumed, metadata=metadata()))
        assert again.manifest == told.manifest


async def test_they_are_not_sent_to_who_does_not_want_them(server):
    async with one(server.url) as made:
        assert not (await ask(made)).manifest.HasField("tokens")

"""Callers whose conversations run at once, in any interleaving: each hears what it would have heard alone.

Stub stages answer with a function of the caller's own sound, seed and history, so a byte of another's shows.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from aqaa.rpc.caller import Caller
from aqaa.v1 import orchestrator_pb2 as pb
from aqaa.v1.audio_pb2 import QuestionAudio
from tests.faults.hostile_cases import Front, conversing, orchestrator, refused, turn_log
from tests.integration.orchestrator.orchestrator_cases import FORMAT, PATIENCE, Told, metadata, pcm
from tests.stages import Plan, StubStages

CALLERS = (Caller("acme", "alice"), Caller("acme", "bob"), Caller("other", "alice"))
GROUP_BYTES = 3840


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def front(runner, tmp_path_factory):
    stages = StubStages(slots=32, plan=Plan(segments=((2, 2), (1, 1))))
    with turn_log(tmp_path_factory.mktemp("valkey")) as url:
        serving = orchestrator(url, stages)
        made = runner.run(serving.__aenter__())
        yield made
        runner.run(serving.__aexit__(None, None, None))


@dataclass(frozen=True)
class Script:
    """What a caller does: the sound of each of its questions, and its seed. Callers may use the same seed."""

    questions: tuple[bytes, ...]
    seed: int

    @property
    def steps(self) -> int:
        """Opening, pieces, commit and hearing of each question; a last look at the session."""
        return sum(len(pieces(sound)) + 2 for sound in self.questions) + 1


def pieces(sound: bytes) -> list[bytes]:
    return [sound[at : at + GROUP_BYTES] for at in range(0, len(sound), GROUP_BYTES)]


@dataclass
class Speaker:
    """One caller in the middle of its script."""

    front: Front
    caller: Caller
    script: Script
    heard: list[tuple[Any, ...]] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    session_id: str = ""

    async def steps(self) -> Any:
        """Acts once each time it is asked to."""
        given = metadata(self.caller)
        opening = pb.ConverseRequest(open=pb.OpenConversation(format=FORMAT))
        call = await conversing(self.front, opening, given=given)
        self.session_id = (await call.read()).opened.session_id
        options = pb.TurnOptions(seed=self.script.seed)
        for sound in self.script.questions:
            # one name for all callers: it has to mean each one's own turn
            name = f"question-{len(self.turns)}-{len(sound)}"
            await call.write(pb.ConverseRequest(turn=pb.OpenTurn(request_id=name, options=options)))
            at = 0
            for piece in pieces(sound):
                await call.write(pb.ConverseRequest(audio=QuestionAudio(first_byte=at, pcm=piece)))
                at += len(piece)
                yield
            await call.write(pb.ConverseRequest(commit=pb.CommitQuestion(bytes=at)))
            yield
            told = Told()
            while told.manifest is None:
                response = await call.read()
                assert not response.turn.HasField("failed"), response
                told.add(response.turn)
            assert told.opened.session_id == self.session_id
            self.heard.append((*told.whole, told.transcript))
            self.turns.append(told.turn_id)
            yield
        await call.done_writing()
        asked = pb.GetSessionRequest(session_id=self.session_id)
        session = await self.front.stub.GetSession(asked, metadata=given, timeout=PATIENCE)
        assert [turn.turn_id for turn in session.turns] == self.turns
        self.heard += [(turn.question_text, turn.answer_text, turn.heard_text) for turn in session.turns]

    async def pry(self, other: "Speaker") -> None:
        """Tries to get at another's session."""
        if other.session_id and other is not self:
            asked = pb.GetSessionRequest(session_id=other.session_id)
            found = await refused(self.front.stub.GetSession(asked, metadata=metadata(self.caller)))
            assert found.reason == "NOT_FOUND"


async def spoken(front: Front, scripts: list[Script], order: list[int]) -> list[Speaker]:
    """All scripts, their steps in this order; what it leaves is done in turn."""
    # request ids are known for a while: each run has users of its own
    run = await front.command("INCR", "runs")
    who = [Caller(caller.tenant, f"{caller.user}-{run}") for caller in CALLERS]
    speakers = [Speaker(front, caller, script) for caller, script in zip(who, scripts, strict=False)]
    going = {index: speaker.steps() for index, speaker in enumerate(speakers)}
    order = [*order, *(index for _ in range(max(s.steps for s in scripts)) for index in range(len(scripts)))]
    for at, index in enumerate(order):
        if index in going:
            if at % 3 == 0:
                await speakers[index].pry(speakers[(index + 1) % len(speakers)])
            if await anext(going[index], going) is going:
                del going[index]
    assert not going
    return speakers


scripts = st.builds(
    lambda questions, seed: Script(
        tuple(pcm(0.12 * groups, seed=noise) for groups, noise in questions), seed
    ),
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), min_size=1, max_size=2),
    st.integers(0, 1),
)


# new ones in every run; one that fails is printed and comes first the next time, as it is: shrinking is slow
@settings(
    max_examples=8, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate], print_blob=True
)
@given(st.lists(scripts, min_size=2, max_size=3), st.lists(st.integers(0, 2), max_size=20))
def test_everybody_hears_what_he_would_have_heard_alone(runner, front, scripts, order):
    together = runner.run(spoken(front, scripts, order))
    for speaker in together:
        [alone] = runner.run(spoken(front, [speaker.script], []))
        assert speaker.heard == alone.heard

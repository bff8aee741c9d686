"""What the llm service refuses, and in which words: every fault typed, its field named, no slot lost."""

import asyncio
import math

import grpc.aio
import pytest
from llm_cases import ANSWER, Call, Step, served

from aqaa.errors import (
    BundleChanged,
    GrammarError,
    InvalidRequest,
    InvalidToken,
    Stalled,
)
from aqaa.rpc.status import typed_errors
from aqaa.telemetry import catalogue
from aqaa.v1 import backbone_pb2, tokens_pb2

SLOTS, POSITIONS = 2, 256
GROUP = tokens_pb2.AudioGroups(linguistic=[1, 2], semantic=[1, 2, 3])
OPEN = backbone_pb2.OpenPrompt()
COMMIT = backbone_pb2.CommitPrompt(task=ANSWER, prompt_groups=1)


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def llm(runner):
    serving = served(slots=SLOTS, slot_positions=POSITIONS, stall_seconds=1.0, prompt_seconds=2.0)
    yield runner.run(serving.__aenter__())
    runner.run(serving.__aexit__(None, None, None))


async def sent(llm, *steps):
    """Sends the steps and reads to the end of the call."""
    call = llm.stub.StreamGenerate(timeout=20)
    with typed_errors():
        for step in steps:
            await call.write(step)
        async for _ in _responses(call):
            pass


async def _responses(call):
    while (response := await call.read()) is not grpc.aio.EOF:
        yield response


def opened(**fields):
    return Step(open=backbone_pb2.OpenPrompt(**fields))


def prompt(**fields):
    return Step(prompt=tokens_pb2.AudioGroups(**fields))


def committed(**fields):
    commit = backbone_pb2.CommitPrompt()
    commit.CopyFrom(COMMIT)
    for name, value in fields.items():
        if name == "answered":
            commit.answered.extend(value)
        elif name == "sampling":
            commit.sampling.CopyFrom(value)
        else:
            setattr(commit, name, value)
    return Step(commit=commit)


def piece(**fields):
    return tokens_pb2.AnswerPiece(**fields)


START = piece(segment_start=tokens_pb2.SegmentStart(segment=0))
SOUND = piece(groups=GROUP)
ASKED = (Step(open=OPEN), Step(prompt=GROUP))

REFUSED = {
    "no open": ([Step(prompt=GROUP)], InvalidRequest, "prompt"),
    "empty step": ([Step()], InvalidRequest, "step"),
    "opened twice": ([Step(open=OPEN), Step(open=OPEN)], InvalidRequest, "open"),
    "digest": ([opened(bundle_digest="XYZ")], InvalidRequest, "open.bundle_digest"),
    "role": ([opened(history=[tokens_pb2.Message(text="x")])], InvalidRequest, "open.history[0].role"),
    "late system": (
        [opened(history=[tokens_pb2.Message(role=2), tokens_pb2.Message(role=1)])],
        InvalidRequest,
        "open.history[1].role",
    ),
    "long text": ([opened(text="word " * 10_000)], InvalidRequest, "open"),
    "text beyond a slot": ([opened(text="zq" * 700)], InvalidRequest, "open"),
    "gap": ([ASKED[0], prompt(first_group=1)], InvalidRequest, "prompt.first_group"),
    "repetition": ([*ASKED, Step(prompt=GROUP)], InvalidRequest, "prompt.first_group"),
    "half a group": ([ASKED[0], prompt(linguistic=[1, 2])], InvalidRequest, "prompt.linguistic"),
    "parts of a group": (
        [ASKED[0], prompt(linguistic=[1, 2], semantic=[1] * 4)],
        InvalidRequest,
        "prompt.semantic",
    ),
    "linguistic code": (
        [ASKED[0], prompt(linguistic=[1, 1024], semantic=[1] * 3)],
        InvalidToken,
        "prompt.linguistic[1]",
    ),
    "semantic code": (
        [ASKED[0], prompt(linguistic=[1, 1], semantic=[1, 1, 4096])],
        InvalidToken,
        "prompt.semantic[2]",
    ),
    "huge code": (
        [ASKED[0], prompt(linguistic=[2**32 - 1] * 2, semantic=[1] * 3)],
        InvalidToken,
        "prompt.linguistic[0]",
    ),
    "too much sound": ([ASKED[0], prompt(linguistic=[1] * 100_000)], InvalidRequest, "prompt"),
    "no room to answer": (
        [ASKED[0], prompt(linguistic=[1] * 98, semantic=[1] * 147), committed(prompt_groups=49)],
        InvalidRequest,
        "prompt",
    ),
    "sound for a written question": ([opened(text="hello"), Step(prompt=GROUP)], InvalidRequest, "prompt"),
    "no task": ([*ASKED, committed(task=0)], InvalidRequest, "commit.task"),
    "unknown task": ([*ASKED, committed(task=77)], InvalidRequest, "commit.task"),
    "unknown start": ([*ASKED, committed(start_mode=9)], InvalidRequest, "commit.start_mode"),
    "start of a transcript": ([*ASKED, committed(task=2, start_mode=3)], InvalidRequest, "commit.start_mode"),
    "nothing asked": ([ASKED[0], committed(prompt_groups=0)], InvalidRequest, "prompt"),
    "lost groups": ([*ASKED, committed(prompt_groups=2)], InvalidRequest, "commit.prompt_groups"),
    "nothing to speak": ([*ASKED, committed(task=3)], InvalidRequest, "open.text"),
    "text to continue": (
        [opened(text="hello"), committed(task=4, prompt_groups=0)],
        InvalidRequest,
        "open.text",
    ),
    "style of an answer": ([*ASKED, committed(style="slow")], InvalidRequest, "commit.style"),
    "unknown style": (
        [opened(text="hello"), committed(task=3, style="<|slow|>", prompt_groups=0)],
        InvalidRequest,
        "commit.style",
    ),
    "transcript of a text": (
        [opened(text="hello"), committed(transcript=True, prompt_groups=0)],
        InvalidRequest,
        "commit.transcript",
    ),
    "hot": (
        [*ASKED, committed(sampling=tokens_pb2.Sampling(text_temperature=2.1))],
        InvalidRequest,
        "commit.sampling.text_temperature",
    ),
    "negative": (
        [*ASKED, committed(sampling=tokens_pb2.Sampling(semantic_temperature=-1))],
        InvalidRequest,
        "commit.sampling.semantic_temperature",
    ),
    "not a number": (
        [*ASKED, committed(sampling=tokens_pb2.Sampling(linguistic_temperature=math.nan))],
        InvalidRequest,
        "commit.sampling.linguistic_temperature",
    ),
    "nucleus": (
        [*ASKED, committed(sampling=tokens_pb2.Sampling(audio_top_p=0))],
        InvalidRequest,
        "commit.sampling.audio_top_p",
    ),
    "empty piece": ([*ASKED, committed(answered=[piece()])], InvalidRequest, "commit.answered[0]"),
    "segment": (
        [*ASKED, committed(answered=[piece(segment_start=tokens_pb2.SegmentStart(segment=1))])],
        InvalidRequest,
        "commit.answered[0].segment_start.segment",
    ),
    "control token": (
        [*ASKED, committed(answered=[START, piece(text=tokens_pb2.TextRun(token_ids=[3]))])],
        InvalidToken,
        "commit.answered[1].text.token_ids[0]",
    ),
    "audio as text": (
        [*ASKED, committed(answered=[START, piece(text=tokens_pb2.TextRun(token_ids=[700]))])],
        InvalidToken,
        "commit.answered[1].text.token_ids[0]",
    ),
    "answered gap": (
        [*ASKED, committed(answered=[START, piece(groups=tokens_pb2.AudioGroups(first_group=4))])],
        InvalidRequest,
        "commit.answered[1].groups.first_group",
    ),
    "wrong count": (
        [*ASKED, committed(answered=[START, piece(segment_end=tokens_pb2.SegmentEnd(groups=3))])],
        InvalidRequest,
        "commit.answered[1].segment_end.groups",
    ),
    "answered whole": (
        [*ASKED, committed(answered=[START, piece(end=tokens_pb2.AnswerEnd())])],
        InvalidRequest,
        "commit.answered[1].end",
    ),
    "many pieces": ([*ASKED, committed(answered=[piece()] * 5000)], InvalidRequest, "commit.answered"),
    "no grammar": ([*ASKED, committed(answered=[START, SOUND])], GrammarError, None),
    "another bundle": ([opened(bundle_digest="0" * 64)], BundleChanged, None),
    "advance first": ([*ASKED, Step(advance=backbone_pb2.Advance(until_group=1))], InvalidRequest, "advance"),
    "back": (
        [*ASKED, committed(until_group=3), Step(advance=backbone_pb2.Advance(until_group=2))],
        InvalidRequest,
        "advance.until_group",
    ),
    "a frontier after none": (
        [*ASKED, committed(), Step(advance=backbone_pb2.Advance(until_group=2))],
        InvalidRequest,
        "advance.until_group",
    ),
    "more after commit": ([*ASKED, committed(until_group=1), Step(prompt=GROUP)], InvalidRequest, "prompt"),
    "committed twice": ([*ASKED, committed(until_group=1), committed()], InvalidRequest, "commit"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_fault_is_typed_and_names_its_field(runner, llm, name):
    steps, kind, field = REFUSED[name]
    with pytest.raises(kind) as error:
        runner.run(sent(llm, *steps))
    assert type(error.value) is kind
    if kind is InvalidRequest:
        assert [fault.field for fault in error.value.faults] == [field]
    elif kind is InvalidToken:
        assert error.value.metadata["field"] == field
    runner.run(llm.until_free(SLOTS))


def test_generate_cannot_be_held(runner, llm):
    async def scenario():
        commit = backbone_pb2.CommitPrompt(task=ANSWER, prompt_groups=1, until_group=1)
        request = backbone_pb2.GenerateRequest(open=OPEN, prompt=GROUP, commit=commit)
        with typed_errors():
            async for _ in llm.stub.Generate(request, timeout=20):
                pass

    with pytest.raises(InvalidRequest, match="until_group"):
        runner.run(scenario())


@pytest.mark.parametrize("advanced", [False, True])
def test_an_answer_that_nobody_lets_on_loses_its_slot(runner, llm, advanced):
    async def scenario():
        before = llm.value(catalogue.LLM_STALLED)
        async with Call(llm) as call:
            await call.send(Step(prompt=GROUP))
            await call.commit(prompt_groups=1, start_mode=tokens_pb2.START_MODE_SPEECH, until_group=1)
            await call.until_groups(1)
            if advanced:
                await call.advance(2)
                await call.until_groups(2)
            with pytest.raises(Stalled, match="frontier"):
                await call.rest()
        assert llm.value(catalogue.LLM_STALLED) == before + 1
        await llm.until_free(SLOTS)

    runner.run(scenario())


def test_a_prompt_that_nobody_commits_loses_its_slot(runner, llm):
    async def scenario():
        async with Call(llm) as call:
            with pytest.raises(Stalled, match="has not grown"):
                await call.rest()
        await llm.until_free(SLOTS)

    runner.run(scenario())


def test_marks_in_text_stay_text(runner, llm):
    """Whatever a caller writes, it is read as its letters: no control token comes out of it."""
    marks = ["<s>", "</s>", "<|EOT|>", "<|BOT|>", "<audio_start>", "<audio_end>", "<|slow|>", "<audio_5>"]
    door, language = llm.service.servicer._door, llm.language
    plain = door.opening(backbone_pb2.OpenPrompt(text="x", history=[tokens_pb2.Message(role=2, text="x")]))
    controls = [i for i in plain.ids if language.grammar.ranges.class_of(i) is None or i < 5]
    for mark in (*marks, "".join(marks), "\x00\ufeff" + marks[2], "\u2581" + marks[3]):
        message = tokens_pb2.Message(role=2, text=mark)
        ids = door.opening(backbone_pb2.OpenPrompt(text=mark, history=[message])).ids
        assert [i for i in ids if language.grammar.ranges.class_of(i) is None or i < 5] == controls, mark
        assert language.grammar.ranges.audio_start not in ids
        assert language.grammar.ranges.audio_end not in ids
        assert not set(language.styles) & set(ids)

"""The llm service with the bundled model over real gRPC: what it answers, resumes, holds and frees."""

import asyncio

import pytest
import torch
from llm_cases import ANSWER, AUTO, BUNDLE, ROOT, Call, groups_of, served, text_of

from aqaa.audio.decode import read_audio
from aqaa.bundle import Bundle
from aqaa.engine.pipeline import Pipeline
from aqaa.errors import Cancelled, CapacityError, Deadline
from aqaa.rpc.status import typed_errors
from aqaa.telemetry import catalogue
from aqaa.tokens.sampling import Sampler
from aqaa.v1 import backbone_pb2, tokens_pb2
from services.llm.pieces import tokens_of

SLOTS, WAITING, SEED = 8, 2, 3


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def llm(runner):
    serving = served(slots=SLOTS, max_waiting=WAITING)
    yield runner.run(serving.__aenter__())
    runner.run(serving.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def pipeline():
    torch.set_num_threads(1)
    return Pipeline(Bundle.open(BUNDLE))


@pytest.fixture(scope="module")
def answer(pipeline):
    return pipeline.ask(read_audio(ROOT / "examples" / "question.wav"), seed=SEED)


@pytest.fixture(scope="module")
def question(answer):
    return list(answer.question_tokens)


@pytest.fixture(scope="module")
def pieces(runner, llm, question):
    """The undisturbed answer."""
    return runner.run(asked(llm, question, transcript=True))[0]


async def asked(llm, question, *, seed=SEED, say=1, **commit):
    """The pieces of an answer and its transcript."""
    async with Call(llm, seed=seed) as call:
        await call.say(question, say)
        await call.commit(**commit)
        return await call.rest(), call.transcript


def ids_of(llm, pieces, task="answer"):
    assert pieces[-1].HasField("end")
    return list(tokens_of(llm.language, task, pieces[:-1]))


def test_the_answer_is_that_of_the_pipeline_however_the_question_arrives(
    runner, llm, answer, question, pieces
):
    *want, eot = (token_id for token_id, _ in answer.answer_tokens)
    assert eot == llm.language.grammar.ranges.eot
    assert ids_of(llm, pieces) == want
    in_pieces, transcript = runner.run(asked(llm, question, say=9, transcript=True))
    assert ids_of(llm, in_pieces) == want
    assert transcript == answer.question_text
    assert text_of(pieces) == answer.answer_text
    end = pieces[-1].end
    assert end.reason == tokens_pb2.END_REASON_STOP
    assert end.tokens == len(answer.answer_tokens)
    assert (end.text_tokens, end.groups) == (answer.tokens["text"], answer.tokens["semantic"] // 3)
    styles = [piece.segment_start.style for piece in pieces if piece.HasField("segment_start")]
    assert styles == [segment.style or "" for segment in answer.segments]


def test_the_transcript_comes_behind_the_first_sound_and_before_the_end(runner, llm, question):
    async def scenario():
        async with Call(llm, seed=SEED) as call:
            await call.say(question)
            await call.commit(transcript=True, until_group=1)
            await call.until_groups(1)
            assert call.transcript is None
            while call.transcript is None:  # it is written while the answer waits at its frontier
                await call.next()
            assert groups_of(call.pieces) == 1
            await call.advance(0)
            await call.rest()
            assert call.happened[0] == "opened"
            assert call.happened.count("transcript") == 1
            assert call.happened[-1] == "piece"
            return call.pieces

    pieces = runner.run(scenario())
    assert pieces[-1].HasField("end")
    assert groups_of(pieces) == pieces[-1].end.groups


def test_generate_gives_the_same_pieces(runner, llm, question, pieces, answer):
    async def scenario():
        request = backbone_pb2.GenerateRequest(
            open=backbone_pb2.OpenPrompt(seed=SEED, bundle_digest=llm.language.digest),
            prompt=llm.groups(question),
            commit=backbone_pb2.CommitPrompt(
                task=ANSWER, start_mode=AUTO, prompt_groups=len(question) // 5, transcript=True
            ),
        )
        return [response async for response in llm.stub.Generate(request, timeout=60)]

    responses = runner.run(scenario())
    got = [response.piece for response in responses if response.HasField("piece")]
    assert ids_of(llm, got) == ids_of(llm, pieces)
    (transcript,) = (r.transcript.text for r in responses if r.HasField("transcript"))
    assert transcript == answer.question_text


def test_an_answer_goes_on_behind_any_piece_with_the_same_tokens(runner, llm, question, pieces):
    whole = ids_of(llm, pieces)
    cuts = sorted({1, 2, 3, *range(5, len(pieces), 7), len(pieces) - 2, len(pieces) - 1})

    async def resumed():
        jobs = (asked(llm, question, answered=pieces[:cut]) for cut in cuts)
        return [rest for rest, _ in await asyncio.gather(*jobs)]

    for cut, rest in zip(cuts, runner.run(resumed()), strict=True):
        assert ids_of(llm, [*pieces[:cut], *rest]) == whole, cut
        assert text_of([*pieces[:cut], *rest]) == text_of(pieces), cut
        assert rest[-1] == pieces[-1], cut


def test_the_frontier_pauses_the_answer_and_lets_it_go_on(runner, llm, question, pieces):
    async def scenario():
        codes = {"token_class": "linguistic"}
        start = llm.value(catalogue.LLM_DECODE_TOKENS, **codes)
        async with Call(llm, seed=SEED) as call:
            await call.say(question)
            await call.commit(until_group=2)
            await call.until_groups(2)
            async with asyncio.timeout(20):  # it stops at the first code of the third group
                while llm.value(catalogue.LLM_DECODE_TOKENS, **codes) < start + 5:
                    await llm.capacity()
            before = llm.value(catalogue.LLM_DECODE_TOKENS, **codes)
            assert before == start + 5
            assert (await llm.capacity()).free_slots == SLOTS - 1
            other, _ = await asked(llm, question)
            written = llm.value(catalogue.LLM_DECODE_TOKENS, **codes) - before
            assert written == 2 * groups_of(other)  # the other one's alone: this one stood still
            await call.advance(2)  # renews; nothing more may be written
            await call.advance(5)
            await call.until_groups(5)
            assert groups_of(call.pieces) == 5
            await call.advance(0)
            return await call.rest()

    assert ids_of(llm, runner.run(scenario())) == ids_of(llm, pieces)


def test_the_end_does_not_wait_at_the_frontier(runner, llm, question, pieces):
    last, _ = runner.run(asked(llm, question, answered=pieces[:-4], until_group=groups_of(pieces)))
    assert last[-1] == pieces[-1]


def test_eight_at_once_are_each_as_alone(runner, llm, question):
    """Some to their end, others until they are taken back after three groups."""
    cases = [(question[: len(question) - 5 * (n % 3)], seed, n < 2) for n, seed in enumerate(range(40, 48))]

    async def one(ids, seed, whole, say=1):
        async with Call(llm, seed=seed) as call:
            await call.say(ids, say)
            await call.commit(until_group=0 if whole else 3)
            if whole:
                return ids_of(llm, await call.rest())
            await call.until_groups(3)
            return list(tokens_of(llm.language, "answer", call.pieces))

    async def alone():
        return [await one(*case) for case in cases]

    async def together():
        return await asyncio.gather(*(one(*case, say=1 + n) for n, case in enumerate(cases)))

    want = runner.run(alone())
    assert runner.run(together()) == want
    assert len({tuple(ids) for ids in want}) > 1


def test_a_style_is_spoken_as_the_library_does(runner, llm, pipeline):
    text, grammar = "The cat is on the table.", pipeline.grammar
    prompt = pipeline.prompts.question(text) + pipeline.prompts.marker("speak")
    forced = [grammar.ranges.audio_start, llm.language.style_ids["slow"]]
    request = pipeline.backbone.open(prompt)
    automaton = grammar.start(
        task="speak",
        max_tokens=pipeline.backbone.room(request),
        spoken_text=len(pipeline.prompts.content(text)),
    )
    sampler = Sampler(pipeline.manifest.settings("speak", seed=7), pipeline.layout)
    pipeline.backbone.commit(request, automaton, sampler, resumed=forced)
    want = forced + list(pipeline.backbone.stream(request))

    async def spoken(answered=()):
        async with Call(llm, seed=7, text=text) as call:
            await call.commit(task=tokens_pb2.TASK_SPEAK, style="slow", answered=answered)
            return await call.rest()

    pieces = runner.run(spoken())
    assert pieces[0].segment_start.style == "slow"
    assert ids_of(llm, pieces, "speak") == want[:-1]
    assert pieces[-1].end.tokens == len(want)
    rest = runner.run(spoken(pieces[:4]))
    assert ids_of(llm, [*pieces[:4], *rest], "speak") == want[:-1]


def test_a_written_question_with_history_is_answered_in_text(runner, llm):
    history = [
        tokens_pb2.Message(role=tokens_pb2.ROLE_SYSTEM, text="Answer."),
        tokens_pb2.Message(role=tokens_pb2.ROLE_HUMAN, text="Hello."),
        tokens_pb2.Message(role=tokens_pb2.ROLE_ASSISTANT, text="Hello."),
    ]

    async def scenario():
        async with Call(llm, history=history, text="What is the capital of Greece?") as call:
            await call.commit(start_mode=tokens_pb2.START_MODE_TEXT)
            await call.half_close()
            return await call.rest()

    pieces = runner.run(scenario())
    assert {piece.WhichOneof("piece") for piece in pieces} == {"text", "end"}
    assert text_of(pieces).strip()


@pytest.mark.parametrize("task", ["transcript", "continue"])
def test_other_tasks_of_a_spoken_prompt(runner, llm, question, answer, task):
    number = tokens_pb2.Task.Value(f"TASK_{task.upper()}")

    async def scenario():
        whole, _ = await asked(llm, question, task=number)
        cut = len(whole) - 1  # behind all but the end: nothing is told twice
        rest, _ = await asked(llm, question, task=number, answered=whole[:cut])
        assert rest == whole[cut:]
        return whole

    pieces = runner.run(scenario())
    if task == "transcript":
        assert text_of(pieces) == answer.question_text
    else:
        assert groups_of(pieces) == pieces[-1].end.groups > 0
        assert pieces[0].HasField("segment_start")


@pytest.mark.parametrize("phase", ["prompt", "decoding", "frontier"])
def test_cancelling_frees_the_slot_within_two_steps(runner, llm, question, phase):
    steps = catalogue.LLM_CANCEL_STEPS

    async def scenario():
        before = llm.value(steps, "_count"), llm.value(steps, "_bucket", le="2.0")
        async with Call(llm, seed=SEED) as call:
            await call.say(question)
            if phase == "prompt":
                while "opened" not in call.happened:
                    await call.next()
            else:
                await call.commit(transcript=True, until_group=1 if phase == "frontier" else 0)
                await call.until_groups(1)
            assert (await llm.capacity()).free_slots < SLOTS
        await llm.until_free(SLOTS)
        counted = llm.value(steps, "_count") - before[0]
        assert counted >= 1
        assert llm.value(steps, "_bucket", le="2.0") - before[1] == counted

    runner.run(scenario())


def test_a_deadline_frees_the_slot(runner, llm, question):
    async def scenario():
        async with Call(llm, timeout=1.5, seed=SEED) as call:
            await call.say(question)
            await call.commit(until_group=1)
            with pytest.raises(Deadline):
                await call.rest()
        await llm.until_free(SLOTS)

    runner.run(scenario())


def test_more_than_may_wait_are_refused_and_the_line_moves(runner, llm, question):
    async def scenario():
        calls = []
        for _ in range(SLOTS + WAITING):
            call = await Call(llm, timeout=60).__aenter__()
            calls.append(call)
            await call.say(question[:5])
        async with asyncio.timeout(20):
            while (await llm.capacity()).waiting != WAITING:
                pass
        async with Call(llm) as refused:
            with pytest.raises(CapacityError, match="8 slots are taken") as error:
                await refused.rest()
        assert error.value.retry_after == 1.0
        for call in calls[:SLOTS]:
            assert (await call.next()).HasField("opened")
        await calls[0].__aexit__()
        assert (await calls[SLOTS].next()).HasField("opened")
        await calls[SLOTS].commit()
        await calls[SLOTS].rest()
        for call in calls:
            await call.__aexit__()
        await llm.until_free(SLOTS)

    runner.run(scenario())


def test_a_call_that_is_half_closed_before_its_commit_ends_without_an_answer(runner, llm, question):
    async def scenario():
        async with Call(llm) as call:
            await call.say(question)
            await call.half_close()
            assert await call.rest() == []
        await llm.until_free(SLOTS)

    runner.run(scenario())


def test_the_caller_who_cancels_is_told_so(runner, llm, question):
    async def scenario():
        async with Call(llm) as call:
            await call.say(question)
            call._call.cancel()
            with pytest.raises((Cancelled, asyncio.CancelledError)), typed_errors():
                await call.rest()
        await llm.until_free(SLOTS)

    runner.run(scenario())


def test_callers_who_leave_at_any_moment_leave_nothing_behind(runner, llm, question, pieces):
    """More of them than there are places; one who stays is not disturbed."""

    async def leaving(number):
        try:
            async with Call(llm, seed=number) as call:
                await call.say(question[: 5 * (1 + number % 9)], 3)
                if number % 4 == 0:
                    return
                until = number % 4 // 3
                speech = tokens_pb2.START_MODE_SPEECH
                await call.commit(transcript=number % 2 == 0, until_group=until, start_mode=speech)
                if until:
                    await call.until_groups(until)
                for _ in range(0 if until else number % 7):
                    await call.next()
        except CapacityError:
            pass

    async def scenario():
        stays = asyncio.create_task(asked(llm, question))
        await asyncio.gather(*(leaving(number) for number in range(30)))
        answer, _ = await stays
        await llm.until_free(SLOTS)
        return answer

    assert ids_of(llm, runner.run(scenario())) == ids_of(llm, pieces)


def test_nothing_of_any_request_is_left(runner, llm):
    engine, computing = llm.service.engine, llm.service.engine._computing

    async def scenario():
        async with asyncio.timeout(20):  # a wish that came last may still be on its way
            while computing._asked or computing._works or engine._held:
                await llm.capacity()

    runner.run(scenario())

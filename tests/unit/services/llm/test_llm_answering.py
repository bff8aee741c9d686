"""One call against a scripted engine: the order of what goes out, and who loses patience with whom."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from aqaa.bundle import Bundle
from aqaa.errors import AqaaError, CapacityError, Stalled
from aqaa.telemetry import catalogue
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing
from aqaa.v1 import backbone_pb2, tokens_pb2
from services.llm.answering import Answering, Patience
from services.llm.engines import Failed, Finished, Generation, Placed, Written
from services.llm.language import Language
from services.llm.requests import Door

LANGUAGE = Language.load(Bundle.open(Path(__file__).parents[4] / "models" / "nano"))
RANGES = LANGUAGE.grammar.ranges
TEXT = LANGUAGE.text.encode("Hello")
GROUP = LANGUAGE.group_ids([1, 2], [3, 4, 5])
SPOKEN = (RANGES.audio_start, *TEXT, *GROUP)
Step = backbone_pb2.StreamGenerateRequest
OPEN = Step(open=backbone_pb2.OpenPrompt())
SOUND = Step(prompt=tokens_pb2.AudioGroups(linguistic=[1, 2], semantic=[1, 2, 3]))
COMMIT = Step(commit=backbone_pb2.CommitPrompt(task=1, prompt_groups=1))


class Scripted(Generation):
    """Records what it is asked; its listener is told by the test."""

    def __init__(self, ids, listener):
        self.prompt, self.tell = list(ids), listener
        self.decoding, self.advanced, self.cancelled = None, [], False
        self.committed = asyncio.Event()

    async def append(self, ids):
        self.prompt += ids

    async def commit(self, decoding):
        self.decoding = decoding
        self.committed.set()

    async def advance(self, until_group):
        self.advanced.append(until_group)

    def cancel(self):
        self.cancelled = True


class ScriptedEngine:
    def __init__(self, refusal=None):
        self.opened, self.refusal = [], refusal

    async def open(self, ids, listener):
        if self.refusal:
            raise self.refusal
        self.opened.append(Scripted(ids, listener))
        return self.opened[-1]

    async def open_beside(self, answer, ids, decoding, listener):
        assert answer is self.opened[0]
        self.opened.append(Scripted(ids, listener))
        self.opened[-1].decoding = decoding
        return self.opened[-1]


class Call:
    """A call whose requests come from a queue."""

    def __init__(self, engine, **patience):
        self.metrics = Metrics(CollectorRegistry(), catalogue.LLM)
        self._requests = asyncio.Queue()
        door = Door(LANGUAGE, positions=200, text_bytes=1000)
        answering = Answering(door, engine, Patience(**patience), self.metrics, Tracing.open("llm"))
        self.responses = answering.serve(self._come())

    async def _come(self):
        while (request := await self._requests.get()) is not None:
            yield request

    def send(self, *requests):
        for request in requests:
            self._requests.put_nowait(request)

    async def take(self, count=1):
        """The next responses by kind, pieces by their own."""
        kinds = []
        for _ in range(count):
            async with asyncio.timeout(20):
                response = await anext(self.responses)
            event = response.WhichOneof("event")
            kinds.append(response.piece.WhichOneof("piece") if event == "piece" else event)
        return kinds

    def stalled(self):
        return self.metrics.registry.get_sample_value("aqaa_llm_stalled_total")


def run(scenario, *, refusal=None, **patience):
    """The scenario with an engine and a call to it."""

    async def served():
        engine = ScriptedEngine(refusal)
        call = Call(engine, **patience)
        async with aclosing(call.responses):
            await scenario(engine, call)
        return engine

    return asyncio.run(served())


async def committed(engine, call, **commit):
    """A spoken prompt, committed; the answer's generation."""
    step = Step()
    step.CopyFrom(COMMIT)
    step.commit.MergeFrom(backbone_pb2.CommitPrompt(**commit))
    call.send(OPEN, SOUND, step)
    taking = asyncio.create_task(call.take())
    while not engine.opened:
        await asyncio.sleep(0)
    answer = engine.opened[0]
    await answer.committed.wait()
    answer.tell(Placed())
    assert await taking == ["opened"]
    return answer


def test_a_transcript_waits_for_the_first_sound():
    async def scenario(engine, call):
        answer = await committed(engine, call, transcript=True)
        while len(engine.opened) < 2:
            await asyncio.sleep(0)
        transcript = engine.opened[1]
        transcript.tell(Placed())
        transcript.tell(Written((*TEXT, RANGES.eot)))
        transcript.tell(Finished("stop"))
        answer.tell(Written(SPOKEN[:-1]))
        assert await call.take(2) == ["segment_start", "text"]
        answer.tell(Written(SPOKEN[-1:]))
        assert await call.take(2) == ["groups", "transcript"]

    run(scenario)


def test_the_end_waits_for_the_transcript():
    async def scenario(engine, call):
        answer = await committed(engine, call, transcript=True, start_mode=tokens_pb2.START_MODE_TEXT)
        while len(engine.opened) < 2:
            await asyncio.sleep(0)
        answer.tell(Written((*TEXT, RANGES.eot)))
        answer.tell(Finished("stop"))
        assert await call.take() == ["text"]
        engine.opened[1].tell(Written((*TEXT, RANGES.eot)))
        engine.opened[1].tell(Finished("stop"))
        assert await call.take(2) == ["transcript", "end"]
        with pytest.raises(StopAsyncIteration):
            await call.take()

    run(scenario)


def test_answer_and_transcript_share_the_question():
    async def scenario(engine, call):
        answer = await committed(engine, call, transcript=True)
        while len(engine.opened) < 2:
            await asyncio.sleep(0)
        prompts = LANGUAGE.prompts
        question = prompts.question(LANGUAGE.group_ids([1, 2], [1, 2, 3]))
        assert answer.prompt == question + prompts.marker("answer")
        assert engine.opened[1].prompt == question + prompts.marker("transcript")

    run(scenario)


def test_what_is_left_runs_no_further():
    async def scenario(engine, call):
        await committed(engine, call, transcript=True)
        while len(engine.opened) < 2:
            await asyncio.sleep(0)

    engine = run(scenario)
    assert [generation.cancelled for generation in engine.opened] == [True, True]


def test_an_answer_at_its_frontier_is_given_up_unless_it_is_renewed():
    async def scenario(engine, call):
        answer = await committed(engine, call, until_group=1)
        answer.tell(Written(SPOKEN))
        assert await call.take(3) == ["segment_start", "text", "groups"]
        for _ in range(3):
            call.send(Step(advance=backbone_pb2.Advance(until_group=1)))
            while not answer.advanced:
                await asyncio.sleep(0)
            answer.advanced.clear()
        assert not answer.cancelled
        with pytest.raises(Stalled, match="frontier"):
            await call.take()
        assert answer.cancelled
        assert call.stalled() == 1

    run(scenario, stall=0.2)


def test_a_consumer_that_takes_nothing_loses_the_slot_though_it_hangs():
    async def scenario(engine, call):
        answer = await committed(engine, call)
        answer.tell(Written(SPOKEN[:2]))
        assert await call.take() == ["segment_start"]  # and then no more
        async with asyncio.timeout(20):
            while not answer.cancelled:
                await asyncio.sleep(0.01)
        with pytest.raises(Stalled, match="taken nothing"):
            await call.take()

    run(scenario, stall=0.1)


def test_a_prompt_may_take_its_time_as_long_as_it_grows():
    async def scenario(engine, call):
        call.send(OPEN)
        for first in range(3):
            await asyncio.sleep(0.4)
            groups = tokens_pb2.AudioGroups(first_group=first, linguistic=[1, 2], semantic=[1, 2, 3])
            call.send(Step(prompt=groups))
        call.send(Step(prompt=tokens_pb2.AudioGroups(first_group=3)))  # nothing more
        with pytest.raises(Stalled, match="has not grown"):
            await call.take()

    engine = run(scenario, prompt=1.0)
    assert len(engine.opened[0].prompt) == len(LANGUAGE.prompts.opening()) + 15
    assert engine.opened[0].cancelled


@pytest.mark.parametrize("error", [AqaaError("a fault"), RuntimeError("a bug")])
def test_what_fails_the_engine_fails_the_call(error):
    async def scenario(engine, call):
        answer = await committed(engine, call)
        answer.tell(Written(SPOKEN[:2]))
        answer.tell(Failed(error))
        assert await call.take(2) == ["segment_start", "text"]
        with pytest.raises(type(error), match="a "):
            await call.take()

    run(scenario)


def test_a_refusal_at_the_door_reaches_the_caller():
    async def scenario(engine, call):
        call.send(OPEN, SOUND)
        with pytest.raises(CapacityError) as refused:
            await call.take()
        assert refused.value.retry_after == 2.5

    run(scenario, refusal=CapacityError("full", retry_after=2.5))


def test_deviations_of_sampling_leave_the_rest_to_the_bundle():
    async def scenario(engine, call):
        sampling = tokens_pb2.Sampling(text_temperature=0.5, audio_top_p=0.25)
        answer = await committed(engine, call, sampling=sampling)
        bundle, got = LANGUAGE.manifest.settings("answer", seed=0), answer.decoding.sampling
        assert (got.text.temperature, got.linguistic.top_p, got.semantic.top_p) == (0.5, 0.25, 0.25)
        assert got.linguistic.temperature == bundle.linguistic.temperature
        assert (got.decision, got.style, got.repetition) == (bundle.decision, bundle.style, bundle.repetition)

    run(scenario)


def test_a_consumer_that_is_behind_gets_fewer_and_larger_pieces():
    async def scenario(engine, call):
        answer = await committed(engine, call)
        for token_id in (*SPOKEN, *GROUP, *GROUP):
            answer.tell(Written((token_id,)))
        assert await call.take(3) == ["segment_start", "text", "groups"]

    run(scenario)

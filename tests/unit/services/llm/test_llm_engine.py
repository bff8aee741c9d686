"""The embedded engine behind its interface: what its listeners hear, who holds a slot, what breaks what."""

import asyncio
from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry

from aqaa.bundle import Bundle
from aqaa.engine.backbone import BackboneEngine, EngineSettings
from aqaa.errors import BundleError, Cancelled, CapacityError, GrammarError, Unavailable
from aqaa.models.step1 import Step1, Step1Config
from aqaa.telemetry import catalogue
from aqaa.telemetry.metrics import Metrics
from aqaa.tokens.classes import TokenClass
from aqaa.tokens.sampling import Rule, SamplingSettings
from services.llm.engines import Decoding, Failed, Finished, Placed, Written
from services.llm.engines.torch import TorchEngine, TorchSettings
from services.llm.language import Language

LANGUAGE = Language.load(Bundle.open(Path(__file__).parents[4] / "models" / "nano"))
CONFIG = Step1Config(
    hidden_size=32,
    intermediate_size=32,
    num_attention_heads=2,
    num_attention_groups=1,
    num_hidden_layers=1,
    vocab_size=LANGUAGE.layout.vocab_size,
    max_seq_len=256,
)
PROMPT = LANGUAGE.prompts.opening()
SAMPLING = SamplingSettings(seed=1, decision=Rule(1.0), text=Rule(1.0))
SPEAK = Decoding("speak", SAMPLING, spoken_text=1)


class Heard:
    """A listener that can be waited for."""

    def __init__(self):
        self.happened, self._news = [], asyncio.Event()

    def __call__(self, happening):
        self.happened.append(happening)
        self._news.set()

    async def until(self, kind, count=1):
        async with asyncio.timeout(20):
            while sum(isinstance(h, kind) for h in self.happened) < count:
                self._news.clear()
                await self._news.wait()
        return next(h for h in reversed(self.happened) if isinstance(h, kind))

    @property
    def tokens(self):
        return [i for h in self.happened if isinstance(h, Written) for i in h.ids]


def tiny():
    torch.manual_seed(0)
    return Step1(CONFIG).eval()


def run(scenario, *, load=tiny, **decode):
    """Runs a scenario with a warm engine."""

    async def served():
        decoding = EngineSettings(**{"capacity": 128, "slots": 2, "tiles": (4, 8, 64)} | decode)
        metrics = Metrics(CollectorRegistry(), catalogue.LLM)
        engine = TorchEngine(load, LANGUAGE.grammar, TorchSettings(decoding, retry_seconds=0.5), metrics)
        try:
            await engine.start()
            return await scenario(engine)
        finally:
            await engine.close()

    with asyncio.Runner() as runner:
        return runner.run(served())


def test_a_request_is_placed_written_and_finished_in_this_order():
    async def scenario(engine):
        heard = Heard()
        generation = await engine.open(PROMPT, heard)
        await heard.until(Placed)
        assert engine.room.free_slots == 1
        await generation.append(LANGUAGE.prompts.closing)
        await generation.commit(SPEAK)
        await heard.until(Finished)
        kinds = [type(h) for h in heard.happened]
        assert kinds == [Placed, *[Written] * (len(kinds) - 2), Finished]
        assert heard.tokens[-1] == LANGUAGE.grammar.ranges.eot
        assert engine.room.free_slots == 2
        generation.cancel()  # harmless
        await generation.advance(3)
        return heard

    run(scenario)


def test_the_frontier_counts_the_groups_that_are_given():
    async def scenario(engine):
        whole, rest = Heard(), Heard()
        first = await engine.open(PROMPT, whole)
        await first.commit(SPEAK)
        await whole.until(Finished)
        given = tuple(whole.tokens[:11])  # a marker and two groups
        second = await engine.open(PROMPT, rest)
        await second.commit(Decoding("speak", SAMPLING, given=given, spoken_text=1, until_group=3))
        await rest.until(Written, 6)
        assert rest.tokens == whole.tokens[11:17]  # the third group, and the first code of the next
        await second.advance(4)
        await rest.until(Written, 11)
        await second.advance(0)
        await rest.until(Finished)
        assert rest.tokens == whole.tokens[11:]

    run(scenario)


def test_tokens_that_the_grammar_forbids_fail_alone():
    async def scenario(engine):
        bad, good = Heard(), Heard()
        first, second = await engine.open(PROMPT, bad), await engine.open(PROMPT, good)
        await first.commit(Decoding("speak", SAMPLING, given=(LANGUAGE.grammar.ranges.eot,)))
        await second.commit(SPEAK)
        assert isinstance((await bad.until(Failed)).error, GrammarError)
        await good.until(Finished)
        assert engine.room.free_slots == 2

    run(scenario)


def test_the_line_is_bounded_and_moves():
    async def scenario(engine):
        listeners = [Heard() for _ in range(3)]
        generations = [await engine.open(PROMPT, heard) for heard in listeners]
        with pytest.raises(CapacityError, match="2 slots are taken and 1 requests wait") as refused:
            await engine.open(PROMPT, Heard())
        assert refused.value.retry_after == 0.5
        assert (engine.room.free_slots, engine.room.waiting) == (0, 1)
        await listeners[1].until(Placed)
        assert listeners[2].happened == []
        generations[0].cancel()
        assert isinstance((await listeners[0].until(Failed)).error, Cancelled)
        await listeners[2].until(Placed)

    run(scenario, max_waiting=1)


def test_what_is_computed_written_and_waited_for_is_counted():
    async def scenario(engine):
        registry = engine._metrics.registry

        def value(metric, suffix="", **labels):
            return registry.get_sample_value(metric.name + suffix, labels) or 0

        def room():
            gauges = catalogue.LLM_SLOTS, catalogue.LLM_SLOTS_FREE, catalogue.LLM_WAITING
            return tuple(value(gauge) for gauge in gauges)

        assert room() == (2, 2, 0)
        heard = [Heard() for _ in range(3)]
        first = await engine.open(PROMPT, heard[0])
        assert room() == (2, 1, 0)
        await first.append(LANGUAGE.prompts.closing)
        await first.commit(SPEAK)
        await heard[0].until(Finished)
        assert room() == (2, 2, 0)
        assert value(catalogue.LLM_PREFILL_TOKENS) == len(PROMPT) + len(LANGUAGE.prompts.closing)
        written = len(heard[0].tokens)
        names = [token_class.name.lower() for token_class in TokenClass]
        assert sum(value(catalogue.LLM_DECODE_TOKENS, token_class=name) for name in names) == written
        assert value(catalogue.LLM_BATCH, "_sum") == written
        assert value(catalogue.LLM_BATCH, "_count") == value(catalogue.LLM_STEP_SECONDS, "_count") == written
        assert value(catalogue.LLM_STEP_SECONDS, "_sum") > 0
        assert value(catalogue.LLM_FIRST_TOKEN_SECONDS, "_count") == 1
        assert value(catalogue.LLM_QUEUE_SECONDS, "_count") == 1

        both = [await engine.open(PROMPT, listener) for listener in heard[1:]]
        last = await engine.open(PROMPT, Heard())
        assert room() == (2, 0, 1)
        last.cancel()
        for generation, listener in zip(both, heard[1:], strict=True):
            await listener.until(Placed)
            generation.cancel()
            await listener.until(Failed)
        assert value(catalogue.LLM_QUEUE_SECONDS, "_count") == 3  # whoever never had a slot waited for none
        assert value(catalogue.LLM_FIRST_TOKEN_SECONDS, "_count") == 1

    run(scenario, max_waiting=1)


def test_requests_of_one_step_are_a_batch():
    async def scenario(engine):
        heard = [Heard(), Heard()]
        generations = [await engine.open(PROMPT, listener) for listener in heard]
        for listener in heard:
            await listener.until(Placed)
        for generation in generations:
            await generation.commit(SPEAK)
        for listener in heard:
            await listener.until(Finished)
        batch = [
            engine._metrics.registry.get_sample_value(f"{catalogue.LLM_BATCH.name}_{part}")
            for part in ("sum", "count")
        ]
        assert batch[0] == sum(len(listener.tokens) for listener in heard)
        assert batch[1] < batch[0]

    run(scenario)


def test_the_thread_sleeps_when_those_who_wait_cannot_be_served(monkeypatch):
    steps = []
    step = BackboneEngine.step
    monkeypatch.setattr(BackboneEngine, "step", lambda self: (steps.append(1), step(self))[1])

    async def scenario(engine):
        holds, waits = Heard(), Heard()
        first = await engine.open(PROMPT, holds)
        await holds.until(Placed)
        await engine.open(PROMPT, waits)
        before = len(steps)
        for _ in range(3000):
            await asyncio.sleep(0)
        assert len(steps) - before < 10
        first.cancel()
        await waits.until(Placed)

    run(scenario, slots=1, max_waiting=1)


def test_what_stands_beside_an_answer_takes_its_place():
    async def scenario(engine):
        answer, beside, later = Heard(), Heard(), Heard()
        first = await engine.open(PROMPT, answer)
        await first.commit(SPEAK)
        await engine.open_beside(first, PROMPT, Decoding("transcript", SAMPLING), beside)
        third = await engine.open(PROMPT, later)  # waits for the only slot
        await answer.until(Finished)
        await beside.until(Finished)
        await later.until(Placed)
        assert engine.room.free_slots == 0
        third.cancel()
        await later.until(Failed)
        assert (engine.room.free_slots, engine.room.waiting) == (1, 0)

    run(scenario, slots=1, max_waiting=1)


def test_what_stands_beside_an_answer_goes_with_it():
    async def scenario(engine):
        answer, beside = Heard(), Heard()
        first = await engine.open(PROMPT, answer)
        await first.commit(Decoding("speak", SAMPLING, spoken_text=1, until_group=1))
        await answer.until(Written, 6)
        await engine.open_beside(first, PROMPT, Decoding("transcript", SAMPLING), beside)
        first.cancel()
        await answer.until(Failed)
        await beside.until((Failed, Finished))
        assert engine.room.free_slots == 2

    run(scenario)


def test_a_broken_engine_fails_everybody_and_says_so(monkeypatch):
    async def scenario(engine):
        heard = Heard()
        await engine.open(PROMPT, heard)
        await heard.until(Placed)

        def broken(self):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(BackboneEngine, "step", broken)
        other = Heard()
        await engine.open(PROMPT, other)
        assert str(await engine.until_broken()) == "out of memory"
        for listener in (heard, other):
            assert isinstance((await listener.until(Failed)).error, Unavailable)
        with pytest.raises(Unavailable, match="broken"):
            await engine.open(PROMPT, Heard())

    run(scenario)


def test_a_bundle_that_cannot_be_decoded_ends_the_start():
    def load():
        raise BundleError("no backbone")

    async def scenario(engine):
        raise AssertionError

    with pytest.raises(BundleError, match="no backbone"):
        run(scenario, load=load)


def test_closing_ends_what_runs():
    heard = Heard()

    async def scenario(engine):
        await engine.open(PROMPT, heard)
        await heard.until(Placed)
        await engine.close()
        assert isinstance((await heard.until(Failed)).error, Unavailable)

    run(scenario)

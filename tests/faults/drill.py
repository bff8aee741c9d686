"""Turns to which something happens, one after the other, and what becomes of them."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace
from uuid import uuid4

import numpy as np

from tests.faults.caller import Caller, Heard, Phase, Question
from tests.faults.faults import FAULTS, HOLDERS, KILLS, OTHERS, Scene, prepare, reached, role_of, untaken
from tests.faults.outcomes import Result, judge
from tests.faults.stack import Stack

LONGEST_SECONDS = 90.0
"""Of a turn, whatever happens to it: longer than its caller's patience."""
SPREAD_SECONDS = 0.12
"""Into its phase a fault comes at any moment of these."""
_VOICES = 4
"""Different questions and seeds."""


@dataclass(frozen=True)
class Case:
    """One turn and what happens to it. ``seed`` decides everything that chance decides."""

    phase: Phase
    fault: str
    seed: int

    @classmethod
    def parse(cls, text: str, seed: int) -> "Case":
        """``phase/fault``. Raises ValueError."""
        phase, _, fault = text.partition("/")
        if fault not in FAULTS:
            raise ValueError(f"fault {fault!r}, expected one of {', '.join(FAULTS)}")
        return cls(Phase(phase), fault, seed)


def spread(kills: int, others: int, seed: int) -> list[Case]:
    """So many kills over all phases, processes and signals, and each other fault so often in some phase.

    A process that has nothing of the turn is shot once by each signal in each such phase: that proves little.
    """
    rng = random.Random(seed)
    cells = [(phase, fault) for fault in KILLS for phase in Phase]
    at_work = [(phase, fault) for phase, fault in cells if role_of(fault) in HOLDERS[phase]]
    idle = [cell for cell in cells if cell not in at_work]
    chosen: list[tuple[Phase, str]] = []
    while len(chosen) < kills:
        rng.shuffle(at_work)
        rng.shuffle(idle)
        chosen += [*at_work, *idle]
        idle = []
    del chosen[kills:]
    for fault in OTHERS:
        phases = list(Phase)
        rng.shuffle(phases)
        chosen += [(phases[i % len(phases)], fault) for i in range(others)]
    rng.shuffle(chosen)
    return [Case(phase, fault, rng.randrange(2**32)) for phase, fault in chosen]


def undone(cases: Iterable[Case], done: Iterable[Result]) -> list[Case]:
    """Those of the cases that are not among the results yet, in their order."""
    over = Counter((result.phase, result.fault, result.seed) for result in done)
    left = []
    for case in cases:
        if over[case.phase, case.fault, case.seed]:
            over[case.phase, case.fault, case.seed] -= 1
        else:
            left.append(case)
    return left


class Drill:
    """Cases on one stack.

    drill = Drill(stack, stub_question)
    async for result in drill.run(cases):
        print(result)
    """

    def __init__(self, stack: Stack, question: Callable[[int], Question]) -> None:
        self._stack = stack
        self._question = question
        self._undisturbed: dict[int, Heard] = {}

    async def run(self, cases: Iterable[Case]) -> AsyncIterator[Result]:
        for case in cases:
            result = await self._one(case)
            yield result
            if result.leaks:
                await self._stack.renew()

    async def _one(self, case: Case) -> Result:
        stack, rng = self._stack, random.Random(f"{case.seed} {case.phase} {case.fault}")
        await stack.ready()
        voice = rng.randrange(_VOICES)
        undisturbed = await self._expected(voice)
        question = self._question(voice)
        if case.phase is Phase.DISPATCH and role_of(case.fault) == "tokenizer":
            question = replace(question, pace=1.0)  # or it would be tokenized before it is known to be open
        elif case.phase is not Phase.QUESTION:
            question = replace(question, whole=rng.random() < 0.5)
        await prepare(case.fault, stack)
        caller = Caller(stack.address("front"), question, uuid4().hex)
        scene = Scene(stack, caller, case.phase, rng, told=["asked" if question.whole else "spoken"])
        began = time.monotonic()
        error = await self._turn(scene, case.fault)
        seconds = time.monotonic() - began
        verdict = judge(caller.heard, error, undisturbed)
        await asyncio.gather(*scene.also)
        await stack.ready()
        leaks = [*await stack.leftovers(), *stack.accidents()]
        last = scene.heir or caller
        return Result(
            case.phase, case.fault, case.seed, verdict, seconds, scene.held, last.resumed, tuple(scene.told),
            leaks,
        )  # fmt: skip

    async def _turn(self, scene: Scene, fault: str) -> BaseException | None:
        """What the caller was raised at last."""
        turn: asyncio.Task[Heard] | None = None
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                with untaken(scene):
                    turn = asyncio.create_task(scene.caller.run())
                    reaching = asyncio.create_task(reached(scene))
                    try:
                        await asyncio.wait({turn, reaching}, return_when=asyncio.FIRST_COMPLETED)
                        if not reaching.done():
                            return turn.exception() or AssertionError(f"it never was in {scene.phase}")
                        reaching.result()
                    finally:
                        reaching.cancel()
                    await asyncio.sleep(scene.rng.uniform(0, SPREAD_SECONDS))
                    if turn.done():
                        scene.told.append("was over before")
                    await FAULTS[fault](scene)
                await (scene.heir.run() if scene.heir is not None else turn)
        except (Exception, asyncio.CancelledError) as error:
            return error
        finally:
            if turn is not None:
                turn.cancel()
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    await turn
        return None

    async def _expected(self, voice: int) -> Heard:
        """The undisturbed turn of the same question and seed."""
        if voice not in self._undisturbed:
            caller = Caller(self._stack.address("front"), self._question(voice), uuid4().hex)
            self._undisturbed[voice] = await caller.run()
        return self._undisturbed[voice]


def stub_question(voice: int) -> Question:
    """1.2 s of noise: stub stages hear no difference."""
    pcm = np.random.default_rng(voice).integers(-9999, 9999, 16000 * 12 // 10)
    return Question(pcm.astype(np.int16), seed=voice)

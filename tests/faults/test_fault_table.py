"""A short drill: in every phase something is shot or breaks, real processes, a real server.

The whole table is ``make faults``; docs/operations/faults.md says how to read it.
"""

import asyncio

from tests.faults.drill import Case, Drill, stub_question
from tests.faults.outcomes import Table
from tests.faults.stack import Settings, Stack

CASES = [
    "question/front-SIGKILL",
    "question/tokenizer-SIGKILL",
    "dispatch/runner-SIGKILL",
    "dispatch/dispatch-lost",
    "commit/llm-SIGKILL",
    "text/runner-SIGTERM",
    "audio/front-SIGTERM",
    "audio/vocoder-SIGKILL",
    "audio/log-cut",
    "end/front-SIGKILL",
]


def test_what_is_shot_costs_nobody_a_sample(tmp_path):
    async def drill() -> Table:
        table = Table()
        async with Stack.over(tmp_path, Settings()) as stack:
            cases = [Case.parse(case, seed) for seed, case in enumerate(CASES)]
            async for result in Drill(stack, stub_question).run(cases):
                table.results.append(result)
        return table

    table = asyncio.run(drill())
    print(table)
    assert not table.failures(), "\n".join(table.failures())

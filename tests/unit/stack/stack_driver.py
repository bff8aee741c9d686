"""A stack of two fakes and an embedded Valkey in a process of its own, for tests that kill that process."""

import asyncio
import sys

from stack_cases import plan_of_fakes

from aqaa.stack.screen import Screen
from aqaa.stack.supervise import Supervisor


async def main() -> int:
    screen = Screen(out=sys.stdout, err=sys.stderr, json_logs=True)
    return await Supervisor(plan_of_fakes(stages=("llm",)), screen).run()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

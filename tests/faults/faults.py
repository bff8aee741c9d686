"""What happens to a turn: one function a fault, each by name in ``FAULTS``."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.faults.caller import TENANT, Caller, Phase
from tests.faults.processes import Process
from tests.faults.stack import ROLES, STAGES, Stack
from tests.faults.store import is_open, until

HOLDERS: dict[Phase, tuple[str, ...]] = {
    Phase.QUESTION: ("front", "runner", "tokenizer", "llm"),
    Phase.DISPATCH: ("front", "tokenizer"),
    Phase.COMMIT: ("front", "runner", "llm"),
    Phase.TEXT: ("front", "runner", "llm", "vocoder"),
    Phase.AUDIO: ("front", "runner", "llm", "vocoder"),
    Phase.END: ("front", "vocoder"),
}
"""Who works for the turn in each phase. A kill of another role hits a process that is idle, by nature."""
HOLDER_SECONDS = 2.0
"""Waited for a role that is about to have the turn, or had it shortly before its metrics were read."""
REPLICA_BEHIND = 0.5
STORE_PAUSE = 2.0


@dataclass
class Scene:
    """One turn of one caller, and what may be done to it.

    told   what is noted about it, for the report
    held   whether the process that it happens to works for the turn; None where it happens to none
    heir   a second caller that goes on with the turn, if there is one
    """

    stack: Stack
    caller: Caller
    phase: Phase
    rng: random.Random
    told: list[str] = field(default_factory=list)
    held: bool | None = None
    heir: Caller | None = None
    also: list["asyncio.Task[None]"] = field(default_factory=list)
    """Must have ended before one looks for what is left over."""

    async def victim(self, role: str) -> Process:
        """Whoever has the turn; where nobody has, one of them.

        Where the phase lets the role have it, waits for it a while, or until the turn is over.
        """
        found: Process | None = None

        async def settled() -> bool:
            nonlocal found
            found = await self.stack.holding(role)
            return found is not None or self.caller.over

        if role in HOLDERS[self.phase]:
            with suppress(TimeoutError):
                await until(settled, HOLDER_SECONDS)
        elif self.phase is not Phase.DISPATCH or role != "runner":  # stopped ones would not say
            await settled()
        self.held = found is not None
        self.told.append(f"{role} {'has the turn' if found else 'is idle'}")
        return found or self.rng.choice(self.stack.processes[role])

    def later(self, seconds: float, work: Callable[[], object]) -> None:
        async def run() -> None:
            await asyncio.sleep(seconds)
            work()

        self.also.append(asyncio.create_task(run()))


Fault = Callable[[Scene], Awaitable[None]]


def _kill(role: str, number: signal.Signals) -> Fault:
    async def kill(scene: Scene) -> None:
        (await scene.victim(role)).shoot(number)

    return kill


def _hang(role: str) -> Fault:
    """Stopped for longer than it may be silent; then it goes on, or is killed as a liveness probe would."""

    async def hang(scene: Scene) -> None:
        victim, settings = await scene.victim(role), scene.stack.settings
        victim.shoot(signal.SIGSTOP)
        if scene.rng.random() < 0.5:
            scene.told.append("killed later")
            scene.later(2 * settings.stage, lambda: victim.shoot(signal.SIGKILL))
        else:
            scene.later(2 * settings.stage, lambda: victim.shoot(signal.SIGCONT))

    return hang


async def _runner_paused(scene: Scene) -> None:
    victim, seconds = await scene.victim("runner"), 1.5 * scene.stack.settings.lease
    victim.shoot(signal.SIGSTOP)
    scene.later(seconds, lambda: victim.shoot(signal.SIGCONT))


async def _store_restarted(scene: Scene) -> None:
    await scene.stack.store.restart()


async def _store_cut(scene: Scene) -> None:
    cut = scene.rng.randint(50, 3000)
    scene.told.append(f"{cut} bytes cut")
    await scene.stack.store.restart(cut=cut)


async def _store_promoted(scene: Scene) -> None:
    await scene.stack.store.promote(behind=REPLICA_BEHIND)


async def _store_paused(scene: Scene) -> None:
    await scene.stack.store.pause(STORE_PAUSE)


async def _client_moves(scene: Scene) -> None:
    """The caller falls silent without hanging up, and comes back at another front."""
    caller, holder = scene.caller, await scene.stack.holding("front")
    caller.leave()
    others = [front for front in scene.stack.processes["front"] if front is not holder]
    scene.heir = caller.heir(others[0].address)


async def _dispatched_twice(scene: Scene) -> None:
    store = scene.stack.store
    for _, fields in await store.command("XREVRANGE", "aqaa:dispatch", "+", "-", "COUNT", 1):
        words = [word for pair in fields.items() for word in pair]
        for _ in range(3):
            await store.command("XADD", "aqaa:dispatch", "*", *words)


async def _dispatch_lost(scene: Scene) -> None:
    store = scene.stack.store
    if scene.rng.random() < 0.5:
        scene.told.append("stream deleted")
        await store.command("DEL", "aqaa:dispatch")
    else:
        for entry, _ in await store.command("XREVRANGE", "aqaa:dispatch", "+", "-", "COUNT", 1):
            await store.command("XDEL", "aqaa:dispatch", entry)


SIGNALS = (signal.SIGKILL, signal.SIGTERM)

KILLS: dict[str, Fault] = {
    f"{role}-{number.name}": _kill(role, number) for role in ROLES for number in SIGNALS
}

OTHERS: dict[str, Fault] = {
    "runner-paused": _runner_paused,
    **{f"{stage}-hangs": _hang(stage) for stage in STAGES},
    "log-restarted": _store_restarted,
    "log-cut": _store_cut,
    "log-promoted": _store_promoted,
    "log-paused": _store_paused,
    "client-moves": _client_moves,
    "dispatched-twice": _dispatched_twice,
    "dispatch-lost": _dispatch_lost,
}

FAULTS = KILLS | OTHERS


def role_of(fault: str) -> str:
    """The role of a kill; the name of any other fault."""
    return fault.partition("-SIG")[0]


async def prepare(name: str, stack: Stack) -> None:
    """What has to stand before the turn begins."""
    if name == "log-promoted":
        await stack.store.replicate()


@contextmanager
def untaken(scene: Scene) -> Iterator[None]:
    """In the phase before dispatch no runner moves while the body runs."""
    runners = scene.stack.processes["runner"] if scene.phase is Phase.DISPATCH else []
    for runner in runners:
        runner.shoot(signal.SIGSTOP)
    try:
        yield
    finally:
        for runner in runners:
            runner.shoot(signal.SIGCONT)


async def reached(scene: Scene) -> None:
    """Returns when the turn is in the scene's phase."""
    caller, store = scene.caller, scene.stack.store

    async def is_undispatched() -> bool:
        return any(is_open(state) for state in (await store.states()).values())

    async def is_ended() -> bool:
        assert caller.position is not None
        key = f"aqaa:{{{TENANT}.{caller.position.session_id}}}:{caller.position.turn_id}:state"
        return await store.answer_has_ended(key)

    match scene.phase:
        case Phase.DISPATCH:
            await caller.opened.wait()
            await until(is_undispatched)
        case Phase.END:
            await caller.reached[Phase.COMMIT].wait()
            await until(is_ended, pause=0.02)
        case _:
            await caller.reached[scene.phase].wait()

"""``aqaa ask`` over the services: of a stack that runs, else of one of our own for as long as it takes."""

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TextIO

import numpy as np

from aqaa.audio.decode import Audio
from aqaa.audio.resample import StreamResampler
from aqaa.bundle import MANIFEST_NAME, Bundle
from aqaa.client import AsyncClient, TurnOpened, TurnOptions
from aqaa.client.health import Standing, standing
from aqaa.commands.served import Hearing, Pcm, ServedAnswer
from aqaa.commands.wish import Wish
from aqaa.errors import AqaaError, BundleChanged, BundleError, Unavailable
from aqaa.present.terminal import OnProgress

QUESTION_RATE: Final = 16000
"""Hz, of the question as it travels: what every tokenizer of the family hears."""
LOOK_SECONDS: Final = 2.0
"""For a stack to say that it serves."""
WARM_SECONDS: Final = 60.0
"""For a stack that is there, and warms up or is about to go. Ctrl-C ends the wait."""
LOOK_AGAIN_SECONDS: Final = 0.25
READY_SECONDS: Final = 300.0
"""For a stack of our own; Ctrl-C ends the wait."""
DRAIN_SECONDS: Final = 1.0
"""Of a stack of our own: its only turn is over, or not wanted any more."""
GOODBYE_SECONDS: Final = 2.0
"""For a cancel that nobody waits for."""
NEEDED: Final = ("torch", "safetensors", "redis", "grpc_health")
"""What a stack of our own cannot do without."""


class Stopped(Exception):
    """A signal came before the answer was there. ``status``: what the command ends with."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class StackFailed(Exception):
    """The stack of our own has ended before the answer; ``tail``: last lines of the part that is to blame."""

    def __init__(self, why: str, tail: Sequence[str]) -> None:
        super().__init__(why)
        self.tail = tail


def ask(wish: Wish, progress: OnProgress) -> ServedAnswer:
    """The answer. Nothing that it has started runs any more, whatever comes of it.

    Raises:
        BundleError: the stack at ``address`` holds another bundle, or there is none for a stack of our own,
            or it cannot be used.
        Unavailable: no stack serves at ``address``.
        StackFailed: a part of our own stack has died, or was not ready in time.
        Stopped: by a signal.
        AqaaError: of the services.
    """
    try:
        return asyncio.run(_ask(wish, progress))
    except KeyboardInterrupt:
        raise Stopped(130) from None


async def _ask(wish: Wish, progress: OnProgress) -> ServedAnswer:
    where = wish.address or wish.usual
    found = await _found(where, progress)
    if found is Standing.SERVING:
        progress(f"asking the stack at {where}", None)
        try:
            return await _answer(wish, where, holding=None if wish.bundle is None else digest(wish.bundle))
        except BundleChanged as error:
            if wish.address is not None:
                raise BundleError(f"{error}: start a stack with --bundle {wish.bundle}") from None
        except Unavailable as error:
            raise Unavailable(f"the stack at {where} has not finished the answer: {error}") from error
    elif wish.address is not None:
        raise Unavailable(
            f"the stack at {where} {found}: start one with aqaa up, or leave --address and AQAA_ADDRESS out"
        )
    if wish.ours is None:
        raise BundleError(
            f"no stack serves at {where}, and there is no bundle to start one; name one with --bundle"
        )
    return await _answer_of_our_own(wish, wish.ours, progress)


async def _found(where: str, progress: OnProgress) -> Standing:
    """How the stack at ``where`` stands, once it is ready, gone, or late."""
    found = await standing(where, LOOK_SECONDS)
    if found is Standing.NOT_READY:
        progress(f"waiting until the stack at {where} is ready", None)
        with suppress(TimeoutError):
            async with asyncio.timeout(WARM_SECONDS):
                while found is Standing.NOT_READY:
                    await asyncio.sleep(LOOK_AGAIN_SECONDS)
                    found = await standing(where, LOOK_SECONDS)
    return found


async def _answer(wish: Wish, address: str, *, holding: str | None = None) -> ServedAnswer:
    """The answer of the stack at ``address``. Raises BundleChanged if it does not hold that bundle."""
    pcm = resampled(wish.question)
    hearing, rate = Hearing(pcm, time.perf_counter), 0
    options = TurnOptions(seed=wish.seed, with_tokens=True)
    async with AsyncClient(address) as client, client.ask(pcm, QUESTION_RATE, options=options) as stream:
        try:
            async for event in stream:
                hearing.take(event)
                if isinstance(event, TurnOpened):
                    rate = event.sample_rate
                    if holding is not None and event.bundle_digest != holding:
                        raise BundleChanged(
                            f"the stack at {address} holds bundle {event.bundle_digest[:12]}…, "
                            f"not {holding[:12]}…"
                        )
        except (asyncio.CancelledError, BundleChanged):
            with suppress(AqaaError, TimeoutError):  # nobody will listen: its place is free at once
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await stream.cancel()
            raise
    return hearing.answer(rate)


async def _answer_of_our_own(wish: Wish, bundle: Path, progress: OnProgress) -> ServedAnswer:
    """Starts a stack on free ports, asks it, ends it. Raises BundleError before anything is started."""
    for package in NEEDED:
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    from aqaa.stack.plan import ORCHESTRATOR, Plan
    from aqaa.stack.screen import Quiet, Ready, line_for_people
    from aqaa.stack.supervise import Supervisor
    from aqaa.stack.up import prepared

    plan = Plan(
        bundle=bundle.resolve(),
        environ=dict(os.environ),
        port=0,
        ready_seconds=READY_SECONDS,
        drain_seconds=DRAIN_SECONDS,
    )
    plan = prepared(plan)
    progress("checking the bundle", None)
    await asyncio.to_thread(Bundle.open, bundle)
    progress("starting a stack", 0.0)
    answers: list[ServedAnswer] = []

    async def work(ready: Ready) -> None:
        progress("listening and answering", None)
        answers.append(await _answer(wish, ready.addresses[ORCHESTRATOR]))
        progress("stopping the stack", None)

    with _logged() as log:
        screen = Quiet(log=log, progress=progress)
        supervisor = Supervisor(plan, screen, work)
        await supervisor.run()
        if screen.failure is not None:
            why, tail = screen.failure
            raise StackFailed(why, [line_for_people(line).plain for line in tail])
    if not answers:
        assert supervisor.stopped_by is not None
        raise Stopped(128 + supervisor.stopped_by)
    return answers[0]


@contextmanager
def _logged() -> Iterator[TextIO]:
    """A file for the services' logs. It stays only where it may explain a failure, which names it then."""
    handle, name = tempfile.mkstemp(prefix="aqaa-ask-", suffix=".log")
    kept = False
    try:
        with open(handle, "w", encoding="utf-8") as log:
            yield log
    except StackFailed as failed:
        kept = True
        raise StackFailed(f"{failed}; the services' logs are in {name}", failed.tail) from None
    except AqaaError as error:
        if error.reason != AqaaError.reason:  # it says all there is
            raise
        kept = True
        raise AqaaError(f"{error}; the services' logs are in {name}", **error.metadata) from error
    finally:
        if not kept:
            Path(name).unlink()


def resampled(audio: Audio) -> Pcm:
    """The question as it travels, (n,) at ``QUESTION_RATE``: the samples that the pipeline would hear."""
    resampler = StreamResampler(audio.sample_rate, QUESTION_RATE)
    return np.concatenate((resampler.push(audio.samples), resampler.flush()))


def digest(bundle: Path) -> str:
    """SHA-256 of the manifest, which names the bundle."""
    return hashlib.sha256((bundle / MANIFEST_NAME).read_bytes()).hexdigest()

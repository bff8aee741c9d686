"""A stack with stub stages: the real orchestrator and turn log, and stages that compute nothing.

    python -m benchmarks._stubs stack --core 0 --slots 1000 --groups 38     # as `aqaa up --json-logs`
    python -m benchmarks._stubs stage --slots 1000 --groups 38 FLAG …       # one of its stages

The stages are those of the orchestrator's tests, each in a process of its own; the llm writes a group every
120 ms, the others answer at once.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from aqaa.rpc.server import run
from aqaa.stack import up
from aqaa.stack.plan import ORCHESTRATOR, PROGRAMS, STAGES, Plan
from aqaa.stack.screen import Screen
from aqaa.stack.supervise import Supervisor
from aqaa.v1 import backbone_pb2_grpc, tokenizer_pb2_grpc, vocoder_pb2_grpc
from benchmarks._stack import DRAIN_SECONDS, READY_SECONDS
from tests.stages import Plan as AnswerPlan
from tests.stages import StubLlm, StubStages, StubTokenizer, StubVocoder

GROUP_SECONDS = 0.12
WORDS = 4
"""Of each answer, before its sound."""

PINNED = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); os.execv(sys.argv[2], sys.argv[2:])"


async def stage(slots: int, groups: int) -> None:
    """Serves until SIGTERM. All three stages at one address; callers use the one that they came for."""
    plan = AnswerPlan(segments=((WORDS, groups),))
    server = grpc.aio.server()
    tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server(
        StubTokenizer(StubStages(together=True)), server
    )
    llm = StubStages(plan=plan, slots=slots, pace=GROUP_SECONDS)
    backbone_pb2_grpc.add_BackboneServiceServicer_to_server(StubLlm(llm), server)
    vocoder_pb2_grpc.add_VocoderServiceServicer_to_server(StubVocoder(StubStages()), server)
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    listening = {"event": "listening", "address": address, "metrics_address": ""}
    print(json.dumps(listening), file=sys.stderr, flush=True)
    await stop.wait()
    await server.stop(None)


def plan_of_stubs(core: int, slots: int, groups: int) -> Plan:
    """The embedded stack, its orchestrator on one core, its stages stubs."""
    own = (sys.executable, "-P", "-m", "benchmarks._stubs", "stage")
    stubs = {name: (*own, "--slots", str(slots), "--groups", str(groups)) for name in STAGES}
    pinned = (sys.executable, "-c", PINNED, str(core), *PROGRAMS[ORCHESTRATOR])
    return Plan(
        bundle=Path("stubs"),
        environ=up.where_services_are(os.environ),
        port=0,
        ready_seconds=READY_SECONDS,
        drain_seconds=DRAIN_SECONDS,
        programs={**stubs, ORCHESTRATOR: pinned},
    )


async def stack(plan: Plan) -> int:
    """Until SIGTERM; the exit status."""
    return await Supervisor(plan, Screen(out=sys.stdout, err=sys.stderr, json_logs=True)).run()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks._stubs", description=__doc__)
    parser.add_argument("what", choices=("stack", "stage"))
    parser.add_argument("--core", type=int, default=0, help="of the orchestrator")
    parser.add_argument("--slots", type=int, required=True, help="turns that the llm answers at once")
    parser.add_argument("--groups", type=int, required=True, help="of each answer")
    given, _ = parser.parse_known_args(arguments)  # a stage is given flags of the services too
    if given.what == "stage":
        run(stage(given.slots, given.groups))
        return 0
    return asyncio.run(stack(plan_of_stubs(given.core, given.slots, given.groups)))


if __name__ == "__main__":
    sys.exit(main())

"""How many threads compute in a part that ``aqaa up`` starts: as many as the service's setting says."""

import subprocess
import sys
from pathlib import Path

import pytest

from aqaa.stack.plan import Plan, stage_command
from aqaa.stack.up import where_services_are

ASKED = """
import asyncio, os, sys
from types import SimpleNamespace
import torch
from prometheus_client import CollectorRegistry
from aqaa.telemetry import catalogue
from aqaa.telemetry.metrics import Metrics
from services.llm.config import LlmSettings
from services.llm.service import _torch

class Seen(Exception):
    pass

def network(name):
    "Stands where the computing thread loads the backbone."
    raise Seen(torch.get_num_threads())

async def threads():
    settings = LlmSettings.load(sys.argv[1:], os.environ)
    language = SimpleNamespace(grammar=None)
    metrics = Metrics(CollectorRegistry(), catalogue.LLM)
    engine = _torch(settings, SimpleNamespace(network=network), language, metrics)
    try:
        await engine.start()
    except Seen as seen:
        print(*seen.args)

asyncio.run(threads())
"""


@pytest.mark.parametrize(
    ("environ", "threads"),
    [({}, 1), ({"AQAA_LLM_THREADS": "3"}, 3), ({"OMP_NUM_THREADS": "3"}, 1)],
    ids=["unsaid", "the setting", "the environment of the libraries"],
)
def test_a_stage_computes_with_the_threads_of_its_setting(environ, threads):
    programs = {"llm": (sys.executable, "-P", "-c", ASKED)}
    plan = Plan(bundle=Path("nano"), environ=where_services_are(environ), programs=programs)
    command = stage_command(plan, "llm")
    ran = subprocess.run(command.argv, env=dict(command.environ), capture_output=True, text=True, timeout=300)
    assert (ran.stdout, ran.returncode) == (f"{threads}\n", 0), ran.stderr

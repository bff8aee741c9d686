"""The real four services with nano, started and ended by ``aqaa up``."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).resolve().parents[3]
NANO = ROOT / "models" / "nano"
SERVICES = ("orchestrator", "tokenizer", "llm", "vocoder")
READY_SECONDS = 300
"""On two busy cores. The test waits for the ready line, not for this."""


def missing():
    for service in SERVICES:
        try:
            found = importlib.util.find_spec(f"services.{service}.__main__")
        except ModuleNotFoundError:
            found = None
        if found is None:
            return f"services.{service} is not there yet"
    return None if NANO.is_dir() else f"{NANO} is not there"


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_aqaa_up_runs_the_four_services_until_it_is_told_to_end(tmp_path):
    command = Path(sys.executable).with_name("aqaa")
    flags = ["--bundle", str(NANO), "--port", "0", "--json-logs", "--ready-seconds", str(READY_SECONDS)]
    errors = tmp_path / "err"
    with errors.open("w") as err:
        stack = subprocess.Popen(
            [str(command), "up", *flags], stdout=subprocess.PIPE, stderr=err, text=True, cwd=tmp_path
        )
    try:
        line = stack.stdout.readline()
        assert line, errors.read_text()
        ready = json.loads(line)
        assert set(ready["addresses"]) == set(SERVICES)
        for service, address in ready["addresses"].items():
            with grpc.insecure_channel(address) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                answer = health.Check(health_pb2.HealthCheckRequest(), timeout=30)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, service
        for service, address in ready["metrics"].items():
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as page:
                assert page.status == 200, service
        stack.send_signal(signal.SIGTERM)
        assert stack.wait(120) == 0, errors.read_text()
        assert not any(is_there(pid) for pid in ready["pids"].values())
    finally:
        stack.kill()
        stack.wait()
        stack.stdout.close()

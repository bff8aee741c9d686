"""The wire contract: lint-clean, and aqaa/v1 is what `make protos` makes of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aqaa.v1 import errors_pb2

ROOT = Path(__file__).parents[2]
PROTOS = sorted((ROOT / "protos" / "aqaa" / "v1").glob("*.proto"))
TOOLS = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize("check", [["lint"], ["format", "--diff", "--exit-code"]], ids=lambda c: c[0])
def test_buf_has_nothing_to_say(check):
    found = subprocess.run(["buf", *check], cwd=ROOT, env=TOOLS, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_generated_code_is_fresh(tmp_path):
    made = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "--proto_path=protos", f"--python_out={tmp_path}",
         f"--mypy_out={tmp_path}", f"--grpc_python_out={tmp_path}", f"--mypy_grpc_out={tmp_path}",
         *(str(p.relative_to(ROOT)) for p in PROTOS)],
        cwd=ROOT, env=TOOLS, capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    fresh = {p.name: p.read_text() for p in (tmp_path / "aqaa" / "v1").iterdir()}
    kept = {p.name: p.read_text() for p in (ROOT / "aqaa" / "v1").glob("*_pb2*")}
    assert fresh.keys() == kept.keys(), "run `make protos`"
    assert [name for name in fresh if fresh[name] != kept[name]] == [], "run `make protos`"


def test_reasons_are_those_of_the_error_tree():
    """A reason on the wire is the one that the exception carries; some errors never get there."""
    from aqaa import errors

    def tree(kind: type[errors.AqaaError]) -> list[str]:
        return [kind.reason, *(reason for child in kind.__subclasses__() for reason in tree(child))]

    wire = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()}  # noqa: SIM118
    at_start = {"BUNDLE_INVALID", "BUNDLE_CORRUPT", "BUNDLE_UNSUPPORTED", "SETTINGS_INVALID"}
    at_the_client = {"DELIVERY_BROKEN", "INVALID_ARGUMENT"}  # the latter of the command line
    reasons = tree(errors.AqaaError)
    assert len(reasons) == len(set(reasons)), "a reason names one exception"
    assert set(reasons) - at_start - at_the_client == wire - {"UNSPECIFIED"}

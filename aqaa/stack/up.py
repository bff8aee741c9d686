"""`aqaa up`: the plan for this machine and this environment, and its run."""

import asyncio
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import aqaa
from aqaa.errors import SettingsError
from aqaa.stack.plan import SERVICES, Plan, given_in
from aqaa.stack.screen import Screen
from aqaa.stack.supervise import Supervisor

CHECKOUT: Final = Path(aqaa.__file__).resolve().parents[1]
CONFIG_VARIABLE: Final = "AQAA_CONFIG"


def run(plan: Plan, *, json_logs: bool) -> int:
    """Runs the stack until it is told to end; the exit status.

    Raises:
        SettingsError: it cannot start.
    """
    plan = prepared(plan)

    async def supervised() -> int:
        screen = Screen(out=sys.stdout, err=sys.stderr, json_logs=json_logs)
        return await Supervisor(plan, screen).run()

    return asyncio.run(supervised())


def prepared(plan: Plan) -> Plan:
    """The plan with what its environment names: the services, the settings file.

    Raises:
        SettingsError: they cannot be found, or read.
    """
    file = plan.environ.get(CONFIG_VARIABLE)
    return replace(plan, environ=where_services_are(plan.environ), given=given_in(Path(file)) if file else {})


def where_services_are(environ: Mapping[str, str]) -> Mapping[str, str]:
    """An environment in which ``python -m services.llm`` works: from this aqaa's checkout, or installed.

    Raises:
        SettingsError: it is in neither.
    """
    if all((CHECKOUT / "services" / service / "__main__.py").is_file() for service in SERVICES):
        path = environ.get("PYTHONPATH")
        return {**environ, "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{path}" if path else str(CHECKOUT)}
    missing = [service for service in SERVICES if not _installed(f"services.{service}")]
    if missing:
        raise SettingsError(f"there is no services.{missing[0]}, neither installed nor in {CHECKOUT}")
    return environ


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(f"{module}.__main__") is not None
    except ModuleNotFoundError:
        return False

"""Starts the llm service: ``python -m services.llm --help``."""

import os
import sys

from aqaa.errors import AqaaError
from services.llm.config import LlmSettings


def main() -> int:
    """The exit status: 0 after a drain, 1 where the engine broke, 2 where the service cannot start."""
    settings = LlmSettings.at_start_up(sys.argv[1:], os.environ)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait do not spin; read as torch loads
    from aqaa.rpc.server import run
    from services.llm.service import serve

    try:
        return run(serve(settings))
    except AqaaError as error:
        print(f"aqaa-llm cannot start:\n{error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

"""Starts the tokenizer service: ``python -m services.tokenizer --help``."""

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that waits does not spin; read as torch loads

from aqaa.errors import AqaaError
from aqaa.rpc.server import run
from services.tokenizer.config import TokenizerSettings
from services.tokenizer.service import serve


def main() -> int:
    """The exit status: 0 after a drain, 2 where the service cannot start."""
    settings = TokenizerSettings.at_start_up(sys.argv[1:], os.environ)
    try:
        run(serve(settings))
    except AqaaError as error:
        print(f"aqaa-tokenizer cannot start:\n{error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

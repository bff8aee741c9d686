"""Starts the vocoder service: ``python -m services.vocoder --help``."""

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that waits does not spin; read as torch loads

from aqaa.errors import AqaaError
from aqaa.rpc.server import run
from services.vocoder.config import VocoderSettings
from services.vocoder.service import serve


def main() -> int:
    """The exit status: 0 after a drain, 2 where the service cannot start."""
    settings = VocoderSettings.at_start_up(sys.argv[1:], os.environ)
    try:
        run(serve(settings))
    except AqaaError as error:
        print(f"aqaa-vocoder cannot start:\n{error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Becomes another program that the kernel ends with its parent: ``launcher.py PARENT-PID PROGRAM ARGUMENT…``.

Run as a file by ``python -I -S``, so it imports nothing but a little of the standard library. Linux only:
elsewhere it just becomes the program.
"""

import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
CANNOT_START = 127


def main(words: Sequence[str]) -> int:
    """Does not return, unless the program cannot be started or the parent is gone already."""
    parent, program, *arguments = words
    if sys.platform == "linux":
        import ctypes

        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            print(f"prctl: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
            return CANNOT_START
        if os.getppid() != int(parent):  # it ended before the kernel knew that we care
            return CANNOT_START
    try:
        os.execv(program, [program, *arguments])
    except OSError as error:
        print(f"{program}: cannot be started: {error.strerror}", file=sys.stderr)
    return CANNOT_START


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

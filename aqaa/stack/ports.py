"""Ports of this machine."""

import socket

from aqaa.stack.plan import HOST


def free_port(port: int = 0) -> int:
    """``port`` if it can be listened on now, or any free one for 0.

    Raises:
        OSError: it is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections do not count
        probe.bind((HOST, port))
        probe.listen(1)
        found: int = probe.getsockname()[1]
    return found

"""How long a call may take further on: what its caller has left, less what the way back takes."""

from typing import Any, Protocol

from aqaa.errors import Deadline

MARGIN = 0.05
"""Seconds that are kept back, so that an error of the stage behind arrives before the caller gives up."""

ROUNDING = 0.01
"""Share that is kept back where it is more: gRPC sends a time-out with two or three digits, rounded up."""


class Timed(Protocol):
    """A grpc.aio.ServicerContext, as far as it matters here."""

    def time_remaining(self) -> Any: ...


def time_left(context: Timed, *, stage: str, at_most: float, margin: float = MARGIN) -> float:
    """Seconds for a call to ``stage``: the caller's remaining time less a margin, no more than ``at_most``.

        timeout = time_left(context, stage="vocoder", at_most=settings.vocoder_seconds)
        response = await vocoder.Synthesize(request, timeout=timeout)

    Raises:
        Deadline: nothing is left.
    """
    remaining = context.time_remaining()  # None: the caller set no deadline
    if remaining is None:
        return at_most
    if remaining <= margin:
        raise Deadline(
            f"{remaining * 1000:.0f} ms are left before {stage}, expected more than {margin * 1000:.0f} ms",
            stage=stage,
        )
    kept_back = max(margin, ROUNDING * float(remaining))
    return min(float(remaining) - kept_back, at_most)

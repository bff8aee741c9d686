"""Which service computes with how many threads."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Threads:
    """Of one pass through a model, by service. The orchestrator computes nothing."""

    tokenizer: int
    llm: int
    vocoder: int


def divide(cores: int) -> Threads:
    """Divides ``cores`` so that from four on no two threads need the same core, the orchestrator's included.

    Below four every service has one thread, and they share: a question is heard before it is answered, so
    the tokenizer's is mostly idle while the other two work. A hop of the tokenizer is too small for a second
    thread; the vocoder, whose products are the largest, has the odd core.

    Raises:
        ValueError: fewer than one core.
    """
    if cores < 1:
        raise ValueError(f"cores = {cores}, expected at least 1")
    rest = max(2, cores - 2)  # without the orchestrator's and the tokenizer's
    return Threads(tokenizer=1, llm=rest // 2, vocoder=rest - rest // 2)


def quiet(threads: int) -> Mapping[str, str]:
    """Environment of a process whose numeric libraries take ``threads`` threads, none of which spins idly."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
    }

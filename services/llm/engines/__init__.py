"""What computes answers, behind one interface: ``torch`` in this process, ``triton`` in another one."""

from services.llm.engines.interface import (
    Decoding,
    Engine,
    Failed,
    Finished,
    Generation,
    Happening,
    Listener,
    Placed,
    Room,
    Written,
)

__all__ = [
    "Decoding",
    "Engine",
    "Failed",
    "Finished",
    "Generation",
    "Happening",
    "Listener",
    "Placed",
    "Room",
    "Written",
]

"""The torch decode engine: continuous batching, shared prefixes, bit-exact or fast."""

from aqaa.engine.backbone.engine import BackboneEngine, EngineSettings, EngineStats
from aqaa.engine.backbone.request import Emitted, Ended, EndReason, Event, Priority, Request

__all__ = [
    "BackboneEngine",
    "Emitted",
    "EndReason",
    "Ended",
    "EngineSettings",
    "EngineStats",
    "Event",
    "Priority",
    "Request",
]

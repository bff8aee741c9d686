"""What the vocoder service can be told."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from aqaa.config import ServiceSettings


class VocoderSettings(ServiceSettings):
    """The vocoder service: answer tokens in, PCM out."""

    service: ClassVar[str] = "vocoder"

    bundle: Path = Field(Path("models/nano"), description="folder of the model bundle")
    threads: int = Field(1, ge=1, le=256, description="threads of a pass through the model")
    max_batch: int = Field(
        2, ge=1, le=16, description="turns in a pass; fewer where this machine gives a batch other bits"
    )
    max_streams: int = Field(32, ge=1, le=100_000, description="turns that may be open")
    ahead_groups: int = Field(
        64, ge=1, le=4096, description="groups a turn may be ahead of the model, then it is not read"
    )
    ready_pieces: int = Field(
        4, ge=1, le=64, description="pieces of sound that may wait to be taken, then no more is made"
    )
    max_segment_groups: int = Field(2500, ge=1, le=100_000, description="groups of a segment, 120 ms each")
    idle_seconds: float = Field(60.0, gt=0, le=3600, description="until a turn that sends nothing is ended")
    stall_seconds: float = Field(
        30.0, gt=0, le=3600, description="until a turn that takes nothing loses its place"
    )
    retry_seconds: float = Field(1.0, gt=0, le=60, description="what a refused caller is told to wait")

"""What the tokenizer service can be told."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from aqaa.config import ServiceSettings


class TokenizerSettings(ServiceSettings):
    """The tokenizer service: PCM in, audio tokens out."""

    service: ClassVar[str] = "tokenizer"

    bundle: Path = Field(Path("models/nano"), description="folder of the model bundle")
    threads: int = Field(1, ge=1, le=256, description="threads of a pass through the model")
    max_batch: int = Field(
        8, ge=1, le=16, description="signals in a pass; fewer where this machine gives a batch other bits"
    )
    max_streams: int = Field(64, ge=1, le=100_000, description="signals that may be open")
    ahead_seconds: float = Field(
        2.0, ge=0.1, le=60, description="of sound a stream may be ahead of the model, then it is not read"
    )
    idle_seconds: float = Field(30.0, gt=0, le=3600, description="until a stream that sends nothing is ended")
    stall_seconds: float = Field(
        30.0, gt=0, le=3600, description="until a stream that takes nothing loses its place"
    )
    retry_seconds: float = Field(1.0, gt=0, le=60, description="what a refused caller is told to wait")

"""What the llm service can be told."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from aqaa.config import ServiceSettings


class LlmSettings(ServiceSettings):
    """The llm service: prompt tokens in, answer tokens out."""

    service: ClassVar[str] = "llm"

    bundle: Path = Field(Path("models/nano"), description="folder of the model bundle")
    engine: Literal["torch"] = Field("torch", description="what computes: torch, in this process")
    mode: Literal["exact", "fast"] = Field(
        "exact", description="exact: equal bits in any company; refuses to start where they are not"
    )
    threads: int = Field(1, ge=1, le=256, description="threads of each product")
    slots: int = Field(8, ge=1, le=1024, description="requests that are computed together")
    slot_positions: int = Field(
        1536, ge=64, le=131072, description="tokens of a slot, prompt and answer together"
    )
    max_waiting: int = Field(4, ge=0, le=1024, description="requests that may wait for a slot")
    prefill_rows: int = Field(64, ge=8, le=8192, description="prompt tokens of a step, beside decoding")
    retry_seconds: float = Field(1.0, gt=0, le=60, description="what a refused caller is told to wait")
    stall_seconds: float = Field(
        30.0, gt=0, le=3600, description="until a slot is taken from a consumer that takes nothing"
    )
    prompt_seconds: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="until a slot is taken from a prompt that does not grow",
    )
    text_bytes: int = Field(16384, ge=64, le=2**20, description="of history and question together")

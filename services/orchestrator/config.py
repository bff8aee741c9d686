"""What the orchestrator can be told."""

from typing import Literal

from pydantic import Field

from aqaa.config import ServiceSettings


class OrchestratorSettings(ServiceSettings):
    """Settings of the orchestrator. Times in seconds."""

    service = "orchestrator"

    role: Literal["both", "front", "runner"] = Field(
        "both", description="front: serves callers; runner: takes turns to the backbone"
    )
    redis_url: str = Field("redis://127.0.0.1:6379", min_length=8, description="of the turn log")
    redis_cluster: bool = Field(False, description="whether redis_url is a node of a cluster")
    tokenizer: str = Field("127.0.0.1:50051", min_length=1, description="gRPC name of the tokenizer service")
    llm: str = Field("127.0.0.1:50052", min_length=1, description="gRPC name of the llm service")
    vocoder: str = Field("127.0.0.1:50053", min_length=1, description="gRPC name of the vocoder service")

    question_seconds: float = Field(30.0, gt=0, le=600, description="longest question")
    question_piece_seconds: float = Field(
        0.48,
        gt=0,
        le=10,
        description="least sound of a message to the tokenizer: of less than its hop comes nothing",
    )
    question_idle_seconds: float = Field(
        15.0, gt=0, le=600, description="longest silence of an open question"
    )
    question_lag_seconds: float = Field(
        30.0, gt=0, le=600, description="how far the sound of an open question may fall behind real time"
    )
    conversation_idle_seconds: float = Field(
        600.0, gt=0, le=86400, description="longest silence of a conversation that plays nothing"
    )
    turn_seconds: float = Field(600.0, gt=0, le=86400, description="longest time to answer a turn")
    resume_seconds: float = Field(
        15.0, ge=0, le=900, description="how long a turn waits for its caller whose call broke"
    )
    unread_seconds: float = Field(
        120.0, gt=0, le=86400, description="longest that a call waits for a caller who takes nothing"
    )
    dispatch_seconds: float = Field(
        5.0, gt=0, le=600, description="until a committed turn that no runner takes is refused"
    )
    stage_seconds: float = Field(
        15.0, gt=0, le=600, description="until a stage that says nothing counts as hung"
    )
    stage_attempts: int = Field(
        7, ge=1, le=20, description="of a stage's call without any progress, the first one included"
    )
    answer_idle_seconds: float = Field(
        60.0, gt=0, le=3600, description="until an answer on which no runner writes counts as given up"
    )
    retry_seconds: float = Field(
        0.1, ge=0, le=60, description="before a second attempt; doubled for each more"
    )
    probe_seconds: float = Field(5.0, gt=0, le=600, description="between two looks at the stages")
    capacity_seconds: float = Field(0.5, gt=0, le=1, description="between two looks at the backbone's slots")

    lookahead_seconds: float = Field(
        12.0, ge=1, le=600, description="sound that may be written ahead of what was played"
    )
    text_interval_seconds: float = Field(
        0.04, ge=0, le=1, description="least time between two appends of text"
    )
    outbox: int = Field(16, ge=1, le=1024, description="events that wait for a slow caller")
    turns_per_conversation: int = Field(
        4, ge=1, le=64, description="turns of a conversation whose end is not told yet"
    )
    replay: bool = Field(False, description="whether owners may hear ended turns once more")
    lease_seconds: float = Field(5.0, ge=0.2, le=60, description="how long a silent process keeps its turns")
    turn_ttl_seconds: float = Field(900.0, ge=1, le=86400, description="how long the log keeps an ended turn")
    session_ttl_seconds: float = Field(
        900.0, ge=1, le=86400, description="how long it keeps a silent session"
    )

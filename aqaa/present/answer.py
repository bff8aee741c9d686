"""What the pipeline gives, as protocols, so that who shows or judges an answer imports no engine."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from aqaa.audio.decode import Audio
from aqaa.bundle.manifest import Manifest
from aqaa.tokens.classes import TokenClass

Pcm = NDArray[np.float32]
Progress = Callable[[str, float], None]
"""Called with (what is being done, share done 0 … 1)."""


class Segment(Protocol):
    """One stretch of the answer in one voice state; samples count from the answer's start."""

    @property
    def style(self) -> str | None: ...
    @property
    def text(self) -> str: ...
    @property
    def groups(self) -> int: ...
    @property
    def start_sample(self) -> int: ...
    @property
    def end_sample(self) -> int: ...


class Timeline(Protocol):
    """Seconds from the start of the request to each milestone."""

    @property
    def heard(self) -> float: ...
    @property
    def thought(self) -> float: ...
    @property
    def first_audio(self) -> float: ...
    @property
    def done(self) -> float: ...


class Answer(Protocol):
    """A finished answer: ``pcm`` mono at ``sample_rate``, ``question_pcm`` mono at the tokenizer's rate."""

    @property
    def question_text(self) -> str: ...
    @property
    def answer_text(self) -> str: ...
    @property
    def pcm(self) -> Pcm: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def segments(self) -> Sequence[Segment]: ...
    @property
    def timeline(self) -> Timeline: ...
    @property
    def question_pcm(self) -> Pcm: ...
    @property
    def question_tokens(self) -> Sequence[int]: ...
    @property
    def answer_tokens(self) -> Sequence[tuple[int, TokenClass]]: ...
    @property
    def tokens(self) -> Mapping[str, int]: ...
    @property
    def ttfa_seconds(self) -> float: ...
    @property
    def rtf(self) -> float: ...


class Answers(Protocol):
    """Whatever answers and speaks."""

    def ask(self, audio: Audio, *, seed: int = 0) -> Answer: ...
    def say(self, text: str, *, seed: int = 0, style: str | None = None) -> Answer: ...


class Pipeline(Answers, Protocol):
    """What the command line asks of ``aqaa.engine.pipeline.Pipeline``."""

    @property
    def manifest(self) -> Manifest: ...
    @classmethod
    def load(cls, bundle_dir: Path, *, threads: int = 1, progress: Progress | None = None) -> Self: ...
    def tokenize(self, audio: Audio) -> Sequence[int]: ...

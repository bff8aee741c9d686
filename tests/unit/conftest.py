"""What several unit tests share: a small sound bundle, and an answer that no model computed."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from aqaa.bundle import write_manifest
from aqaa.tokens.classes import TokenClass

LICENCES = {
    "text.model": "Apache-2.0",
    "backbone.safetensors": "Apache-2.0",
    "flow.safetensors": "Apache-2.0",
}

FIELDS: dict[str, Any] = {
    "name": "tiny",
    "family": "step-audio-aqaa",
    "language": "en",
    "max_question_seconds": 30.0,
    "layout": {"audio_base": 600, "linguistic_codes": 1024, "semantic_codes": 4096, "vocab_size": 5720},
    "pieces": {"audio_start": "<audio_start>", "audio_end": "<audio_end>", "styles": {"slow": "<|slow|>"}},
    "text": {"file": "text.model"},
    "sampling": {
        "answer": {
            "linguistic": {"temperature": 0.3},
            "repetition": {"window": 10, "limit": 3, "silence_window": 6},
        },
        "transcript": {},
    },
    "caps": {"groups_base": 12, "groups_per_text": 4.5, "segments": 4, "text": 120, "tokens": 1500},
    "silence": {"linguistic": [7], "semantic": [0, 4095]},
    "tokenizer": {
        "hop_samples": 3840,
        "linguistic": {
            "kind": "sanm-chunk",
            "config": {"size": 256},
            "files": {"weights": "backbone.safetensors"},
        },
        "semantic": {"kind": "nano-semantic", "files": {"weights": "backbone.safetensors"}},
    },
    "backbone": {"kind": "step1", "files": {"weights": "backbone.safetensors"}},
    "vocoder": {
        "sample_rate": 24000,
        "mel_hop": 240,
        "mel_bins": 80,
        "flow_steps": 4,
        "tiles": {"schedule": [3, 3, 6, 12], "left_groups": 3, "right_groups": 1, "shapes": [7, 10, 16]},
        "flow": {"kind": "nano-flow", "files": {"weights": "flow.safetensors"}},
        "wave": {"kind": "nano-wave", "files": {"weights": "flow.safetensors"}},
    },
    "provenance": {"recipe": "runs/nano.sh", "data": "synthetic", "seeds": {"data": 1}},
    "licences": {"Apache-2.0": "all weights"},
}


@pytest.fixture
def fields() -> dict[str, Any]:
    """Everything a manifest states but version and files; a test may change its copy."""
    return copy.deepcopy(FIELDS)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The bundle's folder with its files, the manifest not written yet."""
    root = tmp_path / "tiny"
    root.mkdir()
    (root / "text.model").write_bytes(b"pieces")
    save_file({"weight": np.arange(12, dtype=np.float32).reshape(3, 4)}, root / "backbone.safetensors")
    save_file({"weight": np.ones((2, 2), dtype=np.float16)}, root / "flow.safetensors")
    return root


@pytest.fixture
def bundle_dir(files: Path, fields: dict[str, Any]) -> Path:
    """A sound bundle."""
    write_manifest(files, fields, licences=LICENCES)
    return files


@pytest.fixture
def edit_manifest(bundle_dir: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """Changes the manifest on disk by hand, past all checks; gives the bundle's folder."""

    def edit(change: Callable[[dict[str, Any]], None]) -> Path:
        path = bundle_dir / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))
        return bundle_dir

    return edit


@dataclass(frozen=True)
class FakeSegment:
    style: str | None
    text: str
    groups: int
    start_sample: int
    end_sample: int


@dataclass(frozen=True)
class FakeTimeline:
    heard: float = 0.12
    thought: float = 0.31
    first_audio: float = 0.43
    done: float = 1.38


@dataclass(frozen=True, eq=False)
class FakeAnswer:
    """Two segments, 12 and 7 text tokens, 18 and 12 groups: a whole block, a tail, a style each."""

    question_text: str
    answer_text: str
    pcm: NDArray[np.float32]
    sample_rate: int
    segments: tuple[FakeSegment, ...]
    timeline: FakeTimeline
    question_pcm: NDArray[np.float32]
    question_tokens: tuple[int, ...]
    answer_tokens: tuple[tuple[int, TokenClass], ...]
    tokens: dict[str, int]
    ttfa_seconds: float = 0.43
    rtf: float = 0.38


def _speech_like(seconds: float, rate: int, rng: np.random.Generator) -> NDArray[np.float32]:
    time = np.arange(int(seconds * rate)) / rate
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * time + np.sin(time)), 0, None) ** 0.6
    voice = np.sin(2 * np.pi * 140 * time) + 0.5 * rng.standard_normal(len(time))
    return np.asarray(0.25 * syllables * voice, np.float32)


def _group(rng: np.random.Generator) -> list[tuple[int, TokenClass]]:
    linguistic = [(int(token), TokenClass.LINGUISTIC) for token in rng.integers(600, 1624, 2)]
    semantic = [(int(token), TokenClass.SEMANTIC) for token in rng.integers(1624, 5720, 3)]
    return linguistic + semantic


@pytest.fixture
def fake_answer() -> FakeAnswer:
    rng = np.random.default_rng(5)
    tokens: list[tuple[int, TokenClass]] = []
    for style, text, groups in ((20, 12, 18), (21, 7, 12)):
        tokens += [(5, TokenClass.AUDIO_START), (style, TokenClass.STYLE)]
        words = [(int(token), TokenClass.TEXT) for token in rng.integers(30, 600, text)]
        if text >= 10:
            tokens += words[:10] + [token for _ in range(3) for token in _group(rng)]
            words, groups = words[10:], groups - 3
        tokens += words + [token for _ in range(groups) for token in _group(rng)]
        tokens += [(6, TokenClass.AUDIO_END)]
    tokens += [(3, TokenClass.EOT)]
    question = [token for _ in range(19) for token, _ in _group(rng)]
    first = int(18 * 0.12 * 24000)
    end = int(30 * 0.12 * 24000)
    return FakeAnswer(
        question_text="Say the cat sees a red ball, first loud, then soft.",
        answer_text="The cat sees a red ball. The cat sees a red ball.",
        pcm=_speech_like(3.6, 24000, rng),
        sample_rate=24000,
        segments=(
            FakeSegment("loud", "The cat sees a red ball.", 18, 0, first),
            FakeSegment("soft", "The cat sees a red ball.", 12, first, end),
        ),
        timeline=FakeTimeline(),
        question_pcm=_speech_like(2.28, 16000, rng),
        question_tokens=tuple(question),
        answer_tokens=tuple(tokens),
        tokens={"text": 19, "linguistic": 60, "semantic": 90},
    )

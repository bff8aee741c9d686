"""A small sound bundle: every section of a manifest, two tensor files, a text model."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from aqaa.bundle import write_manifest

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
    "prompt": {"tasks": {"answer": "assistant", "transcript": "transcript"}},
    "sampling": {"answer": {"linguistic": {"temperature": 0.3}}, "transcript": {}},
    "caps": {"groups_base": 12, "groups_per_text": 4.5, "segments": 4, "text": 120},
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
    import json

    def edit(change: Callable[[dict[str, Any]], None]) -> Path:
        path = bundle_dir / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))
        return bundle_dir

    return edit

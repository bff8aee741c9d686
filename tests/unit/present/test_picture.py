"""The picture is drawn for any answer, at the size that was promised."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from aqaa.bundle import read_manifest
from aqaa.present.picture import draw


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"question_pcm": np.zeros(0, np.float32), "question_tokens": (), "question_text": ""},
        {"pcm": np.zeros(0, np.float32), "segments": (), "answer_tokens": ()},
        {"answer_text": "It costs $5, or $6 _each_. " * 20},
    ],
    ids=["whole", "no question", "text only", "long text with signs"],
)
def test_any_answer_gives_a_picture_of_1600_by_1000(
    fake_answer: Any, bundle_dir: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    draw(dataclasses.replace(fake_answer, **change), read_manifest(bundle_dir), tmp_path / "answer.png")
    pixels = imread(tmp_path / "answer.png")
    assert pixels.shape[:2] == (1000, 1600)
    assert len(np.unique(pixels[..., :3].reshape(-1, 3), axis=0)) > 50

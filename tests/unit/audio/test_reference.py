"""The offline chain against upstream's preprocessed signals."""

import json
from pathlib import Path

import numpy as np
import pytest

from aqaa.audio.decode import read_audio
from aqaa.audio.reference import reference_preprocess

GOLDEN = Path(__file__).parents[2] / "golden" / "tokens_e2e"
CASES = json.loads((GOLDEN / "expected.json").read_text())["cases"]
SIGNALS = np.load(GOLDEN / "expected.npz")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['wav']}-trim{case['enable_trim']:d}")
def test_preprocessed_signal_matches_upstream(case):
    pcm = reference_preprocess(read_audio(GOLDEN / case["wav"]), trim=case["enable_trim"])
    assert pcm.shape == (case["preprocessed_samples"],)
    expected = SIGNALS[f"{Path(case['wav']).stem}_trim{case['enable_trim']:d}"]
    np.testing.assert_allclose(pcm, expected, rtol=0, atol=1e-5)

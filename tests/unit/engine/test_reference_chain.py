"""The offline reference chain reproduces upstream's ids from the wave files."""

import json
from pathlib import Path

import numpy as np
import pytest

from aqaa.audio.decode import read_audio
from aqaa.bundle.public_tokenizer import PublicTokenizer, load_linguistic, load_semantic
from aqaa.engine.reference import reference_linguistic, reference_semantic, reference_tokenize
from aqaa.tokens.groups import Ratios
from aqaa.tokens.ids import IdLayout

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = json.loads((GOLDEN / "tokens_e2e" / "expected.json").read_text())["cases"]
LAYOUT = IdLayout(audio_base=65536, vocab_size=74752)
RATIOS = Ratios(text=10, linguistic=2, semantic=3, groups=3)


@pytest.fixture(scope="module")
def tokenizer() -> PublicTokenizer:
    linguistic = GOLDEN / "linguistic"
    return PublicTokenizer(
        linguistic=load_linguistic(linguistic, linguistic / "linguistic_tokenizer.npy"),
        semantic=load_semantic(GOLDEN / "semantic" / "speech_tokenizer_v1.onnx", heads=2),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['wav']}-trim-{case['enable_trim']}")
def test_a_file_gives_upstreams_ids(case, tokenizer):
    audio = read_audio(GOLDEN / "tokens_e2e" / case["wav"])
    tokens = reference_tokenize(tokenizer, audio, trim=case["enable_trim"], layout=LAYOUT, ratios=RATIOS)
    signals = np.load(GOLDEN / "tokens_e2e" / "expected.npz")
    expected = signals[f"{Path(case['wav']).stem}_trim{int(case['enable_trim'])}"]
    np.testing.assert_allclose(tokens.pcm, expected, rtol=0, atol=1e-5)
    assert tokens.linguistic.tolist() == case["vq02"]
    assert tokens.semantic.tolist() == case["vq06"]
    assert tokens.merged.tolist() == case["merged_ids"]
    assert LAYOUT.to_string(tokens.merged) == case["string"]


@pytest.mark.parametrize(("samples", "linguistic", "semantic"), [(0, 0, 0), (479, 0, 0), (880, 1, 2)])
def test_a_clip_too_short_for_a_branch_has_no_codes(tokenizer, samples, linguistic, semantic):
    pcm = np.zeros(samples, np.float32)
    assert len(reference_linguistic(tokenizer.linguistic, pcm)) == linguistic
    assert len(reference_semantic(tokenizer.semantic, pcm)) == semantic

"""A bundle's tokenizer: what a sound one gives, and what is refused with which words."""

import numpy as np
import pytest

from aqaa.engine.tokenizer import Tokenizer
from aqaa.engine.tokenizer.branches import NanoSemanticBranch, SanmBranch, WhisperBranch
from aqaa.errors import BundleUnsupported

WHISPER = {
    "kind": "whisper-vq",
    "config": {"dim": 8, "heads": 2, "layers": 1, "mels": 8, "context": 70, "codes": 12},
    "files": {"weights": "semantic.safetensors"},
}


def test_a_bundle_gives_the_tokenizer_that_its_manifest_states(codec_bundle):
    tokenizer = Tokenizer.load(codec_bundle())
    assert (tokenizer.sample_rate, tokenizer.hop_samples, tokenizer.group_samples) == (16000, 7680, 1920)
    linguistic, semantic = tokenizer.linguistic, tokenizer.semantic
    assert isinstance(linguistic, SanmBranch)
    assert linguistic.lfr.chunk == 8
    assert not linguistic.encoder.training
    assert np.allclose(linguistic.cmvn.scale, 0.1)
    assert isinstance(semantic, NanoSemanticBranch)
    assert (semantic.mel.n_mels, semantic.mel.floor, semantic.hop_frames) == (8, -5.0, 48)
    groups = tokenizer.tokenize(np.random.default_rng(0).uniform(-1, 1, 5000).astype(np.float32))
    assert groups.shape == (3, 5)
    assert (groups < [10, 10, 12, 12, 12]).all()


def test_a_bundle_may_hold_the_public_semantic_encoder(codec_bundle):
    def change(fields):
        fields["tokenizer"]["semantic"] = WHISPER

    def spoil(weights):
        from aqaa.models.semantic import SemanticConfig, SemanticEncoder

        weights["semantic"] = SemanticEncoder(SemanticConfig(**WHISPER["config"])).state_dict()

    semantic = Tokenizer.load(codec_bundle(change, spoil)).semantic
    assert isinstance(semantic, WhisperBranch)
    assert (semantic.grid.hop, semantic.mel.n_mels) == (48, 8)


def test_a_group_of_another_length_is_refused(codec_bundle):
    def change(fields):
        fields["tokenizer"] |= {"group_samples": 3840}

    with pytest.raises(BundleUnsupported, match="group_samples is 3840, expected 1920"):
        Tokenizer.load(codec_bundle(change))


def test_a_linguistic_module_without_weights_is_refused(codec_bundle):
    def change(fields):
        fields["tokenizer"]["linguistic"]["files"] = {}

    with pytest.raises(BundleUnsupported, match=r"tokenizer\.linguistic\.files lacks 'weights'"):
        Tokenizer.load(codec_bundle(change))


@pytest.mark.parametrize("name", ["centroids", "cmvn.shift", "encoder.after_norm.weight"])
def test_a_missing_linguistic_tensor_is_named(codec_bundle, name):
    with pytest.raises(BundleUnsupported, match=name.removeprefix("encoder.")):
        Tokenizer.load(codec_bundle(spoil=lambda weights: weights["linguistic"].pop(name)))


def test_tables_of_another_shape_are_refused(codec_bundle):
    def spoil(weights):
        weights["linguistic"]["centroids"] = weights["linguistic"]["centroids"][:9].clone()

    with pytest.raises(BundleUnsupported, match=r"\(9, 8\).*expected \[\(10, 8\)"):
        Tokenizer.load(codec_bundle(spoil=spoil))

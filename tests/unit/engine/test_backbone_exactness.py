"""The start-up test lets exact mode pass and catches kernels whose bits depend on the company."""

import pytest
import torch
from backbone_cases import small_model

from aqaa.engine.backbone import BackboneEngine, EngineSettings
from aqaa.engine.backbone import exactness as module
from aqaa.engine.backbone.exactness import decoding_equals_prefill, exact_tiles
from aqaa.engine.backbone.weights import DecoderWeights
from aqaa.errors import AqaaError
from aqaa.models.step1 import Step1, Step1Config

WIDE = Step1Config(
    hidden_size=256,
    intermediate_size=768,
    num_attention_heads=8,
    num_attention_groups=4,
    num_hidden_layers=1,
    vocab_size=300,
    max_seq_len=512,
)


@pytest.mark.parametrize("capacity", [8, 100, 700])
def test_exact_mode_holds(capacity):
    assert 8 in exact_tiles(DecoderWeights.of(small_model()), capacity)


def test_free_shapes_are_found_out():
    torch.manual_seed(0)
    assert not decoding_equals_prefill(DecoderWeights.of(Step1(WIDE)), 256, ())


def test_a_tile_size_whose_bits_differ_is_not_used(monkeypatch):
    monkeypatch.setattr(module, "decoding_equals_prefill", lambda weights, capacity, tiles: 64 not in tiles)
    assert exact_tiles(DecoderWeights.of(small_model()), 64) == (4, 8)


def test_an_engine_refuses_to_start_where_exact_mode_does_not_hold(monkeypatch):
    monkeypatch.setattr(module, "decoding_equals_prefill", lambda *args: False)
    with pytest.raises(AqaaError, match="use fast mode"):
        BackboneEngine(small_model(), EngineSettings(capacity=64))
    BackboneEngine(small_model(), EngineSettings(capacity=64, mode="fast"))

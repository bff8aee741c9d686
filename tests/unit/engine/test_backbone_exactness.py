"""The start-up test lets exact mode pass and catches kernels whose bits depend on the company."""

import pytest
import torch
from backbone_cases import small_model

from aqaa.engine.backbone import BackboneEngine, EngineSettings
from aqaa.engine.backbone.exactness import check_exactness
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
    check_exactness(DecoderWeights.of(small_model()), capacity)


def test_free_shapes_are_refused():
    torch.manual_seed(0)
    with pytest.raises(AqaaError, match="use fast mode"):
        check_exactness(DecoderWeights.of(Step1(WIDE)), 256, "fast")


def test_an_engine_refuses_to_start_where_exact_mode_does_not_hold(monkeypatch):
    def refuse(*args):
        raise AqaaError("exact mode: position 0 differs")

    monkeypatch.setattr("aqaa.engine.backbone.engine.check_exactness", refuse)
    with pytest.raises(AqaaError, match="exact mode"):
        BackboneEngine(small_model(), EngineSettings(capacity=64))
    BackboneEngine(small_model(), EngineSettings(capacity=64, mode="fast"))

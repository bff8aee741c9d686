"""The step1 decoder against the golden backbone, its cache, and packed branches."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from aqaa.bundle.public_backbone import load_public_backbone
from aqaa.errors import BundleUnsupported
from aqaa.models.step1 import GrowingCache, Step1, Step1Config, alibi_bias, alibi_slopes, branch_mask

GOLDEN = Path(__file__).parents[2] / "golden" / "backbone"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
ARRAYS = np.load(GOLDEN / "expected.npz")
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_attention_groups": 2,
    "num_hidden_layers": 2,
    "vocab_size": 64,
    "max_seq_len": 64,
}


def loaded(dtype: torch.dtype) -> Step1:
    return load_public_backbone(GOLDEN, dtype=dtype)


def small() -> Step1:
    torch.manual_seed(0)
    return Step1(Step1Config(**SIZES)).double().eval()


@torch.inference_mode()
def golden_logits(model: Step1, index: int) -> np.ndarray:
    ids_BT = torch.tensor([EXPECTED["sequences"][index]["input_ids"]])
    return model.logits(model(ids_BT))[0].double().numpy()


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 2e-4)])
def test_logits_match_golden(index, dtype, tolerance):
    np.testing.assert_allclose(
        golden_logits(loaded(dtype), index), ARRAYS[f"logits_{index}"], rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("index", [0, 1])
def test_bfloat16_stays_near_golden(index):
    got, want = golden_logits(loaded(torch.bfloat16), index), ARRAYS[f"logits_{index}"]
    assert math.sqrt(((got - want) ** 2).mean() / (want**2).mean()) <= 0.03
    assert (got.argmax(-1) == want.argmax(-1)).mean() >= 0.95


@torch.inference_mode()
def test_residual_stream_matches_golden():
    model = loaded(torch.float64)
    stream = []
    model.model.embed_tokens.register_forward_hook(lambda *args: stream.append(args[2][0]))
    for layer in model.model.layers:
        layer.register_forward_hook(lambda *args: stream.append(args[2][0]))
    golden_logits(model, 0)
    np.testing.assert_allclose(torch.stack(stream).numpy(), ARRAYS["hidden_0"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("index", [0, 1])
@torch.inference_mode()
def test_greedy_decoding_through_the_cache_matches_golden(index):
    model, sequence = loaded(torch.float32), EXPECTED["sequences"][index]
    cache, ids_BT, out = GrowingCache(), torch.tensor([sequence["input_ids"]]), []
    while len(out) < 32:
        hidden_BTD = model(ids_BT, cache=cache)
        out.append(int(model.logits(hidden_BTD[:, -1:]).argmax()))
        ids_BT = torch.tensor([[out[-1]]])
    assert out == sequence["greedy32"]


def test_slopes_match_golden_and_halve_from_the_first_head():
    np.testing.assert_allclose(alibi_slopes(12), ARRAYS["slopes"], rtol=1e-6)
    assert alibi_slopes(8) == [2.0**-k for k in range(1, 9)]
    assert alibi_slopes(96)[64:66] == [2.0 ** (-1 / 16), 2.0 ** (-3 / 16)]


def test_interpolation_leaves_the_steepest_slope_and_stretches_the_flattest():
    plain, stretched = alibi_slopes(12), alibi_slopes(12, 4.0)
    assert stretched[plain.index(max(plain))] == max(plain)
    assert stretched[plain.index(min(plain))] == pytest.approx(min(plain) / 2)
    assert alibi_slopes(1, 4.0) == alibi_slopes(1)


@torch.inference_mode()
def test_head_ranges_equal_the_full_head():
    model = loaded(torch.float32)
    hidden_BTD = model(torch.tensor([[1, 5, 9]]))
    full = model.logits(hidden_BTD)
    ranges = [(3, 40), (64, 65), (100, 352)]
    picked = torch.cat([full[..., a:b] for a, b in ranges], -1)
    torch.testing.assert_close(model.logits(hidden_BTD, ranges), picked, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_packed_branches_equal_separate_sequences():
    """Prefix + answer + transcript in one row give what two separate rows give."""
    model = small()
    prefix, answer, transcript = [1, 5, 9, 7, 3], [11, 12, 13, 14], [21, 22, 23]
    positions = [*range(5), *range(5, 9), *range(5, 8)]
    branches = [0] * 5 + [1] * 4 + [2] * 3
    positions_BT, branch_BT = torch.tensor([positions]), torch.tensor([branches])
    packed = model(
        torch.tensor([prefix + answer + transcript]),
        positions_BT=positions_BT,
        allowed_BTS=branch_mask(positions_BT, branch_BT),
    )[0]
    torch.testing.assert_close(packed[:9], model(torch.tensor([prefix + answer]))[0])
    torch.testing.assert_close(packed[9:], model(torch.tensor([prefix + transcript]))[0, 5:])


@torch.inference_mode()
def test_documents_packed_in_one_row_do_not_see_each_other():
    model = small()
    positions_BT, document_BT = torch.tensor([[0, 1, 2, 0, 1]]), torch.tensor([[0, 0, 0, 1, 1]])
    allowed_BTT = branch_mask(positions_BT, torch.zeros_like(positions_BT), document_BT)
    bias_BHTT = alibi_bias(positions_BT, allowed_BTT, model.slopes(torch.float64))
    packed = model(torch.tensor([[1, 2, 3, 4, 5]]), bias_BHTS=bias_BHTT)[0]
    torch.testing.assert_close(packed[3:], model(torch.tensor([[4, 5]]))[0])


def test_bias_is_the_root_of_the_distance_and_keeps_every_position_apart_in_bfloat16():
    positions_BT = torch.arange(300)[None]
    allowed_BTT = positions_BT[:, :, None] >= positions_BT[:, None]
    slopes = torch.tensor([0.5, 0.25])
    bias = alibi_bias(positions_BT, allowed_BTT, slopes)
    assert bias[0, 0, 9, 0] == -1.5
    assert bias[0, 1, 9, 5] == -0.5
    assert bias[0, 0, 5, 9] == -math.inf
    half = alibi_bias(positions_BT, allowed_BTT, slopes.bfloat16())
    torch.testing.assert_close(half.float().exp(), bias.exp(), rtol=0.05, atol=1e-3)


def test_embeddings_may_replace_ids_and_one_of_them_is_needed():
    model = small()
    ids_BT = torch.tensor([[1, 2, 3]])
    embedded = model(embeddings_BTD=model.model.embed_tokens(ids_BT))
    torch.testing.assert_close(embedded, model(ids_BT))
    with pytest.raises(ValueError, match="either"):
        model()


def test_positions_beside_a_filled_cache_are_refused():
    model, cache = small(), GrowingCache()
    model(torch.tensor([[1, 2]]), cache=cache)
    with pytest.raises(ValueError, match="cache of 2"):
        model(torch.tensor([[3]]), positions_BT=torch.tensor([[7]]), cache=cache)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_groups": 3}, "num_attention_heads is 4"),
        ({"hidden_size": 30}, "hidden_size is 30"),
        ({"tie_word_embeddings": True}, "lm_head"),
        ({"model_type": "llama"}, "llama"),
        ({"alibi_slopes": [1.0]}, "alibi_slopes"),
    ],
)
def test_a_config_of_another_model_is_refused(change, message):
    with pytest.raises(BundleUnsupported, match=message):
        Step1Config.from_dict({**SIZES, **change})


def test_a_missing_size_is_named():
    with pytest.raises(BundleUnsupported, match="missing vocab_size"):
        Step1Config.from_dict({k: v for k, v in SIZES.items() if k != "vocab_size"})

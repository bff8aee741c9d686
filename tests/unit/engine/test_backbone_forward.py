"""The engine's layers and head against the plain decoder, in both modes."""

import pytest
import torch
from backbone_cases import CONFIG, small_model

from aqaa.engine.backbone.cache import SlotCache
from aqaa.engine.backbone.forward import Forward, Row
from aqaa.engine.backbone.head import Head
from aqaa.engine.backbone.weights import DecoderWeights
from aqaa.models.step1 import Step1, Step1Config
from aqaa.tokens.classes import Choice, TokenClass

MODEL = small_model()
WEIGHTS = DecoderWeights.of(MODEL)
LENGTH = 150  # crosses the first edge of a key span


def ids_of(seed, length=LENGTH):
    return torch.randint(CONFIG.vocab_size, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


TILES = pytest.mark.parametrize("tiles", [(8,), (4, 8, 64), ()], ids=["exact", "exact tiles", "fast"])


def forward(tiles):
    return Forward(WEIGHTS, SlotCache(CONFIG, 4, 256), tiles)


@torch.inference_mode()
def plain(ids):
    return MODEL(torch.tensor([ids]))[0]


@TILES
def test_prefill_equals_the_plain_decoder(tiles):
    hidden_ND = forward(tiles).run([Row(t, 1, p) for p, t in enumerate(ids_of(1))])
    torch.testing.assert_close(hidden_ND, plain(ids_of(1)), rtol=1e-4, atol=1e-5)


@TILES
def test_slots_of_different_lengths_decode_together(tiles):
    run = forward(tiles).run
    sequences = {0: ids_of(1), 1: ids_of(2, 7), 3: ids_of(3, 130)}
    for slot, ids in sequences.items():
        run([Row(t, slot, p) for p, t in enumerate(ids[:-1])])
    hidden_ND = run([Row(ids[-1], slot, len(ids) - 1) for slot, ids in sequences.items()])
    want_ND = torch.stack([plain(ids)[-1] for ids in sequences.values()])
    torch.testing.assert_close(hidden_ND, want_ND, rtol=1e-4, atol=1e-5)


@TILES
def test_a_slot_that_was_used_before_gives_what_a_new_one_gives(tiles):
    used, new = forward(tiles), forward(tiles)
    used.run([Row(t, 0, p) for p, t in enumerate(ids_of(5))])
    rows = [Row(t, 0, p) for p, t in enumerate(ids_of(6, 9))]
    torch.testing.assert_close(used.run(rows), new.run(rows), rtol=0, atol=0)


@TILES
def test_head_scores_each_row_by_its_own_choices(tiles):
    hidden_ND = torch.randn(11, CONFIG.hidden_size, generator=torch.Generator().manual_seed(0))
    full_NV = hidden_ND @ MODEL.lm_head.weight.detach().t()
    text = Choice(TokenClass.TEXT, ((3, 9), (12, 40)))
    end = Choice(TokenClass.AUDIO_END, ((2, 3),))
    codes = Choice(TokenClass.SEMANTIC, ((60, 90),))
    choices = [(text, end) if row % 3 else (codes,) for row in range(11)]
    for row, scored in enumerate(Head(WEIGHTS, tiles).score(hidden_ND, choices)):
        assert tuple(choice for choice, _ in scored) == choices[row]
        for choice, logits in scored:
            want = torch.cat([full_NV[row, low:high] for low, high in choice.ranges])
            torch.testing.assert_close(torch.from_numpy(logits), want, rtol=1e-4, atol=1e-5)


def test_logit_scale_is_applied():
    scaled = Step1(Step1Config(**{**CONFIG.__dict__, "logit_scale": 0.5})).eval()
    scaled.load_state_dict(MODEL.state_dict())
    hidden_ND = torch.ones(1, CONFIG.hidden_size)
    choices = [(Choice(TokenClass.TEXT, ((0, CONFIG.vocab_size),)),)]
    full = Head(WEIGHTS, (8,)).score(hidden_ND, choices)[0][0][1]
    half = Head(DecoderWeights.of(scaled), (8,)).score(hidden_ND, choices)[0][0][1]
    assert (half == full * 0.5).all()

"""A bundle's vocoder: what a sound one gives, and what is refused with which words."""

import pytest

from aqaa.engine.tiles import TilePlan
from aqaa.engine.vocoder import Vocoder
from aqaa.engine.vocoder.parts import NanoSolver
from aqaa.errors import BundleUnsupported


def test_a_bundle_gives_the_vocoder_that_its_manifest_states(codec_bundle):
    bundle = codec_bundle()
    vocoder = Vocoder.load(bundle)
    assert vocoder.digest == bundle.digest
    assert vocoder.plan == TilePlan((3, 3, 6, 12), 3, 1, (7, 10, 16))
    assert vocoder.sample_rate == 2400
    assert vocoder.codebooks == (10, 10, 12, 12, 12)
    assert vocoder.samples(10) == 10 * 288
    assert isinstance(vocoder.solver, NanoSolver)
    assert vocoder.solver.steps == 4
    assert len(vocoder.synthesize([[1, 2, 3, 4, 5]], seed=0)) == 288


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("vocoder", {"sample_rate": 4800}, r"vocoder\.sample_rate is 4800, .* expect 2400"),
        ("vocoder", {"mel_hop": 48}, r"vocoder\.mel_hop is 48, .* expect 24"),
        ("vocoder", {"mel_bins": 80}, r"vocoder\.mel_bins is 80, .* expect 6"),
        ("tokenizer", {"group_samples": 3840}, "mel frames a group is 24, .* expect 12"),
        ("layout", {"linguistic_codes": 9}, r"layout\.linguistic_codes is 9, .* expect 10"),
        ("layout", {"semantic_codes": 11}, r"layout\.semantic_codes is 11, .* expect 12"),
        ("layout", {"group_semantic": 4}, r"layout\.group_semantic is 4, .* expect 3"),
    ],
)
def test_a_manifest_that_contradicts_the_networks_is_refused(codec_bundle, section, change, message):
    with pytest.raises(BundleUnsupported, match=message):
        Vocoder.load(codec_bundle(lambda fields: fields[section].update(change)))


def test_the_public_pair_is_sent_to_its_own_door(codec_bundle):
    def change(fields):
        fields["vocoder"]["wave"]["kind"] = "hift"

    with pytest.raises(BundleUnsupported, match=r"'nano-flow' and 'hift', .*public_parts"):
        Vocoder.load(codec_bundle(change))

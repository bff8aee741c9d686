"""Loading a sharded public checkpoint: names, shapes, prefixes, refusals and tensor-parallel cuts."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from aqaa.bundle.public_backbone import (
    INDEX_NAME,
    decoder_shapes,
    load_public_backbone,
    locate_tensors,
    read_config,
    tensor_parallel_ranges,
)
from aqaa.errors import BundleCorrupt, BundleUnsupported
from aqaa.models.step1 import Step1Config

GOLDEN = Path(__file__).parents[2] / "golden" / "backbone"
PUBLIC_SIZES = {
    "3b": Step1Config(3072, 8192, 48, 4, 32, 74752, 32768),
    "130b": Step1Config(12288, 31232, 96, 8, 88, 74752, 32768),
}


@pytest.fixture
def checkpoint(tmp_path):
    for path in GOLDEN.iterdir():
        shutil.copy(path, tmp_path / path.name)
    return tmp_path


def rewrite_index(directory, change):
    path = directory / INDEX_NAME
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


@pytest.mark.parametrize("size", sorted(PUBLIC_SIZES))
def test_full_size_names_and_shapes_equal_the_published_lists(size):
    lines = (GOLDEN / f"keys_step1_{size}.tsv").read_text().splitlines()
    published = {
        name: tuple(int(n) for n in shape.split("x")) for name, shape in (line.split("\t") for line in lines)
    }
    assert decoder_shapes(PUBLIC_SIZES[size]) == published


def test_stored_dtype_is_kept_and_the_model_is_ready_to_use():
    model = load_public_backbone(GOLDEN)
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert not model.training
    assert all(not p.is_meta for p in model.parameters())


@pytest.mark.parametrize("ranks", [2, 4])
def test_tensor_parallel_ranges(ranks):
    expected = json.loads((GOLDEN / "expected.json").read_text())["tensor_parallel_half_open_ranges"]
    for part, want in zip(
        tensor_parallel_ranges(read_config(GOLDEN), ranks), expected[str(ranks)], strict=True
    ):
        got = dataclasses.asdict(part)
        assert got.pop("slopes") == pytest.approx(tuple(want.pop("slopes")), rel=1e-6)
        assert got == {name: tuple(x) if isinstance(x, list) else x for name, x in want.items()}


def test_ranks_that_do_not_divide_are_refused():
    with pytest.raises(BundleUnsupported, match="num_attention_groups is 4"):
        tensor_parallel_ranges(read_config(GOLDEN), 3)


def test_decoder_may_lie_under_a_prefix(checkpoint):
    config = read_config(checkpoint)

    def add_prefix(weights):
        for name in decoder_shapes(config):
            weights[f"language_model.{name}"] = weights.pop(name)

    rewrite_index(checkpoint, add_prefix)
    located = locate_tensors(checkpoint, config)
    assert located["lm_head.weight"][0] == "language_model.lm_head.weight"
    assert located.keys() == decoder_shapes(config).keys()


def test_a_missing_tensor_is_named(checkpoint):
    rewrite_index(checkpoint, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(BundleCorrupt, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load_public_backbone(checkpoint)


def test_an_unknown_tensor_is_named(checkpoint):
    rewrite_index(checkpoint, lambda weights: weights.update({"model.extra.bias": "model-00001.safetensors"}))
    with pytest.raises(BundleUnsupported, match=r"model\.extra\.bias"):
        load_public_backbone(checkpoint)


def test_a_missing_shard_is_named(checkpoint):
    (checkpoint / "model-00002.safetensors").unlink()
    with pytest.raises(BundleCorrupt, match="model-00002"):
        load_public_backbone(checkpoint)


def test_a_shard_outside_the_checkpoint_is_refused(checkpoint):
    rewrite_index(
        checkpoint, lambda weights: weights.update({"lm_head.weight": "../model-00003.safetensors"})
    )
    with pytest.raises(BundleCorrupt, match="plain file name"):
        load_public_backbone(checkpoint)


def test_a_cut_off_shard_is_refused(checkpoint):
    shard = checkpoint / "model-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(BundleCorrupt, match="model-00002"):
        load_public_backbone(checkpoint)


def test_a_shape_of_another_size_is_refused(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text()) | {"vocab_size": 353}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(BundleCorrupt, match=r"\(352, 192\), expected \(353, 192\)"):
        load_public_backbone(checkpoint)


@pytest.mark.parametrize("content", ["[]", "{", '{"metadata": {}}'])
def test_a_broken_index_is_refused(checkpoint, content):
    (checkpoint / INDEX_NAME).write_text(content)
    with pytest.raises(BundleCorrupt, match="index"):
        load_public_backbone(checkpoint)


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(BundleCorrupt, match=r"config\.json: no such file"):
        load_public_backbone(tmp_path)

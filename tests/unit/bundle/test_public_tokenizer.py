"""Loading the public tokenizer: each tensor under its name, errors that say which file and key is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from aqaa.bundle.public_tokenizer import (
    CENTROIDS_NAME,
    PARAFORMER_DIRECTORY,
    SEMANTIC_NAME,
    load_linguistic,
    load_public_tokenizer,
    load_semantic,
    read_centroids,
    read_paraformer_config,
    read_semantic_tensors,
)
from aqaa.errors import BundleCorrupt, BundleUnsupported

onnx = pytest.importorskip("onnx")

GOLDEN = Path(__file__).parents[2] / "golden"
NAMES = json.loads((GOLDEN / "semantic" / "torch_names_after_onnx2torch.json").read_text())
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A public tokenizer directory at test size."""
    paraformer = tmp_path / PARAFORMER_DIRECTORY
    paraformer.mkdir(parents=True)
    for name in ("config.yaml", "am.mvn", "model.pt"):
        shutil.copy(GOLDEN / "linguistic" / name, paraformer / name)
    shutil.copy(GOLDEN / "linguistic" / CENTROIDS_NAME, tmp_path)
    shutil.copy(GOLDEN / "semantic" / SEMANTIC_NAME, tmp_path)
    return tmp_path


def rewrite_weights(directory: Path, change: Callable[[Tensors], object]) -> None:
    path = directory / PARAFORMER_DIRECTORY / "model.pt"
    weights = dict(torch.load(path, weights_only=True))
    change(weights)
    torch.save(weights, path)


def rewrite_graph(path: Path, change: Callable[[object], object]) -> None:
    model = onnx.load(str(path))
    change(model.graph)
    onnx.save(model, str(path))


def load_paraformer(directory: Path):
    return load_linguistic(directory / PARAFORMER_DIRECTORY, directory / CENTROIDS_NAME)


def test_the_public_layout_loads(directory):
    tokenizer = load_public_tokenizer(directory, semantic_heads=2)
    config = tokenizer.linguistic.encoder.config
    assert (config.dim, config.heads, config.ff_dim, config.blocks, config.input_dim) == (48, 3, 96, 3, 560)
    assert (config.chunk_frames, config.overlap_frames, config.look_back_chunks) == (4, 5, 4)
    assert tokenizer.linguistic.centroids.shape == (1024, 48)
    assert tokenizer.semantic.config.dim == 32
    for module in (tokenizer.linguistic.encoder, tokenizer.semantic):
        assert not module.training
        assert all(tensor.dtype == torch.float32 for tensor in module.state_dict().values())


def test_safetensors_and_pickle_give_the_same_encoder(directory):
    from_pickle = load_paraformer(directory).encoder.state_dict()
    path = directory / PARAFORMER_DIRECTORY / "model.pt"
    save_file(torch.load(path, weights_only=True), path.with_suffix(".safetensors"))
    path.unlink()
    from_safetensors = load_paraformer(directory).encoder.state_dict()
    assert from_pickle.keys() == from_safetensors.keys()
    assert all(torch.equal(from_pickle[name], from_safetensors[name]) for name in from_pickle)


def test_onnx_initialisers_get_their_torch_names():
    tensors = read_semantic_tensors(GOLDEN / "semantic" / SEMANTIC_NAME)
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == NAMES


def test_a_missing_tensor_is_named_with_its_shape(directory):
    rewrite_weights(directory, lambda weights: weights.pop("encoder.after_norm.bias"))
    with pytest.raises(
        BundleCorrupt, match=r"model\.pt: 1 tensors are missing: encoder\.after_norm\.bias \(48,\)"
    ):
        load_paraformer(directory)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(directory):
    name = "encoder.encoders.1.norm2.weight"
    rewrite_weights(directory, lambda weights: weights.update({name: torch.zeros(7)}))
    with pytest.raises(BundleCorrupt, match=r"encoders\.1\.norm2\.weight has shape \(7,\), expected \(48,\)"):
        load_paraformer(directory)


@pytest.mark.parametrize("name", ["encoder.encoders.9.norm1.weight", "vision.weight", "after_norm.extra"])
def test_an_unknown_tensor_is_refused(directory, name):
    rewrite_weights(directory, lambda weights: weights.update({name: torch.zeros(1)}))
    with pytest.raises(BundleUnsupported, match=f"unknown tensors {name}"):
        load_paraformer(directory)


def test_tables_and_counters_are_left_on_disk(directory):
    extra = {"encoder.embed.pe": torch.zeros(1), "ctc.ctc_lo.weight": torch.zeros(1)}
    rewrite_weights(directory, lambda weights: weights.update(extra))
    load_paraformer(directory)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("output_size: 48", "output_size: wide", r"encoder_conf\.output_size is 'wide'"),
        ("  kernel_size: 11\n  sanm_shfit: 0", "  sanm_shfit: 0", r"encoder_conf\.kernel_size is None"),
        ("encoder_conf:", "other_conf:", r"encoder_conf\.input_layer is None"),
    ],
)
def test_a_damaged_configuration_names_the_key(directory, old, new, message):
    path = directory / PARAFORMER_DIRECTORY / "config.yaml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(BundleCorrupt, match=message):
        read_paraformer_config(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("encoder: SANMEncoderChunkOpt", "encoder: ConformerEncoder", "encoder is 'ConformerEncoder'"),
        ("sanm_shfit: 0", "sanm_shfit: 5", r"sanm_shfit is 5, expected 0"),
        ("window: hamming", "window: hann", "window is 'hann', expected 'hamming'"),
        ("attention_heads: 3", "attention_heads: 5", "multiple of heads = 5"),
        ("lfr_m: 7", "lfr_m: 6", "frontend_conf"),
    ],
)
def test_another_model_is_refused_by_its_configuration(directory, old, new, message):
    path = directory / PARAFORMER_DIRECTORY / "config.yaml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(BundleUnsupported, match=message):
        read_paraformer_config(path)


@pytest.mark.parametrize("name", ["config.yaml", "am.mvn", "model.pt"])
def test_a_missing_or_damaged_file_is_named(directory, name):
    path = directory / PARAFORMER_DIRECTORY / name
    path.write_bytes(b"\xff\x00 not it")
    with pytest.raises(BundleCorrupt, match=name):
        load_paraformer(directory)
    path.unlink()
    with pytest.raises(BundleCorrupt, match=name):
        load_paraformer(directory)


def test_centroids_of_another_width_are_refused(tmp_path):
    path = tmp_path / CENTROIDS_NAME
    np.save(path, np.zeros((1024, 40), np.float32))
    with pytest.raises(BundleCorrupt, match=r"shape \(1024, 40\), expected floats \(codes, 48\)"):
        read_centroids(path, 48)
    path.write_bytes(b"text")
    with pytest.raises(BundleCorrupt, match=CENTROIDS_NAME):
        read_centroids(path, 48)


def test_cmvn_of_another_width_is_refused(directory):
    (directory / PARAFORMER_DIRECTORY / "am.mvn").write_text("<AddShift> 2 2 [ 0 0 ] <Rescale> 2 2 [ 1 1 ]")
    with pytest.raises(BundleCorrupt, match=r"am\.mvn: AddShift has shape \(2,\), expected \(560,\)"):
        load_paraformer(directory)


def test_a_graph_without_a_weight_is_refused(directory):
    path = directory / SEMANTIC_NAME

    def drop(graph):
        for initializer in list(graph.initializer):
            if initializer.name == "encoders.blocks.1.attn.out.bias":
                graph.initializer.remove(initializer)

    rewrite_graph(path, drop)
    with pytest.raises(BundleCorrupt, match=r"missing: encoder\.blocks\.1\.attn\.out\.bias \(32,\)"):
        load_semantic(path, heads=2)


def test_a_graph_with_an_unknown_weight_is_refused(directory):
    path = directory / SEMANTIC_NAME
    stranger = onnx.numpy_helper.from_array(np.zeros((3, 3), np.float32), "stranger")
    rewrite_graph(path, lambda graph: graph.initializer.append(stranger))
    with pytest.raises(BundleUnsupported, match="unknown tensors stranger"):
        load_semantic(path, heads=2)


def test_a_graph_without_its_codebook_is_refused(directory):
    path = directory / SEMANTIC_NAME

    def rename(graph):
        for node in graph.node:
            if node.name.endswith("_codebook/Pow_1"):
                node.name = "/elsewhere"

    rewrite_graph(path, rename)
    with pytest.raises(BundleCorrupt, match=r"quantizer\._codebook\.embed"):
        load_semantic(path, heads=2)


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    path = tmp_path / SEMANTIC_NAME
    with pytest.raises(BundleCorrupt, match="no such file"):
        load_semantic(path)
    path.write_bytes(b"\xff\xff\xff")
    with pytest.raises(BundleCorrupt, match="not an ONNX model"):
        load_semantic(path)

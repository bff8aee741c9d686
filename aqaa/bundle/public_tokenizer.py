"""Reads the public dual-codebook tokenizer: Paraformer-online, its centroids, speech_tokenizer_v1.onnx."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from aqaa.audio.fbank import PARAFORMER, FbankOptions
from aqaa.audio.lfr import PARAFORMER_LFR, Cmvn, LfrOptions, read_cmvn
from aqaa.errors import BundleCorrupt, BundleUnsupported
from aqaa.models.linguistic import LinguisticConfig, LinguisticEncoder
from aqaa.models.semantic import SemanticConfig, SemanticEncoder

#: Where Step-Audio-Tokenizer keeps Paraformer, beside the other two files.
PARAFORMER_DIRECTORY = "dengcunqin/speech_paraformer-large_asr_nat-zh-cantonese-en-16k-vocab8501-online"
CENTROIDS_NAME = "linguistic_tokenizer.npy"
SEMANTIC_NAME = "speech_tokenizer_v1.onnx"
WEIGHT_NAMES = ("model.safetensors", "model.pt")

ENCODER_PREFIX = "encoder."

#: The rest of the recogniser, which no tokenizer needs, and entries that are no weights.
ALLOWED_EXTRA = re.compile(r"(decoder|predictor|ctc)\..*|.*\.pe|.*\.num_batches_tracked")

_HEAD_WIDTH = 64  # whisper's, at every size; an ONNX graph does not state it
_SHOWN = 5
_Network = TypeVar("_Network", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class PublicLinguistic:
    """The linguistic half: features, encoder in evaluation mode, centroids (codes, dim) float32."""

    fbank: FbankOptions
    lfr: LfrOptions
    cmvn: Cmvn
    encoder: LinguisticEncoder
    centroids: Tensor


@dataclass(frozen=True, eq=False)
class PublicTokenizer:
    """Both halves of a public tokenizer, on the CPU."""

    linguistic: PublicLinguistic
    semantic: SemanticEncoder


def load_public_tokenizer(directory: Path, *, semantic_heads: int | None = None) -> PublicTokenizer:
    """A directory laid out as ``stepfun-ai/Step-Audio-Tokenizer``.

    ``semantic_heads`` as for ``load_semantic``. Raises BundleCorrupt, BundleUnsupported.
    """
    return PublicTokenizer(
        linguistic=load_linguistic(directory / PARAFORMER_DIRECTORY, directory / CENTROIDS_NAME),
        semantic=load_semantic(directory / SEMANTIC_NAME, heads=semantic_heads),
    )


def load_linguistic(paraformer: Path, centroids: Path) -> PublicLinguistic:
    """The linguistic half: a Paraformer directory (``config.yaml``, ``am.mvn``, weights) and the centroids.

    Of the weights, ``model.safetensors`` or ``model.pt``, only ``encoder.*`` is kept.

    Raises:
        BundleCorrupt: a file is missing or damaged, or a tensor is missing or has another shape.
        BundleUnsupported: the configuration or an unknown tensor describes another model.
    """
    config, fbank, lfr = read_paraformer_config(paraformer / "config.yaml")
    width = config.input_dim
    cmvn_path = paraformer / "am.mvn"
    try:
        cmvn = read_cmvn(cmvn_path)
    except (OSError, ValueError) as error:
        raise BundleCorrupt(f"{cmvn_path}: {error}") from error
    if cmvn.shift.shape != (width,):
        raise BundleCorrupt(f"{cmvn_path}: AddShift has shape {cmvn.shift.shape}, expected ({width},)")
    path = next((paraformer / name for name in WEIGHT_NAMES if (paraformer / name).is_file()), None)
    if path is None:
        raise BundleCorrupt(f"{paraformer}: holds no weights, expected {' or '.join(WEIGHT_NAMES)}")
    stored = {k: v for k, v in _read_weights(path).items() if not ALLOWED_EXTRA.fullmatch(k)}
    if strangers := [name for name in stored if not name.startswith(ENCODER_PREFIX)]:
        raise BundleUnsupported(f"{path}: unknown tensors {_some(strangers)}")
    tensors = {name.removeprefix(ENCODER_PREFIX): tensor for name, tensor in stored.items()}
    with torch.device("meta"):
        encoder = LinguisticEncoder(config)
    return PublicLinguistic(
        fbank=fbank,
        lfr=lfr,
        cmvn=cmvn,
        encoder=_fill(encoder, tensors, path, ENCODER_PREFIX),
        centroids=read_centroids(centroids, config.dim),
    )


def read_paraformer_config(path: Path) -> tuple[LinguisticConfig, FbankOptions, LfrOptions]:
    """Sizes and features from FunASR's ``config.yaml``. The chunk rule is the tokenizer's, not in this file.

    Raises:
        BundleCorrupt: the file is missing, is not YAML, or lacks a section or key.
        BundleUnsupported: it asks for an encoder or features that this project does not have.
    """
    values = _read_yaml(path)

    def look_up(section: str, key: str, kind: type) -> Any:
        entries = values.get(section)
        value = entries.get(key) if isinstance(entries, Mapping) else None
        if type(value) is not kind:
            raise BundleCorrupt(
                f"{path}: {section}.{key} is {value!r}, expected a value of type {kind.__name__}"
            )
        return value

    required: dict[tuple[str, str], Any] = {
        ("encoder_conf", "input_layer"): "pe_online",
        ("encoder_conf", "normalize_before"): True,
        ("encoder_conf", "sanm_shfit"): 0,  # upstream's spelling
        ("encoder_conf", "selfattention_layer_type"): "sanm",
        ("frontend_conf", "window"): PARAFORMER.window,
        ("frontend_conf", "fs"): PARAFORMER.rate,
        ("frontend_conf", "frame_length"): int(PARAFORMER.frame_ms),
        ("frontend_conf", "frame_shift"): int(PARAFORMER.hop_ms),
    }
    if values.get("encoder") != "SANMEncoderChunkOpt":
        raise BundleUnsupported(f"{path}: encoder is {values.get('encoder')!r}, expected SANMEncoderChunkOpt")
    for (section, key), expected in required.items():
        if (value := look_up(section, key, type(expected))) != expected:
            raise BundleUnsupported(f"{path}: {section}.{key} is {value!r}, expected {expected!r}")
    mels = look_up("frontend_conf", "n_mels", int)
    try:
        fbank = replace(PARAFORMER, n_mels=mels)
        lfr = replace(
            PARAFORMER_LFR, m=look_up("frontend_conf", "lfr_m", int), n=look_up("frontend_conf", "lfr_n", int)
        )
    except ValueError as error:
        raise BundleUnsupported(f"{path}: frontend_conf: {error}") from error
    config = LinguisticConfig(
        dim=look_up("encoder_conf", "output_size", int),
        heads=look_up("encoder_conf", "attention_heads", int),
        ff_dim=look_up("encoder_conf", "linear_units", int),
        blocks=look_up("encoder_conf", "num_blocks", int),
        kernel_size=look_up("encoder_conf", "kernel_size", int),
        input_dim=mels * lfr.m,
        chunk_frames=lfr.chunk,
    )
    return config, fbank, lfr


def read_centroids(path: Path, dim: int) -> Tensor:
    """The k-means table (codes, dim) float32 of ``linguistic_tokenizer.npy``.

    Raises:
        BundleCorrupt: the file is missing, is not a plain array, or has another width or type.
    """
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleCorrupt(f"{path}: not a numpy array: {error}") from error
    if table.ndim != 2 or table.shape[1] != dim or table.dtype.kind != "f":
        raise BundleCorrupt(f"{path}: {table.dtype} of shape {table.shape}, expected floats (codes, {dim})")
    return torch.from_numpy(table.astype(np.float32))


def load_semantic(path: Path, *, heads: int | None = None) -> SemanticEncoder:
    """The semantic half from ``speech_tokenizer_v1.onnx``, in evaluation mode, float32.

    Sizes follow from the stored shapes, but an ONNX graph does not state its head count: ``heads`` None
    takes whisper's 64 wide heads, as in the public file.

    Raises:
        BundleCorrupt: the file is missing or damaged, or a tensor is missing or has another shape.
        BundleUnsupported: it holds tensors of another model, or the package ``onnx`` is not installed.
    """
    tensors = read_semantic_tensors(path)
    for name in ("encoder.conv1.weight", "encoder.positional_embedding", "quantizer._codebook.embed"):
        if name not in tensors:
            raise BundleCorrupt(f"{path}: no tensor named {name}")
    dim, mels, _ = _sized(tensors, "encoder.conv1.weight", 3, path)
    layers = {name.split(".")[2] for name in tensors if name.startswith("encoder.blocks.")}
    config = SemanticConfig(
        dim=dim,
        heads=heads or max(1, dim // _HEAD_WIDTH),
        layers=max(1, len(layers)),
        mels=mels,
        context=_sized(tensors, "encoder.positional_embedding", 2, path)[0],
        codes=_sized(tensors, "quantizer._codebook.embed", 2, path)[0],
    )
    with torch.device("meta"):
        encoder = SemanticEncoder(config)
    return _fill(encoder, tensors, path)


def read_semantic_tensors(path: Path) -> dict[str, Tensor]:
    """Weights of ``speech_tokenizer_v1.onnx`` under torch names, float32.

    Most initialisers have no name of their own; each is known by the node that reads it (the rule of
    S3Tokenizer's ``onnx2torch``). Matrices are stored transposed. Integers and scalars belong to the graph
    and are left out. Raises BundleCorrupt, BundleUnsupported.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise BundleUnsupported(
            f"{path}: reading ONNX needs the package onnx: pip install 'aqaa[checkpoints]'"
        ) from error
    try:
        graph = onnx.load(str(path)).graph
    except FileNotFoundError as error:
        raise BundleCorrupt(f"{path}: no such file") from error
    except Exception as error:  # protobuf's DecodeError has no stable home among its releases
        raise BundleCorrupt(f"{path}: not an ONNX model: {error}") from error
    names: dict[str, str] = {}
    for node in graph.node:
        for source in node.input:
            if (name := _torch_name(source, node.name)) is not None:
                names.setdefault(source, name)
    tensors: dict[str, Tensor] = {}
    for initializer in graph.initializer:
        array = numpy_helper.to_array(initializer)
        if array.ndim == 0 or array.dtype.kind != "f":
            continue
        name = names.get(initializer.name, initializer.name)
        if array.ndim == 2 and not name.endswith("positional_embedding"):
            array = array.T
        tensors[name] = torch.from_numpy(array.astype(np.float32, order="C"))
    return tensors


_NAMED = re.compile(r"encoders\.(conv[12]\.(?:weight|bias)|positional_embedding)")
_NODE = re.compile(r"/(blocks\.\d+)/(?:(attn_ln|mlp_ln)|attn/(query|key|value|out)|mlp/mlp\.([02]))/(\w+)")
_CODEBOOK_NODE = "/quantizer/rq/model/layers.0/_codebook/Pow_1"


def _torch_name(source: str, node: str) -> str | None:
    """The torch name of input ``source`` of ``node``, or None where the pair says nothing."""
    if named := _NAMED.fullmatch(source):
        return f"encoder.{named[1]}"
    if node == _CODEBOOK_NODE:
        return "quantizer._codebook.embed"
    if (match := _NODE.fullmatch(node)) is None:
        return None
    block, norm, projection, layer, operation = match.groups()
    if norm:
        part, kinds = norm, {"Mul": "weight", "Add_1": "bias"}
    else:
        part = f"attn.{projection}" if projection else f"mlp.{layer}"
        kinds = {"MatMul": "weight", "Add": "bias"}
    kind = kinds.get(operation)
    return None if kind is None else f"encoder.{block}.{part}.{kind}"


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise BundleCorrupt(f"{path}: not a state dict: {error}") from error
    except Exception as error:  # pickle.UnpicklingError and what an unknown class in a pickle raises
        raise BundleCorrupt(f"{path}: not a plain state dict of tensors: {error}") from error
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise BundleCorrupt(f"{path}: not a plain state dict of tensors")
    return stored


def _fill(network: _Network, tensors: Mapping[str, Tensor], path: Path, prefix: str = "") -> _Network:
    """Give ``network`` (on the meta device) its weights; every tensor must be there, and no other."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if missing := shapes.keys() - tensors.keys():
        listed = _some(f"{prefix}{name} {shapes[name]}" for name in missing)
        raise BundleCorrupt(f"{path}: {len(missing)} tensors are missing: {listed}")
    if unknown := tensors.keys() - shapes.keys():
        raise BundleUnsupported(f"{path}: unknown tensors {_some(prefix + name for name in unknown)}")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise BundleCorrupt(
                f"{path}: {prefix}{name} has shape {tuple(tensors[name].shape)}, expected {shape}"
            )
    network.load_state_dict({name: tensors[name].float() for name in shapes}, assign=True)
    return network.eval()


def _sized(tensors: Mapping[str, Tensor], name: str, axes: int, path: Path) -> tuple[int, ...]:
    if tensors[name].ndim != axes:
        raise BundleCorrupt(f"{path}: {name} has shape {tuple(tensors[name].shape)}, expected {axes} axes")
    return tuple(tensors[name].shape)


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise BundleUnsupported(
            f"{path}: reading it needs the package pyyaml: pip install 'aqaa[checkpoints]'"
        ) from error
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BundleCorrupt(f"{path}: not YAML: {error}") from error
    if not isinstance(values, Mapping):
        raise BundleCorrupt(f"{path}: holds a {type(values).__name__}, expected a mapping")
    return values


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more

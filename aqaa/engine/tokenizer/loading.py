"""A bundle's tokenizer modules as branches."""

from dataclasses import replace
from typing import Any

import torch

from aqaa.audio.fbank import PARAFORMER
from aqaa.audio.lfr import PARAFORMER_LFR, Cmvn
from aqaa.audio.whisper_mel import WHISPER
from aqaa.bundle import Bundle
from aqaa.bundle.kinds import build
from aqaa.engine.rows import keep_rows_apart
from aqaa.engine.tokenizer.branches import Branch, NanoSemanticBranch, SanmBranch, WhisperBranch
from aqaa.errors import BundleUnsupported
from aqaa.models.linguistic import LinguisticEncoder
from aqaa.models.nano_semantic import NanoSemanticEncoder
from aqaa.models.semantic import SemanticEncoder, WindowGrid


def load_linguistic(bundle: Bundle) -> SanmBranch:
    """The linguistic half; its weights hold ``encoder.*``, ``centroids``, ``cmvn.shift`` and ``cmvn.scale``.

    Raises BundleError if its files, sizes or tensors do not fit its kind.
    """
    place = "tokenizer.linguistic"
    module = bundle.manifest.modules[place]
    encoder: LinguisticEncoder = build(module.kind, module.config)
    if "weights" not in module.files:
        raise BundleUnsupported(f"bundle {bundle.root}: {place}.files lacks 'weights'")
    tensors = {name: tensor.float() for name, tensor in bundle.tensors(module.files["weights"]).items()}
    own = {name[len("encoder.") :]: t for name, t in tensors.items() if name.startswith("encoder.")}
    try:
        encoder.load_state_dict(own)
        centroids, shift, scale = tensors["centroids"], tensors["cmvn.shift"], tensors["cmvn.scale"]
    except (RuntimeError, KeyError) as error:
        raise BundleUnsupported(f"bundle {bundle.root}: {place} ({module.kind}): {error}") from error
    _check_shapes(bundle, encoder, centroids, shift, scale)
    return SanmBranch(
        fbank=replace(PARAFORMER, rate=bundle.manifest.tokenizer.sample_rate),
        lfr=replace(PARAFORMER_LFR, chunk=encoder.config.chunk_frames),
        cmvn=Cmvn(shift.numpy(), scale.numpy()),
        encoder=encoder.float().eval(),
        centroids=centroids.clone(),  # out of the mapped file, where its alignment would be the file's
    )


def _check_shapes(bundle: Bundle, encoder: LinguisticEncoder, *tables: torch.Tensor) -> None:
    config, codes = encoder.config, bundle.manifest.layout.linguistic_codes
    expected = [(codes, config.dim), (config.input_dim,), (config.input_dim,)]
    given = [tuple(table.shape) for table in tables]
    if given != expected:
        raise BundleUnsupported(
            f"bundle {bundle.root}: tokenizer.linguistic: centroids, cmvn.shift and cmvn.scale have shapes "
            f"{given}, expected {expected}"
        )


def load_semantic(bundle: Bundle) -> Branch[Any]:
    """The semantic half, with windows as long as the manifest's hop.

    Raises BundleError if its files, sizes or tensors do not fit its kind.
    """
    section = bundle.manifest.tokenizer
    network = bundle.network("tokenizer.semantic")
    mel = replace(WHISPER, rate=section.sample_rate)
    hop_frames = section.hop_samples // mel.hop
    if isinstance(network, NanoSemanticEncoder):
        sizes = network.config
        keep_rows_apart(network)
        return NanoSemanticBranch(network, replace(mel, n_mels=sizes.n_mels, floor=sizes.floor), hop_frames)
    if isinstance(network, SemanticEncoder):
        return WhisperBranch(network, replace(mel, n_mels=network.config.mels), WindowGrid(hop=hop_frames))
    raise BundleUnsupported(
        f"bundle {bundle.root}: no streaming form of tokenizer.semantic kind {section.semantic.kind!r}"
    )

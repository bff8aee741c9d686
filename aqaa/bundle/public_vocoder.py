"""Reads a public CosyVoice v1 vocoder directory: ``cosyvoice.yaml``, ``flow.pt`` and ``hift.pt``."""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from aqaa.bundle.cosyvoice_yaml import Section, read_cosyvoice_yaml
from aqaa.errors import BundleCorrupt, BundleUnsupported
from aqaa.models.flow import Flow, FlowConfig, MatchingConfig
from aqaa.models.flow_conformer import ConformerConfig
from aqaa.models.flow_unet import UnetConfig
from aqaa.models.hift import HiftConfig, HiftGenerator, ResidualConfig
from aqaa.models.source import SourceConfig

CONFIG_NAME = "cosyvoice.yaml"
FLOW_NAME = "flow.pt"
HIFT_NAME = "hift.pt"

#: Some files hold the whole training module; the generator's tensors then carry this prefix.
GENERATOR_PREFIX = "generator."

#: Entries that hold no weight of the network: counters, tables this code computes, the training critic.
ALLOWED_EXTRA = re.compile(
    r"epoch|step|.*\.pe|.*\.num_batches_tracked|stft_window|(discriminator|mpd|mrd)\..*"
)

#: What the reference divides by where the file does not say.
DEFAULT_HOP = 256

_SHOWN = 5
_Model = TypeVar("_Model", bound=nn.Module)


@dataclass(frozen=True)
class PublicVocoder:
    """Both halves in evaluation mode on the CPU, float32; ``hift`` with its weights folded."""

    flow: Flow
    hift: HiftGenerator

    @property
    def sample_rate(self) -> int:
        """Hz of the waveform."""
        return self.hift.config.source.sample_rate


def flow_config(document: Section) -> FlowConfig:
    """The ``flow`` section of ``cosyvoice.yaml``.

    Raises:
        BundleUnsupported: another class than the v1 flow's, an unknown option, or a value with no code here.
    """
    flow = document.section("flow", "MaskedDiffWithXvec")
    flow.require(output_type="mel")
    flow.ignore("only_mask_loss")
    mel_bins = flow.integer("output_size")
    regulator = flow.section("length_regulator", "InterpolateRegulator")
    regulator.require(channels=mel_bins)
    unet, matching = _decoder_configs(flow.section("decoder", "ConditionalCFM"), mel_bins)
    config = FlowConfig(
        vocab_size=flow.integer("vocab_size"),
        token_rate=flow.number("input_frame_rate"),
        sample_rate=document.integer("sample_rate"),
        hop=_mel_hop(document),
        mel_bins=mel_bins,
        speaker_size=flow.integer("spk_embed_dim"),
        regulator_convs=len(regulator.integers("sampling_ratios")),
        encoder=_conformer_config(flow.section("encoder", "ConformerEncoder"), flow.integer("input_size")),
        unet=unet,
        matching=matching,
    )
    regulator.finish()
    flow.finish()
    return config


def hift_config(document: Section) -> HiftConfig:
    """The ``hift`` section of ``cosyvoice.yaml``.

    Raises:
        BundleUnsupported: another class than HiFT's, an unknown option, or a value with no code here.
    """
    hift = document.section("hift", "HiFTGenerator")
    stft = hift.section("istft_params")
    predictor = hift.section("f0_predictor", "ConvRNNF0Predictor")
    mel_bins = hift.integer("in_channels")
    predictor.require(num_class=1, in_channels=mel_bins)
    config = HiftConfig(
        mel_bins=mel_bins,
        base_channels=hift.integer("base_channels"),
        source=SourceConfig(
            sample_rate=hift.integer("sampling_rate"),
            harmonics=hift.integer("nb_harmonics"),
            sine_amplitude=hift.number("nsf_alpha"),
            noise_std=hift.number("nsf_sigma"),
            voiced_threshold=hift.number("nsf_voiced_threshold"),
        ),
        upsample_rates=hift.integers("upsample_rates"),
        upsample_kernels=hift.integers("upsample_kernel_sizes"),
        n_fft=stft.integer("n_fft"),
        stft_hop=stft.integer("hop_len"),
        blocks=_blocks(hift, ""),
        source_blocks=_blocks(hift, "source_"),
        f0_channels=predictor.integer("cond_channels"),
        leaky_slope=hift.number("lrelu_slope"),
        audio_limit=hift.number("audio_limit"),
    )
    for section in (hift, stft, predictor):
        section.finish()
    return config


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pt`` state dict, on the CPU, the optional ``generator.`` prefix taken off.

    Only tensors and plain containers are unpickled. Raises BundleCorrupt for anything else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BundleCorrupt(f"{path}: no such file") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise BundleCorrupt(f"{path}: not a plain state dict: {error}") from error
    if not isinstance(content, Mapping):
        raise BundleCorrupt(f"{path}: holds a {type(content).__name__}, expected name → tensor")
    weights = {str(name).removeprefix(GENERATOR_PREFIX): value for name, value in content.items()}
    others = [name for name, value in weights.items() if not isinstance(value, Tensor)]
    if odd := [name for name in others if not ALLOWED_EXTRA.fullmatch(name)]:
        raise BundleCorrupt(f"{path}: {len(odd)} entries are no tensors: {_some(odd)}")
    return {name: value for name, value in weights.items() if name not in others}


def install_weights(model: _Model, weights: Mapping[str, Tensor], origin: str) -> _Model:
    """Give a model (it may lie on the meta device) these tensors as float32, and evaluation mode.

    Raises:
        BundleCorrupt: a tensor that the model needs is missing or has another shape; ``origin`` is named.
        BundleUnsupported: tensors that neither the model nor ``ALLOWED_EXTRA`` knows.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if missing := [f"{name} {wanted[name]}" for name in wanted if name not in weights]:
        raise BundleCorrupt(f"{origin}: {len(missing)} tensors are missing: {_some(missing)}")
    unknown = [name for name in weights if name not in wanted and not ALLOWED_EXTRA.fullmatch(name)]
    if unknown:
        raise BundleUnsupported(f"{origin}: {len(unknown)} unknown entries: {_some(unknown)}")
    misshapen = [
        f"{name} {tuple(weights[name].shape)}, expected {shape}"
        for name, shape in wanted.items()
        if tuple(weights[name].shape) != shape
    ]
    if misshapen:
        raise BundleCorrupt(f"{origin}: {len(misshapen)} tensors of another shape: {_some(misshapen)}")
    model.load_state_dict({name: weights[name].float() for name in wanted}, assign=True)
    return model.eval()


def load_flow(directory: Path) -> Flow:
    """The flow of a public directory, float32 (``.to(torch.bfloat16)`` gives the reference's precision)."""
    config = flow_config(read_cosyvoice_yaml(directory / CONFIG_NAME))
    with torch.device("meta"):
        flow = Flow(config)
    return install_weights(flow, read_weights(directory / FLOW_NAME), str(directory / FLOW_NAME))


def load_hift(directory: Path, *, fold: bool = True) -> HiftGenerator:
    """The wave head of a public directory, float32; ``fold=False`` keeps weight normalisation."""
    config = hift_config(read_cosyvoice_yaml(directory / CONFIG_NAME))
    with torch.device("meta"):
        hift = HiftGenerator(config)
    install_weights(hift, read_weights(directory / HIFT_NAME), str(directory / HIFT_NAME))
    return hift.folded() if fold else hift


def load_public_vocoder(directory: Path) -> PublicVocoder:
    """Both halves of a public directory; raises BundleUnsupported if their mels do not fit together."""
    flow, hift = load_flow(directory), load_hift(directory)
    ours = flow.config.sample_rate, flow.config.hop, flow.config.mel_bins
    theirs = hift.config.source.sample_rate, hift.config.hop, hift.config.mel_bins
    if ours != theirs:
        raise BundleUnsupported(
            f"{directory}: the flow's mel (rate, hop, bins) is {ours}, the wave head's {theirs}"
        )
    return PublicVocoder(flow, hift)


def _conformer_config(encoder: Section, input_size: int) -> ConformerConfig:
    encoder.require(
        input_size=input_size,
        normalize_before=True,
        input_layer="linear",
        pos_enc_layer_type="rel_pos_espnet",
        selfattention_layer_type="rel_selfattn",
        use_cnn_module=False,
        macaron_style=False,
    )
    config = ConformerConfig(
        input_size=input_size,
        output_size=encoder.integer("output_size"),
        heads=encoder.integer("attention_heads"),
        linear_units=encoder.integer("linear_units"),
        blocks=encoder.integer("num_blocks"),
        dropout=encoder.number("dropout_rate", 0.0),
        positional_dropout=encoder.number("positional_dropout_rate", 0.0),
        attention_dropout=encoder.number("attention_dropout_rate", 0.0),
    )
    encoder.finish()
    return config


def _decoder_configs(decoder: Section, mel_bins: int) -> tuple[UnetConfig, MatchingConfig]:
    # State, prior, speaker and prompt condition are laid side by side.
    decoder.require(n_spks=1, spk_emb_dim=mel_bins, in_channels=3 * mel_bins)
    estimator = decoder.section("estimator", "ConditionalDecoder")
    estimator.require(in_channels=4 * mel_bins, out_channels=mel_bins, act_fn="gelu")
    unet = UnetConfig(
        in_channels=4 * mel_bins,
        out_channels=mel_bins,
        channels=estimator.integers("channels"),
        heads=estimator.integer("num_heads"),
        head_dim=estimator.integer("attention_head_dim"),
        blocks=estimator.integer("n_blocks"),
        mid_blocks=estimator.integer("num_mid_blocks"),
        dropout=estimator.number("dropout", 0.0),
    )
    settings = decoder.section("cfm_params", "DictConfig").section("content")
    settings.require(solver="euler", t_scheduler="cosine")
    settings.ignore("reg_loss_type")
    matching = MatchingConfig(
        sigma_min=settings.number("sigma_min"),
        training_cfg_rate=settings.number("training_cfg_rate"),
        inference_cfg_rate=settings.number("inference_cfg_rate"),
    )
    for section in (estimator, settings, decoder):
        section.finish()
    return unet, matching


def _blocks(hift: Section, prefix: str) -> tuple[ResidualConfig, ...]:
    kernels = hift.integers(f"{prefix}resblock_kernel_sizes")
    dilations = hift.integer_lists(f"{prefix}resblock_dilation_sizes")
    if len(kernels) != len(dilations):
        raise BundleUnsupported(
            f"{hift.path}: {len(kernels)} {prefix}resblock_kernel_sizes but {len(dilations)} dilation lists"
        )
    return tuple(ResidualConfig(kernel, each) for kernel, each in zip(kernels, dilations, strict=True))


def _mel_hop(document: Section) -> int:
    """Samples a mel frame, from the feature extractor or the wave head, whichever the file describes."""
    if "feat_extractor" in document:
        return document.section("feat_extractor", "mel_spectrogram").integer("hop_size")
    if "hift" in document:
        return hift_config(document).hop
    return DEFAULT_HOP


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

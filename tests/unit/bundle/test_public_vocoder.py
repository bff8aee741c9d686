"""Public vocoder directories: full-size names and shapes, tolerant prefixes, refusals that name the fault."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from aqaa.bundle.cosyvoice_yaml import read_cosyvoice_yaml
from aqaa.bundle.public_vocoder import (
    flow_config,
    hift_config,
    load_flow,
    load_hift,
    load_public_vocoder,
    read_weights,
)
from aqaa.errors import BundleCorrupt, BundleUnsupported
from aqaa.models.flow import Flow
from aqaa.models.hift import HiftGenerator

GOLDEN = Path(__file__).parents[2] / "golden"

FULL_SIZE = """
__set_seed1: !apply:random.seed [1986]
sample_rate: 22050
text_encoder_input_size: 512
spk_embed_dim: 192

flow: !new:cosyvoice.flow.flow.MaskedDiffWithXvec
    input_size: 512
    output_size: 80
    spk_embed_dim: !ref <spk_embed_dim>
    output_type: 'mel'
    vocab_size: 5120
    input_frame_rate: 41.667
    only_mask_loss: True
    encoder: !new:cosyvoice.transformer.encoder.ConformerEncoder
        output_size: 512
        attention_heads: 8
        linear_units: 2048
        num_blocks: 6
        dropout_rate: 0.1
        positional_dropout_rate: 0.1
        attention_dropout_rate: 0.1
        normalize_before: True
        input_layer: 'linear'
        pos_enc_layer_type: 'rel_pos_espnet'
        selfattention_layer_type: 'rel_selfattn'
        input_size: 512
        use_cnn_module: False
        macaron_style: False
    length_regulator: !new:cosyvoice.flow.length_regulator.InterpolateRegulator
        channels: 80
        sampling_ratios: [1, 1, 1, 1]
    decoder: !new:cosyvoice.flow.flow_matching.ConditionalCFM
        in_channels: 240
        n_spks: 1
        spk_emb_dim: 80
        cfm_params: !new:omegaconf.DictConfig
            content:
                sigma_min: 1e-06
                solver: 'euler'
                t_scheduler: 'cosine'
                training_cfg_rate: 0.2
                inference_cfg_rate: 0.7
                reg_loss_type: 'l1'
        estimator: !new:cosyvoice.flow.decoder.ConditionalDecoder
            in_channels: 320
            out_channels: 80
            channels: [256, 256]
            dropout: 0.0
            attention_head_dim: 64
            n_blocks: 4
            num_mid_blocks: 12
            num_heads: 8
            act_fn: 'gelu'

hift: !new:cosyvoice.hifigan.generator.HiFTGenerator
    in_channels: 80
    base_channels: 512
    nb_harmonics: 8
    sampling_rate: !ref <sample_rate>
    nsf_alpha: 0.1
    nsf_sigma: 0.003
    nsf_voiced_threshold: 10
    upsample_rates: [8, 8]
    upsample_kernel_sizes: [16, 16]
    istft_params:
        n_fft: 16
        hop_len: 4
    resblock_kernel_sizes: [3, 7, 11]
    resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
    source_resblock_kernel_sizes: [7, 11]
    source_resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5]]
    lrelu_slope: 0.1
    audio_limit: 0.99
    f0_predictor: !new:cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor
        num_class: 1
        in_channels: 80
        cond_channels: 512

feat_extractor: !name:matcha.utils.audio.mel_spectrogram
    n_fft: 1024
    num_mels: 80
    sampling_rate: !ref <sample_rate>
    hop_size: 256
    win_size: 1024
    fmin: 0
    fmax: 8000
    center: False
"""


@pytest.fixture
def full_size(tmp_path: Path) -> Path:
    path = tmp_path / "cosyvoice.yaml"
    path.write_text(FULL_SIZE)
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A public directory: the small flow and the small wave head, described by one file."""
    flow_text = (GOLDEN / "flow" / "cosyvoice.yaml").read_text()
    hift_text = (GOLDEN / "hift" / "cosyvoice.yaml").read_text()
    (tmp_path / "cosyvoice.yaml").write_text(flow_text + hift_text[hift_text.index("hift:") :])
    shutil.copy(GOLDEN / "flow" / "flow.pt", tmp_path)
    shutil.copy(GOLDEN / "hift" / "hift.pt", tmp_path)
    return tmp_path


def listed_shapes(name: str) -> dict[str, tuple[int, ...]]:
    rows = (line.split("\t") for line in (GOLDEN / "keys" / name).read_text().splitlines())
    return {key: tuple(int(size) for size in shape.split("x")) for key, shape in rows}


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def change_weights(path: Path, change: dict[str, object], without: str | None = None) -> None:
    weights = torch.load(path, weights_only=True)
    torch.save({name: value for name, value in {**weights, **change}.items() if name != without}, path)


class TestFullSize:
    def test_flow_has_the_public_names_and_shapes(self, full_size: Path) -> None:
        with torch.device("meta"):
            flow = Flow(flow_config(read_cosyvoice_yaml(full_size)))
        assert shapes(flow) == listed_shapes("keys_flow_5120.tsv")
        assert sum(tensor.numel() for tensor in flow.state_dict().values()) == 105_399_040

    def test_hift_has_the_public_names_and_shapes(self, full_size: Path) -> None:
        with torch.device("meta"):
            hift = HiftGenerator(hift_config(read_cosyvoice_yaml(full_size)))
        assert shapes(hift) == listed_shapes("keys_hift.tsv")
        assert sum(tensor.numel() for tensor in hift.state_dict().values()) == 20_460_591

    def test_rates(self, full_size: Path) -> None:
        document = read_cosyvoice_yaml(full_size)
        flow, hift = flow_config(document), hift_config(document)
        assert flow.token_rate == 41.667
        assert flow.hop == hift.hop == 256
        assert flow.matching.sigma_min == 1e-6
        assert flow.unet.stride == 2


class TestLoading:
    def test_both_halves(self, directory: Path) -> None:
        vocoder = load_public_vocoder(directory)
        assert vocoder.sample_rate == 22050
        assert not vocoder.flow.training
        assert not vocoder.hift.training
        assert not any(name.endswith("weight_g") for name in vocoder.hift.state_dict())
        mel = vocoder.flow.synthesize(
            torch.tensor([[1, 2, 1024, 1025, 1026]]),
            torch.zeros(1, 0, dtype=torch.long),
            torch.zeros(1, 80, 0),
            torch.ones(1, 192),
            torch.zeros(1, 80, vocoder.flow.config.mel_frames(5)),
            steps=1,
        )
        with torch.inference_mode():
            wave = vocoder.hift(mel, torch.zeros(1, 9), torch.zeros(1, 9, 10 * 256))
        assert wave.shape == (1, 10 * 256)

    def test_weights_are_the_files(self, directory: Path) -> None:
        stored = torch.load(directory / "flow.pt", weights_only=True)
        loaded = load_flow(directory).state_dict()
        assert loaded.keys() == stored.keys()
        assert all(torch.equal(loaded[name], stored[name]) for name in stored)

    def test_half_precision_files_load_as_float32(self, directory: Path) -> None:
        weights = torch.load(directory / "flow.pt", weights_only=True)
        torch.save({name: tensor.bfloat16() for name, tensor in weights.items()}, directory / "flow.pt")
        assert {tensor.dtype for tensor in load_flow(directory).state_dict().values()} == {torch.float32}

    def test_weights_of_a_whole_training_module(self, directory: Path) -> None:
        """Prefixed tensors beside a critic and counters give the same wave head."""
        path = directory / "hift.pt"
        plain = torch.load(path, weights_only=True)
        prefixed: dict[str, object] = {f"generator.{name}": tensor for name, tensor in plain.items()}
        critic = {
            "discriminator.convs.0.weight": torch.zeros(3),
            "epoch": 4,
            "step": 70,
            "stft_window": torch.ones(16),
        }
        torch.save(prefixed | critic, path)
        loaded = load_hift(directory, fold=False).state_dict()
        assert all(torch.equal(loaded[name], plain[name]) for name in plain)


class TestRefusals:
    def test_missing_tensor(self, directory: Path) -> None:
        change_weights(directory / "flow.pt", {}, without="encoder_proj.bias")
        with pytest.raises(BundleCorrupt, match=r"flow.pt: 1 tensors are missing: encoder_proj.bias \(80,\)"):
            load_flow(directory)

    def test_many_missing_tensors_are_counted(self, directory: Path) -> None:
        torch.save({"conv_pre.bias": torch.zeros(32)}, directory / "hift.pt")
        with pytest.raises(BundleCorrupt, match=r"226 tensors are missing: .* and 221 more"):
            load_hift(directory)

    def test_another_shape(self, directory: Path) -> None:
        change_weights(directory / "flow.pt", {"encoder_proj.bias": torch.zeros(79)})
        with pytest.raises(BundleCorrupt, match=r"encoder_proj.bias \(79,\), expected \(80,\)"):
            load_flow(directory)

    def test_unknown_tensor(self, directory: Path) -> None:
        change_weights(directory / "flow.pt", {"encoder.up_layer.weight": torch.zeros(2)})
        with pytest.raises(BundleUnsupported, match=r"1 unknown entries: encoder.up_layer.weight"):
            load_flow(directory)

    def test_missing_file(self, directory: Path) -> None:
        (directory / "flow.pt").unlink()
        with pytest.raises(BundleCorrupt, match=r"flow.pt: no such file"):
            load_flow(directory)

    @pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"])
    def test_torn_file(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "flow.pt"
        path.write_bytes(content)
        with pytest.raises(BundleCorrupt, match="not a plain state dict"):
            read_weights(path)

    def test_pickled_objects_are_not_built(self, tmp_path: Path) -> None:
        path = tmp_path / "flow.pt"
        torch.save({"module": nn.Linear(1, 1)}, path)
        with pytest.raises(BundleCorrupt, match="not a plain state dict"):
            read_weights(path)

    def test_other_containers_and_entries(self, tmp_path: Path) -> None:
        path = tmp_path / "flow.pt"
        torch.save([torch.zeros(1)], path)
        with pytest.raises(BundleCorrupt, match="holds a list"):
            read_weights(path)
        torch.save({"model": {"weight": torch.zeros(1)}}, path)
        with pytest.raises(BundleCorrupt, match="1 entries are no tensors: model"):
            read_weights(path)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("MaskedDiffWithXvec", "CausalMaskedDiffWithXvec", "expected a MaskedDiffWithXvec"),
            ("use_cnn_module: False", "use_cnn_module: True", "use_cnn_module is True, expected False"),
            ("solver: 'euler'", "solver: 'midpoint'", "solver is 'midpoint', expected 'euler'"),
            ("channels: 80\n", "channels: 64\n", "channels is 64, expected 80"),
            ("act_fn: 'gelu'", "act_fn: 'gelu'\n            causal: true", "does not know: causal"),
            ("        output_size: 24\n", "", "no key 'output_size'"),
        ],
    )
    def test_flow_options_without_code(self, directory: Path, old: str, new: str, message: str) -> None:
        edit(directory / "cosyvoice.yaml", old, new)
        with pytest.raises(BundleUnsupported, match=message):
            load_flow(directory)

    def test_hift_lists_of_unequal_length(self, directory: Path) -> None:
        edit(
            directory / "cosyvoice.yaml",
            "source_resblock_kernel_sizes: [7, 11]",
            "source_resblock_kernel_sizes: [7]",
        )
        with pytest.raises(BundleUnsupported, match="1 source_resblock_kernel_sizes but 2 dilation lists"):
            load_hift(directory)

    def test_halves_that_do_not_fit(self, directory: Path) -> None:
        edit(directory / "cosyvoice.yaml", "sampling_rate: !ref <sample_rate>", "sampling_rate: 24000")
        with pytest.raises(
            BundleUnsupported, match=r"\(22050, 256, 80\), the wave head's \(24000, 256, 80\)"
        ):
            load_public_vocoder(directory)

"""HiFT reproduces the reference's stored values, folds its weights, and needs finite context only."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from aqaa.bundle.public_vocoder import load_hift
from aqaa.models.hift import HiftConfig, HiftGenerator, fold_weight_norm
from aqaa.models.source import PhaseState, harmonic_source, to_turns

GOLDEN = Path(__file__).parents[2] / "golden" / "hift"
CONTEXT = 20  # mel frames that streaming recomputes on each side


class Vectors:
    """The stored inputs and expectations, as tensors."""

    def __init__(self) -> None:
        with np.load(GOLDEN / "inputs.npz") as inputs, np.load(GOLDEN / "expected.npz") as expected:
            self.given = {key: torch.from_numpy(inputs[key]) for key in inputs.files}
            self.expected = {key: torch.from_numpy(expected[key]) for key in expected.files}
        # The reference draws a phase for the fundamental and then zeroes it.
        self.phase = self.given["phase_vec"][:, :, 0].clone()
        self.phase[:, 0] = 0

    def assert_close(self, actual: Tensor, key: str, tolerance: float) -> None:
        expected = self.expected[key]
        torch.testing.assert_close(actual.detach().reshape(expected.shape), expected, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return Vectors()


@pytest.fixture(scope="module", params=["folded", "weight_norm"])
def hift(request: pytest.FixtureRequest) -> HiftGenerator:
    return load_hift(GOLDEN, fold=request.param == "folded")


class TestGolden:
    def test_f0(self, hift: HiftGenerator, vectors: Vectors) -> None:
        f0 = hift.f0(vectors.given["mel"])
        vectors.assert_close(f0, "f0", 2e-3)
        assert (f0 <= hift.config.source.voiced_threshold).any(), "the case must hold unvoiced frames"

    def test_source_and_whole_inference(self, hift: HiftGenerator, vectors: Vectors) -> None:
        mel, noise = vectors.given["mel"], vectors.given["sine_noise"]
        vectors.assert_close(hift.source(hift.f0(mel), vectors.phase, noise), "s", 5e-3)
        vectors.assert_close(hift(mel, vectors.phase, noise), "wav_full", 5e-3)

    def test_zero_phase_and_noise(self, hift: HiftGenerator, vectors: Vectors) -> None:
        mel = vectors.given["mel"]
        phase, noise = torch.zeros_like(vectors.phase), torch.zeros_like(vectors.given["sine_noise"])
        vectors.assert_close(hift.source(hift.f0(mel), phase, noise), "s_zero", 5e-3)
        vectors.assert_close(hift(mel, phase, noise), "wav_zero", 5e-3)

    def test_filter_from_a_given_source(self, hift: HiftGenerator, vectors: Vectors) -> None:
        mel, source = vectors.given["mel"], vectors.given["s_given"]
        spectrum = hift.spectrum(mel, source)
        vectors.assert_close(hift.source_stft(source), "s_stft", 1e-5)
        vectors.assert_close(spectrum.magnitude, "magnitude", 1e-3)
        vectors.assert_close(spectrum.phase, "phase_after_sin", 1e-4)
        vectors.assert_close(hift.decode(mel, source), "wav_from_s", 1e-4)

    def test_inverse_stft(self, hift: HiftGenerator, vectors: Vectors) -> None:
        real, imaginary = vectors.expected["s_stft"].chunk(2, dim=1)
        polar = torch.complex(real, imaginary)
        vectors.assert_close(hift.inverse_stft(polar.abs(), polar.angle()), "istft_of_s_stft", 1e-5)

    @torch.inference_mode()
    def test_integer_source_is_the_reference_in_float64(self, vectors: Vectors) -> None:
        """From the same F0 it differs from the reference's float64 run by no more than float32 output."""
        hift = load_hift(GOLDEN, fold=False)
        mel = vectors.given["mel"]
        merge = hift.m_source.l_linear
        f0 = copy.deepcopy(hift).double().f0(mel.double())
        source, _ = harmonic_source(
            f0[0].numpy().repeat(hift.config.hop),
            vectors.given["sine_noise"][0].numpy(),
            to_turns(vectors.phase[0].numpy()),
            merge.weight[0].numpy(),
            merge.bias.item(),
            hift.config.source,
            PhaseState(),
        )
        np.testing.assert_allclose(source, vectors.expected["s_fp64"][0, 0].numpy(), rtol=0, atol=1e-6)
        vectors.assert_close(hift.decode(mel, torch.from_numpy(source)[None, None]), "wav_full", 5e-3)


class TestWeightNorm:
    def test_folding_leaves_plain_weights(self) -> None:
        normed = load_hift(GOLDEN, fold=False)
        folded = fold_weight_norm(normed.state_dict())
        assert not any(name.endswith(("weight_g", "weight_v")) for name in folded)
        assert folded.keys() == normed.folded().state_dict().keys()

    def test_a_fresh_generator_trains(self) -> None:
        """Gradients reach both halves of every normalised weight, and a step changes the sound."""
        torch.manual_seed(0)
        config = load_hift(GOLDEN).config
        hift = HiftGenerator(config)
        mel = torch.randn(1, config.mel_bins, 8)
        phase, noise = torch.zeros(1, config.source.sines), torch.randn(1, config.source.sines, 8 * 256)
        hift(mel, phase, noise).square().mean().backward()
        for name, parameter in hift.named_parameters():
            # F0 reaches the waveform through a phase that wraps, yet its slope is defined.
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


class TestContext:
    def test_a_window_with_context_equals_the_whole(self, vectors: Vectors) -> None:
        """Streaming recomputes 20 frames on each side, crops, and hears no difference."""
        hift = load_hift(GOLDEN)
        hop = hift.config.hop
        generator = torch.Generator().manual_seed(11)
        mel = torch.randn(1, hift.config.mel_bins, 70, generator=generator)
        source = 0.1 * torch.randn(1, 1, 70 * hop, generator=generator)
        whole = hift.decode(mel, source)
        start, end = 25, 45
        left, right = start - CONTEXT, end + CONTEXT
        window = hift.decode(mel[:, :, left:right], source[:, :, left * hop : right * hop])
        torch.testing.assert_close(
            window[:, (start - left) * hop : (end - left) * hop],
            whole[:, start * hop : end * hop],
            rtol=0,
            atol=1e-5,
        )

    def test_the_start_needs_no_left_context(self) -> None:
        hift = load_hift(GOLDEN)
        hop = hift.config.hop
        generator = torch.Generator().manual_seed(12)
        mel = torch.randn(1, hift.config.mel_bins, 50, generator=generator)
        source = 0.1 * torch.randn(1, 1, 50 * hop, generator=generator)
        window = hift.decode(mel[:, :, :30], source[:, :, : 30 * hop])
        torch.testing.assert_close(
            window[:, : 10 * hop], hift.decode(mel, source)[:, : 10 * hop], rtol=0, atol=1e-5
        )


class TestContract:
    def test_source_must_match_the_mel(self) -> None:
        hift = load_hift(GOLDEN)
        with pytest.raises(ValueError, match="3 mel frames need 768 source samples, got 700"):
            hift.decode(torch.zeros(1, 80, 3), torch.zeros(1, 1, 700))

    def test_samples_stay_within_the_limit(self) -> None:
        hift = load_hift(GOLDEN)
        generator = torch.Generator().manual_seed(2)
        mel = 30 * torch.randn(1, 80, 6, generator=generator)
        wave = hift.decode(mel, torch.randn(1, 1, 6 * 256, generator=generator))
        assert wave.abs().max() <= hift.config.audio_limit

    def test_every_upsampling_needs_its_kernel(self) -> None:
        config = load_hift(GOLDEN).config
        fields = {name: getattr(config, name) for name in config.__dataclass_fields__}
        with pytest.raises(ValueError, match="2 upsample_rates need as many"):
            HiftConfig(**{**fields, "upsample_kernels": (16,)})

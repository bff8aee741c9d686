"""HiFT: mel frames to a waveform by a harmonic source, a residual filter network and an inverse STFT.

Source: CosyVoice v1 ``hifigan.generator.HiFTGenerator`` and ``hifigan.f0_predictor`` (HiFTNet, Li 2023).
Tensor names are upstream's, weight normalisation in its old form (``weight_g``, ``weight_v``) included;
``fold_weight_norm`` turns it into plain weights for inference. Phases and noise are arguments, and the STFT
window is made where it is used, so the model builds on any device.

Legend: B batch, F mel bins, C channels, T mel frames, S samples, J frames of the source STFT, H harmonics.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aqaa.models.source import SourceConfig

_MAGNITUDE_LIMIT = 100.0  # upstream's bound on a bin before the inverse STFT


@dataclass(frozen=True)
class ResidualConfig:
    """One residual block: its kernel and the dilation of each of its convolution pairs."""

    kernel: int
    dilations: tuple[int, ...]


@dataclass(frozen=True)
class HiftConfig:
    """Sizes of one generator. Each entry of ``upsample_rates`` halves the channels.

    ``blocks`` follow every upsampling in parallel; ``source_blocks`` has one entry an upsampling.
    """

    mel_bins: int
    base_channels: int
    source: SourceConfig
    upsample_rates: tuple[int, ...]
    upsample_kernels: tuple[int, ...]
    n_fft: int
    stft_hop: int
    blocks: tuple[ResidualConfig, ...]
    source_blocks: tuple[ResidualConfig, ...]
    f0_channels: int
    leaky_slope: float
    audio_limit: float

    def __post_init__(self) -> None:
        ups = len(self.upsample_rates)
        if len(self.upsample_kernels) != ups or len(self.source_blocks) != ups:
            raise ValueError(
                f"{ups} upsample_rates need as many upsample_kernels and source_blocks, "
                f"got {len(self.upsample_kernels)} and {len(self.source_blocks)}"
            )

    @property
    def hop(self) -> int:
        """Samples per mel frame."""
        return math.prod(self.upsample_rates) * self.stft_hop

    @property
    def bins(self) -> int:
        """Bins of the STFT."""
        return self.n_fft // 2 + 1


class _WeightNorm(nn.Module):
    """A kernel kept as direction (``weight_v``) and length (``weight_g``) along its first axis."""

    def __init__(self, shape: tuple[int, int, int], out_channels: int) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(torch.empty(shape).normal_(0.0, 0.01))
        self.weight_g = nn.Parameter(_length(self.weight_v.detach()))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    @property
    def weight(self) -> Tensor:
        return _folded(self.weight_g, self.weight_v)


class NormedConv1d(_WeightNorm):
    """Weight-normalised ``nn.Conv1d`` with stride 1."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, *, padding: int, dilation: int = 1
    ) -> None:
        super().__init__((channels, in_channels, kernel), channels)
        self.padding, self.dilation = padding, dilation

    def forward(self, x_BCT: Tensor) -> Tensor:
        return F.conv1d(x_BCT, self.weight, self.bias, padding=self.padding, dilation=self.dilation)


class NormedConvTranspose1d(_WeightNorm):
    """Weight-normalised ``nn.ConvTranspose1d``; the norm runs along its input channels."""

    def __init__(self, in_channels: int, channels: int, kernel: int, *, stride: int, padding: int) -> None:
        super().__init__((in_channels, channels, kernel), channels)
        self.stride, self.padding = stride, padding

    def forward(self, x_BCT: Tensor) -> Tensor:
        return F.conv_transpose1d(x_BCT, self.weight, self.bias, stride=self.stride, padding=self.padding)


def _length(weight_v: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(weight_v, dim=(1, 2), keepdim=True)
    return length


def _folded(weight_g: Tensor, weight_v: Tensor) -> Tensor:
    return weight_v * (weight_g / _length(weight_v))


def fold_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace each ``X.weight_g`` and ``X.weight_v`` of a state dict by the ``X.weight`` they stand for."""
    folded: dict[str, Tensor] = {}
    for name, tensor in state.items():
        stem, _, leaf = name.rpartition(".")
        if leaf == "weight_v":
            folded[f"{stem}.weight"] = _folded(state[f"{stem}.weight_g"], tensor)
        elif leaf != "weight_g":
            folded[name] = tensor
    return folded


class Snake(nn.Module):
    """``x + sin²(alpha x) / alpha`` with one alpha a channel (Ziyin et al. 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x_BCT: Tensor) -> Tensor:
        alpha = self.alpha[:, None]
        return x_BCT + torch.sin(x_BCT * alpha).square() / (alpha + 1e-9)


class _Builder:
    """Makes convolutions in the form the checkpoint has: weight-normalised, or plain once folded."""

    def __init__(self, normed: bool) -> None:
        self.normed = normed

    def conv(self, in_channels: int, channels: int, kernel: int, dilation: int = 1) -> nn.Module:
        padding = (kernel - 1) * dilation // 2
        if self.normed:
            return NormedConv1d(in_channels, channels, kernel, padding=padding, dilation=dilation)
        return nn.Conv1d(in_channels, channels, kernel, padding=padding, dilation=dilation)

    def upsample(self, in_channels: int, channels: int, kernel: int, rate: int) -> nn.Module:
        padding = (kernel - rate) // 2
        if self.normed:
            return NormedConvTranspose1d(in_channels, channels, kernel, stride=rate, padding=padding)
        return nn.ConvTranspose1d(in_channels, channels, kernel, stride=rate, padding=padding)


class ResidualBlock(nn.Module):
    """Pairs of snake and convolution, the first of each pair dilated, each pair with its residual."""

    def __init__(self, channels: int, config: ResidualConfig, build: _Builder) -> None:
        super().__init__()
        kernel, dilations = config.kernel, config.dilations
        self.convs1 = nn.ModuleList(
            build.conv(channels, channels, kernel, dilation) for dilation in dilations
        )
        self.convs2 = nn.ModuleList(build.conv(channels, channels, kernel) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x_BCT: Tensor) -> Tensor:
        pairs = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for act1, conv1, act2, conv2 in pairs:
            x_BCT = x_BCT + conv2(act2(conv1(act1(x_BCT))))
        return x_BCT


class F0Predictor(nn.Module):
    """Mel ``(B, F, T)`` to F0 in Hz ``(B, T)``, five frames of context on each side."""

    def __init__(self, mel_bins: int, channels: int, build: _Builder) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(5):
            layers += [build.conv(mel_bins if i == 0 else channels, channels, 3), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel_BFT: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.condnet(mel_BFT).transpose(1, 2)).squeeze(-1).abs()
        return out


class SourceMerge(nn.Module):
    """The learned mix of the harmonics into one signal."""

    def __init__(self, sines: int) -> None:
        super().__init__()
        self.l_linear = nn.Linear(sines, 1)

    def forward(self, waves_BHS: Tensor) -> Tensor:
        out: Tensor = torch.tanh(self.l_linear(waves_BHS.transpose(1, 2))).transpose(1, 2)
        return out


@dataclass(frozen=True)
class Spectrum:
    """What the filter network says of each STFT frame, both ``(B, bins, J)``.

    ``magnitude`` is not yet bounded; ``phase`` is the sine that upstream takes for an angle in radians.
    """

    magnitude: Tensor
    phase: Tensor


class HiftGenerator(nn.Module):
    """Mel frames to samples in ±``audio_limit``, ``config.hop`` samples a frame.

    ``weight_norm=False`` builds the folded form, whose state is ``fold_weight_norm`` of the trained one's.

    Context: at the public kernels a sample depends on at most 15 mel frames, and their source, on either
    side (F0 on 5 more), so a window with 20 of margin, cropped, equals the whole; the reflected edges belong
    at the true start and end only.
    """

    def __init__(self, config: HiftConfig, *, weight_norm: bool = True) -> None:
        super().__init__()
        self.config = config
        build = _Builder(weight_norm)
        ups = len(config.upsample_rates)
        widths = [config.base_channels >> i for i in range(ups + 1)]
        stft_channels = 2 * config.bins

        self.m_source = SourceMerge(config.source.sines)
        self.f0_predictor = F0Predictor(config.mel_bins, config.f0_channels, build)
        self.conv_pre = build.conv(config.mel_bins, widths[0], 7)
        self.ups = nn.ModuleList()
        self.source_downs = nn.ModuleList()
        self.source_resblocks = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for i in range(ups):
            width = widths[i + 1]
            self.ups.append(
                build.upsample(widths[i], width, config.upsample_kernels[i], config.upsample_rates[i])
            )
            # The source STFT runs at the last stage's rate: earlier stages read it thinned out.
            stride = math.prod(config.upsample_rates[i + 1 :])
            self.source_downs.append(
                nn.Conv1d(stft_channels, width, 1)
                if stride == 1
                else nn.Conv1d(stft_channels, width, 2 * stride, stride=stride, padding=stride // 2)
            )
            self.source_resblocks.append(ResidualBlock(width, config.source_blocks[i], build))
            self.resblocks.extend(ResidualBlock(width, block, build) for block in config.blocks)
        self.conv_post = build.conv(widths[-1], stft_channels, 7)

    def folded(self) -> "HiftGenerator":
        """A copy for inference with plain convolution weights."""
        with torch.device("meta"):
            plain = HiftGenerator(self.config, weight_norm=False)
        plain.load_state_dict(fold_weight_norm(self.state_dict()), assign=True)
        return plain.train(self.training)

    def f0(self, mel_BFT: Tensor) -> Tensor:
        """F0 in Hz of each mel frame, ``(B, T)``; at or below the voicing threshold means unvoiced."""
        out: Tensor = self.f0_predictor(mel_BFT)
        return out

    def source(self, f0_BT: Tensor, phase_BH: Tensor, noise_BHS: Tensor) -> Tensor:
        """The reference's floating-point source ``(B, 1, S)``: F0 in Hz a frame, held for ``hop`` samples.

        ``phase`` are initial phases in radians (the reference: 0 for the fundamental, uniform otherwise),
        ``noise`` is standard normal. For streaming use ``aqaa.models.source``, which can be cut anywhere.
        """
        source = self.config.source
        f0_B1S = f0_BT.repeat_interleave(self.config.hop, dim=1)[:, None]
        order_H1 = torch.arange(1, source.sines + 1, device=f0_BT.device, dtype=f0_BT.dtype)[:, None]
        turns_BHS = (f0_B1S * order_H1 / source.sample_rate).cumsum(dim=2) % 1
        waves_BHS = source.sine_amplitude * torch.sin(2 * math.pi * turns_BHS + phase_BH[:, :, None])
        voiced_B1S = f0_B1S > source.voiced_threshold
        level_B1S = torch.where(voiced_B1S, source.noise_std, source.sine_amplitude / 3)
        out: Tensor = self.m_source(waves_BHS * voiced_B1S + level_B1S * noise_BHS)
        return out

    def source_stft(self, source_B1S: Tensor) -> Tensor:
        """STFT of the source, real parts then imaginary ones: ``(B, 2 * bins, S / stft_hop + 1)``."""
        config = self.config
        spectrum = torch.stft(
            source_B1S[:, 0],
            config.n_fft,
            config.stft_hop,
            window=self._window(source_B1S),
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        return torch.cat((spectrum.real, spectrum.imag), dim=1)

    def spectrum(self, mel_BFT: Tensor, source_B1S: Tensor) -> Spectrum:
        """Run the filter network over the mel and its source."""
        config = self.config
        stft_BCJ = self.source_stft(source_B1S)
        x_BCT = self.conv_pre(mel_BFT)
        for i, (up, source_down, source_block) in enumerate(
            zip(self.ups, self.source_downs, self.source_resblocks, strict=True)
        ):
            x_BCT = up(F.leaky_relu(x_BCT, config.leaky_slope))
            if i == len(self.ups) - 1:
                # One frame more, so that the length equals that of the source's centred STFT.
                x_BCT = F.pad(x_BCT, (1, 0), mode="reflect")
            x_BCT = x_BCT + source_block(source_down(stft_BCJ))
            blocks = self.resblocks[i * len(config.blocks) : (i + 1) * len(config.blocks)]
            x_BCT = torch.stack([block(x_BCT) for block in blocks]).mean(dim=0)
        # Upstream leaves the slope of this one activation at torch's default.
        x_BCT = self.conv_post(F.leaky_relu(x_BCT))
        return Spectrum(x_BCT[:, : config.bins].exp(), x_BCT[:, config.bins :].sin())

    def inverse_stft(self, magnitude_BCJ: Tensor, phase_BCJ: Tensor) -> Tensor:
        """Samples ``(B, (J - 1) * stft_hop)`` of a polar spectrum, its magnitude bounded at 100."""
        config = self.config
        return torch.istft(
            torch.polar(magnitude_BCJ.clamp(max=_MAGNITUDE_LIMIT), phase_BCJ),
            config.n_fft,
            config.stft_hop,
            window=self._window(magnitude_BCJ),
        )

    def decode(self, mel_BFT: Tensor, source_B1S: Tensor) -> Tensor:
        """Samples ``(B, S)`` of a mel ``(B, F, T)`` and its source ``(B, 1, S)``, S = T * hop."""
        expected = mel_BFT.shape[2] * self.config.hop
        if source_B1S.shape[2] != expected:
            raise ValueError(
                f"{mel_BFT.shape[2]} mel frames need {expected} source samples, got {source_B1S.shape[2]}"
            )
        spectrum = self.spectrum(mel_BFT, source_B1S)
        wave_BS = self.inverse_stft(spectrum.magnitude, spectrum.phase)
        return wave_BS.clamp(-self.config.audio_limit, self.config.audio_limit)

    def forward(self, mel_BFT: Tensor, phase_BH: Tensor, noise_BHS: Tensor) -> Tensor:
        """The reference's whole inference: F0, source, filter. Samples ``(B, S)``."""
        return self.decode(mel_BFT, self.source(self.f0(mel_BFT), phase_BH, noise_BHS))

    def _window(self, like: Tensor) -> Tensor:
        window = torch.hann_window(self.config.n_fft, dtype=torch.float64, device=like.device)
        return window.to(like.dtype)

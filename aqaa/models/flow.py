"""Flow matching from audio codes to mel frames: the public vocoder's first half.

Source: Step-Audio's variant of CosyVoice v1, ``flow.flow.MaskedDiffWithXvec``, ``flow.flow_matching`` and
``flow.length_regulator``. Tensor names are upstream's; every size comes from ``FlowConfig``. Nothing random
is drawn inside: noise and training uniforms are arguments.

Legend: B batch, N tokens, F mel bins, T mel frames, C channels, X speaker-vector size.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aqaa.errors import InvalidToken
from aqaa.models.flow_conformer import ConformerConfig, ConformerEncoder
from aqaa.models.flow_unet import ConditionalDecoder, UnetConfig


@dataclass(frozen=True)
class MatchingConfig:
    """How the flow is trained and solved (conditional flow matching, Lipman et al. 2023, section 4.1).

    ``training_cfg_rate`` is the share of training items that lose their conditions; ``inference_cfg_rate``
    the strength of classifier-free guidance when the caller gives none.
    """

    sigma_min: float
    training_cfg_rate: float
    inference_cfg_rate: float


@dataclass(frozen=True)
class FlowConfig:
    """Sizes and rates of one public flow.

    ``token_rate`` counts merged tokens a second; ``sample_rate`` (Hz) and ``hop`` (samples) give the mel's
    frame rate. ``regulator_convs`` counts the convolution blocks that smooth the stretched tokens.
    """

    vocab_size: int
    token_rate: float
    sample_rate: int
    hop: int
    mel_bins: int
    speaker_size: int
    regulator_convs: int
    encoder: ConformerConfig
    unet: UnetConfig
    matching: MatchingConfig

    def mel_frames(self, tokens: int) -> int:
        """Mel frames of ``tokens`` tokens spoken in one piece, rounded down as the reference does."""
        return int(tokens / self.token_rate * self.sample_rate / self.hop)


def cosine_time(u: Tensor) -> Tensor:
    """Map [0, 1] onto itself so that steps are short where the noise is strongest."""
    return 1 - torch.cos(u * (math.pi / 2))


def step_times(steps: int) -> Tensor:
    """The ``steps + 1`` edges of the Euler steps, float64, from 0 to 1."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return cosine_time(torch.linspace(0, 1, steps + 1, dtype=torch.float64))


class InterpolateRegulator(nn.Module):
    """Stretch token features to mel frames, then smooth across the result."""

    def __init__(self, channels: int, convs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(convs):
            layers += [nn.Conv1d(channels, channels, 3, padding=1), nn.GroupNorm(1, channels), nn.Mish()]
        layers.append(nn.Conv1d(channels, channels, 1))
        self.model = nn.Sequential(*layers)

    def forward(self, segments: list[tuple[Tensor, int]]) -> Tensor:
        """Stretch each ``(features (B, N, F), frames)`` alone, then smooth all as one ``(B, F, T)``.

        Apart, so that the join between prompt and answer falls on a known frame.
        """
        stretched = [
            F.interpolate(features_BNF.transpose(1, 2), size=frames, mode="linear")
            for features_BNF, frames in segments
            if features_BNF.shape[1]
        ]
        out: Tensor = self.model(torch.cat(stretched, dim=2))
        return out


class ConditionalCFM(nn.Module):
    """The probability path: Euler steps along the estimator's velocity, and its training loss."""

    def __init__(self, config: MatchingConfig, estimator: ConditionalDecoder) -> None:
        super().__init__()
        self.config = config
        self.estimator = estimator

    def euler(
        self,
        noise_BFT: Tensor,
        mu_BFT: Tensor,
        speaker_BF: Tensor,
        cond_BFT: Tensor,
        steps: int,
        cfg_rate: float,
    ) -> Iterator[Tensor]:
        """Yield the state ``(B, F, T)`` after each step, in the noise's dtype; the last one is the mel.

        An iterator, so that a caller can stop between steps. With guidance each step runs the estimator
        once on ``2B`` items: the conditions, and zeros in their place.
        """
        edges = step_times(steps)
        B = noise_BFT.shape[0]
        guided = cfg_rate != 0
        if guided:
            mu_BFT, speaker_BF, cond_BFT = (
                torch.cat((given, torch.zeros_like(given))) for given in (mu_BFT, speaker_BF, cond_BFT)
            )
        x_BFT = noise_BFT
        for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            state = x_BFT.repeat(2, 1, 1) if guided else x_BFT
            t_B = torch.full((state.shape[0],), start, dtype=torch.float32, device=x_BFT.device)
            velocity = self.estimator(state, mu_BFT, t_B, speaker_BF, cond_BFT).to(x_BFT.dtype)
            if guided:
                velocity = (1 + cfg_rate) * velocity[:B] - cfg_rate * velocity[B:]
            x_BFT = x_BFT + (end - start) * velocity
            yield x_BFT

    def compute_loss(
        self,
        mel_BFT: Tensor,
        mu_BFT: Tensor,
        speaker_BF: Tensor,
        cond_BFT: Tensor,
        *,
        noise_BFT: Tensor,
        time_uniform_B: Tensor,
        guidance_uniform_B: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The mean squared error of the velocity (a scalar), and the noisy state it was asked at.

        ``time_uniform`` and ``guidance_uniform`` are draws from [0, 1): the time before the cosine map, and
        the coin below which an item loses all its conditions (at or under ``training_cfg_rate``).
        """
        t_B = cosine_time(time_uniform_B)
        t_B11 = t_B[:, None, None]
        keep = 1 - self.config.sigma_min
        state_BFT = (1 - keep * t_B11) * noise_BFT + t_B11 * mel_BFT
        target_BFT = mel_BFT - keep * noise_BFT
        kept_B11 = (guidance_uniform_B > self.config.training_cfg_rate).to(mu_BFT.dtype)[:, None, None]
        velocity_BFT = self.estimator(
            state_BFT, mu_BFT * kept_B11, t_B, speaker_BF * kept_B11[:, 0], cond_BFT * kept_B11
        )
        return F.mse_loss(velocity_BFT, target_BFT), state_BFT


class Flow(nn.Module):
    """Codes, a speaker and a spoken prompt to mel frames (upstream ``MaskedDiffWithXvec``).

    Codes are 0 … vocab_size - 1 in the merged order of the tokenizer (2 linguistic, 3 semantic, …), that is,
    ids less the audio base. The mel is log-magnitude, natural logarithm, ``config.mel_bins`` bins.

    Every layer looks at the whole sequence and nothing is masked: all items of a batch have equal lengths.
    """

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        bins = config.mel_bins
        self.input_embedding = nn.Embedding(config.vocab_size, config.encoder.input_size)
        self.spk_embed_affine_layer = nn.Linear(config.speaker_size, bins)
        self.encoder = ConformerEncoder(config.encoder)
        self.encoder_proj = nn.Linear(config.encoder.output_size, bins)
        self.length_regulator = InterpolateRegulator(bins, config.regulator_convs)
        self.decoder = ConditionalCFM(config.matching, ConditionalDecoder(config.unet))

    def speaker(self, xvector_BX: Tensor) -> Tensor:
        """The x-vector at unit length, projected to the mel's width: ``(B, F)``."""
        dtype = self.spk_embed_affine_layer.weight.dtype
        out: Tensor = self.spk_embed_affine_layer(F.normalize(xvector_BX, dim=1).to(dtype))
        return out

    def encode(self, tokens_BN: Tensor) -> Tensor:
        """Contextual token features ``(B, N, encoder.output_size)``."""
        out: Tensor = self.encoder(self.input_embedding(tokens_BN))
        return out

    def prior(self, tokens_BN: Tensor, prompt_tokens_BN: Tensor, prompt_frames: int, frames: int) -> Tensor:
        """What the tokens alone say of the mel (``mu``): ``(B, F, prompt_frames + frames)``."""
        prompt_length = prompt_tokens_BN.shape[1]
        features_BNF = self.encoder_proj(self.encode(torch.cat((prompt_tokens_BN, tokens_BN), dim=1)))
        out: Tensor = self.length_regulator(
            [(features_BNF[:, :prompt_length], prompt_frames), (features_BNF[:, prompt_length:], frames)]
        )
        return out

    @torch.inference_mode()
    def synthesize(
        self,
        tokens_BN: Tensor,
        prompt_tokens_BN: Tensor,
        prompt_mel_BFT: Tensor,
        xvector_BX: Tensor,
        noise_BFT: Tensor,
        steps: int,
        cfg_rate: float | None = None,
    ) -> Tensor:
        """The mel ``(B, F, T)`` of ``tokens``, in the dtype of the noise.

        ``prompt_tokens`` and ``prompt_mel`` may both have length 0. ``noise`` covers the prompt's frames and
        then the answer's; its length decides how many frames the tokens are stretched to (see
        ``FlowConfig.mel_frames`` for the reference's choice). ``cfg_rate`` None means the configured one.

        Raises InvalidToken for codes outside the vocabulary and ValueError for shapes that do not fit.
        """
        self._check(tokens_BN, "tokens")
        self._check(prompt_tokens_BN, "prompt_tokens")
        prompt_frames = prompt_mel_BFT.shape[2]
        frames = noise_BFT.shape[2] - prompt_frames
        if tokens_BN.shape[1] < 1 or frames < 1:
            raise ValueError(
                f"nothing to synthesize: {tokens_BN.shape[1]} tokens, {noise_BFT.shape[2]} frames of noise, "
                f"{prompt_frames} of them the prompt's"
            )
        if (prompt_tokens_BN.shape[1] == 0) != (prompt_frames == 0):
            raise ValueError(
                f"a prompt has tokens and mel or neither; got {prompt_tokens_BN.shape[1]} tokens, "
                f"{prompt_frames} frames"
            )
        mu_BFT = self.prior(tokens_BN, prompt_tokens_BN, prompt_frames, frames)
        cond_BFT = F.pad(prompt_mel_BFT.to(mu_BFT.dtype), (0, frames))
        rate = self.config.matching.inference_cfg_rate if cfg_rate is None else cfg_rate
        *_, mel_BFT = self.decoder.euler(noise_BFT, mu_BFT, self.speaker(xvector_BX), cond_BFT, steps, rate)
        return mel_BFT[:, :, prompt_frames:]

    def compute_loss(
        self,
        tokens_BN: Tensor,
        mel_BFT: Tensor,
        xvector_BX: Tensor,
        *,
        prompt_frames_B: Tensor,
        noise_BFT: Tensor,
        time_uniform_B: Tensor,
        guidance_uniform_B: Tensor,
    ) -> Tensor:
        """The training loss, a scalar.

        The first ``prompt_frames[b]`` frames of item b are shown to the model as its prompt (the reference:
        none for half of the items, else uniform up to 30 % of the frames). The other draws are those of
        ``ConditionalCFM.compute_loss``.
        """
        features_BNF = self.encoder_proj(self.encode(tokens_BN))
        mu_BFT = self.length_regulator([(features_BNF, mel_BFT.shape[2])])
        shown_BT = torch.arange(mel_BFT.shape[2], device=mel_BFT.device) < prompt_frames_B[:, None]
        loss, _ = self.decoder.compute_loss(
            mel_BFT,
            mu_BFT,
            self.speaker(xvector_BX),
            mel_BFT * shown_BT[:, None],
            noise_BFT=noise_BFT,
            time_uniform_B=time_uniform_B,
            guidance_uniform_B=guidance_uniform_B,
        )
        return loss

    def _check(self, tokens_BN: Tensor, name: str) -> None:
        if not tokens_BN.numel():
            return
        least, most = (int(bound) for bound in tokens_BN.aminmax())
        if least < 0 or most >= self.config.vocab_size:
            raise InvalidToken(
                f"{name} hold codes {least} … {most}; expected 0 … {self.config.vocab_size - 1}"
            )

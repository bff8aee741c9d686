"""The public vocoder's halves behind the tile contract: its flow with a speaker's prompt, and HiFT.

Its conformer and U-Net attend to everything they are given and its norms run over time. So a window always
holds the whole prompt, is always full (a group of silence stands where there is none, for it knows no
padding), and begins on a multiple of the U-Net's stride. Mel frames are taken from absolute positions of the
group clock: at 22.05 kHz a group has 10.34 of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from aqaa.bundle.public_vocoder import PublicVocoder
from aqaa.engine.tiles import FrameGrid
from aqaa.engine.vocoder.draws import SegmentDraws
from aqaa.engine.vocoder.parts import Codes, Mel, Pcm, Span, Window
from aqaa.errors import InvalidToken
from aqaa.models.flow import Flow
from aqaa.models.hift import HiftGenerator
from aqaa.models.source import PhaseState, harmonic_source, increments
from aqaa.tokens.philox import Domain

_TURN = 1 << 64
_CONTEXT = 20  # mel frames: 15 of the filter network, 5 more of F0
_MEL_FLOOR = float(np.log(np.float32(1e-5)))
_PROMPT_PLACE = -(1 << 30)  # where the prompt's noise is keyed, far from any frame


@dataclass(frozen=True, eq=False)
class SpeakerPrompt:
    """The voice to speak with.

    tokens   (N,) int64, merged codes: linguistic from 0, semantic after them
    mel      (T, M) float32, natural logarithm
    xvector  (X,) float32, as CAM++ gives it
    """

    tokens: NDArray[np.int64]
    mel: Mel
    xvector: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FlowSolver:
    """``Flow`` on windows of groups of two linguistic and three semantic codes.

    ``silence`` is the group (5,) that stands where there is none; ``linguistic_codes`` is what semantic codes
    are raised by in the flow's vocabulary. Raises ValueError for a prompt whose frames do not fill the
    U-Net's stride, or that has tokens without frames or frames without tokens.
    """

    flow: Flow
    grid: FrameGrid
    prompt: SpeakerPrompt
    silence: tuple[int, ...]
    linguistic_codes: int
    steps: int

    def __post_init__(self) -> None:
        frames, tokens, stride = len(self.prompt.mel), len(self.prompt.tokens), self.flow.config.unet.stride
        if frames % stride or (frames == 0) != (tokens == 0):
            raise ValueError(
                f"a prompt of {tokens} tokens and {frames} mel frames, expected a multiple of {stride} "
                "frames, and none exactly if there are no tokens"
            )

    @property
    def bins(self) -> int:
        return self.flow.config.mel_bins

    @torch.inference_mode()
    def solve(self, codes: Codes, first: int, draws: SegmentDraws) -> Mel:
        flow, prompt = self.flow, self.prompt
        start, stop = self.grid.edge(first), self.grid.edge(first + len(codes))
        stride = flow.config.unet.stride
        origin = start // stride * stride
        spare = 0 if self.grid.per_group % stride == 0 else stride - 1
        frames = -(-(self.grid.most(len(codes)) + spare) // stride) * stride  # the same for every start
        prompt_tokens = torch.tensor(prompt.tokens)[None]
        tokens = torch.cat((prompt_tokens, torch.tensor(self._merged(codes))[None]), dim=1)
        features = flow.encoder_proj(flow.encode(tokens))
        spoken = self._stretched(features[:, len(prompt.tokens) :], first, origin, frames)
        mu = flow.length_regulator([(features[:, : len(prompt.tokens)], len(prompt.mel)), (spoken, frames)])
        noise = np.concatenate(
            (
                draws.normals(Domain.FLOW_NOISE, _PROMPT_PLACE, len(prompt.mel), self.bins),
                draws.normals(Domain.FLOW_NOISE, origin, frames, self.bins),
            )
        )
        condition = F.pad(torch.tensor(prompt.mel.T.copy())[None], (0, frames))
        speaker = flow.speaker(torch.tensor(prompt.xvector)[None])
        rate = flow.config.matching.inference_cfg_rate
        noise_BFT = torch.tensor(noise.T.copy())[None]
        *_, mel_BFT = flow.decoder.euler(noise_BFT, mu, speaker, condition, self.steps, rate)
        mel: Mel = mel_BFT[0].T.contiguous().numpy()
        return mel[len(prompt.mel) + start - origin : len(prompt.mel) + stop - origin]

    def solve_together(self, windows: Sequence[Window]) -> list[Mel]:
        return [self.solve(window.codes, window.first, window.draws) for window in windows]

    def equal_sizes(self, most: int, lengths: Sequence[int]) -> tuple[int, ...]:
        """Windows are solved one by one."""
        return (1,)

    def _merged(self, codes: Codes) -> Codes:
        """(G, 5) codes to the flow's vocabulary, (5 G,)."""
        present = np.where(codes < 0, np.array(self.silence), codes)
        merged: Codes = present + np.array([0, 0, 1, 1, 1]) * self.linguistic_codes
        if merged.max() >= self.flow.config.vocab_size:
            raise InvalidToken(
                f"merged code {merged.max()}, the flow's vocabulary has {self.flow.config.vocab_size}"
            )
        return merged.reshape(-1)

    def _stretched(self, features_BNF: torch.Tensor, first: int, frame: int, frames: int) -> torch.Tensor:
        """Interpolated linearly at the absolute times of the frames from ``frame`` on: (B, frames, F)."""
        tokens = features_BNF.shape[1]
        per_token = self.grid.per_group / len(self.silence)
        middle = (frame + np.arange(frames) + 0.5) * float(1 / per_token) - 0.5 - first * len(self.silence)
        place = np.clip(middle, 0, tokens - 1)
        low = np.minimum(place.astype(np.int64), tokens - 2)
        share = torch.tensor((place - low).astype(np.float32))[:, None]
        before, after = features_BNF[:, torch.tensor(low)], features_BNF[:, torch.tensor(low + 1)]
        return before * (1 - share) + after * share


@dataclass(frozen=True, eq=False)
class HiftHead:
    """``HiftGenerator`` over a window, its source counted in whole turns of 2^-64."""

    network: HiftGenerator

    @property
    def sample_rate(self) -> int:
        return self.network.config.source.sample_rate

    @property
    def hop(self) -> int:
        return self.network.config.hop

    @property
    def frames_before(self) -> int:
        return _CONTEXT

    @property
    def frames_after(self) -> int:
        return _CONTEXT

    @property
    def floor(self) -> float:
        return _MEL_FLOOR

    @cached_property
    def _merge(self) -> tuple[NDArray[np.float32], float]:
        """Weight (H,) and bias of the linear that merges the harmonics."""
        linear = self.network.m_source.l_linear
        return linear.weight.detach()[0].numpy(), float(linear.bias.detach()[0])

    @torch.inference_mode()
    def render(self, mel: Mel, frame: int, count: int, phase: int, draws: SegmentDraws) -> tuple[Pcm, int]:
        source = self.network.config.source
        mel_BFT = torch.tensor(mel.T.copy())[None]
        f0_T = np.minimum(self.network.f0(mel_BFT)[0].numpy(), np.float32(source.sample_rate / 2))
        f0_N = np.repeat(f0_T, self.hop)
        turns = increments(f0_T, source.sample_rate) * np.uint64(self.hop)  # of whole frames
        before = (phase - int(turns[:_CONTEXT].sum(dtype=np.uint64))) % _TURN
        after = (phase + int(turns[_CONTEXT : _CONTEXT + count].sum(dtype=np.uint64))) % _TURN
        first = (frame - _CONTEXT) * self.hop
        noise_NH = draws.normals(Domain.SOURCE_NOISE, first, len(f0_N), source.sines)
        initial = np.array([0] + [draws.phase(lane) for lane in range(1, source.sines)], np.uint64)
        weight, bias = self._merge
        noise_HN = np.ascontiguousarray(noise_NH.T)
        signal, _ = harmonic_source(f0_N, noise_HN, initial, weight, bias, source, PhaseState(before))
        wave_BS = self.network.decode(mel_BFT, torch.tensor(signal)[None, None])
        start = _CONTEXT * self.hop
        pcm: Pcm = wave_BS[0, start : start + count * self.hop].numpy()
        return pcm, after

    def render_together(self, spans: Sequence[Span]) -> list[tuple[Pcm, int]]:
        return [self.render(span.mel, span.frame, span.count, span.phase, span.draws) for span in spans]

    def equal_sizes(self, most: int, hops: Sequence[int]) -> tuple[int, ...]:
        """Spans are rendered one by one."""
        return (1,)


def public_parts(
    vocoder: PublicVocoder,
    prompt: SpeakerPrompt,
    *,
    group_seconds: Fraction,
    silence: tuple[int, ...],
    linguistic_codes: int,
    steps: int,
) -> tuple[FlowSolver, HiftHead]:
    """Both halves of a public vocoder, for ``Vocoder``. A published group lasts 3/25 s."""
    config = vocoder.flow.config
    grid = FrameGrid(group_seconds * config.sample_rate / config.hop)
    solver = FlowSolver(vocoder.flow, grid, prompt, silence, linguistic_codes, steps)
    return solver, HiftHead(vocoder.hift)

"""The two halves of a vocoder as the tiles need them, and nano's: groups to mel, mel to PCM.

Both are pure: what they give follows from their arguments, so a tile may be computed again anywhere. They
see tensors of a few fixed shapes, because a kernel's rounding may depend on the shape and on nothing else.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from aqaa.engine.tiles import FrameGrid
from aqaa.engine.vocoder.draws import SegmentDraws
from aqaa.models.nano_flow import NanoFlow
from aqaa.models.nano_wave import NanoWave, Parts, pulse_train, sample_f0
from aqaa.tokens.philox import Domain

Codes = NDArray[np.int64]
"""Groups of codes (G, C), linguistic then semantic, each counted from 0; -1 throughout a group not there."""

Mel = NDArray[np.float32]
"""Natural-log mel frames (T, M)."""

Pcm = NDArray[np.float32]


class MelSolver(Protocol):
    """Groups to mel frames, one window at a time."""

    @property
    def bins(self) -> int:
        """Mel bins of a frame."""
        ...

    @property
    def grid(self) -> FrameGrid:
        """Where groups fall on frames."""
        ...

    def solve(self, codes: Codes, first: int, draws: SegmentDraws) -> Mel:
        """The frames of a window of groups (G, C) that begins with group ``first``: those between its edges.

        Noise is keyed by absolute frame, so two windows that share frames start them alike.
        """
        ...


class WaveHead(Protocol):
    """Mel frames to PCM with finite context; the phase of its source is the only thing carried."""

    @property
    def sample_rate(self) -> int: ...

    @property
    def hop(self) -> int:
        """Samples a mel frame."""
        ...

    @property
    def frames_before(self) -> int:
        """Mel frames before a hop that its samples depend on."""
        ...

    @property
    def frames_after(self) -> int: ...

    @property
    def floor(self) -> float:
        """The mel value that stands before the start and after the end."""
        ...

    def render(self, mel: Mel, frame: int, count: int, phase: int, draws: SegmentDraws) -> tuple[Pcm, int]:
        """The ``count`` hops from ``frame`` on, float32 in ±1, and the phase after them.

        ``mel`` begins ``frames_before`` frames earlier and ends at least ``frames_after`` later. The phase,
        in turns of 2^-64, is that of a hop's first sample.
        """
        ...


@dataclass(frozen=True, eq=False)
class NanoSolver:
    """``NanoFlow`` with a fixed number of Euler steps."""

    flow: NanoFlow
    grid: FrameGrid
    steps: int

    @property
    def bins(self) -> int:
        return self.flow.config.n_mels

    @torch.inference_mode()
    def solve(self, codes: Codes, first: int, draws: SegmentDraws) -> Mel:
        config = self.flow.config
        start = self.grid.edge(first)
        frames = self.grid.edge(first + len(codes)) - start
        noise = draws.normals(Domain.FLOW_NOISE, start, frames, self.bins)
        noise *= np.float32(config.temperature)
        # torch.tensor copies to aligned memory: kernels may round by alignment.
        linguistic, semantic = torch.tensor(codes)[None].tensor_split((2,), dim=-1)
        mel_BTM = self.flow.solve(linguistic, semantic, torch.tensor(noise)[None], self.steps)
        mel: Mel = mel_BTM[0].numpy()
        return mel


@dataclass(frozen=True, eq=False)
class NanoHead:
    """``NanoWave`` over a window, cropped to the hops whose context is whole."""

    network: NanoWave

    @property
    def sample_rate(self) -> int:
        return self.network.config.sample_rate

    @property
    def hop(self) -> int:
        return self.network.config.hop

    @property
    def frames_before(self) -> int:
        return self.network.config.frames_before

    @property
    def frames_after(self) -> int:
        return self.network.config.frames_ahead

    @property
    def floor(self) -> float:
        return self.network.config.floor

    @torch.inference_mode()
    def render(self, mel: Mel, frame: int, count: int, phase: int, draws: SegmentDraws) -> tuple[Pcm, int]:
        config = self.network.config
        hop, overlap = config.hop, config.overlap
        hops = len(mel) - self.frames_before - self.frames_after
        parts = self.network(torch.tensor(mel)[None])
        f0_T = self.network.f0(parts)[0].numpy()
        # The frames whose windows reach into these hops, and the samples under those windows.
        first, frames = self.frames_before - overlap, hops + 2 * overlap
        parts = Parts(*(part[:, first : first + frames] for part in parts))
        edge = (config.n_fft - hop) // 2
        f0_N = sample_f0(f0_T, first * hop - edge, (frames - 1) * hop + config.n_fft, config)
        start = overlap * hop + edge
        pulses, turns = pulse_train(f0_N, phase, start, config)
        noise = draws.normals(Domain.SOURCE_NOISE, frame - overlap, frames, 2 * config.bins)
        noise_BTK2 = torch.tensor(noise.reshape(1, frames, config.bins, 2))
        wave_BN = self.network.render(parts, torch.tensor(pulses)[None], noise_BTK2)
        stop = start + count * hop
        return wave_BN[0, start:stop].clamp(-1.0, 1.0).numpy(), int(turns[stop])

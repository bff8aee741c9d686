"""The two halves of a vocoder as the tiles need them, and nano's: groups to mel, mel to PCM.

Both are pure: what they give follows from their arguments, so a tile may be computed again anywhere. They
see tensors of a few fixed shapes, because a kernel's rounding may depend on the shape and on nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from aqaa.engine.rows import equal_sizes, in_all
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

_TEST_SEED = 20252


@dataclass(frozen=True, eq=False)
class Window:
    """What a solver works on: a window of groups (G, C) that begins with group ``first``."""

    codes: Codes
    first: int
    draws: SegmentDraws


@dataclass(frozen=True, eq=False)
class Span:
    """What a wave head works on: ``count`` hops from ``frame`` on.

    ``mel`` begins ``frames_before`` frames earlier and ends at least ``frames_after`` later. The phase, in
    turns of 2^-64, is that of a hop's first sample.
    """

    mel: Mel
    frame: int
    count: int
    phase: int
    draws: SegmentDraws


class MelSolver(Protocol):
    """Groups to mel frames, by windows."""

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

    def solve_together(self, windows: Sequence[Window]) -> list[Mel]:
        """The frames of each window; all have equally many groups."""
        ...

    def equal_sizes(self, most: int, lengths: Sequence[int]) -> tuple[int, ...]:
        """Up to ``most``, the numbers of windows in which each has the bits that it has alone; 1 always."""
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

        The arguments are those of a ``Span``.
        """
        ...

    def render_together(self, spans: Sequence[Span]) -> list[tuple[Pcm, int]]:
        """What ``render`` gives for each span; all have equally much mel."""
        ...

    def equal_sizes(self, most: int, hops: Sequence[int]) -> tuple[int, ...]:
        """Up to ``most``, the numbers of spans in which each has the bits that it has alone; 1 always.

        ``hops``: what the mel of a span may be long enough for.
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

    def solve(self, codes: Codes, first: int, draws: SegmentDraws) -> Mel:
        return self.solve_together([Window(codes, first, draws)])[0]

    @torch.inference_mode()
    def solve_together(self, windows: Sequence[Window]) -> list[Mel]:
        # torch.tensor copies to aligned memory: kernels may round by alignment.
        codes = torch.tensor(np.stack([window.codes for window in windows]))
        noise = torch.tensor(np.stack([self._noise(window) for window in windows]))
        linguistic, semantic = codes.tensor_split((2,), dim=-1)
        mel_BTM = self.flow.solve(linguistic, semantic, noise, self.steps)
        return [mel_TM.numpy().copy() for mel_TM in mel_BTM]

    def equal_sizes(self, most: int, lengths: Sequence[int]) -> tuple[int, ...]:
        config = self.flow.config

        def tested(length: int) -> tuple[int, ...]:
            draw = np.random.default_rng(_TEST_SEED)
            linguistic = torch.tensor(draw.integers(0, config.linguistic_codes, (most, length, 2)))
            semantic = torch.tensor(draw.integers(0, prod(config.levels), (most, length, 3)))
            noise = torch.tensor(draw.standard_normal((most, self.grid.edge(length), self.bins), np.float32))

            def run(rows: slice) -> list[torch.Tensor]:
                own = [part[rows].clone() for part in (linguistic, semantic, noise)]
                return [self.flow.solve(own[0], own[1], own[2], 1)]  # one step has every kernel and shape

            return equal_sizes(most, run)

        return in_all(map(tested, lengths))

    def _noise(self, window: Window) -> Mel:
        start = self.grid.edge(window.first)
        frames = self.grid.edge(window.first + len(window.codes)) - start
        noise = window.draws.normals(Domain.FLOW_NOISE, start, frames, self.bins)
        noise *= np.float32(self.flow.config.temperature)
        return noise


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

    def render(self, mel: Mel, frame: int, count: int, phase: int, draws: SegmentDraws) -> tuple[Pcm, int]:
        return self.render_together([Span(mel, frame, count, phase, draws)])[0]

    @torch.inference_mode()
    def render_together(self, spans: Sequence[Span]) -> list[tuple[Pcm, int]]:
        """The trunk sees one batch; what follows is cheap and done span by span."""
        parts = self.network(torch.tensor(np.stack([span.mel for span in spans])))
        own = (Parts(*(part[row : row + 1].clone() for part in parts)) for row in range(len(spans)))
        return [self._sound(span, parts) for span, parts in zip(spans, own, strict=True)]

    @torch.inference_mode()
    def equal_sizes(self, most: int, hops: Sequence[int]) -> tuple[int, ...]:
        config, generator = self.network.config, torch.Generator().manual_seed(_TEST_SEED)

        def tested(count: int) -> tuple[int, ...]:
            frames = self.frames_before + count + self.frames_after
            noise = torch.randn((most, frames, config.n_mels), generator=generator)
            mel = noise * config.scale + config.mean
            return equal_sizes(most, lambda rows: self.network(mel[rows].clone()))

        return in_all(map(tested, hops))

    def _sound(self, span: Span, parts: Parts) -> tuple[Pcm, int]:
        config = self.network.config
        hop, overlap = config.hop, config.overlap
        hops = len(span.mel) - self.frames_before - self.frames_after
        f0_T = self.network.f0(parts)[0].numpy()
        # The frames whose windows reach into these hops, and the samples under those windows.
        first, frames = self.frames_before - overlap, hops + 2 * overlap
        parts = Parts(*(part[:, first : first + frames] for part in parts))
        edge = (config.n_fft - hop) // 2
        f0_N = sample_f0(f0_T, first * hop - edge, (frames - 1) * hop + config.n_fft, config)
        start = overlap * hop + edge
        pulses, turns = pulse_train(f0_N, span.phase, start, config)
        noise = span.draws.normals(Domain.SOURCE_NOISE, span.frame - overlap, frames, 2 * config.bins)
        noise_BTK2 = torch.tensor(noise.reshape(1, frames, config.bins, 2))
        wave_BN = self.network.render(parts, torch.tensor(pulses)[None], noise_BTK2)
        stop = start + span.count * hop
        return wave_BN[0, start:stop].clamp(-1.0, 1.0).numpy(), int(turns[stop])

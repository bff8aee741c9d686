"""The two halves of a tokenizer, each from 16 kHz PCM to its own codes: for nano and for the public family.

A branch holds weights and is shared; what it opens is one stream and shares nothing that changes. All
features are bit-equal for any chunking, and a network only ever sees windows whose places and shapes the
position in the stream decides, so the codes are too.

A stream only gathers: what it has heard becomes windows, and its branch encodes the next window of one stream
or of several at once. ``equal_sizes`` tells which numbers of streams give each of them the bits it has alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from aqaa.audio.fbank import FbankOptions
from aqaa.audio.lfr import Cmvn, LfrOptions, LinguisticFrontend
from aqaa.audio.whisper_mel import CausalLogMel, LogMelOptions
from aqaa.engine.rows import equal_sizes
from aqaa.models.linguistic import LinguisticEncoder, LinguisticState, nearest_code
from aqaa.models.nano_semantic import MEL_FRAMES_PER_CODE, NanoSemanticEncoder
from aqaa.models.semantic import SemanticEncoder, WindowedSemantic, WindowGrid

Pcm = NDArray[np.float32]
Codes = NDArray[np.int64]
"""Codes of one codebook, (n,), counted from 0."""

NO_CODES: Codes = np.empty(0, np.int64)

_TEST_SEED = 20251
_TEST_CHUNKS = 3  # of a stream: its cache empty, part full


class CodeStream(Protocol):
    """One stream of one branch: PCM in, windows ready for the network."""

    def hear(self, pcm: Pcm) -> None:
        """Take (n,) float32 PCM, n >= 0. Not after ``end``."""
        ...

    def end(self) -> None:
        """The signal is over; it had whole groups."""
        ...

    @property
    def due(self) -> int:
        """Frames of the next window if it is complete, else 0. Windows of equal length have one shape."""
        ...


Stream = TypeVar("Stream", bound=CodeStream)


class Branch(Protocol[Stream]):
    """Weights and settings of one codebook."""

    @property
    def code_samples(self) -> int:
        """PCM samples that one code stands for."""
        ...

    def open(self) -> Stream:
        """A stream that stands before the first sample."""
        ...

    def encode(self, streams: Sequence[Stream]) -> list[Codes]:
        """The codes of each stream's next window; all are due, with one length."""
        ...

    def equal_sizes(self, most: int) -> tuple[int, ...]:
        """Up to ``most``, the numbers of streams in which each has the bits that it has alone; 1 always."""
        ...


@dataclass(frozen=True, eq=False)
class SanmBranch:
    """Linguistic codes: filter bank, low frame rate, chunk encoder, nearest of ``centroids`` (codes, D).

    Serves both families; they differ in sizes and in ``lfr.chunk``, which is the encoder's chunk.
    """

    fbank: FbankOptions
    lfr: LfrOptions
    cmvn: Cmvn
    encoder: LinguisticEncoder
    centroids: torch.Tensor

    @property
    def code_samples(self) -> int:
        return self.lfr.n * self.fbank.hop_samples

    def open(self) -> "SanmStream":
        return SanmStream(self)

    @torch.inference_mode()
    def encode(self, streams: "Sequence[SanmStream]") -> list[Codes]:
        # torch.tensor copies to aligned memory: kernels may round by alignment.
        chunks_BTF = torch.tensor(np.stack([stream.chunks.pop(0) for stream in streams]))
        states_BTD, after = self.encoder.stream(chunks_BTF, _joined([stream.state for stream in streams]))
        for stream, state in zip(streams, _parted(after), strict=True):
            stream.state = state
        return [nearest_code(states_TD, self.centroids).numpy() for states_TD in states_BTD]

    def equal_sizes(self, most: int) -> tuple[int, ...]:
        """Tested on streams that stand at different positions."""
        shape = (_TEST_CHUNKS, most, self.lfr.chunk, self.encoder.config.input_dim)
        chunks = torch.randn(shape, generator=torch.Generator().manual_seed(_TEST_SEED))
        states = [self.encoder.initial_state() for _ in range(most)]
        with torch.inference_mode():
            for row in range(most):
                for chunk in range(row % _TEST_CHUNKS):
                    _, states[row] = self.encoder.stream(chunks[chunk, row : row + 1], states[row])

        def run(rows: slice) -> list[torch.Tensor]:
            out, after = self.encoder.stream(chunks[-1, rows].clone(), _joined(states[rows]))
            return [out, after.overlap, *after.past]

        return equal_sizes(most, run)


def _joined(states: Sequence[LinguisticState]) -> LinguisticState:
    """One state of several streams."""
    if len(states) == 1:
        return states[0]
    return LinguisticState(
        position=torch.cat([state.position for state in states]),
        overlap=torch.cat([state.overlap for state in states]),
        past=tuple(map(torch.cat, zip(*(state.past for state in states), strict=True))),
    )


def _parted(state: LinguisticState) -> list[LinguisticState]:
    """The inverse of ``_joined``; each stream's tensors are its own memory."""
    count = len(state.position)
    if count == 1:
        return [state]
    rows = [slice(row, row + 1) for row in range(count)]
    return [
        LinguisticState(
            position=state.position[row].clone(),
            overlap=state.overlap[row].clone(),
            past=tuple(past[row].clone() for past in state.past),
        )
        for row in rows
    ]


class SanmStream:
    """Chunks of features, and the encoder's state."""

    def __init__(self, branch: SanmBranch) -> None:
        # Upstream's rule for an unfinished window never applies: a signal of G groups gives exactly the
        # 2 G windows that lie inside it.
        self._frontend = LinguisticFrontend(branch.cmvn, branch.fbank, branch.lfr)
        self.chunks: list[Pcm] = []
        self.state = branch.encoder.initial_state()

    def hear(self, pcm: Pcm) -> None:
        self.chunks += self._frontend.push(pcm)

    def end(self) -> None:
        self.chunks += self._frontend.flush()

    @property
    def due(self) -> int:
        return len(self.chunks[0]) if self.chunks else 0


@dataclass(frozen=True, eq=False)
class NanoSemanticBranch:
    """Nano's semantic codes: windows of ``hop_frames`` mel frames with their full context, on a fixed grid.

    A hop's codes need the frames of ``codes_ahead`` codes after it, so they come one hop later.
    """

    encoder: NanoSemanticEncoder
    mel: LogMelOptions
    hop_frames: int

    @property
    def code_samples(self) -> int:
        return MEL_FRAMES_PER_CODE * self.mel.hop

    @property
    def window_frames(self) -> int:
        """Mel frames of a hop with its context."""
        config = self.encoder.config
        return config.frames_before + self.hop_frames + MEL_FRAMES_PER_CODE * config.codes_ahead

    def open(self) -> "NanoSemanticStream":
        return NanoSemanticStream(self)

    @torch.inference_mode()
    def encode(self, streams: "Sequence[NanoSemanticStream]") -> list[Codes]:
        windows = torch.tensor(np.stack([stream.window() for stream in streams]))
        codes_BJ = self.encoder.quantizer.encode(self.encoder.window(windows))
        return [
            stream.kept(codes_J.numpy().copy()) for stream, codes_J in zip(streams, codes_BJ, strict=True)
        ]

    def equal_sizes(self, most: int) -> tuple[int, ...]:
        shape = (most, self.window_frames, self.encoder.config.n_mels)
        windows = torch.randn(shape, generator=torch.Generator().manual_seed(_TEST_SEED)) / 2
        return equal_sizes(most, lambda rows: [self.encoder.window(windows[rows].clone())])


class NanoSemanticStream:
    """Mel frames that are not coded yet, after those before them that a window needs."""

    def __init__(self, branch: NanoSemanticBranch) -> None:
        self._branch = branch
        self._mel = CausalLogMel(branch.mel)
        self._held_TM = self._silence(branch.encoder.config.frames_before)
        self._left: int | None = None  # codes that are left, once the end is known

    def hear(self, pcm: Pcm) -> None:
        self._held_TM = np.concatenate((self._held_TM, self._mel.push(pcm)))

    def end(self) -> None:
        self._held_TM = np.concatenate((self._held_TM, self._mel.flush()))
        config = self._branch.encoder.config
        self._left = (len(self._held_TM) - config.frames_before) // MEL_FRAMES_PER_CODE
        self._held_TM = np.concatenate((self._held_TM, self._silence(self._branch.window_frames)))

    @property
    def due(self) -> int:
        frames = self._branch.window_frames
        whole = len(self._held_TM) >= frames if self._left is None else self._left > 0
        return frames if whole else 0

    def window(self) -> Pcm:
        """The next window (T, M); the stream goes on to the one after it."""
        window = self._held_TM[: self._branch.window_frames]
        self._held_TM = self._held_TM[self._branch.hop_frames :]
        return window

    def kept(self, codes: Codes) -> Codes:
        """Of a window's codes those that lie inside the signal."""
        if self._left is not None:
            codes = codes[: self._left]
            self._left -= len(codes)
        return codes

    def _silence(self, frames: int) -> Pcm:
        config = self._branch.encoder.config
        return np.full((frames, config.n_mels), config.silence, np.float32)


@dataclass(frozen=True, eq=False)
class WhisperBranch:
    """The public family's semantic codes: its two-way encoder, run on the windows of ``grid`` one by one."""

    encoder: SemanticEncoder
    mel: LogMelOptions
    grid: WindowGrid

    @property
    def code_samples(self) -> int:
        return MEL_FRAMES_PER_CODE * self.mel.hop

    def open(self) -> "WhisperStream":
        return WhisperStream(self)

    def encode(self, streams: "Sequence[WhisperStream]") -> list[Codes]:
        return [stream.encode() for stream in streams]

    def equal_sizes(self, most: int) -> tuple[int, ...]:
        return (1,)


class WhisperStream:
    """Mel frames on their way to the windows."""

    def __init__(self, branch: WhisperBranch) -> None:
        self._mel = CausalLogMel(branch.mel)
        self._windows = WindowedSemantic(branch.encoder, branch.grid)
        self._frames: list[Pcm] = []
        self._ended = False

    def hear(self, pcm: Pcm) -> None:
        frames = self._mel.push(pcm)
        if len(frames):
            self._frames.append(frames)

    def end(self) -> None:
        self._frames.append(self._mel.flush())
        self._ended = True

    @property
    def due(self) -> int:
        return 1 if self._frames else 0

    def encode(self) -> Codes:
        """The codes of all windows that are complete."""
        codes = [NO_CODES, *map(self._windows.push, self._frames)]
        self._frames = []
        if self._ended:
            codes.append(self._windows.flush())
        return np.concatenate(codes)

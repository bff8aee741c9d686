"""The two halves of a tokenizer, each from 16 kHz PCM to its own codes: for nano and for the public family.

A branch holds weights and is shared; what it opens is one stream and shares nothing that changes. All
features are bit-equal for any chunking, and a network only ever sees windows whose places and shapes the
position in the stream decides, so the codes are too.

Streams are computed one by one. Eight hops in one call would give other bits than each alone, because a
matrix product's rounding depends on its number of rows; padding every call to eight rows keeps them equal
(`nearest_code` does so) but makes a single stream pay several times over.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from aqaa.audio.fbank import FbankOptions
from aqaa.audio.lfr import Cmvn, LfrOptions, LinguisticFrontend
from aqaa.audio.whisper_mel import CausalLogMel, LogMelOptions
from aqaa.models.linguistic import LinguisticEncoder, nearest_code
from aqaa.models.nano_semantic import MEL_FRAMES_PER_CODE, NanoSemanticEncoder
from aqaa.models.semantic import SemanticEncoder, WindowedSemantic, WindowGrid

Pcm = NDArray[np.float32]
Codes = NDArray[np.int64]
"""Codes of one codebook, (n,), counted from 0."""

NO_CODES: Codes = np.empty(0, np.int64)


class CodeStream(Protocol):
    """One stream of one branch. ``push`` after ``finish`` is not allowed."""

    def push(self, pcm: Pcm) -> Codes:
        """Take (n,) float32 PCM; give the codes (k,) that are now decided."""
        ...

    def finish(self) -> Codes:
        """End of the signal, which has whole groups: the codes that are left."""
        ...


class Branch(Protocol):
    """Weights and settings of one codebook."""

    @property
    def code_samples(self) -> int:
        """PCM samples that one code stands for."""
        ...

    def open(self) -> CodeStream:
        """A stream that stands before the first sample."""
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

    def open(self) -> CodeStream:
        return _SanmStream(self)


class _SanmStream:
    def __init__(self, branch: SanmBranch) -> None:
        self._branch = branch
        # Upstream's rule for an unfinished window never applies: a signal of G groups gives exactly the
        # 2 G windows that lie inside it.
        self._frontend = LinguisticFrontend(branch.cmvn, branch.fbank, branch.lfr)
        self._state = branch.encoder.initial_state()

    def push(self, pcm: Pcm) -> Codes:
        return self._encode(self._frontend.push(pcm))

    def finish(self) -> Codes:
        return self._encode(self._frontend.flush())

    @torch.inference_mode()
    def _encode(self, chunks: Iterable[Pcm]) -> Codes:
        codes = [NO_CODES]
        for chunk_TF in chunks:
            # torch.tensor copies to aligned memory: kernels may round by alignment.
            states_BTD, self._state = self._branch.encoder.stream(torch.tensor(chunk_TF)[None], self._state)
            codes.append(nearest_code(states_BTD[0], self._branch.centroids).numpy())
        return np.concatenate(codes)


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

    def open(self) -> CodeStream:
        return _NanoSemanticStream(self)


class _NanoSemanticStream:
    def __init__(self, branch: NanoSemanticBranch) -> None:
        self._branch = branch
        self._mel = CausalLogMel(branch.mel)
        self._held_TM = self._silence(branch.encoder.config.frames_before)  # context, then frames not coded

    def push(self, pcm: Pcm) -> Codes:
        self._held_TM = np.concatenate((self._held_TM, self._mel.push(pcm)))
        codes = [NO_CODES]
        while len(self._held_TM) >= self._window_frames:
            codes.append(self._encode())
        return np.concatenate(codes)

    def finish(self) -> Codes:
        self._held_TM = np.concatenate((self._held_TM, self._mel.flush()))
        left = (len(self._held_TM) - self._branch.encoder.config.frames_before) // MEL_FRAMES_PER_CODE
        self._held_TM = np.concatenate((self._held_TM, self._silence(self._window_frames)))
        hops = -(-left * MEL_FRAMES_PER_CODE // self._branch.hop_frames)
        codes: Codes = np.concatenate([NO_CODES, *(self._encode() for _ in range(hops))])
        return codes[:left]

    @property
    def _window_frames(self) -> int:
        config = self._branch.encoder.config
        return config.frames_before + self._branch.hop_frames + MEL_FRAMES_PER_CODE * config.codes_ahead

    @torch.inference_mode()
    def _encode(self) -> Codes:
        """The codes of the next hop, whose context is there."""
        encoder = self._branch.encoder
        values_BJK = encoder.window(torch.tensor(self._held_TM[: self._window_frames])[None])
        self._held_TM = self._held_TM[self._branch.hop_frames :]
        codes: Codes = encoder.quantizer.encode(values_BJK)[0].numpy()
        return codes

    def _silence(self, frames: int) -> Pcm:
        config = self._branch.encoder.config
        return np.full((frames, config.n_mels), config.silence, np.float32)


@dataclass(frozen=True, eq=False)
class WhisperBranch:
    """The public family's semantic codes: its two-way encoder, run on the windows of ``grid``."""

    encoder: SemanticEncoder
    mel: LogMelOptions
    grid: WindowGrid

    @property
    def code_samples(self) -> int:
        return MEL_FRAMES_PER_CODE * self.mel.hop

    def open(self) -> CodeStream:
        return _WhisperStream(self)


class _WhisperStream:
    def __init__(self, branch: WhisperBranch) -> None:
        self._mel = CausalLogMel(branch.mel)
        self._windows = WindowedSemantic(branch.encoder, branch.grid)

    def push(self, pcm: Pcm) -> Codes:
        return self._windows.push(self._mel.push(pcm))

    def finish(self) -> Codes:
        return np.concatenate((self._windows.push(self._mel.flush()), self._windows.flush()))

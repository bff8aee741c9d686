"""PCM to groups of codes. The stream is the definition: a whole signal is tokenized by streaming it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aqaa.audio.frames import as_pcm
from aqaa.audio.gain import CausalGain
from aqaa.audio.whisper_mel import WHISPER
from aqaa.bundle import Bundle
from aqaa.bundle.public_tokenizer import PublicTokenizer
from aqaa.engine.rows import Watch, in_all, in_sizes, unwatched
from aqaa.engine.tokenizer.branches import NO_CODES, Branch, Pcm, SanmBranch, WhisperBranch
from aqaa.engine.tokenizer.loading import load_linguistic, load_semantic
from aqaa.errors import BundleUnsupported, InvalidAudio, StateError
from aqaa.models.semantic import WindowGrid

Groups = NDArray[np.int64]
"""Groups of codes, (G, 5): the linguistic codes of a group, then its semantic ones, each counted from 0."""

Level = Literal["normalised", "kept"]
"""Whether the semantic codes hear the signal after the causal gain or at its own level, which is part of what
an answering voice says. The linguistic codes always hear the former."""

_PUBLIC_GROUP = (2, 3)


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Both branches and their clock; holds weights only, so any number of streams may be open.

        tokenizer = Tokenizer.load(bundle)
        stream = tokenizer.stream()
        for pcm in pieces:                     # (n,) float32 at sample_rate, any n
            groups_G5 = stream.push(pcm)
        groups_G5 = stream.finish()

    The gain and the network windows advance by ``hop_samples`` from sample 0. Groups of a hop come with the
    next one, because semantic codes look ahead. Raises BundleUnsupported if the codes of a group do not
    span the same time in both branches, or hops are not whole groups.
    """

    linguistic: Branch[Any]
    semantic: Branch[Any]
    sample_rate: int
    hop_samples: int
    group_linguistic: int
    group_semantic: int

    def __post_init__(self) -> None:
        ours = self.group_linguistic * self.linguistic.code_samples
        theirs = self.group_semantic * self.semantic.code_samples
        if ours != theirs or ours == 0:
            raise BundleUnsupported(
                f"a group's {self.group_linguistic} linguistic codes span {ours} samples and its "
                f"{self.group_semantic} semantic codes {theirs}, expected the same time for both"
            )
        if self.hop_samples < 1 or self.hop_samples % ours:
            raise BundleUnsupported(f"the hop is {self.hop_samples} samples, expected whole groups of {ours}")

    @property
    def group_samples(self) -> int:
        """PCM samples a group."""
        return self.group_linguistic * self.linguistic.code_samples

    @classmethod
    def load(cls, bundle: Bundle) -> "Tokenizer":
        """The tokenizer of a bundle.

        Raises:
            BundleError: a module's files, sizes or tensors do not fit its kind, or its rates the manifest.
        """
        section, layout = bundle.manifest.tokenizer, bundle.manifest.layout
        tokenizer = cls(
            linguistic=load_linguistic(bundle),
            semantic=load_semantic(bundle),
            sample_rate=section.sample_rate,
            hop_samples=section.hop_samples,
            group_linguistic=layout.group_linguistic,
            group_semantic=layout.group_semantic,
        )
        if tokenizer.group_samples != section.group_samples:
            raise BundleUnsupported(
                f"bundle {bundle.root}: tokenizer.group_samples is {section.group_samples}, "
                f"expected {tokenizer.group_samples}: what the codes of one group span"
            )
        return tokenizer

    @classmethod
    def public(cls, parts: PublicTokenizer, *, hop_samples: int = 7680) -> "Tokenizer":
        """The public checkpoint's modules behind this interface: windows of 2 s + hop + 0.32 s."""
        own = parts.linguistic
        return cls(
            linguistic=SanmBranch(own.fbank, own.lfr, own.cmvn, own.encoder, own.centroids),
            semantic=WhisperBranch(parts.semantic, WHISPER, WindowGrid(hop=hop_samples // WHISPER.hop)),
            sample_rate=own.fbank.rate,
            hop_samples=hop_samples,
            group_linguistic=_PUBLIC_GROUP[0],
            group_semantic=_PUBLIC_GROUP[1],
        )

    def stream(self, level: Level = "normalised") -> "TokenizerStream":
        """A new stream that stands before its first sample."""
        return TokenizerStream(self, level)

    def advance(
        self,
        streams: "Sequence[TokenizerStream]",
        *,
        sizes: Sequence[int] = (1,),
        watch: Watch = unwatched,
    ) -> "list[Groups]":
        """Compute the next hop of each stream, which must be due: the groups of each that are now decided.

        Windows of one shape go through a network together, so many at a time as ``sizes`` allows: what
        ``equal_sizes`` gives, or 1. ``watch`` is entered around each pass.
        """
        for stream in streams:
            stream._hear()
        for half, (name, branch) in enumerate((("linguistic", self.linguistic), ("semantic", self.semantic))):
            while ready := [stream for stream in streams if stream._halves[half].due]:
                length = ready[0]._halves[half].due
                alike = [stream for stream in ready if stream._halves[half].due == length]
                for batch in in_sizes(alike, sizes):
                    with watch(name, len(batch)):
                        found = branch.encode([stream._halves[half] for stream in batch])
                    for stream, codes in zip(batch, found, strict=True):
                        stream._codes[half] = np.concatenate((stream._codes[half], codes))
        return [stream._grouped() for stream in streams]

    def equal_sizes(self, most: int) -> tuple[int, ...]:
        """Up to ``most``, the numbers of streams in which each has the bits that it has alone.

        A fact of this machine and its thread count. Computes for a moment: ask once, at start-up.
        """
        return in_all(branch.equal_sizes(most) for branch in (self.linguistic, self.semantic))

    def tokenize(self, pcm: ArrayLike, level: Level = "normalised") -> Groups:
        """Groups (G, 5) of a whole signal, (n,) float at ``sample_rate``: its stream's, to the end.

        Raises InvalidAudio for samples that are not finite.
        """
        stream = self.stream(level)
        return np.concatenate((stream.push(pcm), stream.finish()))


class TokenizerStream:
    """One signal that arrives in pieces. Abandoning a stream needs no call.

    ``push`` and ``finish`` compute at once. Who computes for many streams calls ``feed`` and ``end``, which
    only keep what comes, and ``Tokenizer.advance`` with those that are ``due``.
    """

    def __init__(self, tokenizer: Tokenizer, level: Level) -> None:
        self._tokenizer = tokenizer
        self._gain = CausalGain(tokenizer.hop_samples)
        self._level = level
        self._halves = tokenizer.linguistic.open(), tokenizer.semantic.open()
        self._codes = [NO_CODES, NO_CODES]  # of each half, whose group is not whole yet
        self._pcm: Pcm = np.empty(0, np.float32)  # not heard yet
        self._samples = 0
        self._ended = False
        self._finished = False

    def push(self, pcm: ArrayLike) -> Groups:
        """Take (n,) float PCM, n >= 0; give the groups (k, 5) that are now decided.

        Raises InvalidAudio for samples that are not finite, StateError after ``finish``.
        """
        self.feed(pcm)
        return self._advance()

    def finish(self) -> Groups:
        """End of the signal, padded with zeros to whole groups so that nothing is lost: the last groups.

        Raises StateError if it has been called before.
        """
        self.end()
        return self._advance()

    def feed(self, pcm: ArrayLike) -> None:
        """Take (n,) float PCM, n >= 0. Raises as ``push`` does."""
        if self._ended:
            raise StateError("the stream has been finished; open a new one for a new signal")
        samples = as_pcm(pcm)
        if not np.isfinite(samples).all():
            raise InvalidAudio("PCM holds NaN or infinity, expected finite samples")
        self._samples += len(samples)
        self._pcm = np.concatenate((self._pcm, samples))

    def end(self) -> None:
        """End of the signal. Raises as ``finish`` does."""
        self.feed(np.zeros(-self._samples % self._tokenizer.group_samples, np.float32))
        self._ended = True

    @property
    def due(self) -> bool:
        """Whether a hop can be computed: it is there, or the signal has ended."""
        whole = len(self._pcm) >= self._tokenizer.hop_samples
        return whole or (self._ended and not self._finished)

    @property
    def waiting(self) -> int:
        """Samples that are not computed yet."""
        return len(self._pcm)

    @property
    def finished(self) -> bool:
        """Whether the signal has ended and all its groups have been given."""
        return self._finished

    def _advance(self) -> Groups:
        groups = [self._grouped()]
        while self.due:
            groups += self._tokenizer.advance([self])
        return np.concatenate(groups)

    def _hear(self) -> None:
        """The next hop, or what is left, goes on to both halves."""
        hop, self._pcm = np.split(self._pcm, [self._tokenizer.hop_samples])
        levelled = self._gain.push(hop)
        if len(hop) < self._tokenizer.hop_samples:
            levelled, self._finished = self._gain.flush(), True
        linguistic, semantic = self._halves
        linguistic.hear(levelled)
        semantic.hear(levelled if self._level == "normalised" else hop)
        if self._finished:
            linguistic.end()
            semantic.end()

    def _grouped(self) -> Groups:
        """The groups that both halves have completed."""
        sizes = self._tokenizer.group_linguistic, self._tokenizer.group_semantic
        count = min(len(codes) // size for codes, size in zip(self._codes, sizes, strict=True))
        columns = []
        for half, size in enumerate(sizes):
            codes, self._codes[half] = np.split(self._codes[half], [count * size])
            columns.append(codes.reshape(count, size))
        return np.hstack(columns)

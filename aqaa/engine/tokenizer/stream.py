"""PCM to groups of codes. The stream is the definition: a whole signal is tokenized by streaming it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aqaa.audio.frames import as_pcm
from aqaa.audio.gain import CausalGain
from aqaa.audio.whisper_mel import WHISPER
from aqaa.bundle import Bundle
from aqaa.bundle.public_tokenizer import PublicTokenizer
from aqaa.engine.tokenizer.branches import NO_CODES, Branch, Codes, SanmBranch, WhisperBranch
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

    linguistic: Branch
    semantic: Branch
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

    def tokenize(self, pcm: ArrayLike, level: Level = "normalised") -> Groups:
        """Groups (G, 5) of a whole signal, (n,) float at ``sample_rate``: its stream's, to the end.

        Raises InvalidAudio for samples that are not finite.
        """
        stream = self.stream(level)
        return np.concatenate((stream.push(pcm), stream.finish()))


class TokenizerStream:
    """One signal that arrives in pieces. Abandoning a stream needs no call."""

    def __init__(self, tokenizer: Tokenizer, level: Level) -> None:
        self._tokenizer = tokenizer
        self._gain = CausalGain(tokenizer.hop_samples)
        self._level = level
        self._linguistic, self._semantic = tokenizer.linguistic.open(), tokenizer.semantic.open()
        self._words, self._sounds = NO_CODES, NO_CODES  # codes whose group is not whole yet
        self._samples = 0
        self._finished = False

    def push(self, pcm: ArrayLike) -> Groups:
        """Take (n,) float PCM, n >= 0; give the groups (k, 5) that are now decided.

        Raises InvalidAudio for samples that are not finite, StateError after ``finish``.
        """
        if self._finished:
            raise StateError("the stream has been finished; open a new one for a new signal")
        samples = as_pcm(pcm)
        if not np.isfinite(samples).all():
            raise InvalidAudio("PCM holds NaN or infinity, expected finite samples")
        self._samples += len(samples)
        levelled = self._gain.push(samples)
        heard = levelled if self._level == "normalised" else samples
        return self._grouped(self._linguistic.push(levelled), self._semantic.push(heard))

    def finish(self) -> Groups:
        """End of the signal, padded with zeros to whole groups so that nothing is lost: the last groups."""
        padding = np.zeros(-self._samples % self._tokenizer.group_samples, np.float32)
        first = self.push(padding)
        self._finished = True
        rest = self._gain.flush()
        heard = rest if self._level == "normalised" else rest[:0]
        words = np.concatenate((self._linguistic.push(rest), self._linguistic.finish()))
        sounds = np.concatenate((self._semantic.push(heard), self._semantic.finish()))
        return np.concatenate((first, self._grouped(words, sounds)))

    def _grouped(self, words: Codes, sounds: Codes) -> Groups:
        """The groups that both branches have completed."""
        per_word, per_sound = self._tokenizer.group_linguistic, self._tokenizer.group_semantic
        self._words = np.concatenate((self._words, words))
        self._sounds = np.concatenate((self._sounds, sounds))
        count = min(len(self._words) // per_word, len(self._sounds) // per_sound)
        words, self._words = np.split(self._words, [count * per_word])
        sounds, self._sounds = np.split(self._sounds, [count * per_sound])
        return np.hstack((words.reshape(count, per_word), sounds.reshape(count, per_sound)))

"""Everything spoken in the corpus, in memory as PCM16 at 16 kHz: what both audio tokenizers learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from training.corpus import Corpus
from training.phonemes import Lexicon


@dataclass(frozen=True)
class Utterance:
    """PCM16 at 16 kHz, phonemes, who speaks; ``answer`` marks the answering voice (level kept, clean)."""

    pcm: NDArray[np.int16]
    phonemes: list[int]
    text: str
    voice: str
    answer: bool = False
    row: int = -1

    @property
    def seconds(self) -> float:
        return len(self.pcm) / 16000

    @property
    def samples(self) -> NDArray[np.float32]:
        return self.pcm.astype(np.float32) / 32768


KOKORO = ("kokoro", "strangers")  # parts that Kokoro speaks
ASKED = ("questions", *KOKORO, "pico")  # parts of the corpus that are questions


def questions(corpus: Corpus, lexicon: Lexicon, names: tuple[str, ...] = ASKED) -> list[Utterance]:
    lexicon.learn([item.question for item in corpus.items])
    found = []
    for name in names:
        for shard in corpus.shards(name):
            for index, pcm, voice in corpus.questions(name, shard):
                text = corpus.items[index].question
                # Where the teacher said nothing (a crash, an empty file) there is nothing to learn.
                if len(pcm) > 4000 and np.abs(pcm).max() > 0.01:
                    pcm16 = trim((pcm * 32767).astype(np.int16))
                    found.append(Utterance(pcm16, lexicon[text], text, voice, row=index))
    return found


def answers(corpus: Corpus, lexicon: Lexicon, every: int = 1) -> list[Utterance]:
    """The answering voice at 16 kHz, every ``every``-th rendering."""
    lexicon.learn([spoken.text for spoken in corpus.spoken])
    found = []
    for shard in corpus.shards("answers"):
        for k, (spoken, pcm, _) in enumerate(corpus.answers(shard)):
            if k % every == 0:
                low = soxr.resample(pcm, 24000, 16000)
                pcm16 = (np.clip(low, -1, 1) * 32767).astype(np.int16)
                found.append(
                    Utterance(
                        pcm16, lexicon[spoken.text], spoken.text, spoken.style or "", True, corpus.row[spoken]
                    )
                )
    return found


def evenness(texts: Sequence[str], most: float = 30.0) -> NDArray[np.float64]:
    """How often to draw each text, at least 1: more, the rarer its rarest word is among ``texts``.

    Sentences to be repeated are of sixty words; "hot" is in fifteen renderings of 25 000.
    """
    words = [set(text.lower().replace(",", " ").rstrip(".?").split()) for text in texts]
    counts = Counter(word for row in words for word in row)
    rarest = np.array([min(counts[word] for word in row) for row in words])
    return np.clip(np.sqrt(rarest.max() / rarest), 1.0, most)


def trim(pcm: NDArray[np.int16], keep: int = 1280) -> NDArray[np.int16]:
    """Without the silence around speech, but for 80 ms."""
    loud = np.flatnonzero(np.abs(pcm.astype(np.int32)) > 0.02 * np.abs(pcm.astype(np.int32)).max())
    return pcm[max(0, loud[0] - keep) : loud[-1] + keep]


def corpus_at(folder: str = "work/nano") -> tuple[Corpus, Lexicon]:
    return Corpus(Path(folder) / "corpus"), Lexicon(Path(folder) / "phonemes.json")

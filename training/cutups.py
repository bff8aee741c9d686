"""Sentences of words cut out of others: nothing but the sound says which word comes next.

Who has heard only whole questions learns which words follow which, and hears a question of another wording as
the nearest one that it knows. Words are found by forced alignment with the CTC head of the linguistic
tokenizer (Graves et al. 2006), cut where the sound is quietest, and joined across speakers.

    python -m training.cutups work/nano 12000
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from training import features
from training.corpus import SHARD, save_questions
from training.domain import Item, sentence_case
from training.linguistic import SLOTS, Listener
from training.loop import weights_of
from training.phonemes import BLANK, encode
from training.speech import Utterance, corpus_at, questions

RATE = 16000
SLOT = 960 // SLOTS
"""Samples of a CTC position: 20 ms."""
REACH = 640
"""How far a cut may move to a quieter place, samples."""
LEAST = 480
"""The shortest word, samples: 30 ms."""
FADE = 80

KIND = "cut-up"
PARTS = (("kokoro", 1), ("pico", 4), ("questions", 12))
"""Parts of the corpus that are cut up, and which of their clips: every n-th."""


@dataclass(frozen=True, eq=False)
class Word:
    """A word as one clip says it: (n,) float32 at 16 kHz, its spelling, its phonemes."""

    pcm: NDArray[np.float32]
    text: str
    phonemes: str


def align(log_probs_TK: NDArray[np.float32], phonemes: Sequence[int]) -> NDArray[np.int64]:
    """(len(phonemes), 2): the first and last CTC position of each phoneme on the likeliest path.

    Raises ValueError where there are too few positions for the phonemes.
    """
    labels = np.full(2 * len(phonemes) + 1, BLANK)
    labels[1::2] = phonemes
    skips = np.zeros(len(labels), bool)
    skips[3::2] = labels[3::2] != labels[1:-2:2]
    score = np.full(len(labels), -np.inf)
    score[:2] = log_probs_TK[0, labels[:2]]
    steps = np.zeros((len(log_probs_TK), len(labels)), np.int8)
    for t in range(1, len(log_probs_TK)):
        before = np.stack((score, np.r_[-np.inf, score[:-1]], np.r_[-np.inf, -np.inf, score[:-2]]))
        before[2, ~skips] = -np.inf
        steps[t] = before.argmax(0)
        score = before.max(0) + log_probs_TK[t, labels]
    state = len(labels) - 1 if score[-1] >= score[-2] else len(labels) - 2
    if not np.isfinite(score[state]):
        raise ValueError(f"{len(log_probs_TK)} positions for {len(phonemes)} phonemes, expected more")
    path = np.empty(len(log_probs_TK), np.int64)
    for t in range(len(path) - 1, -1, -1):
        path[t] = state
        state -= steps[t, state]
    found = np.empty((len(phonemes), 2), np.int64)
    for k in range(len(phonemes)):
        at = np.flatnonzero(path == 2 * k + 1)
        found[k] = at[0], at[-1]
    return found


def quietest(pcm: NDArray[np.float32], near: int) -> int:
    """The sample within REACH of ``near`` around which 10 ms hold the least energy."""
    low, high = max(0, near - REACH), min(len(pcm), near + REACH)
    if high - low < 2 * FADE:
        return min(max(near, 0), len(pcm))
    energy = np.convolve(pcm[low:high] ** 2, np.ones(2 * FADE), "valid")
    return low + int(energy.argmin()) + FADE


@torch.inference_mode()
def words(model: Listener, utterance: Utterance, spelled: Sequence[str], said: Sequence[str]) -> list[Word]:
    """The words of one clean clip; ``spelled`` and ``said`` are its words in letters and in phonemes.

    Raises ValueError where the clip is too short for its phonemes, or a word shorter than LEAST.
    """
    pcm = F.pad(torch.from_numpy(utterance.samples)[None], (0, -len(utterance.pcm) % 1920))
    logits = model(features.fbank(features.causal_gain(pcm)), torch.tensor([pcm.shape[1] // 960]))[0]
    ids = [encode(word) for word in said]
    spans = align(logits.float().log_softmax(-1).numpy(), [k for word in ids for k in word])
    samples, edges, first = utterance.samples, [0], 0
    for word in ids[:-1]:
        first += len(word)
        between = (int(spans[first - 1, 1]) + 1 + int(spans[first, 0])) * SLOT // 2
        edges.append(max(edges[-1], quietest(samples, between)))
    edges.append(len(samples))
    lengths = np.diff(edges)
    if lengths.min() < LEAST:
        short = spelled[int(lengths.argmin())]
        raise ValueError(
            f"{short!r} in {utterance.text!r} has {lengths.min()} samples, expected at least {LEAST}"
        )
    return [
        Word(samples[start:stop], text, phonemes)
        for text, phonemes, (start, stop) in zip(spelled, said, pairwise(edges), strict=True)
    ]


def spelling(texts: Sequence[str]) -> dict[str, str]:
    """How the first word of a sentence is written inside one: small, unless it is found only as it stands."""
    inside = {word.strip(",.?") for text in texts for part in text.split(". ") for word in part.split()[1:]}
    first = {part.split()[0].strip(",.?") for text in texts for part in text.split(". ") if part}
    return {word: word if word in inside and word.lower() not in inside else word.lower() for word in first}


def joined(parts: Sequence[NDArray[np.float32]], rng: np.random.Generator) -> NDArray[np.float32]:
    """The parts at one level, faded into each other or with a short silence between."""
    out = np.zeros(0, np.float32)
    ramp = np.linspace(0, 1, FADE, dtype=np.float32)
    for part in parts:
        part = part * (0.1 / max(1e-4, float(np.sqrt(np.mean(part**2)))))
        part[:FADE] *= ramp
        part[-FADE:] *= ramp[::-1]
        if len(out) and rng.random() < 0.7:
            out[-FADE:] += part[:FADE]
            part = part[FADE:]
        elif len(out):
            out = np.r_[out, np.zeros(int(rng.integers(0, 1600)), np.float32)]
        out = np.r_[out, part]
    return out * (0.5 / max(0.5, float(np.abs(out).max(initial=0))))


def cut_up(
    clips: Sequence[Sequence[Word]], rng: np.random.Generator, least: int = 3, most: int = 9
) -> tuple[list[Word], NDArray[np.float32]]:
    """Runs of one to three words of clips drawn at random, and their sound."""
    wanted = int(rng.integers(least, most + 1))
    taken: list[Word] = []
    sounds: list[NDArray[np.float32]] = []
    while len(taken) < wanted:
        clip = clips[int(rng.integers(len(clips)))]
        start = int(rng.integers(len(clip)))
        run = clip[start : start + min(int(rng.integers(1, 4)), wanted - len(taken))]
        taken += run
        sounds.append(np.concatenate([word.pcm for word in run]))
    return taken, joined(sounds, rng)


def build(folder: Path, count: int, seed: int = 20268) -> None:
    """Writes the part ``cutups`` of the corpus, its items to ``cutups.jsonl`` at the end, once.

    Raises FileNotFoundError where the tokenizer or a part of the corpus is missing.
    """
    done = folder / "corpus" / "cutups.jsonl"
    if done.exists():
        return
    corpus, lexicon = corpus_at(str(folder))
    model = Listener()
    model.load_state_dict(weights_of(folder, "linguistic"))
    model.quantise = True
    model.eval()
    small = spelling([item.question for item in corpus.items])
    clips: dict[str, list[list[Word]]] = {}
    for part, every in PARTS:
        for utterance in questions(corpus, lexicon, (part,))[::every]:
            found = _words_of(model, utterance, lexicon.known[utterance.text], small)
            if found:
                clips.setdefault(part, []).append(found)
        if part not in clips:
            raise FileNotFoundError(f"{folder}/corpus: no clip of {part} can be cut; run training.corpus")
        print(part, len(clips[part]), flush=True)
    (folder / "corpus" / "cutups").mkdir(exist_ok=True)
    rng, items = np.random.default_rng(seed), list[Item]()
    for shard in range(-(-count // SHARD)):
        spoken, order = {}, []
        for _ in range(min(SHARD, count - shard * SHARD)):
            part = str(rng.choice([name for name, _ in PARTS], p=(0.7, 0.1, 0.2)))
            taken, pcm = cut_up(clips[part], rng)
            row = " ".join(word.text for word in taken)
            text = sentence_case(row, str(rng.choice(list(".?"))))
            lexicon.known[text] = " ".join(word.phonemes for word in taken)
            order.append(len(corpus.items) + len(items))
            spoken[order[-1]] = (pcm, f"cut-up of {part}")
            items.append(Item(KIND, text, (), "train"))
        save_questions(folder / "corpus" / "cutups" / f"{shard:04d}.npz", spoken, order)
    lexicon.path.write_text(json.dumps(lexicon.known, ensure_ascii=False), "utf-8")
    done.write_text("".join(json.dumps(asdict(item)) + "\n" for item in items), "utf-8")


def _words_of(
    model: Listener, utterance: Utterance, phonemes: str, small: dict[str, str]
) -> list[Word] | None:
    spelled, said = utterance.text.split(), phonemes.split()
    if len(spelled) != len(said) or not all(map(encode, said)):
        return None
    try:
        return words(model, utterance, list(_plain(spelled, small)), said)
    except ValueError:
        return None


def _plain(spelled: Sequence[str], small: dict[str, str]) -> Iterator[str]:
    """Words without punctuation, those that begin a sentence written as elsewhere."""
    begins = True
    for word in spelled:
        bare = word.strip(",.?")
        yield small[bare] if begins else bare
        begins = word[-1] in ".?"


if __name__ == "__main__":
    build(Path(sys.argv[1]), int(sys.argv[2]))

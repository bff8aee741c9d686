"""Phoneme targets for the tokenizers' CTC heads: hibari's pronunciation without stress or punctuation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SYMBOLS = "AIOTWYbdfhijklmnpstuvwzæðŋɐɑɔəɛɜɡɪɹɾʃʊʌʒʔʤʧθᵊᵻɚ"
BLANK = 0
SIZE = len(SYMBOLS) + 1


def encode(phonemes: str) -> list[int]:
    """Symbol ids from 1; what is not a phoneme (stress, length, punctuation, spaces) is left out."""
    return [SYMBOLS.index(symbol) + 1 for symbol in phonemes if symbol in SYMBOLS]


def greedy(logits_TK: Tensor) -> list[int]:
    """CTC best path: repeats merged, blanks dropped."""
    best = logits_TK.argmax(-1).tolist()
    return [k for k, before in zip(best, [BLANK, *best], strict=False) if k not in (before, BLANK)]


def edit_distance(reference: list[int], found: list[int]) -> int:
    row = list(range(len(found) + 1))
    for i, wanted in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, got in enumerate(found, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != got))
    return row[-1]


class Lexicon:
    """text → phoneme ids, remembered in a file because the pronouncer costs more than the look-up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, str] = json.loads(path.read_text("utf-8")) if path.exists() else {}

    def learn(self, texts: list[str]) -> None:
        missing = [text for text in dict.fromkeys(texts) if text not in self.known]
        if missing:
            from training.voices import Heart

            heart = Heart()
            self.known |= {text: heart.phonemes(text) for text in missing}
            self.path.write_text(json.dumps(self.known, ensure_ascii=False), "utf-8")

    def __getitem__(self, text: str) -> list[int]:
        return encode(self.known[text])


def targets(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Concatenated targets and their lengths, as ``ctc_loss`` takes them."""
    return torch.from_numpy(np.concatenate(rows).astype(np.int64)), torch.tensor([len(r) for r in rows])

"""A small training folder without a sound in it: texts, a text vocabulary, and codes drawn at random."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from training.corpus import Corpus, CorpusConfig, write_texts
from training.domain import Item
from training.sequences import Language
from training.tokens import save_groups, train_vocabulary

SMALL = CorpusConfig(items=300, speak=60, loose=40, loose_items=20, kokoro_items=50)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the backbone reads: ``corpus``, ``text.model``, ``tokens``."""
    folder = tmp_path_factory.mktemp("nano")
    write_texts(folder / "corpus", SMALL)
    cut_ups = [Item("cut-up", f"Ten {word} the.", (), "train") for word in ("apple", "color", "five")]
    rows = "".join(json.dumps(asdict(item)) + "\n" for item in cut_ups)
    (folder / "corpus" / "cutups.jsonl").write_text(rows, "utf-8")
    corpus = Corpus(folder / "corpus")
    train_vocabulary(corpus, folder / "text.model", pieces=400)
    text = Language(folder / "text.model").text
    rng = np.random.default_rng(4)

    def groups(count: int) -> np.ndarray:
        codes = np.concatenate((rng.integers(0, 1024, (count, 2)), rng.integers(0, 4096, (count, 3))), 1)
        return codes.astype(np.int16)

    (folder / "tokens").mkdir()
    answers = [groups(len(text.encode(s.text)) // 2 + int(rng.integers(3, 9))) for s in corpus.spoken]
    save_groups(folder / "tokens" / "answers.npz", answers)
    save_groups(folder / "tokens" / "nonspeech.npz", [groups(n) for n in (5, 12, 50)])
    questions = [groups(int(rng.integers(6, 24))) for _ in corpus.items]
    save_groups(folder / "tokens" / "questions-0.npz", questions, items=np.arange(len(corpus.items)))
    return folder


@pytest.fixture(scope="session")
def corpus(folder: Path) -> Corpus:
    return Corpus(folder / "corpus")


@pytest.fixture(scope="session")
def language(folder: Path) -> Language:
    return Language(folder / "text.model")

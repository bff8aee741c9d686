"""Stage 3: the corpus as tokens, and the text vocabulary.

Answers are tokenised once, at the voice's own level. Every question is tokenised several times, each time
through another room, noise, level and shift, so that the backbone meets the scatter of real codes.
"""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from aqaa.models.nano_semantic import NanoSemanticEncoder
from training import augment, features, linguistic, nonspeech, semantic
from training.corpus import Corpus
from training.loop import folder_and_threads, length_batches
from training.speech import ASKED, KOKORO, answers, corpus_at, questions

CONTROLS = ("<|EOT|>", "<|BOT|>", "<audio_start>", "<audio_end>")
STYLES = tuple(f"<|{name}|>" for name in ("normal", "slow", "fast", "high", "low", "loud", "soft"))
ROLES = ("human", "assistant", "transcript", "speak", "continue", "system")


@dataclass(frozen=True)
class TokenConfig:
    """``variants`` passes over every question, ``redrawn`` more over those of Kokoro: they are few, and
    an unseen voice is more like its many speakers than like the rest."""

    pieces: int = 640
    variants: int = 2
    redrawn: int = 7
    nonspeech: int = 2000  # sounds that are no speech
    seconds: float = 240.0
    seed: int = 31


class Codec:
    """Both encoders, finished: PCM batches to codes."""

    def __init__(self, folder: Path) -> None:
        self.listener = linguistic.Listener()
        self.listener.load_state_dict(torch.load(folder / "linguistic.pt", weights_only=True))
        autoencoder = semantic.SemanticAutoencoder()
        autoencoder.load_state_dict(torch.load(folder / "semantic.pt", weights_only=True))
        self.encoder: NanoSemanticEncoder = autoencoder.encoder
        # The bundle holds half precision: tokenise with what it will hold.
        for part in (self.listener, self.encoder):
            part.half().float().eval()

    @torch.inference_mode()
    def groups(self, pcm_BN: Tensor, samples: Tensor, keep_level: bool) -> list[NDArray[np.int16]]:
        """Each row's (G, 5) codes: two linguistic, three semantic; ``samples`` are whole groups."""
        level = features.causal_gain(pcm_BN)
        states = self.listener.states(features.fbank(level), samples // 960)
        words = self.listener.codes(states)
        mel = features.whisper_mel(pcm_BN if keep_level else level)
        sounds = self.encoder.quantizer.encode(self.encoder(mel))
        rows = []
        for row, n in enumerate((samples // 1920).tolist()):
            pair, triple = words[row, : 2 * n].view(n, 2), sounds[row, : 3 * n].view(n, 3)
            rows.append(torch.cat((pair, triple), 1).numpy().astype(np.int16))
        return rows


def save_groups(path: Path, rows: list[NDArray[np.int16]], **extra: NDArray[np.generic]) -> None:
    """Written whole or not at all."""
    offsets = np.cumsum([0] + [len(r) for r in rows])
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, groups=np.concatenate(rows), offsets=offsets, **extra)
    os.replace(partial, path)


class GroupTable:
    """Rows of (G, 5) codes from one or more files; ``items`` names the item a row asks (questions only)."""

    def __init__(self, *paths: Path) -> None:
        files = [np.load(path) for path in paths]
        self.groups = np.concatenate([data["groups"] for data in files])
        lengths = [np.diff(data["offsets"]) for data in files]
        self.offsets = np.concatenate(([0], np.cumsum(np.concatenate(lengths))))
        self.items = np.concatenate([data.get("items", np.zeros(0, np.int64)) for data in files])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int16]:
        found: NDArray[np.int16] = self.groups[self.offsets[row] : self.offsets[row + 1]]
        return found


def tokenize_answers(folder: Path, codec: Codec, config: TokenConfig) -> None:
    corpus, lexicon = corpus_at(str(folder))
    spoken = answers(corpus, lexicon)
    rows: list[NDArray[np.int16]] = [np.zeros((0, 5), np.int16)] * len(spoken)
    for batch in length_batches((u.seconds for u in spoken), config.seconds):
        pcm = semantic.stack([spoken[i].pcm for i in batch], 1920)
        samples = torch.tensor([-(-len(spoken[i].pcm) // 1920) * 1920 for i in batch])
        for i, groups in zip(batch, codec.groups(pcm, samples, keep_level=True), strict=True):
            rows[i] = groups
    save_groups(folder / "tokens" / "answers.npz", rows)


def tokenize_questions(folder: Path, codec: Codec, config: TokenConfig, variant: int) -> None:
    """One pass over the questions, all or the redrawn ones, through rooms, noises, levels, tape speeds and
    shifts of its own."""
    corpus, lexicon = corpus_at(str(folder))
    heard = questions(corpus, lexicon, (*ASKED, "cutups") if variant < config.variants else KOKORO)
    scatter = augment.AugmentConfig(
        room=0.2, noise=0.5, snr_db=(12.0, 40.0), tail_seconds=0.5, speed=0.5, speed_range=(0.86, 1.17)
    )
    rng = np.random.default_rng([config.seed, variant])
    rows: list[NDArray[np.int16]] = []
    items: list[int] = []
    for batch in length_batches((u.seconds for u in heard), config.seconds):
        pcm, samples = augment.waveforms([heard[i].samples for i in batch], scatter, rng)
        rows += codec.groups(pcm, samples, keep_level=False)
        items += [heard[i].row for i in batch]
    save_groups(folder / "tokens" / f"questions-{variant}.npz", rows, items=np.array(items))


def tokenize_nonspeech(folder: Path, codec: Codec, config: TokenConfig) -> None:
    rng = np.random.default_rng([config.seed, config.variants + config.redrawn])
    sounds = [nonspeech.draw(rng) for _ in range(config.nonspeech)]
    rows: list[NDArray[np.int16]] = []
    for batch in length_batches((len(pcm) / 16000 for pcm in sounds), config.seconds):
        clips = [torch.from_numpy(sounds[i]) for i in batch]
        samples = torch.tensor([len(clip) for clip in clips])
        rows += codec.groups(pad_sequence(clips, batch_first=True), samples, keep_level=False)
    save_groups(folder / "tokens" / "nonspeech.npz", rows)


def train_vocabulary(corpus: Corpus, path: Path, pieces: int) -> None:
    """A unigram SentencePiece model with byte fallback; markers and styles are control pieces."""
    texts = [spoken.text for spoken in corpus.spoken] + [item.question for item in corpus.items]
    # Roles are pieces of their own, because every message opens with one.
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type="unigram", vocab_size=pieces,
        byte_fallback=True, character_coverage=1.0, normalization_rule_name="identity",
        remove_extra_whitespaces=False, pad_id=-1, unk_id=0, bos_id=1, eos_id=2,
        control_symbols=[*CONTROLS, *STYLES], user_defined_symbols=["\n", *ROLES],
        minloglevel=2, num_threads=1,
    )  # fmt: skip
    path.write_bytes(model.getvalue())


def build(folder: Path, config: TokenConfig = TokenConfig()) -> None:
    tokens = folder / "tokens"
    tokens.mkdir(exist_ok=True)
    codec = Codec(folder)
    if not (folder / "text.model").exists():
        train_vocabulary(Corpus(folder / "corpus"), folder / "text.model", config.pieces)
    if not (tokens / "answers.npz").exists():
        tokenize_answers(folder, codec, config)
    if not (tokens / "nonspeech.npz").exists():
        tokenize_nonspeech(folder, codec, config)
    for variant in range(config.variants + config.redrawn):
        if not (tokens / f"questions-{variant}.npz").exists():
            tokenize_questions(folder, codec, config, variant)


if __name__ == "__main__":
    build(folder_and_threads(sys.argv))

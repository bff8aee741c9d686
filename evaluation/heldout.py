"""The held-out questions: what is asked, in which reserved voice, and the recordings of it.

The texts are drawn from the domain's evaluation splits and kept in ``evaluation/heldout/<split>.jsonl``; a
test draws them again. A question is refused when its wording, not only its text, occurs in the training items
once punctuation is gone, for that is how it sounds. Recordings land under ``work/eval/<split>/questions``.

    python -m evaluation.heldout texts          # writes both lists
    python -m evaluation.heldout render test    # makes every missing recording; Kokoro needs 0.6 s a second
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

from rich.progress import track

from aqaa.audio.decode import Audio, read_audio, write_wav
from evaluation.judge import RATE, normalise
from training.corpus import CorpusConfig
from training.domain import (
    KINDS,
    TEST_SHARES,
    Item,
    Split,
    Spoken,
    domain,
    held_out_items,
    number,
    speak_sentences,
    training_items,
)

TEXTS = Path(__file__).parent / "heldout"
SPEEDS = (1.0, 0.9, 1.1, 0.95, 1.05)
"""How fast question i is spoken: entry i modulo five."""


@dataclass(frozen=True)
class HeldOutConfig:
    """One held-out set: ``n`` questions out of ``drawn`` items, the reserved voice that asks, and the sets it
    must not share a text with."""

    split: Split
    n: int
    seed: int
    voice: str
    drawn: int = 1000
    apart_from: tuple[Split, ...] = ()


TEST = HeldOutConfig("test", 660, 7100, "jm_kumo")
DEV = HeldOutConfig("dev", 200, 7200, "jf_alpha", apart_from=("test",))
SETS = {config.split: config for config in (TEST, DEV)}


@dataclass(frozen=True)
class Question:
    """A held-out question. ``seen``: its answer occurs in training; the question never does."""

    index: int
    kind: str
    question: str
    answer: tuple[Spoken, ...]
    seen: bool
    voice: str
    speed: float

    @property
    def answer_text(self) -> str:
        return " ".join(spoken.text for spoken in self.answer)

    @property
    def recording(self) -> str:
        return f"{self.index:04d}.wav"


@dataclass(frozen=True)
class TrainingTexts:
    """What training hears and says, normalised: questions, their wordings, their words, answer sentences."""

    questions: frozenset[str]
    wordings: frozenset[str]
    words: frozenset[str]
    sentences: frozenset[str]


@lru_cache(maxsize=1)
def training_texts() -> TrainingTexts:
    """The texts of the corpus that training makes."""
    config = CorpusConfig()
    items = training_items(config.items, config.seed)
    said = [spoken for item in items for spoken in item.answer] + speak_sentences(
        config.speak, config.seed + 1
    )
    questions = frozenset(normalise(item.question) for item in items)
    return TrainingTexts(
        questions=questions,
        wordings=frozenset(map(wording, questions)),
        words=frozenset(word for question in questions for word in question.split()),
        sentences=frozenset(normalise(spoken.text) for spoken in said),
    )


def wording(question: str) -> str:
    """A normalised question with everything that fills a wording's slots masked: "what is # plus #"."""
    masks, lexicon, longest = _slots()
    words, masked, at = question.split(), [], 0
    while at < len(words):
        if words[at] == "the" and at + 1 < len(words) and words[at + 1] in lexicon:
            at += 2
            while at < len(words) and (words[at] in lexicon or words[at] in ("the", "is", "and", "a")):
                at += 1
            masked.append("@")
            continue
        sizes = range(min(longest, len(words) - at), 0, -1)
        size = next((n for n in sizes if " ".join(words[at : at + n]) in masks), 0)
        masked.append(masks[" ".join(words[at : at + size])] if size else words[at])
        at += size or 1
    return " ".join(masked)


@lru_cache(maxsize=1)
def _slots() -> tuple[dict[str, str], frozenset[str], int]:
    """Phrase → mask, the words of repeat sentences, and the words of the longest phrase."""
    facts, fillers = domain()["facts"], domain()["unknown_fillers"]
    names = [name for table in fillers.values() for name in table] + facts["days"] + facts["months"]
    names += [
        name
        for table in ("capitals", "opposites", "colors")
        for pair in facts[table].items()
        for name in pair
    ]
    masks = {normalise(name): "*" for name in names}
    masks |= {normalise(words): "~" for table in domain()["styles"].values() for words in table}
    masks |= {number(value): "#" for value in range(101)}
    lexicon = {
        word for phrases in domain()["lexicon"].values() for phrase in phrases for word in phrase.split()
    }
    return masks, frozenset(lexicon - {"the"}), max(len(phrase.split()) for phrase in masks)


@lru_cache
def draw(config: HeldOutConfig) -> tuple[Question, ...]:
    """The questions of a set, in an order of which every beginning is a fair sample.

    Drawn from more items than needed, kept where the wording is new, then cut to the shares of the domain.

    Raises ValueError where the domain cannot fill a kind to nine tenths of its share.
    """
    known = training_texts()
    taken = {normalise(q.question) for split in config.apart_from for q in draw(SETS[split])}
    items: dict[str, list[Item]] = {kind: [] for kind in KINDS}
    for item in held_out_items(config.drawn, config.split, config.seed):
        asked = normalise(item.question)
        if wording(asked) not in known.wordings and asked not in known.questions | taken:
            taken.add(asked)
            items[item.kind].append(item)
    chosen = []
    for kind, wanted in shares(config.n).items():
        if len(items[kind]) < 0.9 * wanted:
            raise ValueError(
                f"{config.split}: {len(items[kind])} new questions of kind {kind!r}, expected {wanted}"
            )
        chosen += items[kind][:wanted]
    random.Random(config.seed).shuffle(chosen)
    return tuple(
        Question(
            index=index,
            kind=item.kind,
            question=item.question,
            answer=item.answer,
            seen=all(normalise(spoken.text) in known.sentences for spoken in item.answer),
            voice=config.voice,
            speed=SPEEDS[index % len(SPEEDS)],
        )
        for index, item in enumerate(chosen)
    )


def shares(n: int) -> dict[str, int]:
    """Questions of each kind in a set of ``n``: the fixed shares, the rest evenly."""
    rest = [kind for kind in KINDS if kind not in TEST_SHARES]
    even = (1 - sum(TEST_SHARES.values())) / len(rest)
    return {kind: round(n * TEST_SHARES.get(kind, even)) for kind in KINDS}


def write_texts(split: Split, folder: Path = TEXTS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(asdict(question)) + "\n" for question in draw(SETS[split]))
    (folder / f"{split}.jsonl").write_text(lines, "utf-8")


def read_texts(split: Split, folder: Path = TEXTS) -> list[Question]:
    """The kept list of a split."""
    questions = []
    for line in (folder / f"{split}.jsonl").read_text("utf-8").splitlines():
        raw = json.loads(line)
        raw["answer"] = tuple(Spoken(**spoken) for spoken in raw["answer"])
        questions.append(Question(**raw))
    return questions


@dataclass(frozen=True)
class Recordings:
    """Where a split's questions lie as WAV, 16 kHz."""

    split: Split
    root: Path = field(default=Path("work/eval"))

    @property
    def folder(self) -> Path:
        return self.root / self.split / "questions"

    def read(self, question: Question) -> Audio:
        return read_audio(self.folder / question.recording)

    def missing(self, questions: list[Question]) -> list[Question]:
        return [question for question in questions if not (self.folder / question.recording).exists()]

    def render(self, questions: list[Question], threads: int = 1) -> None:
        """Makes what is missing. A recording appears whole or not at all, so a stopped run goes on."""
        missing = self.missing(questions)
        if not missing:
            return
        from training.voices import Kokoro

        self.folder.mkdir(parents=True, exist_ok=True)
        (voice,) = {question.voice for question in missing}
        teacher = Kokoro(threads=threads)
        for question in track(missing, f"recording {self.split} questions"):
            pcm = teacher.say(question.question, {voice: 1.0}, question.speed)
            write_wav(self.folder / question.recording, pcm, RATE)


def main(arguments: list[str]) -> None:
    match arguments:
        case ["texts"]:
            for split in SETS:
                write_texts(split)
        case ["render", ("test" | "dev") as split]:
            Recordings(split).render(read_texts(split))
        case _:
            raise SystemExit("expected: texts, render test, or render dev")


if __name__ == "__main__":
    main(sys.argv[1:])

"""The synthetic corpus: items, spoken answers and spoken questions, in resumable shards.

A shard is one ``.npz`` (PCM16 and offsets) that is a pure function of (seed, shard index); a run that
was stopped goes on with the first missing shard.

    python -m training.corpus work/nano answers,questions 2    # parts, processes
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.domain import Item, Spoken, loose_questions, loose_sentences, speak_sentences, training_items

SHARD = 250

QuestionVoice = Callable[[str, np.random.Generator], tuple[NDArray[np.float32], str]]
"""A text to 16 kHz speech and who says it."""


@dataclass(frozen=True)
class CorpusConfig:
    """Sizes and seeds. So many questions are rendered once more by Kokoro, the slow teacher, and by Pico."""

    items: int = 30000
    loose_items: int = 6000
    speak: int = 7000
    loose: int = 12000
    kokoro_items: int = 3000
    stranger_items: int = 1200
    pico_items: int = 3000
    seed: int = 20260


def save_shard(path: Path, clips: list[NDArray[np.float32]], **extra: list[NDArray[np.float32]]) -> None:
    """Clips as PCM16 with offsets; each ``extra`` list alike in float16. Written whole or not at all."""
    arrays: dict[str, NDArray[np.generic]] = {
        "pcm": np.concatenate([(np.clip(c, -1, 1) * 32767).astype(np.int16) for c in clips]),
        "offsets": np.cumsum([0] + [len(c) for c in clips]),
    }
    for name, rows in extra.items():
        arrays[name] = np.concatenate([r.astype(np.float16) for r in rows])
        arrays[name + "_offsets"] = np.cumsum([0] + [len(r) for r in rows])
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    os.replace(partial, path)


class Corpus:
    """Reads what was written. ``row`` maps a Spoken to its rendering; questions name the item they ask."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.items = load_items(folder / "items.jsonl")
        if (folder / "cutups.jsonl").exists():
            self.items += load_items(folder / "cutups.jsonl")
        self.spoken = [
            Spoken(**json.loads(line)) for line in (folder / "spoken.jsonl").read_text().splitlines()
        ]
        self.row = {spoken: row for row, spoken in enumerate(self.spoken)}

    def answers(self, shard: int) -> Iterator[tuple[Spoken, NDArray[np.float32], NDArray[np.float32]]]:
        """(spoken, 24 kHz PCM, F0) of one shard."""
        data = np.load(self.folder / "answers" / f"{shard:04d}.npz")
        for k, spoken in enumerate(self.spoken[shard * SHARD : (shard + 1) * SHARD]):
            yield (
                spoken,
                clip(data, "pcm", k).astype(np.float32) / 32768,
                clip(data, "f0", k).astype(np.float32),
            )

    def questions(self, name: str, shard: int) -> Iterator[tuple[int, NDArray[np.float32], str]]:
        """(item index, 16 kHz PCM, voice) of one shard of the ``name`` set."""
        data = np.load(self.folder / name / f"{shard:04d}.npz")
        meta = json.loads((self.folder / name / f"{shard:04d}.json").read_text())
        for k, (index, voice) in enumerate(meta):
            yield index, clip(data, "pcm", k).astype(np.float32) / 32768, voice

    def shards(self, name: str) -> list[int]:
        return sorted(int(p.stem) for p in (self.folder / name).glob("????.npz"))


def clip(data: np.lib.npyio.NpzFile, name: str, k: int) -> NDArray[np.generic]:
    offsets = data["offsets" if name == "pcm" else name + "_offsets"]
    if name not in _CACHE or _CACHE[name][0] is not data:
        _CACHE[name] = (data, data[name])
    row: NDArray[np.generic] = _CACHE[name][1][offsets[k] : offsets[k + 1]]
    return row


_CACHE: dict[str, tuple[object, NDArray[np.generic]]] = {}


def load_items(path: Path) -> list[Item]:
    items = []
    for line in path.read_text("utf-8").splitlines():
        raw = json.loads(line)
        raw["answer"] = tuple(Spoken(**spoken) for spoken in raw["answer"])
        items.append(Item(**raw))
    return items


def write_texts(folder: Path, config: CorpusConfig) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    items = training_items(config.items, config.seed)
    items += loose_questions(config.loose_items, config.seed + 5, items)
    spoken = {s: None for item in items for s in item.answer}
    spoken |= {s: None for item in items for a in item.answer for s in [Spoken(a.text)]}
    spoken |= dict.fromkeys(speak_sentences(config.speak, config.seed + 1))
    spoken |= dict.fromkeys(loose_sentences(config.loose, config.seed + 4))
    for name, rows in (("items", items), ("spoken", list(spoken))):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(asdict(row)) + "\n" for row in rows), "utf-8"
        )


def answer_shard(folder: Path, shard: int, config: CorpusConfig) -> None:
    """Answers ``shard·250 …`` of the spoken texts, in the answer voice."""
    path = folder / "answers" / f"{shard:04d}.npz"
    if path.exists():
        return
    from training.voices import AnswerVoice

    voice = _once("answer", AnswerVoice)
    spoken = Corpus(folder).spoken[shard * SHARD : (shard + 1) * SHARD]
    rendered = [voice(s.text, s.style) for s in spoken]
    save_shard(path, [r.pcm for r in rendered], f0=[r.f0 for r in rendered])


def question_shard(folder: Path, shard: int, config: CorpusConfig) -> None:
    """Questions of items ``shard·250 …`` in mixed voices: heart warped 58 %, flite 27 %, festival 15 %."""
    path = folder / "questions" / f"{shard:04d}.npz"
    if path.exists():
        return
    from training.voices import FestivalQuestions, FliteQuestions, HeartQuestions

    heart, flite, festival = (
        _once(t.__name__, t) for t in (HeartQuestions, FliteQuestions, FestivalQuestions)
    )
    rng = np.random.default_rng([config.seed, 1, shard])
    indices = range(shard * SHARD, min((shard + 1) * SHARD, config.items + config.loose_items))
    items = load_items(folder / "items.jsonl")
    who = rng.choice(3, len(indices), p=[0.58, 0.27, 0.15])
    festivals = [i for i, w in zip(indices, who, strict=True) if w == 2]
    spoken = dict(zip(festivals, festival.batch([items[i].question for i in festivals], rng), strict=True))
    for i, w in zip(indices, who, strict=True):
        if w < 2:
            spoken[i] = (heart, flite)[w](items[i].question, rng)
    save_questions(path, spoken, list(indices))


def kokoro_shard(folder: Path, shard: int, config: CorpusConfig) -> None:
    """50 questions drawn anew, by Kokoro; its styles lie beside the corpus in ``kokoro-styles``."""
    from training.voices import KokoroQuestions

    voice = partial(_once, "kokoro", partial(KokoroQuestions, folder.parent / "kokoro-styles"))
    redrawn_shard(folder / "kokoro" / f"{shard:04d}.npz", voice, config, [config.seed, 2, shard], 50)


def stranger_shard(folder: Path, shard: int, config: CorpusConfig) -> None:
    """50 questions drawn anew, by speakers that Kokoro has not."""
    from training.voices import StrangerQuestions

    voice = partial(_once, "stranger", partial(StrangerQuestions, folder.parent / "kokoro-styles"))
    redrawn_shard(folder / "strangers" / f"{shard:04d}.npz", voice, config, [config.seed, 4, shard], 50)


def pico_shard(folder: Path, shard: int, config: CorpusConfig) -> None:
    """250 questions drawn anew, by Pico."""
    from training.voices import PicoQuestions

    voice = partial(_once, "pico", PicoQuestions)
    redrawn_shard(folder / "pico" / f"{shard:04d}.npz", voice, config, [config.seed, 3, shard], SHARD)


def redrawn_shard(
    path: Path, teacher: Callable[[], QuestionVoice], config: CorpusConfig, seed: list[int], size: int
) -> None:
    if path.exists():
        return
    voice, rng = teacher(), np.random.default_rng(seed)
    items = load_items(path.parent.parent / "items.jsonl")
    chosen = [int(i) for i in rng.choice(config.items, size, replace=False)]
    save_questions(path, {i: voice(items[i].question, rng) for i in chosen}, chosen)


def save_questions(path: Path, spoken: dict[int, tuple[NDArray[np.float32], str]], order: list[int]) -> None:
    save_shard(path, [spoken[i][0] for i in order])
    path.with_suffix(".json").write_text(json.dumps([[i, spoken[i][1]] for i in order]))


_MADE: dict[str, object] = {}


def _once(name: str, make):  # type: ignore[no-untyped-def]
    """One teacher a process: loading takes longer than a sentence."""
    if name not in _MADE:
        _MADE[name] = make()
    return _MADE[name]


_SHARD_OF: dict[str, Callable[[Path, int, CorpusConfig], None]] = {
    "answers": answer_shard,
    "questions": question_shard,
    "kokoro": kokoro_shard,
    "strangers": stranger_shard,
    "pico": pico_shard,
}


def _job(job: tuple[str, Path, int, CorpusConfig]) -> str:
    part, folder, shard, config = job
    _SHARD_OF[part](folder, shard, config)
    return f"{part} {shard}"


def build(folder: Path, config: CorpusConfig, parts: tuple[str, ...], processes: int) -> None:
    """Makes every missing shard of ``parts``."""
    if not (folder / "spoken.jsonl").exists():
        write_texts(folder, config)
    spoken = len((folder / "spoken.jsonl").read_text().splitlines())
    counts = {
        "answers": -(-spoken // SHARD),
        "questions": -(-(config.items + config.loose_items) // SHARD),
        "kokoro": config.kokoro_items // 50,
        "strangers": config.stranger_items // 50,
        "pico": config.pico_items // SHARD,
    }
    for part in parts:
        (folder / part).mkdir(exist_ok=True)
    jobs = [(part, folder, shard, config) for part in parts for shard in range(counts[part])]
    with get_context("spawn").Pool(processes) as pool:
        for done, what in enumerate(pool.imap_unordered(_job, jobs), 1):
            print(f"{done}/{len(jobs)} {what}", flush=True)


if __name__ == "__main__":
    root, parts, processes = Path(sys.argv[1]), tuple(sys.argv[2].split(",")), int(sys.argv[3])
    build(root / "corpus", CorpusConfig(), parts, processes)

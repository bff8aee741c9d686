"""Corpus shards: a function of seed and number, made once, whole or not at all. The voices are fakes."""

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from training import corpus as corpus_module
from training.corpus import (
    Corpus,
    CorpusConfig,
    answer_shard,
    kokoro_shard,
    pico_shard,
    question_shard,
    save_shard,
    stranger_shard,
    write_texts,
)

CONFIG = CorpusConfig(items=50, speak=10, loose=10, loose_items=0, kokoro_items=50)


class Rendering:
    def __init__(self, text: str, style: str | None) -> None:
        self.pcm = np.full(300 * len(text), 0.01 * len(style or ""), np.float32)
        self.f0 = np.full(len(text), 100.0 + len(text), np.float32)


class FakeVoices(ModuleType):
    """Stands in for ``training.voices``: n letters last n frames. ``said`` lists the sentences."""

    def __init__(self) -> None:
        super().__init__("training.voices")
        said = self.said = []

        class AnswerVoice:
            def __call__(self, text, style):
                said.append(text)
                return Rendering(text, style)

        class Questions:
            name = "heart"

            def __call__(self, text, rng):
                said.append(text)
                return np.full(len(text) * 10, rng.uniform(), np.float32), self.name

        class Flite(Questions):
            name = "flite_slt"

        class Kokoro(Questions):
            name = "kokoro"

            def __init__(self, folder):
                assert folder.name == "kokoro-styles"

        class Strangers(Kokoro):
            name = "stranger"

        class Pico(Questions):
            name = "pico_en-GB"

        class Festival:
            def batch(self, texts, rng):
                said.extend(texts)
                return [(np.full(len(text) * 10, rng.uniform(), np.float32), "festival") for text in texts]

        self.AnswerVoice, self.HeartQuestions, self.FliteQuestions = AnswerVoice, Questions, Flite
        self.FestivalQuestions, self.KokoroQuestions, self.PicoQuestions = Festival, Kokoro, Pico
        self.StrangerQuestions = Strangers


@pytest.fixture
def voices(monkeypatch: pytest.MonkeyPatch) -> FakeVoices:
    fake = FakeVoices()
    monkeypatch.setitem(sys.modules, "training.voices", fake)
    monkeypatch.setattr(corpus_module, "_MADE", {})
    monkeypatch.setattr(corpus_module, "SHARD", 20)
    return fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return empty(tmp_path / "corpus")


def empty(folder: Path) -> Path:
    write_texts(folder, CONFIG)
    for part in ("answers", "questions", "kokoro", "strangers", "pico"):
        (folder / part).mkdir()
    return folder


def contents(path: Path) -> dict[str, np.ndarray]:
    data = np.load(path)
    return {name: data[name] for name in data.files}


def same(a: Path, b: Path) -> bool:
    first, second = contents(a), contents(b)
    arrays = first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)
    notes = [p.with_suffix(".json") for p in (a, b)]
    return arrays and all(p.exists() for p in notes) == (notes[0].exists() or notes[1].exists()) and (
        not notes[0].exists() or notes[0].read_text() == notes[1].read_text()
    )  # fmt: skip


def test_answers_come_back_with_their_text_and_f0(folder, voices):
    answer_shard(folder, 0, CONFIG)
    answer_shard(folder, 1, CONFIG)
    corpus = Corpus(folder)
    assert corpus.shards("answers") == [0, 1]
    for shard in (0, 1):
        rows = list(corpus.answers(shard))
        assert [spoken for spoken, _, _ in rows] == corpus.spoken[20 * shard : 20 * (shard + 1)]
        for spoken, pcm, f0 in rows:
            assert len(pcm) == 300 * len(spoken.text)
            np.testing.assert_allclose(pcm, 0.01 * len(spoken.style or ""), atol=1e-4)
            np.testing.assert_array_equal(f0, 100 + len(spoken.text))


def test_questions_come_back_with_their_item_and_voice(folder, voices):
    for shard in range(3):
        question_shard(folder, shard, CONFIG)
    kokoro_shard(folder, 0, CONFIG)
    corpus = Corpus(folder)
    rows = [row for shard in corpus.shards("questions") for row in corpus.questions("questions", shard)]
    assert [index for index, _, _ in rows] == list(range(CONFIG.items))
    assert {voice for _, _, voice in rows} == {"heart", "flite_slt", "festival"}
    pico_shard(folder, 0, CONFIG)
    stranger_shard(folder, 0, CONFIG)
    slow, strange, bulk = (list(corpus.questions(name, 0)) for name in ("kokoro", "strangers", "pico"))
    assert {voice for _, _, voice in strange} == {"stranger"}
    assert {index for index, _, _ in strange} != {index for index, _, _ in slow[:10]}
    assert len({index for index, _, _ in slow}) == 50
    assert len({index for index, _, _ in bulk}) == 20
    assert {voice for _, _, voice in bulk} == {"pico_en-GB"}
    for index, pcm, _ in rows + slow + strange + bulk:
        assert len(pcm) == 10 * len(corpus.items[index].question)


def test_every_answer_of_an_item_has_a_rendering(folder):
    corpus = Corpus(folder)
    assert all(spoken in corpus.row for item in corpus.items for spoken in item.answer)
    assert [corpus.row[spoken] for spoken in corpus.spoken] == list(range(len(corpus.spoken)))


def test_a_shard_depends_on_seed_and_number_alone(folder, voices, tmp_path):
    other = empty(tmp_path / "other")
    for shard in (0, 1, 2):
        question_shard(folder, shard, CONFIG)
    question_shard(other, 1, CONFIG)  # first and alone
    kokoro_shard(folder, 0, CONFIG)
    kokoro_shard(other, 0, CONFIG)
    assert same(folder / "questions/0001.npz", other / "questions/0001.npz")
    assert same(folder / "kokoro/0000.npz", other / "kokoro/0000.npz")
    assert not same(folder / "questions/0000.npz", other / "questions/0001.npz")


def test_what_is_there_is_not_made_again(folder, voices):
    answer_shard(folder, 0, CONFIG)
    question_shard(folder, 0, CONFIG)
    kokoro_shard(folder, 0, CONFIG)
    voices.said.clear()
    answer_shard(folder, 0, CONFIG)
    question_shard(folder, 0, CONFIG)
    kokoro_shard(folder, 0, CONFIG)
    assert not voices.said


def test_a_lost_shard_is_made_as_it_was(folder, voices, tmp_path):
    question_shard(folder, 1, CONFIG)
    kept = tmp_path / "kept.npz"
    kept.write_bytes((folder / "questions/0001.npz").read_bytes())
    kept.with_suffix(".json").write_text((folder / "questions/0001.json").read_text())
    (folder / "questions/0001.npz").unlink()
    question_shard(folder, 1, CONFIG)
    assert same(folder / "questions/0001.npz", kept)


def test_a_stopped_write_leaves_no_shard(folder, voices, monkeypatch):
    def fails(path: Path, **arrays: np.ndarray) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", fails)
        with pytest.raises(KeyboardInterrupt):
            answer_shard(folder, 0, CONFIG)
    assert Corpus(folder).shards("answers") == []
    answer_shard(folder, 0, CONFIG)
    assert Corpus(folder).shards("answers") == [0]


def test_pcm_is_kept_within_a_step_of_16_bits(tmp_path):
    pcm = np.linspace(-1.2, 1.2, 400, dtype=np.float32)
    save_shard(tmp_path / "x.npz", [pcm[:100], pcm[100:]])
    data = contents(tmp_path / "x.npz")
    assert data["offsets"].tolist() == [0, 100, 400]
    np.testing.assert_allclose(data["pcm"] / 32768, np.clip(pcm, -1, 1), atol=2 / 32768)


def test_texts_depend_on_the_configuration_alone(folder, tmp_path):
    again = empty(tmp_path / "again")
    for name in ("items.jsonl", "spoken.jsonl"):
        assert (folder / name).read_bytes() == (again / name).read_bytes()
    assert all(json.loads(line)["split"] == "train" for line in (folder / "items.jsonl").open())

"""Phoneme targets: CTC's best path and the edit distance."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training import phonemes
from training.phonemes import BLANK, SIZE, SYMBOLS, Lexicon, edit_distance, encode, greedy, targets

labels = st.lists(st.integers(1, SIZE - 1), max_size=12)


@given(labels, st.data())
def test_greedy_undoes_repeats_and_blanks(wanted, data):
    path: list[int] = []
    for k, label in enumerate(wanted):
        same = k > 0 and wanted[k - 1] == label
        path += [BLANK] * data.draw(st.integers(int(same), 2)) + [label] * data.draw(st.integers(1, 3))
    path += [BLANK] * data.draw(st.integers(0, 2))
    logits = torch.nn.functional.one_hot(torch.tensor(path, dtype=torch.long), SIZE).float()
    assert greedy(logits) == wanted


def test_greedy_of_nothing():
    assert greedy(torch.zeros(0, SIZE)) == []


def test_edit_distance_of_a_known_pair():
    kitten, sitting = ([ord(c) for c in word] for word in ("kitten", "sitting"))
    assert edit_distance(kitten, sitting) == 3


@given(labels, labels, labels)
def test_edit_distance_is_a_metric(a, b, c):
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, b) == edit_distance(b, a)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


def test_encode_keeps_phonemes_only():
    assert encode("hˈɛlO, wˈɜɹld.") == [SYMBOLS.index(s) + 1 for s in "hɛlOwɜɹld"]
    assert BLANK not in encode(SYMBOLS)
    assert len(set(SYMBOLS)) == len(SYMBOLS) == SIZE - 1


def test_targets_are_what_ctc_takes():
    flat, sizes = targets([[1, 2], [], [3]])
    assert flat.tolist() == [1, 2, 3]
    assert sizes.tolist() == [2, 0, 1]


def test_a_lexicon_remembers(tmp_path, monkeypatch):
    path = tmp_path / "phonemes.json"
    path.write_text(json.dumps({"Hello.": "həlO"}))
    lexicon = Lexicon(path)
    lexicon.learn(["Hello."])  # asks no teacher
    assert lexicon["Hello."] == encode("həlO")
    with pytest.raises(KeyError):
        lexicon["Goodbye."]


def test_every_phoneme_of_the_teacher_is_known():
    pytest.importorskip("hibari", reason="the teacher, hibari-tts, is not installed")
    from training.domain import speak_sentences, training_items
    from training.voices import Heart

    heart = Heart()
    texts = [item.question for item in training_items(150, 1)] + [s.text for s in speak_sentences(50, 2)]
    said = "".join(heart.phonemes(text) for text in texts)
    assert set(said) - set(phonemes.SYMBOLS) <= set("ˈˌː .,?!;:—…'\"“”()")

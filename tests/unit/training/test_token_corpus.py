"""The text vocabulary and the codec that turn the corpus into tokens."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aqaa.tokens.classes import TokenClass
from training import linguistic, semantic
from training.tokens import CONTROLS, ROLES, STYLES, Codec, GroupTable, save_groups

MARKERS = (*CONTROLS, *STYLES, "<s>", "</s>")


class TestVocabulary:
    @given(st.lists(st.one_of(st.sampled_from(MARKERS), st.text(max_size=8)), max_size=6).map("".join))
    @settings(max_examples=150, deadline=None)
    def test_no_text_becomes_a_control_piece(self, language, text):
        ids = language.text.encode(text)
        assert {language.ranges.class_of(i) for i in ids} <= {TokenClass.TEXT}
        assert language.text.decode(ids) == text

    def test_every_text_of_the_corpus_comes_back(self, language, corpus):
        for text in {s.text for s in corpus.spoken} | {i.question for i in corpus.items}:
            assert language.text.decode(language.text.encode(text)) == text

    def test_markers_and_styles_are_one_piece_each(self, language):
        ids = [language.text.piece_id(name) for name in MARKERS]
        assert len(set(ids)) == len(MARKERS)
        assert set(language.style_ids.values()) == {language.text.piece_id(name) for name in STYLES}
        assert {language.ranges.class_of(i) for i in language.style_ids.values()} == {TokenClass.STYLE}

    @pytest.mark.parametrize("role", ROLES)
    def test_a_header_comes_back_and_ends_with_a_piece_of_its_own(self, language, role):
        ids = language.text.encode(f"{role}\n", prefix=False)
        assert language.text.decode(ids) == f"{role}\n"
        assert ids[-1] == language.text.piece_id("\n")

    def test_audio_ids_follow_the_text(self, language):
        layout = language.layout
        assert layout.audio_base == language.text.size
        assert layout.vocab_size % 64 == 0
        groups = np.array([[0, 1023, 0, 1, 4095]], np.int16)
        base = layout.audio_base
        assert language.audio_ids(groups).tolist() == [
            [base, base + 1023, base + 1024, base + 1025, base + 5119]
        ]


def test_groups_of_several_files_come_back_row_by_row(tmp_path):
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 4096, (n, 5)).astype(np.int16) for n in (3, 1, 7)]
    save_groups(tmp_path / "a.npz", rows[:2], items=np.array([4, 4]))
    save_groups(tmp_path / "b.npz", rows[2:], items=np.array([9]))
    table = GroupTable(tmp_path / "a.npz", tmp_path / "b.npz")
    assert len(table) == 3
    assert table.items.tolist() == [4, 4, 9]
    for k, row in enumerate(rows):
        np.testing.assert_array_equal(table[k], row)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """Both encoders, untrained."""
    folder = tmp_path_factory.mktemp("codec")
    torch.manual_seed(2)
    listener = linguistic.Listener()
    listener.centroids.normal_()
    torch.save(listener.state_dict(), folder / "linguistic.pt")
    torch.save(semantic.SemanticAutoencoder().state_dict(), folder / "semantic.pt")
    return Codec(folder)


def test_codes_are_whole_groups_whatever_else_is_in_the_batch(codec):
    rng = np.random.default_rng(6)
    clips = [torch.from_numpy(rng.standard_normal(n * 1920).astype(np.float32) * 0.1) for n in (9, 14)]
    samples = torch.tensor([9 * 1920, 14 * 1920])
    batch = torch.zeros(2, 14 * 1920)
    for row, clip in enumerate(clips):
        batch[row, : len(clip)] = clip
    together = codec.groups(batch, samples, keep_level=False)
    assert [groups.shape for groups in together] == [(9, 5), (14, 5)]
    for groups, clip in zip(together, clips, strict=True):
        assert groups.min() >= 0
        assert groups[:, :2].max() < linguistic.CODES
        assert groups[:, 2:].max() < semantic.NANO.codes
        (alone,) = codec.groups(clip[None], torch.tensor([len(clip)]), keep_level=False)
        # Sums of other shapes round differently; only a state on an edge between codes may tip over.
        assert (alone == groups).mean() > 0.98


def test_level_is_kept_where_it_means_something(codec):
    rng = np.random.default_rng(7)
    pcm = torch.from_numpy(rng.standard_normal((1, 10 * 1920)).astype(np.float32) * 0.2)
    samples = torch.tensor([10 * 1920])
    for keep_level in (False, True):
        (loud,), (soft,) = (codec.groups(pcm * g, samples, keep_level) for g in (1.0, 0.4))
        assert (loud[:, :2] == soft[:, :2]).mean() > 0.95
        assert ((loud[:, 2:] == soft[:, 2:]).mean() > 0.95) != keep_level

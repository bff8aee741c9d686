"""Training sequences: what is learned where, under which legal classes, and that it reads back."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqaa.tokens.answer import parse
from aqaa.tokens.classes import TokenClass
from training.corpus import Corpus
from training.domain import STYLES, Item, Spoken
from training.sequences import (
    CAPS,
    Language,
    Questions,
    Targets,
    answer_prefix,
    neighbours,
    pack,
    pieces,
    text_prefix,
)
from training.tokens import GroupTable


@pytest.fixture(scope="module")
def table(folder) -> GroupTable:
    return GroupTable(folder / "tokens" / "answers.npz")


@pytest.fixture(scope="module")
def targets(language: Language, corpus: Corpus, table: GroupTable) -> Targets:
    return Targets(language, corpus.row, table)


def legal_by_table(language: Language, task: str, ids) -> list[int]:
    """The legal classes before each id, walked through the published table by hand."""
    grammar_table = language.grammar.tables[task]
    state, legal = grammar_table.starts["auto"], []
    for token_id in ids:
        legal.append(grammar_table.legal[state])
        token_class = language.ranges.class_of(int(token_id))
        assert token_class is not None
        assert legal[-1] >> token_class & 1, "the target itself must be legal"
        state = grammar_table.next[state][token_class]
    assert state == grammar_table.done
    return legal


def text_of(language: Language, text: str) -> tuple[int, ...]:
    return tuple(language.text.encode(text))


def answered(corpus: Corpus) -> list[Item]:
    """All items but cut-ups, which are only heard."""
    return [item for item in corpus.items if item.answer]


class TestTargets:
    def test_answers_of_the_corpus_read_back(self, language, corpus, table, targets):
        for item in answered(corpus):
            target = targets.answer(item.answer)
            answer = parse(language.grammar, target.ids.tolist())
            assert len(answer.segments) == len(item.answer)
            for spoken, segment in zip(item.answer, answer.segments, strict=True):
                assert language.text.decode(segment.text) == spoken.text
                expected = language.audio_ids(table[corpus.row[spoken]])
                np.testing.assert_array_equal(np.array(segment.groups), expected)
                style = None if spoken.style is None else language.style_ids[spoken.style]
                assert segment.style == style
            assert target.legal.tolist() == legal_by_table(language, "answer", target.ids)

    def test_transcripts_read_back(self, language, corpus, targets):
        for item in corpus.items[:60]:
            target = targets.transcript(item.question)
            read = parse(language.grammar, target.ids.tolist(), "transcript")
            assert language.text.decode(read.text) == item.question
            assert target.legal.tolist() == legal_by_table(language, "transcript", target.ids)

    def test_speech_of_given_text_forces_its_start_and_style(self, language, corpus, targets):
        styled = next(s for s in corpus.spoken if s.style)
        plain = next(s for s in corpus.spoken if not s.style)
        for spoken, given_ids in ((plain, 1), (styled, 2)):
            target = targets.speak(spoken)
            assert target.given == given_ids
            assert language.ranges.class_of(int(target.ids[given_ids])) is TokenClass.LINGUISTIC
            assert target.legal.tolist() == legal_by_table(language, "speak", target.ids)
            sequence = pack(text_prefix(language, spoken.text), [target])
            learned = sequence.target[sequence.target >= 0]
            np.testing.assert_array_equal(learned, target.ids[given_ids:])
            assert set(target.ids[:given_ids]) <= set(sequence.ids.tolist())

    def test_written_answers_have_no_choice_but_text(self, language, corpus, targets):
        item = next(i for i in corpus.items if len(i.answer) == 2)
        target = targets.written(item.answer)
        read = parse(language.grammar, target.ids.tolist(), start_mode="text")
        assert not read.segments
        assert target.legal[0] == 1 << TokenClass.TEXT
        assert target.legal.tolist()[1:] == legal_by_table(language, "answer", target.ids)[1:]
        assert targets.answer(item.answer).legal[0] != target.legal[0]

    def test_markers_name_their_task(self, language, corpus, targets):
        question = corpus.items[0].question
        assert language.text.decode(targets.transcript(question).marker[1:].tolist()) == "transcript\n"
        answer = corpus.items[0].answer
        assert language.text.decode(targets.answer(answer).marker[1:].tolist()) == "assistant\n"

    def test_a_rest_goes_on_where_it_was_cut(self, language, corpus, table, targets):
        target = targets.rest(corpus.spoken[0], 2)
        groups = parse(language.grammar, target.ids.tolist(), "continue").segments[0].groups
        expected = language.audio_ids(table[0])[2:]
        np.testing.assert_array_equal(np.array(groups), expected)

    def test_nothing_in_training_reaches_a_cap(self, corpus, targets, language):
        """A cap that training itself meets would cut answers short."""
        for item in answered(corpus):
            answer = parse(language.grammar, targets.answer(item.answer).ids.tolist())
            assert len(answer.segments) < CAPS.segments
            assert len(answer.text) < CAPS.text
            assert all(len(s.groups) < CAPS.groups(len(s.text)) for s in answer.segments)

    words = st.text("abcdefgh ,.", min_size=1, max_size=40).filter(str.strip)
    segments = st.lists(st.tuples(words, st.sampled_from((None, *STYLES)), st.integers(1, 7)), min_size=1)

    @given(st.data(), segments.filter(lambda rows: len(rows) <= 3))
    @settings(max_examples=60, deadline=None)
    def test_any_layout_is_legal_and_reads_back(self, language, data, rows):
        spoken, groups = [], []
        for text, style, more in rows:
            count = len(text_of(language, text))
            least = 3 * (count // 10)
            spoken.append(Spoken(text, style))
            groups.append(np.full((least + more, 5), len(groups), np.int16))
        made = Targets(language, {s: k for k, s in enumerate(spoken)}, groups)
        target = made.answer(tuple(spoken))
        answer = parse(language.grammar, target.ids.tolist())
        assert [s.text for s in answer.segments] == [text_of(language, s.text) for s in spoken]
        assert target.legal.tolist() == legal_by_table(language, "answer", target.ids)


class TestPack:
    def test_each_target_is_what_its_own_branch_says_next(self, corpus, targets, language):
        item = next(i for i in corpus.items if len(i.answer) == 2)
        prefix = text_prefix(language, item.question)
        parts = [targets.answer(item.answer), targets.transcript(item.question), targets.written(item.answer)]
        sequence = pack(prefix, parts)
        assert (sequence.target[: len(prefix)] == -1).all()
        for number, part in enumerate(parts, 1):
            rows = np.flatnonzero(sequence.branch == number)
            np.testing.assert_array_equal(sequence.ids[rows], np.concatenate((part.marker, part.ids[:-1])))
            np.testing.assert_array_equal(sequence.positions[rows], len(prefix) + np.arange(len(rows)))
            learned = rows[sequence.target[rows] >= 0]
            np.testing.assert_array_equal(sequence.target[learned], part.ids)
            np.testing.assert_array_equal(sequence.legal[learned], part.legal)
            for here, after in pairwise(learned):
                assert sequence.ids[after] == sequence.target[here]

    def test_an_answer_without_a_question_stands_after_bos(self, language):
        assert answer_prefix(language).tolist() == [language.text.piece_id("<s>")]


class TestQuestions:
    @pytest.fixture
    def questions(self, folder, language) -> Questions:
        around = (np.arange(1024)[:, None] + np.arange(1, 9)) % 1024  # near a code: the eight above it
        return Questions(language, GroupTable(folder / "tokens" / "questions-0.npz"), around)

    def test_a_clean_prompt_is_the_engines(self, questions, language):
        rng = np.random.default_rng(0)
        spoilt = [questions.prefix(3, rng) for _ in range(40)]
        clean = language.prompts.question(language.audio_ids(questions.table[3]).ravel().tolist())
        assert {len(row) for row in spoilt} == {len(clean)}
        outside = np.array([k for k, i in enumerate(clean) if i < language.layout.audio_base])
        for row in spoilt:
            assert (row[outside] == np.array(clean)[outside]).all()
            language.prompts.question([i for i in row.tolist() if i >= language.layout.audio_base])

    def test_spoiling_keeps_codebooks_apart_and_the_table_whole(self, questions, language):
        before = questions.table.groups.copy()
        rng, low = np.random.default_rng(1), language.layout.audio_base
        for row in range(20):
            ids = questions.prefix(row, rng)
            groups = ids[ids >= low].reshape(-1, 5)
            assert (groups[:, :2] < language.low).all()
            assert (groups[:, 2:] >= language.low).all()
        np.testing.assert_array_equal(questions.table.groups, before)

    def test_about_a_third_lose_every_semantic_code(self, questions, language):
        rng, low = np.random.default_rng(2), language.layout.audio_base
        kept, words, near = [], [], []
        for row in range(200):
            ids = questions.prefix(row, rng)
            groups = ids[ids >= low].reshape(-1, 5)
            true = language.audio_ids(questions.table[row])
            kept.append((groups[:, 2:] == true[:, 2:]).mean())
            step = (groups[:, :2] - true[:, :2]) % 1024
            words.append((step == 0).mean())
            near.append(((step > 0) & (step <= 8)).mean())
        assert 0.2 < np.mean(np.array(kept) < 0.1) < 0.4
        assert 0.65 < np.mean(words) < 0.85
        assert 0.14 < np.mean(near) < 0.26

    def test_out_of_order_no_question_is_as_it_was_and_none_grows(self, questions, language, monkeypatch):
        monkeypatch.setattr(questions, "spoilt", lambda groups, rng: groups.astype(np.int64))
        rng, low = np.random.default_rng(3), language.layout.audio_base
        own = 0
        for row in range(100):
            was = language.audio_ids(questions.table[row])
            ids = questions.disordered(row, rng)
            groups = ids[ids >= low].reshape(-1, 5)
            assert groups.shape == was.shape
            assert (groups != was).any()
            own += sorted(map(tuple, groups.tolist())) == sorted(map(tuple, was.tolist()))
        assert 20 < own < 80  # the rest holds pieces of other questions

    def test_pieces_are_never_single_groups_but_for_the_last(self):
        rng = np.random.default_rng(4)
        for count in range(1, 40):
            groups = np.arange(count)
            cut = pieces(groups, rng)
            assert np.concatenate(cut).tolist() == groups.tolist()
            assert {len(piece) for piece in cut[:-1]} <= {2, 3}
            assert 1 <= len(cut[-1]) <= 3

    def test_neighbours_are_ranked_by_distance(self):
        line = np.array([[0.0], [1.0], [3.0], [3.5], [9.0]], np.float32)
        assert neighbours(line, 3).tolist() == [[1, 2, 3], [0, 2, 3], [3, 1, 0], [2, 1, 0], [3, 2, 1]]

    def test_a_prompt_depends_on_its_generator_alone(self, questions):
        a, b = (questions.prefix(5, np.random.default_rng([52, 7])) for _ in range(2))
        np.testing.assert_array_equal(a, b)

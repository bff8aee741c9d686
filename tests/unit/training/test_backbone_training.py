"""The backbone's training: packed equals apart, the loss is a likelihood, folded weights are the model."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aqaa.models.step1 import Step1, alibi_bias, branch_mask
from aqaa.tokens.classes import TokenClass
from training.backbone import (
    PRETRAINING,
    TUNING,
    BackboneTrainer,
    BackboneTraining,
    CodedBackbone,
    Loss,
    step1_config,
)
from training.batches import OFTEN, SMALL_TALK, BatchConfig, collate
from training.domain import Spoken
from training.sequences import SHORT, Language, Sequence, pack
from training.speech import evenness

TINY = BackboneTraining(
    hidden=64, feed_forward=64, heads=8, kv_groups=4, layers=2, batches=BatchConfig(tokens=512)
)
PLAIN = BackboneTraining(text=1.0, decision=1.0, linguistic=1.0, semantic=1.0, smoothing=0.0)
"""Weights under which the loss shall be the negative log-likelihood among the legal ids."""


@pytest.fixture(scope="module")
def trainer(folder: Path) -> BackboneTrainer:
    torch.manual_seed(0)
    torch.save({"centroids": torch.randn(1024, 16)}, folder / "linguistic.pt")
    trainer = BackboneTrainer(folder, TINY)
    with torch.no_grad():  # far from the small start, so that attention really chooses
        for parameter in trainer.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return trainer


@pytest.fixture(scope="module")
def exact(trainer: BackboneTrainer, folder: Path) -> CodedBackbone:
    """The same model in double precision."""
    centroids = torch.load(folder / "linguistic.pt", weights_only=True)["centroids"]
    model = CodedBackbone(trainer.data.language, TINY, centroids)
    model.load_state_dict(trainer.model.state_dict())
    return model.double()


def rows_of(trainer: BackboneTrainer, count: int = 4) -> list[tuple[np.ndarray, list]]:
    """(prefix, targets) of a few turns: one voice, two voices, long and short."""
    data = trainer.data
    two = [k for k, item in enumerate(data.items) if len(item.answer) == 2][: count // 2]
    found = []
    for row in [*range(count - len(two)), *two]:
        item = data.items[data.item_of[row]]
        prefix = data.questions.prefix(row, np.random.default_rng(row))
        found.append((prefix, [data.targets.answer(item.answer), data.targets.transcript(item.question)]))
    return found


def states(
    model: CodedBackbone, rows: list[Sequence], blind: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    batch = collate(rows)
    embed, _ = model.tables()
    branch = batch["branch"] if blind else torch.zeros_like(batch["branch"])
    allowed = branch_mask(batch["positions"], branch)
    bias = alibi_bias(batch["positions"], allowed, model.step1.slopes(torch.float64))
    with torch.no_grad():
        hidden = model.step1(embeddings_BTD=F.embedding(batch["ids"], embed), bias_BHTS=bias)
    return hidden, batch


class TestPacked:
    def test_states_are_those_of_the_sequences_apart(self, trainer, exact):
        turns = rows_of(trainer)
        packed, batch = states(exact, [pack(prefix, parts) for prefix, parts in turns])
        for row, (prefix, parts) in enumerate(turns):
            for number, part in enumerate(parts, 1):
                alone, single = states(exact, [pack(prefix, [part])])
                mine = (batch["branch"][row] == number) & (batch["target"][row] >= 0)
                torch.testing.assert_close(
                    packed[row, mine], alone[0, single["target"][0] >= 0], atol=1e-11, rtol=0
                )

    def test_without_the_branches_they_would_not_be(self, trainer, exact):
        """The test above can fail: a transcript that sees the answer has other states."""
        prefix, parts = rows_of(trainer)[0]
        packed, batch = states(exact, [pack(prefix, parts)], blind=False)
        alone, single = states(exact, [pack(prefix, [parts[1]])])
        mine = (batch["branch"][0] == 2) & (batch["target"][0] >= 0)
        assert (packed[0, mine] - alone[0, single["target"][0] >= 0]).abs().max() > 1e-3

    def test_losses_are_those_of_the_sequences_apart(self, trainer, exact):
        loss, (_, head) = Loss(trainer.data.language, TINY), exact.tables()
        for prefix, parts in rows_of(trainer):
            hidden, batch = states(exact, [pack(prefix, parts)])
            wanted = batch["target"] >= 0
            together = loss(hidden[wanted], head, batch["target"][wanted], batch["legal"][wanted])
            apart = [states(exact, [pack(prefix, [part])]) for part in parts]
            picked = [
                (h[b["target"] >= 0], *(b[name][b["target"] >= 0] for name in ("target", "legal")))
                for h, b in apart
            ]
            hidden, target, legal = (torch.cat(column) for column in zip(*picked, strict=True))
            separate = loss(hidden, head, target, legal)
            assert together.keys() == separate.keys()
            for name, value in together.items():
                torch.testing.assert_close(value, separate[name], atol=1e-5, rtol=1e-6)


def likelihood(language: Language, hidden: Tensor, head: Tensor, target: Tensor, legal: Tensor) -> Tensor:
    """−log p of each target among all ids of its legal classes: what the class-first draw must amount to."""
    logits = hidden @ head.T
    masks = torch.zeros(len(TokenClass), head.shape[0], dtype=torch.bool)
    for token_class in TokenClass:
        for start, stop in language.ranges.of(token_class):
            masks[token_class, start:stop] = True
    bits = (legal[:, None] >> torch.arange(len(TokenClass))) & 1
    allowed = (bits.float() @ masks.float()) > 0
    log_probs = logits.masked_fill(~allowed, -torch.inf).log_softmax(-1)
    return -log_probs.gather(1, target[:, None])[:, 0]


def summed(language: Language, found: dict[str, Tensor], target: Tensor, legal: Tensor) -> Tensor:
    """The loss's total times the weight of its positions, each of them 1."""
    classes = torch.tensor([int(language.ranges.class_of(int(i))) for i in target])
    choices = sum((legal >> c) & 1 for c in range(len(TokenClass))) > 1
    several = [TokenClass.TEXT, TokenClass.LINGUISTIC, TokenClass.SEMANTIC, TokenClass.STYLE]
    counted = torch.isin(classes, torch.tensor(several))
    return found["total"] * (choices.sum() + counted.sum())


class TestLoss:
    def batch(self, trainer: BackboneTrainer, styled: bool) -> tuple[Tensor, Tensor, Tensor]:
        """States, targets and legal classes of turns whose answers have a style, or have none."""
        data = trainer.data
        rows = []
        for row, item in enumerate(data.items):
            if item.answer and (item.answer[0].style is not None) == styled and len(rows) < 5:
                parts = [data.targets.answer(item.answer), data.targets.transcript(item.question)]
                rows.append(pack(data.questions.prefix(row, np.random.default_rng(row)), parts))
        batch = collate(rows)
        wanted = batch["target"] >= 0
        hidden = torch.randn(int(wanted.sum()), TINY.hidden, generator=torch.Generator().manual_seed(3)) * 3
        return hidden, batch["target"][wanted], batch["legal"][wanted]

    @pytest.mark.parametrize(
        "styled",
        [False, True],
        ids=["plain", "styled"],
    )
    def test_class_first_is_the_likelihood_among_legal_ids(self, trainer, styled):
        language = trainer.data.language
        head = trainer.model.tables()[1].detach()
        hidden, target, legal = self.batch(trainer, styled)
        found = Loss(language, PLAIN)(hidden, head, target, legal)
        expected = likelihood(language, hidden, head, target, legal).sum()
        torch.testing.assert_close(summed(language, found, target, legal), expected, rtol=1e-5, atol=1e-3)

    def test_smoothing_gives_mass_to_codes_one_level_away(self, trainer):
        near = Loss(trainer.data.language, TINY).neighbours
        digits = torch.stack([torch.arange(4096) // r % 8 for r in (512, 64, 8, 1)], 1)
        steps = (digits[near] - digits[:, None]).abs()
        assert near.shape == (4096, 8)
        assert (steps.sum(-1) <= 1).all()
        assert (steps.sum(-1) == 1)[digits.min(1).values.gt(0) & digits.max(1).values.lt(7)].all()

    def test_what_a_batch_has_not_is_not_reported(self, trainer):
        """The logged means would be diluted by zeros, or spoilt by 0 / 0."""
        data = trainer.data
        spoken = data.targets.transcript(data.items[0].question)
        batch = collate([pack(data.questions.prefix(0, np.random.default_rng(0)), [spoken])])
        named = trainer.forward(batch)
        assert named.keys() == {"total", "decision", "text", "text_right"}
        speaking = trainer.forward(data.speaking(np.random.default_rng(0)))
        assert speaking.keys() == {"total", "decision", "linguistic", "semantic"}
        assert all(torch.isfinite(value) for value in (*named.values(), *speaking.values()))


class TestCodedBackbone:
    def test_folded_weights_give_the_training_logits(self, trainer):
        model = trainer.model
        plain = Step1(step1_config(trainer.data.language, TINY))
        plain.load_state_dict(model.fold())
        ids = torch.randint(0, trainer.data.language.layout.vocab_size, (2, 40))
        embed, head = model.tables()
        with torch.no_grad():
            expected = model.step1(embeddings_BTD=F.embedding(ids, embed)) @ head.T
            torch.testing.assert_close(plain.logits(plain(ids)), expected, atol=1e-5, rtol=1e-5)

    def test_only_audio_rows_have_a_meaning_added(self, trainer):
        model, language = trainer.model, trainer.data.language
        embed, head = model.tables()
        added = (embed - model.step1.model.embed_tokens.weight).abs().amax(1)
        assert (added[: language.layout.audio_base] == 0).all()
        assert (added[slice(*language.layout.audio_range)] > 0).all()
        assert (added[language.layout.audio_range[1] :] == 0).all()
        assert head.shape == embed.shape == (language.layout.vocab_size, TINY.hidden)

    def test_codes_one_level_apart_start_out_alike(self, trainer):
        added = trainer.model.digits @ trainer.model.levels_in
        near, far = (added[0] - added[1]).norm(), (added[0] - added[4095]).norm()
        assert near < far


class TestBatches:
    @pytest.mark.parametrize("kind", sorted({*PRETRAINING, *TUNING, "small_talk"}))
    def test_every_kind_of_work_fills_a_batch_and_can_be_learned(self, trainer, kind):
        batch = getattr(trainer.data, kind)(np.random.default_rng(1))
        rows, size = batch["ids"].shape
        assert rows * (size - 15) <= TINY.batches.tokens or rows == 1
        named = trainer.forward(batch)
        named["total"].backward()
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        assert gradients
        assert all(torch.isfinite(g).all() for g in gradients)
        trainer.model.zero_grad(set_to_none=True)

    def test_a_hard_kind_is_drawn_more_often_than_it_was_recorded(self, trainer):
        data = trainer.data
        for order in (data.by_length, data.by_question):
            rows, times = np.unique(order, return_counts=True)
            kinds = [data.items[item].kind for item in data.item_of[rows]]
            assert times.tolist() == [OFTEN.get(kind, 1) for kind in kinds]
            assert max(times) > 1

    def test_every_recording_is_heard_and_all_but_cut_ups_are_answered(self, trainer):
        data = trainer.data
        cut_ups = [row for row, item in enumerate(data.item_of) if not data.items[item].answer]
        assert len(cut_ups) == 3
        assert set(data.by_question) == set(range(len(data.item_of)))
        assert set(data.by_length) == set(range(len(data.item_of))) - set(cut_ups)

    def test_what_is_garbled_is_not_known(self, trainer):
        batch = trainer.data.garbled(np.random.default_rng(2))
        unknown = trainer.data.targets.answer((Spoken("I do not know that yet."),)).ids.tolist()
        for target in batch["target"]:
            assert target[target >= 0].tolist() == unknown

    def test_what_is_garbled_was_a_question_that_hangs_on_its_order(self, trainer):
        data = trainer.data
        garbled = set(data.rows_to_garble.tolist())
        for row, item in enumerate(data.item_of):
            small_talk = data.items[item].kind == SMALL_TALK
            assert (row in garbled) == (not small_talk and len(data.questions.table[row]) >= SHORT)
            assert (row in data.rows_of_small_talk) == small_talk
        assert 0 < len(garbled) < len(data.item_of)
        assert len(data.rows_of_small_talk)

    def test_answers_of_rare_words_are_spoken_more_often(self, trainer):
        rows, times = np.unique(trainer.data.by_answer, return_counts=True)
        assert rows.tolist() == list(range(len(trainer.data.spoken)))
        often = evenness([spoken.text for spoken in trainer.data.spoken])
        assert times.tolist() == often.round().astype(int).tolist()
        assert max(times) > 1

    def test_slips_change_what_was_said_and_never_what_was_asked_or_is_to_be_said(self, trainer):
        data, layout = trainer.data, trainer.data.language.layout
        said, slips = Counter(), Counter()
        for seed in range(20):
            right = data.turns(np.random.default_rng(seed))
            slipped = {name: value.clone() for name, value in right.items()}
            data.slip(slipped, np.random.default_rng(seed))
            assert all(torch.equal(slipped[name], right[name]) for name in right if name != "ids")
            changed = slipped["ids"] != right["ids"]
            assert (right["branch"][changed] > 0).all()
            assert (right["ids"][changed] >= layout.audio_base).all()
            for first, end in (layout.linguistic_range, layout.semantic_range):
                codes = (right["ids"] >= first) & (right["ids"] < end)
                assert ((slipped["ids"][codes] >= first) & (slipped["ids"][codes] < end)).all()
                said[first] += int((codes & (right["branch"] > 0)).sum())
                slips[first] += int((codes & changed).sum())
        for first, count in said.items():
            assert 0 < slips[first] / count < data.config.slips

    def test_shares_are_distributions(self):
        assert sum(PRETRAINING.values()) == pytest.approx(1)
        assert sum(TUNING.values()) == pytest.approx(1)

    def test_a_batch_depends_on_its_generator_alone(self, trainer):
        a, b = (trainer.data.draw(TUNING, np.random.default_rng([52, 3])) for _ in range(2))
        assert all(torch.equal(a[name], b[name]) for name in a)

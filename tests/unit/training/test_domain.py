"""The domain's texts: every answer is right, and what evaluation asks never occurs in training."""

import random
import re
from collections import Counter
from itertools import pairwise

import pytest

from training.corpus import CorpusConfig
from training.domain import (
    KINDS,
    STYLES,
    TEST_SHARES,
    TRAIN_WEIGHTS,
    Item,
    bucket,
    domain,
    held_out_items,
    loose_questions,
    loose_sentences,
    number,
    sentence_case,
    sentence_split,
    speak_sentences,
    training_items,
    wording,
)

CONFIG = CorpusConfig()
SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen"""
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
VALUES = {word: k for k, word in enumerate(SMALL.split())}
VALUES |= {word: 10 * k for k, word in enumerate(TENS.split(), 2)}
LEAKS = {"Okay, good night to you.", "Okay, bye bye.", "Okay, thank you very much."}
"""Held small talk that a lead-in makes of trained small talk too; evaluation refuses what training asks."""


def value(words: str) -> int:
    """The number that English words say: ``thirty six`` → 36."""
    return 100 if words == "one hundred" else sum(VALUES[word] for word in words.split())


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


@pytest.fixture(scope="module")
def training() -> list[Item]:
    """The very items that nano is trained on."""
    return training_items(CONFIG.items, CONFIG.seed)


@pytest.fixture(scope="module")
def held_out() -> list[Item]:
    return held_out_items(600, "dev", 1) + held_out_items(600, "test", 2)


@pytest.fixture(scope="module")
def everything(training: list[Item], held_out: list[Item]) -> list[Item]:
    return training + held_out


def of(kind: str, items: list[Item]) -> list[Item]:
    found = [item for item in items if item.kind == kind]
    assert len(found) > 50
    return found


class TestNumbers:
    def test_words_say_the_number(self):
        assert [value(number(n)) for n in range(101)] == list(range(101))
        assert (number(0), number(13), number(40), number(99)) == ("zero", "thirteen", "forty", "ninety nine")

    @pytest.mark.parametrize("outside", [-1, 101])
    def test_others_are_refused(self, outside):
        with pytest.raises(ValueError, match=f"0 to 100, got {outside}"):
            number(outside)


class TestAnswersAreRight:
    def test_arithmetic(self, everything):
        shapes = {"plus": lambda a, b: a + b, "minus": lambda a, b: a - b, "times": lambda a, b: a * b}
        for item in of("arithmetic", everything):
            found = re.fullmatch(r"(.+) (plus|minus|times) (.+) is (.+)\.", item.answer_text.lower())
            assert found is not None, item
            a, b = value(found[1]), value(found[3])
            assert shapes[found[2]](a, b) == value(found[4]) >= 0, item
            asked = " ".join(words(item.question))
            assert re.search(rf"\b{found[1]}\b", asked), item
            assert re.search(rf"\b{found[3]}\b", asked), item

    def test_taking_away_asks_for_the_right_difference(self, everything):
        for item in of("arithmetic", everything):
            found = re.search(r"take (.+) away from (.+?)[.?]", item.question.lower())
            if found:
                said = value(item.answer_text.lower().rstrip(".").split(" is ")[1])
                assert value(found[2]) - value(found[1]) == said, item

    def test_calendar(self, everything):
        facts = domain()["facts"]
        for item in of("calendar", everything):
            found = re.fullmatch(r"(\w+) comes (before|after) (\w+)\.", item.answer_text)
            if found is None:
                unit, many = ("day", "seven") if "week" in item.answer_text else ("month", "twelve")
                assert item.answer_text.startswith(f"There are {many} {unit}s in a"), item
                continue
            answer, side, asked = found.groups()
            names = facts["days"] if asked in facts["days"] else facts["months"]
            circle = names + names
            first, second = (answer, asked) if side == "before" else (asked, answer)
            assert circle[circle.index(first) + 1] == second, item
            assert side in item.question, item
            assert asked in item.question, item

    def test_counting(self, everything):
        for item in of("count", everything):
            said = [value(part) for part in item.answer_text.lower().rstrip(".").split(", ")]
            steps = {b - a for a, b in pairwise(said)}
            assert steps in ({1}, {-1}), item
            asked = " ".join(words(item.question))
            assert re.search(rf"\b{number(said[0])}\b.*\b{number(said[-1])}\b", asked), item
            assert ("count up" in asked) <= (steps == {1}), item
            assert ("count down" in asked) <= (steps == {-1}), item

    @pytest.mark.parametrize(("kind", "table"), [("capital", "capitals"), ("color", "colors")])
    def test_facts(self, everything, kind, table):
        facts = domain()["facts"][table]
        for item in of(kind, everything):
            assert any(
                key.lower() in item.question.lower()
                and key.lower() in item.answer_text.lower()
                and item.answer_text.endswith(f" {fact}.")
                for key, fact in facts.items()
            ), item

    def test_opposites_go_both_ways(self, everything):
        pairs = {frozenset(pair) for pair in domain()["facts"]["opposites"].items()}
        for item in of("opposite", everything):
            a, b = re.fullmatch(r"The opposite of (\w+) is (\w+)\.", item.answer_text).groups()
            assert frozenset((a, b)) in pairs, item
            assert re.search(rf"\bof {a}\b", item.question), item

    def test_repeats_say_what_was_asked(self, everything):
        for item in of("repeat", everything):
            assert item.answer_text.lower().rstrip(".") in item.question.lower(), item

    def test_styles_are_those_asked_for_in_order(self, everything):
        styles = {phrase: name for name, phrases in domain()["styles"].items() for phrase in phrases}
        longest_first = "|".join(sorted(styles, key=len, reverse=True))
        for item in of("style", everything):
            asked = re.findall(rf"\b({longest_first})\b", item.question)
            told = [spoken.style for spoken in item.answer]
            if len(told) == 2:
                assert item.answer[0].text == item.answer[1].text
                assert len(set(told)) == 2, item
            # "fast" or "loud" may also stand in the sentence, never a style's whole phrase out of place.
            assert [styles[phrase] for phrase in asked] == told, item

    def test_the_unknown_is_said_to_be_unknown(self, everything):
        assert {item.answer_text for item in of("unknown", everything)} == {domain()["unknown"]}


class TestSplits:
    def test_no_held_out_question_is_trained(self, training, held_out):
        trained = {item.question for item in training}
        assert {item.question for item in held_out} & trained <= LEAKS

    @pytest.mark.parametrize("name", sorted(domain()["wordings"]))
    def test_no_held_wording_and_no_set_aside_pair_in_training(self, name):
        entry, rng = domain()["wordings"][name], random.Random(8)
        leads = {"?": domain()["question_leads"], "!": domain()["command_leads"]}
        cores = ["?" + core for core in entry["questions"]] + ["!" + core for core in entry["commands"]]
        refused = {
            sentence_case(lead + core[1:]).rstrip(".?") for core in entry["held"] for lead in leads[core[0]]
        }
        set_aside = {
            sentence_case(lead + core[1:]).rstrip(".?")
            for core in cores
            for lead in leads[core[0]]
            if lead and bucket(f"pair:{lead}|{core}", 8) == 0
        }
        trained = {wording(rng, name, "train").rstrip(".?") for _ in range(3000)}
        asked = {wording(rng, name, "test").rstrip(".?") for _ in range(3000)}
        assert not trained & (refused | set_aside)
        assert asked <= refused | set_aside

    def test_every_held_word_is_trained(self, training, held_out):
        trained = {word for item in training for word in words(item.question)}
        assert {word for item in held_out for word in words(item.question)} <= trained

    def test_repeat_sentences_belong_to_one_split(self, everything):
        by_split: dict[str, set[str]] = {"train": set(), "dev": set(), "test": set()}
        for item in everything:
            if item.kind == "repeat" or (item.kind == "style" and len(item.answer) == 2):
                sentence = item.answer[0].text[:-1]
                sentence = sentence[0].lower() + sentence[1:]
                assert sentence_split(sentence) == item.split, item
                by_split[item.split].add(sentence)
        assert min(map(len, by_split.values())) > 100
        assert not by_split["train"] & by_split["dev"]
        assert not by_split["train"] & by_split["test"]
        assert not by_split["dev"] & by_split["test"]

    def test_no_split_has_its_sentences_spoken_in_another(self, held_out):
        unseen = {s.text for item in held_out if not item.seen for s in item.answer}
        assert unseen
        assert not unseen & {spoken.text for spoken in speak_sentences(CONFIG.speak, CONFIG.seed + 1)}
        assert not unseen & {spoken.text for spoken in loose_sentences(CONFIG.loose, CONFIG.seed + 4)}


class TestShares:
    def test_training_follows_its_weights(self, training):
        counts, total = Counter(item.kind for item in training), sum(TRAIN_WEIGHTS.values())
        for kind, weight in TRAIN_WEIGHTS.items():
            assert counts[kind] / len(training) == pytest.approx(weight / total, abs=0.01), kind

    def test_held_out_sets_have_the_shares_that_are_reported(self):
        items = held_out_items(600, "test", 5)
        counts = Counter(item.kind for item in items)
        for kind, share in TEST_SHARES.items():
            assert counts[kind] == round(600 * share), kind
        # Of the rest, small talk has too few held wordings to fill its part.
        rest = {kind: counts[kind] for kind in KINDS if kind not in (*TEST_SHARES, "small talk")}
        assert set(rest.values()) == {40}
        assert 10 <= counts["small talk"] <= 40

    def test_questions_of_a_held_out_set_are_distinct(self):
        questions = [item.question for item in held_out_items(600, "dev", 5)]
        assert len(set(questions)) == len(questions)

    def test_every_style_is_trained_alone_and_second(self, training):
        told = [item.answer for item in training if item.kind == "style"]
        assert (
            {answer[0].style for answer in told} == {a[1].style for a in told if len(a) == 2} == set(STYLES)
        )

    def test_speak_sentences_are_distinct(self):
        spoken = speak_sentences(500, 3)
        assert len(set(spoken)) == 500
        assert 0.25 < sum(s.style is not None for s in spoken) / 500 < 0.45

    def test_loose_sentences_say_every_word_of_an_answer_often(self, training):
        """But for the words of sentences to be repeated, which the corpus has by the thousand."""
        spoken = loose_sentences(CONFIG.loose, CONFIG.seed + 4)
        assert len(set(spoken)) == CONFIG.loose
        said = Counter(word for s in spoken for word in re.findall(r"\w+", s.text.lower()))
        kinds = {"arithmetic", "capital", "opposite", "color", "calendar", "count", "small talk", "unknown"}
        texts = {s.text for item in training if item.kind in kinds for s in item.answer}
        wanted = {word for text in texts for word in re.findall(r"\w+", text.lower())}
        assert len(wanted) > 150
        assert min(said[word] for word in wanted) >= 25

    def test_loose_questions_ask_every_word_and_nothing_that_evaluation_asks(self, training, held_out):
        loose = loose_questions(CONFIG.loose_items, CONFIG.seed + 5, training)
        asked = Counter(word for item in loose for word in re.findall(r"[\w']+", item.question.lower()))
        assert len(asked) > 400
        assert min(asked.values()) > 25
        assert {item.answer_text for item in loose} == {domain()["unknown"]}
        plain = {" ".join(re.findall(r"[\w']+", item.question.lower())) for item in loose}
        assert not plain & {" ".join(re.findall(r"[\w']+", item.question.lower())) for item in held_out}


def test_items_depend_on_the_seed_alone():
    assert training_items(50, 9) == training_items(50, 9)
    assert training_items(50, 9) != training_items(50, 10)

"""Nano's domain as items: what is asked, what must be answered, and which split each belongs to.

An :class:`Item` is text only. Splits are made here, before any audio exists: a wording, a repeat
sentence or an out-of-domain question that evaluation uses can not reach a tokenizer, a vocoder or
the backbone in training.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

Split = Literal["train", "dev", "test"]
STYLES = ("normal", "slow", "fast", "high", "low", "loud", "soft")

_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def number(value: int) -> str:
    """The English words of 0 ... 100, without hyphens: ``thirty six``."""
    if not 0 <= value <= 100:
        raise ValueError(f"number words go from 0 to 100, got {value}")
    if value < 20:
        return _ONES[value]
    if value == 100:
        return "one hundred"
    tens, ones = divmod(value, 10)
    return _TENS[tens - 2] + (f" {_ONES[ones]}" if ones else "")


@dataclass(frozen=True)
class Spoken:
    """One segment of an answer: its text and the voice state it is said in (None: no style asked)."""

    text: str
    style: str | None = None


@dataclass(frozen=True)
class Item:
    """A question and the answer that is right for it. ``seen`` is False where the answer's own text is
    kept out of training too (repeat sentences of the evaluation splits)."""

    kind: str
    question: str
    answer: tuple[Spoken, ...]
    split: Split
    seen: bool = True

    @property
    def answer_text(self) -> str:
        return " ".join(spoken.text for spoken in self.answer)


@lru_cache(maxsize=1)
def domain() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "domain.yaml").read_text("utf-8"))
    return loaded


def sentence_case(text: str, end: str = ".") -> str:
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else text + end


def bucket(text: str, buckets: int) -> int:
    """A stable hash: the same text falls into the same bucket on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % buckets


def sentence_split(sentence: str) -> Split:
    """Repeat sentences: 1 in 16 is for the test, 1 in 16 for development, never the other way round."""
    return {0: "test", 1: "dev"}.get(bucket("sentence:" + sentence, 16), "train")  # type: ignore[return-value]


def repeat_sentence(rng: random.Random, split: Split) -> str:
    """A sentence of the closed lexicon that belongs to ``split``."""
    lexicon = domain()["lexicon"]
    pick: Callable[[str], str] = lambda name: rng.choice(lexicon[name])  # noqa: E731
    while True:
        shape = rng.random()
        if shape < 0.40:
            text = f"the {pick('adjectives')} {pick('nouns')} {pick('verbs')}"
            text += f" the {pick('adjectives')} {pick('nouns')}"
        elif shape < 0.62:
            text = f"the {pick('adjectives')} {pick('nouns')} is {pick('places')}"
        elif shape < 0.80:
            text = f"the {pick('nouns')} {pick('verbs')} the {pick('nouns')} {pick('places')}"
        elif shape < 0.90:
            text = f"the {pick('adjectives')} {pick('nouns')} {pick('verbs')} a {pick('nouns')}"
        else:
            text = f"the {pick('nouns')} {pick('places')} is {pick('adjectives')} and {pick('adjectives')}"
        if sentence_split(text) == split:
            return text


def wording(rng: random.Random, name: str, split: Split) -> str:
    """A wording of ``name``: in training never a held core and never a set-aside (lead, core) pair."""
    entry = domain()["wordings"][name]
    leads = {"?": domain()["question_leads"], "!": domain()["command_leads"]}
    cores = ["?" + core for core in entry["questions"]] + ["!" + core for core in entry["commands"]]
    while True:
        if split != "train" and rng.random() < 0.5:
            core = rng.choice(entry["held"])
            lead = rng.choice(leads[core[0]]) if rng.random() < 0.3 else ""
            return finish(lead, core)
        core = rng.choice(cores)
        lead = rng.choice(leads[core[0]]) if rng.random() < 0.6 else ""
        set_aside = bool(lead) and bucket(f"pair:{lead}|{core}", 8) == 0
        if set_aside == (split != "train"):
            return finish(lead, core)


def finish(lead: str, core: str) -> str:
    mark, text = core[0], core[1:]
    return sentence_case(lead + text, "?" if mark == "?" or lead.startswith("can you") else ".")


def arithmetic(rng: random.Random, split: Split) -> Item:
    name = rng.choices(("plus", "minus", "times"), (5, 4, 3))[0]
    if name == "times":
        a, b = rng.randint(1, 10), rng.randint(1, 10)
        result = a * b
    else:
        a, b = rng.randint(0, 20), rng.randint(0, 20)
        if name == "minus":
            a, b = max(a, b), min(a, b)
        result = a + b if name == "plus" else a - b
    question = wording(rng, name, split).format(a=number(a), b=number(b))
    return Item(
        "arithmetic",
        question,
        (Spoken(sentence_case(f"{number(a)} {name} {number(b)} is {number(result)}")),),
        split,
    )


def capital(rng: random.Random, split: Split) -> Item:
    country, city = rng.choice(list(domain()["facts"]["capitals"].items()))
    return Item(
        "capital",
        wording(rng, "capital", split).format(x=country),
        (Spoken(f"The capital of {country} is {city}."),),
        split,
    )


def opposite(rng: random.Random, split: Split) -> Item:
    pair = list(rng.choice(list(domain()["facts"]["opposites"].items())))
    rng.shuffle(pair)
    question = wording(rng, "opposite", split).format(x=pair[0])
    return Item("opposite", question, (Spoken(f"The opposite of {pair[0]} is {pair[1]}."),), split)


def color(rng: random.Random, split: Split) -> Item:
    thing, hue = rng.choice(list(domain()["facts"]["colors"].items()))
    return Item(
        "color",
        wording(rng, "color", split).format(x=thing),
        (Spoken(sentence_case(f"{thing} is {hue}")),),
        split,
    )


def calendar(rng: random.Random, split: Split) -> Item:
    facts = domain()["facts"]
    if rng.random() < 0.12:
        unit, span, answer = rng.choice(
            (
                ("day", "a week", "There are seven days in a week."),
                ("month", "a year", "There are twelve months in a year."),
            )
        )
        return Item(
            "calendar", wording(rng, "span", split).format(unit=unit, span=span), (Spoken(answer),), split
        )
    unit = rng.choice(("day", "month"))
    names = facts[unit + "s"]
    index = rng.randrange(len(names))
    side, step = rng.choice((("after", 1), ("before", -1)))
    question = wording(rng, "neighbour", split).format(unit=unit, side=side, x=names[index])
    return Item(
        "calendar",
        question,
        (Spoken(f"{names[(index + step) % len(names)]} comes {side} {names[index]}."),),
        split,
    )


def count(rng: random.Random, split: Split) -> Item:
    length = rng.randint(2, 6)
    low = rng.randint(1, 21 - length)
    values = list(range(low, low + length))
    if rng.random() < 0.4:
        values.reverse()
    direction = "count up" if values[0] < values[-1] else "count down"
    question = wording(rng, "count", split).format(
        a=number(values[0]), b=number(values[-1]), updown=direction
    )
    return Item("count", question, (Spoken(sentence_case(", ".join(map(number, values)))),), split)


def repeat(rng: random.Random, split: Split) -> Item:
    sentence = repeat_sentence(rng, split)
    question = wording(rng, "repeat", split).format(s=sentence)
    return Item("repeat", question, (Spoken(sentence_case(sentence)),), split, seen=split == "train")


def small_talk(rng: random.Random, split: Split) -> Item:
    entry = rng.choice(list(domain()["small_talk"].values()))
    ask = rng.choice(entry["ask"] if split == "train" else entry["held"])
    if rng.random() < 0.3:
        ask = rng.choice(("okay, ", "so, ", "now, ")) + ask
    asking = any(word in ask for word in ("how ", "who are", "what", "do you", "can you", "are you"))
    return Item("small talk", sentence_case(ask, "?" if asking else "."), (Spoken(entry["say"]),), split)


def unknown(rng: random.Random, split: Split) -> Item:
    wordings = domain()["unknown_wordings"]["train" if split == "train" else "held"]
    fillers = {name: rng.choice(words) for name, words in domain()["unknown_fillers"].items()}
    core = rng.choice(wordings).format(**fillers)
    command = core.split()[0] in ("play", "call", "open", "turn", "set", "tell", "sing")
    lead = (
        rng.choice(domain()["command_leads" if command else "question_leads"]) if rng.random() < 0.4 else ""
    )
    if lead == "can you " and not command:
        lead = ""
    return Item(
        "unknown", finish(lead, ("!" if command else "?") + core), (Spoken(domain()["unknown"]),), split
    )


def style(rng: random.Random, split: Split) -> Item:
    """Voice control: the same content in an asked voice, or one answer in two voices (two segments)."""
    words = domain()["styles"]
    table = domain()["style_wordings"]
    shape = rng.choices(("answer", "sentence", "both"), (3, 2, 5))[0]
    template = rng.choice(table["held"][shape] if split != "train" else table[shape])
    first, second = rng.sample(STYLES, 2)
    asked = {"w": rng.choice(words[first]), "v": rng.choice(words[second])}
    if shape == "answer":
        inner = rng.choice((arithmetic, capital, opposite, color, calendar))(rng, "train")
        text = inner.answer[0].text
        return Item(
            "style", sentence_case(template.format(q=inner.question, **asked)), (Spoken(text, first),), split
        )
    sentence = repeat_sentence(rng, split)
    text = sentence_case(sentence)
    answer = (Spoken(text, first),) if shape == "sentence" else (Spoken(text, first), Spoken(text, second))
    filled = template.format(s=sentence, **asked)
    question = ". ".join(sentence_case(part, "") for part in filled.split(". "))
    return Item("style", sentence_case(question), answer, split, seen=split == "train")


KINDS: dict[str, Callable[[random.Random, Split], Item]] = {
    "arithmetic": arithmetic,
    "capital": capital,
    "opposite": opposite,
    "color": color,
    "calendar": calendar,
    "count": count,
    "repeat": repeat,
    "small talk": small_talk,
    "unknown": unknown,
    "style": style,
}
TRAIN_WEIGHTS = {
    "arithmetic": 20, "capital": 6, "opposite": 6, "color": 4, "calendar": 6, "count": 6, "repeat": 24,
    "small talk": 3, "unknown": 9, "style": 20,
}  # fmt: skip
TEST_SHARES = {"repeat": 0.20, "arithmetic": 0.20, "style": 0.10, "unknown": 0.10}


def training_items(n: int, seed: int, weights: Mapping[str, float] = TRAIN_WEIGHTS) -> list[Item]:
    """``n`` training items, their kinds drawn by ``weights``."""
    rng = random.Random(seed)
    kinds = rng.choices(list(weights), list(weights.values()), k=n)
    return [KINDS[kind](rng, "train") for kind in kinds]


def held_out_items(n: int, split: Split, seed: int) -> list[Item]:
    """``n`` distinct questions of an evaluation split with the shares of :data:`TEST_SHARES`; the
    remaining kinds share the rest evenly."""
    rng = random.Random(seed)
    rest = [kind for kind in KINDS if kind not in TEST_SHARES]
    shares = TEST_SHARES | {kind: (1 - sum(TEST_SHARES.values())) / len(rest) for kind in rest}
    items: list[Item] = []
    asked: set[str] = set()
    for kind, share in shares.items():
        wanted, tries = round(share * n), 0
        while wanted and tries < 200 * n:
            item, tries = KINDS[kind](rng, split), tries + 1
            if item.question not in asked:
                asked.add(item.question)
                items.append(item)
                wanted -= 1
    return items


def speak_sentences(n: int, seed: int) -> list[Spoken]:
    """``n`` distinct texts for the voice alone (text → speech), styled and plain, of the training split."""
    rng = random.Random(seed)
    found: dict[Spoken, None] = {}
    while len(found) < n:
        text = sentence_case(repeat_sentence(rng, "train"))
        found[Spoken(text, rng.choice(STYLES) if rng.random() < 0.35 else None)] = None
    return list(found)


def loose_sentences(n: int, seed: int) -> list[Spoken]:
    """``n`` distinct texts for the voice alone, true or not: what answers have seldom, in many places."""
    rng = random.Random(seed)
    found: dict[Spoken, None] = {}
    while len(found) < n:
        text = sentence_case(loose_sentence(rng))
        found[Spoken(text, rng.choice(STYLES) if rng.random() < 0.35 else None)] = None
    return list(found)


def loose_sentence(rng: random.Random) -> str:
    facts = domain()["facts"]
    numbers = lambda: number(rng.randint(0, 100 if rng.random() < 0.5 else 20))  # noqa: E731
    anything = lambda name: rng.choice([*facts[name], *facts[name].values()])  # noqa: E731
    shape = rng.choices(range(7), (22, 16, 14, 10, 8, 12, 18))[0]
    if shape == 0:
        return f"{numbers()} {rng.choice(('plus', 'minus', 'times'))} {numbers()} is {numbers()}"
    if shape == 1:
        return ", ".join(numbers() for _ in range(rng.randint(2, 6)))
    if shape == 2:
        return f"the opposite of {anything('opposites')} is {anything('opposites')}"
    if shape == 3:
        places = facts["capitals"]
        return f"the capital of {rng.choice(list(places))} is {rng.choice(list(places.values()))}"
    if shape == 4:
        return f"{rng.choice(list(facts['colors']))} is {rng.choice(list(facts['colors'].values()))}"
    if shape == 5:
        names = facts["days"] + facts["months"]
        return f"{rng.choice(names)} comes {rng.choice(('after', 'before'))} {rng.choice(names)}"
    return " ".join(rng.sample(fixed_words(), rng.randint(3, 6)))


def loose_questions(n: int, seed: int, asked: Iterable[Item]) -> list[Item]:
    """``n`` rows of words that ``asked`` holds, each as often as the others, which nano does not know: what
    is heard here can not be guessed."""
    rng = random.Random(seed)
    texts = (part for item in asked for part in item.question.split(". "))
    words = sorted({word.strip(",.?") for text in texts for word in text.split()[1:]} - {""})
    rows = (" ".join(rng.sample(words, rng.randint(4, 9))) for _ in range(n))
    answer = (Spoken(domain()["unknown"]),)
    return [Item("unknown", sentence_case(row, rng.choice(".?")), answer, "train") for row in rows]


@lru_cache(maxsize=1)
def fixed_words() -> list[str]:
    """The words of answers that are always the same, each once."""
    said = [entry["say"] for entry in domain()["small_talk"].values()]
    said += [domain()["unknown"], "There are seven days in a week.", "There are twelve months in a year."]
    words = (word.strip(",.?") for text in said for word in text.split())
    return sorted({word if word in ("I", "Nano") else word.lower() for word in words})

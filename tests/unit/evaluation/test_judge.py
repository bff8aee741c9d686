"""One spelling for all texts: what must be equal, what must stay apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.judge import normalise, spell
from training.domain import number


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("36", "thirty six"),
        ("7 + 5 = 12.", "Seven plus five is twelve."),
        ("7-5 is 2", "seven minus five is two"),
        ("7 – 5 = 2", "seven minus five is two"),
        ("3 x 4 is 12", "three times four is twelve"),
        ("3×4 is 12", "three times four is twelve"),
        ("7-8-9", "Seven, eight, nine."),
        ("7,8,9", "Seven, eight, nine."),
        ("98,99,100", "ninety eight, ninety nine, one hundred"),
        ("654321.", "Six, five, four, three, two, one."),
        ("1617-1819.", "Sixteen, seventeen, eighteen, nineteen."),
        ("8, 9, 1011", "eight, nine, ten, eleven"),
        ("1,000", "one thousand"),
        ("1,250", "one thousand two hundred fifty"),
        ("the 21st", "the twenty first"),
        ("the 20th, 8th and 12th", "the twentieth, eighth and twelfth"),
        ("Thirty-six", "thirty six"),
        ("It's grey.", "it is gray"),
        ("What colour is it?", "what color is it"),
        ("I’m fine", "I am fine"),
        ("I don't know, I can't.", "I do not know, I cannot."),
        ("Goodnight!", "Good night"),
        ("Good-bye", "goodbye"),
    ],
)
def test_the_same_words_have_one_spelling(written: str, spoken: str) -> None:
    assert normalise(written) == normalise(spoken)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("four", "for"),
        ("2", "to"),
        ("13", "30"),
        ("121", "one two one"),
        ("the cat's", "the cat is"),
        ("red", "read"),
    ],
)
def test_other_words_stay_other_words(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@given(st.integers(0, 100))
def test_numbers_are_spelled_as_the_domain_says_them(value: int) -> None:
    assert normalise(str(value)) == number(value) == spell(value)


@given(st.integers(0, 17), st.integers(2, 6), st.booleans(), st.sampled_from(["", "-", ",", ", ", " "]))
def test_a_count_is_read_however_it_is_set(low: int, length: int, down: bool, gap: str) -> None:
    values = list(range(low, low + length))
    if down:
        values.reverse()
    written = gap.join(map(str, values))
    if gap == "" and (length == 2 or int(written) <= 100):
        return  # "12" is twelve, and "109" may be one number or two
    assert normalise(written) == " ".join(map(number, values))


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert set(once) <= set("abcdefghijklmnopqrstuvwxyz ")

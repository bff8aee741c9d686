"""How a turn failed, in the log and back: the same kind, words and stage; nothing of an unforeseen error."""

import pytest

from aqaa.errors import AqaaError, CapacityError, Deadline, InvalidAudio, Unavailable
from aqaa.v1.tokens_pb2 import EndReason
from services.orchestrator.failures import error_of, event_of, terminal_of

FORESEEN = [
    Deadline("the turn's time ran out", stage="turn"),
    Unavailable("the llm has been silent for 5 s", stage="llm", silent_seconds="5"),
    CapacityError("no slot has come free"),
    InvalidAudio("0.1 s of sound"),
]


@pytest.mark.parametrize("error", FORESEEN, ids=lambda error: error.reason)
def test_it_comes_back_as_it_was(error):
    terminal = terminal_of(error)
    back = error_of(terminal)
    assert terminal.reason == EndReason.END_REASON_FAILED
    assert (type(back), str(back)) == (type(error), str(error))
    assert back.metadata == {key: value for key, value in error.metadata.items() if key == "stage"}


@pytest.mark.parametrize("error", [KeyError("a secret"), ZeroDivisionError("7 / 0")])
def test_what_nobody_foresaw_keeps_its_words(error):
    back = error_of(terminal_of(error))
    assert type(back) is AqaaError
    assert str(error) not in str(back)
    assert back.metadata == {}


def test_only_a_want_of_room_says_how_long_to_wait():
    full = event_of(CapacityError("full", retry_after=1.5), resumable=True)
    assert (full.reason, full.retry_delay.ToMilliseconds(), full.resumable) == ("CAPACITY", 1500, True)
    assert not event_of(Deadline("late"), resumable=False).HasField("retry_delay")

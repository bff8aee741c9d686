"""The time that a call further on gets."""

import pytest
from rpc_cases import in_loop, serving

from aqaa.errors import Deadline
from aqaa.rpc.deadline import MARGIN, time_left
from aqaa.v1 import tokenizer_pb2


class Left:
    def __init__(self, seconds):
        self.seconds = seconds

    def time_remaining(self):
        return self.seconds


@pytest.mark.parametrize(
    ("left", "at_most", "expected"),
    [(None, 20.0, 20.0), (3.0, 20.0, 3.0 - MARGIN), (10.0, 20.0, 9.9), (100.0, 20.0, 20.0)],
)
def test_what_the_caller_has_less_the_way_back_and_never_for_ever(left, at_most, expected):
    assert time_left(Left(left), stage="vocoder", at_most=at_most) == expected


@pytest.mark.parametrize("left", [0.0, MARGIN])
def test_nothing_left_is_said_before_the_call(left):
    with pytest.raises(Deadline, match="before vocoder") as found:
        time_left(Left(left), stage="vocoder", at_most=20.0)
    assert found.value.metadata == {"stage": "vocoder"}


@in_loop
async def test_a_deadline_crosses_two_hops_and_shrinks():
    seen = []

    async def note(request, context):
        seen.append(context.time_remaining())

    async with serving(note) as behind:

        async def ask_behind(request, context):
            seen.append(context.time_remaining())
            timeout = time_left(context, stage="tokenizer", at_most=1000.0)
            await behind.stub.Tokenize(request, timeout=timeout)

        async with serving(ask_behind) as front:
            await front.stub.Tokenize(tokenizer_pb2.TokenizeRequest(), timeout=500.0)
            await front.stub.Tokenize(tokenizer_pb2.TokenizeRequest())
    first, second, none, ceiling = seen
    assert second < first
    assert none is None
    assert ceiling is not None

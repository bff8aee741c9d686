"""Restart state is small, survives the journey, and is refused when it does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqaa.engine.vocoder import Restart
from aqaa.errors import StateError

word = st.integers(0, 2**64 - 1)
states = st.builds(
    Restart,
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    word,
    st.integers(0, 2**32 - 1),
    word,
    word,
    word,
)
STATE = Restart("0f" * 32, seed=5, segment=1, frame=18, sample=4320, phase=7)


@given(state=states)
def test_a_state_reads_back_the_same(state):
    raw = state.to_bytes()
    assert len(raw) < 200
    assert Restart.from_bytes(raw) == state


@pytest.mark.parametrize(
    "raw", [b"", STATE.to_bytes()[:-1], STATE.to_bytes() + b"\0", b"\2" + STATE.to_bytes()[1:]]
)
def test_bytes_that_are_no_state_of_this_version_are_refused(raw):
    with pytest.raises(StateError, match="expected 69 bytes, version 1"):
        Restart.from_bytes(raw)


@pytest.mark.parametrize("digest", ["0f" * 31, "xy" * 32])
def test_a_digest_that_is_no_sha256_is_refused(digest):
    with pytest.raises(StateError):
        Restart(digest, 0, 0, 0, 0, 0).to_bytes()


def test_a_number_too_large_for_its_field_is_refused():
    with pytest.raises(StateError, match="cannot be written"):
        Restart("0f" * 32, 0, 1 << 32, 0, 0, 0).to_bytes()


def test_a_state_moves_forward_only():
    assert STATE.at(5000).sample == 5000
    with pytest.raises(StateError, match="sample 100 was handed out before"):
        STATE.at(100)

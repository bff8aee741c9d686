"""Ids and keys: made by the server, checked at every door, a session in one slot."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from aqaa.errors import InvalidRequest
from aqaa.turnlog import Role, SessionRef, TurnRef, check_id, new_id
from aqaa.turnlog.names import request_key

SESSION, TURN = "a" * 26, "b" * 26


@given(st.binary(min_size=16, max_size=16))
def test_an_id_holds_all_its_bits_and_is_one(drawn: bytes) -> None:
    made = new_id(lambda size: drawn[:size])
    assert check_id(made, "session_id") == made
    number = 0
    for character in made:
        number = number << 5 | "abcdefghijklmnopqrstuvwxyz234567".index(character)
    assert number == int.from_bytes(drawn, "big")


@pytest.mark.parametrize("bad", ["", "a" * 25, "a" * 27, "A" * 26, "a" * 25 + "}", "a" * 25 + "\n", "é" * 26])
def test_what_is_no_id_is_refused(bad: str) -> None:
    with pytest.raises(InvalidRequest, match=r"session_id: is .*, expected 26"):
        SessionRef("tenant", bad)
    with pytest.raises(InvalidRequest, match="turn_id"):
        TurnRef("tenant", SESSION, bad)


@pytest.mark.parametrize("bad", ["", "a" * 65, "A", "a.b", "a}b", "-a", "a-", "a b"])
def test_what_is_no_tenant_is_refused(bad: str) -> None:
    with pytest.raises(InvalidRequest, match="tenant"):
        SessionRef(bad, SESSION)


def test_everything_of_a_session_lies_in_one_slot() -> None:
    one, two = TurnRef("tenant", SESSION, TURN), TurnRef("tenant", SESSION, "c" * 26)
    names = {*one.keys, *two.keys, one.meta, one.channel(Role.FRONT), two.channel(Role.RUNNER)}
    assert len(names) == 11
    assert len({key_slot(name.encode()) for name in names}) == 1
    assert one.keys[1] == f"aqaa:{{tenant.{SESSION}}}:{TURN}:query"
    assert key_slot(one.meta.encode()) != key_slot(TurnRef("other", SESSION, TURN).meta.encode())


def test_a_request_key_names_no_caller() -> None:
    key = request_key("tenant", "alice", "42")
    assert "alice" not in key
    others = {
        request_key("tenant", "alice", "43"),
        request_key("tenant", "alic", "e42"),
        request_key("t", "alice", "42"),
    }
    assert key not in others
    assert len(others) == 3
    assert hashlib.sha256(b"tenant\0alice\x0042").hexdigest()[:32] in key

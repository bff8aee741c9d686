"""Who calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqaa.errors import Forbidden, InvalidRequest
from aqaa.rpc.caller import CALLER_KEY, LOCAL, Caller, call_metadata, caller_of


@pytest.mark.parametrize(
    "caller", [Caller("acme"), Caller("a"), Caller("a-1", "alice"), Caller("acme", "al.ice@x-y_Z")]
)
def test_a_caller_travels(caller):
    assert caller_of(call_metadata(caller=caller), default=None) == caller
    assert Caller.parse(str(caller)) == caller


@pytest.mark.parametrize(
    "text",
    ["", "/", "/alice", "acme/", "acme/alice/x", "Acme", "a.b", "a:b", "{a}", "a b", "-a", "a-", "a" * 33,
     "acme/.", "acme/..", "acme/" + "x" * 65, "acme\n", "acme/alice\n", "акме", "acme/ali*ce", "acme/a}b"],
)  # fmt: skip
def test_what_is_no_caller_is_refused_and_not_repeated(text):
    with pytest.raises(InvalidRequest) as found:
        caller_of([(CALLER_KEY, text)], default=LOCAL)
    (fault,) = found.value.faults
    assert fault.field == f"metadata.{CALLER_KEY}"
    if len(text) > 8:
        assert text not in str(found.value)


@given(st.text(max_size=80))
def test_a_key_made_of_a_tenant_is_never_cut_elsewhere(text):
    try:
        caller = Caller.parse(text)
    except InvalidRequest:
        return
    assert not set(caller.tenant) & set("{}.:/* \n")
    assert str(caller) == text


def test_without_a_name_the_default_calls_or_nobody_may():
    assert caller_of((), default=LOCAL) is LOCAL
    assert caller_of(None, default=LOCAL) is LOCAL
    with pytest.raises(Forbidden, match=CALLER_KEY):
        caller_of((), default=None)


def test_two_names_are_no_name():
    with pytest.raises(InvalidRequest, match="one value, got 2"):
        caller_of([(CALLER_KEY, "acme"), (CALLER_KEY, "other")], default=LOCAL)

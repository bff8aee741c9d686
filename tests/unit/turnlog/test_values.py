"""The parts of the turn log that need no server: settings, records, states, what was heard, the frontier."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqaa.errors import LogDiverged, SettingsError
from aqaa.turnlog import (
    Cursor,
    Frontier,
    Heard,
    Phase,
    Role,
    SpokenSegment,
    Stream,
    TurnLogSettings,
    TurnState,
    heard,
    played_by_the_clock,
)
from aqaa.turnlog import scripts as every_script
from aqaa.turnlog.records import Entry, announced, encode, entries_of
from aqaa.v1.tokens_pb2 import AnswerPiece, EndReason, TextRun
from aqaa.v1.turnlog_pb2 import AnswerRecord, TerminalState


def test_settings_say_what_is_wrong_with_them() -> None:
    with pytest.raises(SettingsError) as caught:
        TurnLogSettings(sweep=2.0, lease=1.5, socket_timeout=1.0, dispatch_longest=0.25)
    assert str(caught.value).splitlines() == [
        "turnlog.sweep is 2.0, expected 0.001 to 1",
        "turnlog.heartbeat is 1.0, expected at most half of lease 1.5",
        "turnlog.dispatch_longest is 0.25, expected at least dispatch_again 0.5",
        "turnlog.dispatch_block is 1.0, expected less than socket_timeout 1.0",
    ]


def test_the_defaults_are_those_of_the_design() -> None:
    settings = TurnLogSettings()
    assert (settings.lease, settings.heartbeat, settings.scan, settings.sweep) == (5.0, 1.0, 0.25, 1.0)
    assert (settings.dispatch_again, settings.frontier_interval, settings.turn_ttl) == (0.5, 0.25, 900.0)
    assert (settings.slots_lease, settings.delivery_keep) == (2.0, 64)


@given(st.integers(1, 10**9), st.binary())
def test_a_wake_up_brings_its_entry(seq: int, data: bytes) -> None:
    entry = Cursor(seq - 1, b"\x20" * 16).after(data)
    message = b"answer %d " % seq + entry.hash + data
    assert announced(message) == (Stream.ANSWER, entry)


def test_a_wake_up_without_an_entry_is_none_that_can_be_taken() -> None:
    assert announced(b"answer") is None


def written(words: list[str]) -> list[tuple[bytes, dict[bytes, bytes]]]:
    raw, cursor = [], Cursor()
    for word in words:
        entry = cursor.after(encode(AnswerRecord(piece=AnswerPiece(text=TextRun(text=word)))))
        raw.append((b"0-%d" % entry.seq, {b"d": entry.data, b"h": entry.hash}))
        cursor = Cursor(entry.seq, entry.hash)
    return raw


@given(words=st.lists(st.text(max_size=4), min_size=2, max_size=6), data=st.data())
def test_any_entry_that_is_changed_dropped_or_moved_is_seen(words: list[str], data: st.DataObject) -> None:
    raw = written(words)
    assert [e.seq for e in entries_of(raw, Stream.ANSWER, Cursor())] == list(range(1, len(words) + 1))
    at = data.draw(st.integers(0, len(raw) - 2))
    entry_id, fields = raw[at]
    spoilt = data.draw(
        st.sampled_from(
            [
                [*raw[:at], *raw[at + 1 :]],
                [*raw[:at], (entry_id, {**fields, b"d": fields[b"d"] + b"\0"}), *raw[at + 1 :]],
                [*raw[:at], (entry_id, {}), *raw[at + 1 :]],
                [*raw[:at], raw[at + 1], raw[at], *raw[at + 2 :]],
            ]
        )
    )
    with pytest.raises(LogDiverged):
        entries_of(spoilt, Stream.ANSWER, Cursor())


def test_a_trimmed_stream_is_checked_from_its_first_entry_on() -> None:
    raw = written(["a", "b", "c", "d"])[2:]
    assert [e.seq for e in entries_of(raw, Stream.DELIVERY, None)] == [3, 4]
    raw[1][1][b"h"] = bytes(16)
    with pytest.raises(LogDiverged, match="expected 4"):
        entries_of(raw, Stream.DELIVERY, None)


def test_an_entry_that_is_no_record_is_seen() -> None:
    with pytest.raises(LogDiverged, match="answer entry 3 cannot be read"):
        Entry(3, b"\xff\xff", b"").record(Stream.ANSWER)


def test_a_state_is_read_as_it_is_written() -> None:
    assert TurnState.parse({}) is None
    terminal = TerminalState(reason=EndReason.END_REASON_LENGTH)
    state = TurnState.parse(
        {
            b"phase": b"completed",
            b"caller": b"alice",
            b"last:answer": b"12",
            b"hash:answer": b"h",
            b"front_owner": b"2.0011",
            b"runner_owner": b"",
            b"front_until": b"1700000005000",
            b"commit": b"30",
            b"terminal": encode(terminal),
        }
    )
    assert state is not None
    assert state.phase.terminal
    assert state.last == {Stream.QUERY: Cursor(), Stream.ANSWER: Cursor(12, b"h"), Stream.DELIVERY: Cursor()}
    assert state.owners == {Role.FRONT: "2.0011"}
    assert state.leases == {Role.FRONT: 1700000005000, Role.RUNNER: 0}
    assert (state.commit, state.frontier, state.terminal) == (30, None, terminal)


@pytest.mark.parametrize(
    ("reason", "phase"),
    [
        ("STOP", Phase.COMPLETED),
        ("LENGTH", Phase.COMPLETED),
        ("CANCELLED", Phase.CANCELLED),
        ("FAILED", Phase.FAILED),
    ],
)
def test_a_reason_belongs_to_a_phase(reason: str, phase: Phase) -> None:
    assert Phase.ended(EndReason.Value(f"END_REASON_{reason}")) is phase


TWO = [SpokenSegment("The sum is four.", 1600), SpokenSegment(" It is red and round", 2000, complete=False)]


@pytest.mark.parametrize(
    ("played", "expected"),
    [
        (0, Heard("", False)),
        (90, Heard("", True)),  # not a whole word
        (400, Heard("The", True)),
        (1599, Heard("The sum is", True)),
        (1600, Heard("The sum is four.", False)),
        (2800, Heard("The sum is four. It is red", True)),
        (3600, Heard("The sum is four. It is red and round", True)),  # more of it may follow
        (9999, Heard("The sum is four. It is red and round", True)),
    ],
)
def test_what_was_heard_ends_with_a_whole_word(played: int, expected: Heard) -> None:
    assert heard(TWO, played) == expected


def test_a_written_answer_is_heard_at_once() -> None:
    assert heard([SpokenSegment("Four.", 0)], 0) == Heard("Four.", False)


@given(
    segments=st.lists(st.builds(SpokenSegment, st.text("ab ", max_size=20), st.integers(0, 500)), max_size=4),
    played=st.integers(0, 2500),
)
def test_what_was_heard_is_a_beginning_of_the_answer_and_only_grows(
    segments: list[SpokenSegment], played: int
) -> None:
    now, later = heard(segments, played), heard(segments, played + 100)
    assert "".join(s.text for s in segments).startswith(now.text)
    assert later.text.startswith(now.text)


class Hands:
    """A clock that stands still."""

    time = 0.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here sleeps")


def test_the_frontier_is_written_four_times_a_second_and_its_last_value_is_not_lost() -> None:
    clock = Hands()
    frontier = Frontier(clock, 0.25)
    written = []
    for i in range(100):
        clock.time = i / 50
        if (value := frontier.move(i)) is not None:
            written.append(value)
    assert len(written) == 8
    assert frontier.pending
    clock.time = frontier.due
    assert frontier.take() == 99
    assert not frontier.pending
    clock.time += 1
    assert frontier.move(50) is None


def test_without_acknowledgements_sound_counts_as_played_in_real_time() -> None:
    assert played_by_the_clock(10.0, 11.5, 24000, 100000) == 36000
    assert played_by_the_clock(10.0, 11.5, 24000, 24000) == 24000
    assert played_by_the_clock(10.0, 9.0, 24000, 24000) == 0


def test_every_script_is_short_and_says_its_replies() -> None:
    loaded = [value for value in vars(every_script).values() if isinstance(value, every_script.Script)]
    assert len(loaded) == 14
    assert len({script.sha for script in loaded}) == 14

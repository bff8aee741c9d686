"""Whatever two owners do, in whatever order: no gap, no duplicate, no write by one who was replaced."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from turnlog_cases import SETTINGS, STOPPED, counted, expire, open_turn, text
from turnlog_servers import Server, binary

from aqaa.errors import Superseded
from aqaa.turnlog import Appender, Link, Refused, Role, Stream, Tenure, TurnLog, read_all
from aqaa.turnlog.append import appending
from aqaa.turnlog.records import Cursor, encode

EXAMPLES = 20


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(binary("valkey9"), tmp_path_factory.mktemp("interleavings"))
    yield server
    server.kill()


class Owners(RuleBasedStateMachine):
    """The scripts against a model of them: the reply of every call is known beforehand."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.url = server.url
        self.log: list[Cursor] = []  # what must be in the stream
        self.texts: list[str] = []
        self.owner: Tenure | None = None
        self.leased = False
        self.over = False
        self.past: list[Tenure] = []

    def wait(self, awaited):
        return self.loop.run_until_complete(awaited)

    @initialize()
    def open(self) -> None:
        self.link = self.wait(Link.connect(self.url, SETTINGS))
        self.door = TurnLog(self.link, random_bytes=Owners.random)
        self.turn = self.wait(open_turn(self.door)).turn

    random = staticmethod(counted(7 << 32))

    @rule(force=st.booleans())
    def acquire(self, force: bool) -> None:
        got = self.wait(Tenure.acquire(self.link, self.turn, Role.RUNNER, self.door.nonce(), force=force))
        if self.over:
            assert got == Refused("ENDED")
        elif self.leased and not force:
            assert isinstance(got, Refused)
            assert got.why == "LEASED"
        else:
            assert isinstance(got, Tenure)
            assert got.epoch == len(self.past) + 1
            self.past.append(got)
            self.owner, self.leased = got, True

    @precondition(lambda self: self.leased)
    @rule()
    def fall_silent(self) -> None:
        self.wait(expire(self.door, self.turn, Role.RUNNER))
        self.leased = False

    @precondition(lambda self: self.past)
    @rule(which=st.integers(0, 99))
    def release(self, which: int) -> None:
        tenure = self.past[which % len(self.past)]
        self.wait(tenure.release())
        if tenure is self.owner:
            self.owner, self.leased = None, False

    @precondition(lambda self: self.past)
    @rule(
        which=st.integers(0, 99), step=st.integers(-3, 3), word=st.sampled_from("ab"), times=st.integers(1, 2)
    )
    def append(self, which: int, step: int, word: str, times: int) -> None:
        """By anyone who ever was an owner, at, before or behind the end, once or with a lost reply."""
        tenure = self.past[which % len(self.past)]
        seq = max(1, len(self.log) + 1 + step)
        before = self.log[seq - 2].hash if 0 <= seq - 2 < len(self.log) else b""
        entry = Cursor(seq - 1, before).after(encode(text(word)))
        for _ in range(times):
            call = appending(
                self.link, self.turn, Stream.ANSWER, entry, before, role=Role.RUNNER, owner=tenure.owner
            )
            reply = self.wait(self.link.run(call.script, call.keys, call.args))
            assert reply[0] == self.expected(tenure, seq, word)
            if reply[0] == "OK":
                self.log.append(Cursor(seq, entry.hash))
                self.texts.append(word)

    def expected(self, tenure: Tenure, seq: int, word: str) -> str:
        if tenure is not self.owner:
            return "FENCED"
        if seq > len(self.log) + 1:
            return "GAP"
        if seq <= len(self.log):
            return "DUP" if self.texts[seq - 1] == word else "CONFLICT"
        return "OK"

    @precondition(lambda self: self.owner is not None)
    @rule()
    def finish(self) -> None:
        self.wait(self.door.finish(self.owner, STOPPED))
        self.owner, self.leased, self.over = None, False, True

    @invariant()
    def the_log_is_the_models(self) -> None:
        if hasattr(self, "turn"):
            entries = self.wait(read_all(self.link, self.turn, Stream.ANSWER))
            assert [Cursor(e.seq, e.hash) for e in entries] == self.log
            assert [e.record(Stream.ANSWER).piece.text.text for e in entries] == self.texts

    def teardown(self) -> None:
        if hasattr(self, "link"):
            self.wait(self.link.aclose())
        self.loop.close()


def test_the_scripts_do_what_the_model_says(valkey: Server) -> None:
    run_state_machine_as_test(
        lambda: Owners(valkey),
        settings=settings(max_examples=EXAMPLES, stateful_step_count=30, deadline=None),
    )


DEEDS = st.lists(st.sampled_from(["append", "append", "steal", "cut"]), min_size=1, max_size=12)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deeds=st.lists(DEEDS, min_size=2, max_size=3))
def test_owners_that_race_write_each_thing_once(valkey: Server, deeds: list[list[str]]) -> None:
    """Runners that take the turn from one another while they write; calls are cut off in the middle."""

    async def race() -> None:
        async with await Link.connect(valkey.url, SETTINGS) as link:
            log = TurnLog(link, Owners.random)
            live = await open_turn(log)
            sure: list[str] = []
            maybe: list[str] = []

            async def runner(name: int, todo: list[str]) -> None:
                pen: Appender | None = None
                for i, deed in enumerate(todo):
                    if pen is None or deed == "steal":
                        got = await Tenure.acquire(link, live.turn, Role.RUNNER, log.nonce(), force=True)
                        assert isinstance(got, Tenure)
                        pen, _ = await log.pen(got, Stream.ANSWER)
                    word = f"{name}.{i}"
                    maybe.append(word)
                    writing = asyncio.create_task(pen.append(text(word)))
                    if deed == "cut":
                        await asyncio.sleep(0)
                        writing.cancel()
                    try:
                        await writing
                    except Superseded:
                        pen = None
                    except asyncio.CancelledError:
                        pass
                    else:
                        sure.append(word)

            await asyncio.gather(*(runner(i, todo) for i, todo in enumerate(deeds)))
            entries = await read_all(link, live.turn, Stream.ANSWER)  # raises at a gap or a broken chain
            words = [entry.record(Stream.ANSWER).piece.text.text for entry in entries]
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
            assert len(set(words)) == len(words)
            assert set(sure) <= set(words) <= set(maybe)

    asyncio.run(race())

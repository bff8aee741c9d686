"""What the client's calls are made of: samples as bytes, pauses, acknowledgements."""

import asyncio
import subprocess
import sys

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqaa.audio.decode import Audio
from aqaa.client import Patience, Player, Timing, as_float
from aqaa.client.calls import Backoff, Broken, Ending, failure_of
from aqaa.client.playback import ACK_SECONDS, Acks
from aqaa.client.question import PcmFormat, recorded
from aqaa.errors import AqaaError, CapacityError, InvalidAudio, NotFound, Unavailable
from aqaa.rpc.status import CODES
from aqaa.v1.orchestrator_pb2 import TurnFailed


@given(st.lists(st.integers(-32768, 32767), max_size=50))
def test_16_bit_samples_keep_every_bit_as_they_are_and_by_way_of_float(values):
    pcm = np.array(values, np.int16)
    fixed = PcmFormat(16000, floating=False)
    assert fixed.encode(pcm) == pcm.tobytes()
    floating = np.frombuffer(PcmFormat(16000).encode(pcm), "<f4")
    np.testing.assert_array_equal(floating, as_float(pcm))
    assert fixed.encode(floating) == pcm.tobytes()


def test_a_format_is_that_of_the_samples():
    stereo = np.zeros((3, 2), np.float64)
    assert PcmFormat.of(stereo, 8000) == PcmFormat(8000, 2, floating=True)
    assert PcmFormat.of(stereo, 8000).frame_bytes == 8
    assert PcmFormat.of(np.zeros(3, np.int16), 48000) == PcmFormat(48000, 1, floating=False)
    assert len(PcmFormat(8000, 2).encode(stereo)) == 24


def test_what_is_recorded_knows_its_rate():
    audio = Audio(np.zeros(4, np.float32), 22050)
    samples, rate = recorded(audio, None)
    assert (samples is audio.samples, rate) == (True, 22050)
    with pytest.raises(InvalidAudio, match="sample_rate"):
        recorded(np.zeros(4), None)


@pytest.mark.parametrize("name", ["call_seconds", "answer_seconds", "idle_seconds", "attempts", "first_wait"])
def test_patience_is_more_than_none(name):
    with pytest.raises(ValueError, match=name):
        Patience(**{name: 0})


def test_errors_of_a_turn_have_the_kind_that_their_reason_says():
    for kind in CODES:
        broken = failure_of(TurnFailed(reason=kind.reason, message="why"))
        assert type(broken.error) is kind
        assert str(broken.error) == "why"
    unknown = failure_of(TurnFailed(reason="SOMETHING_NEWER", message="why"))
    assert type(unknown.error) is AqaaError
    assert not unknown.mendable
    assert failure_of(TurnFailed(reason="LOG_LOST", resumable=True)).mendable


def test_a_turn_that_is_refused_says_how_long_to_wait():
    failed = TurnFailed(reason="CAPACITY", message="full")
    assert failure_of(failed).retry_after == 1.0  # an older server says nothing
    failed.retry_delay.FromMilliseconds(2500)
    broken = failure_of(failed)
    assert (broken.retry_after, broken.error.retry_after) == (2.5, 2.5)


def status_of(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, nothing, nothing, details="Socket closed")


def test_what_gave_the_status_decides_whether_to_try_again():
    for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        assert Broken.by_rpc(status_of(code)).mendable
    for code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.DEADLINE_EXCEEDED):
        assert not Broken.by_rpc(status_of(code)).mendable
    assert not Broken.by(NotFound("x")).mendable
    assert Broken.by(CapacityError("x", retry_after=4)).retry_after == 4


def backoff_of(chance: float, **patience: float) -> tuple[Backoff, list[float]]:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    timing = Timing(clock=lambda: sum(slept), sleep=sleep, chance=lambda: chance)
    return Backoff(Patience(**patience), timing), slept


def test_pauses_lie_between_half_and_all_of_their_length_and_honour_what_is_asked():
    for chance, expected in ((0.0, [0.1, 0.2, 3.0]), (1.0, [0.2, 0.4, 3.75])):
        backoff, slept = backoff_of(chance)
        broken = Broken(Unavailable("away"), mendable=True)

        async def pauses(backoff=backoff, broken=broken):
            await backoff.pause(broken, None)
            await backoff.pause(broken, None)
            await backoff.pause(Broken(Unavailable("full"), mendable=True, retry_after=3.0), 100.0)

        asyncio.run(pauses())
        assert slept == pytest.approx(expected)


def test_a_pause_that_the_deadline_forbids_is_not_made():
    backoff, slept = backoff_of(1.0, first_wait=1.0)
    error = Unavailable("away")
    with pytest.raises(Unavailable) as found:
        asyncio.run(backoff.pause(Broken(error, mendable=True), 1.0))
    assert found.value is error
    assert slept == []


class Gate:
    """A sleep that ends when it is let."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._open = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self._open.acquire()

    async def let(self) -> None:
        self._open.release()
        for _ in range(5):
            await asyncio.sleep(0)


def test_of_many_reports_the_newest_is_sent_once_a_quarter_of_a_second():
    async def report() -> None:
        sent: list[int] = []
        gate = Gate()
        acks = Acks(sent.append, gate.sleep)
        assert acks.played is None
        acks.report(10)
        await asyncio.sleep(0)
        for samples in (20, 30, 40):
            acks.report(samples)
        assert sent == [10]
        await gate.let()
        assert sent == [10, 40]
        await gate.let()  # nothing new: nothing more is said, and nobody waits
        assert sent == [10, 40]
        acks.report(40)
        await gate.let()
        acks.report(50)
        await gate.let()
        assert sent == [10, 40, 50]
        assert set(gate.asked) == {ACK_SECONDS}
        with pytest.raises(ValueError, match="as before"):
            acks.report(49)
        acks.end()

    asyncio.run(report())


def test_a_player_is_asked_until_all_is_played():
    class Speaker:
        played_samples = 0

    async def play() -> None:
        sent: list[int] = []
        gate, speaker = Gate(), Speaker()
        assert isinstance(speaker, Player)
        acks = Acks(sent.append, gate.sleep, speaker)
        acks.begin()
        await asyncio.sleep(0)
        assert sent == []  # nothing is played yet
        for samples in (100, 100, 250):
            speaker.played_samples = samples
            await gate.let()
        assert sent == [100, 250]
        acks.total = 300
        speaker.played_samples = 300
        await gate.let()
        assert sent == [100, 250, 300]
        asked = len(gate.asked)
        await gate.let()
        assert len(gate.asked) == asked

    asyncio.run(play())


def test_the_client_needs_little():
    """In a fresh process with nothing but grpcio, protobuf, grpcio-status, google-crc32c and numpy."""
    absent = [
        "torch",
        "soundfile",
        "soxr",
        "sentencepiece",
        "pydantic",
        "typer",
        "rich",
        "redis",
        "structlog",
    ]
    program = f"""
import sys
sys.modules.update(dict.fromkeys({absent!r}))
import aqaa.client
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_status_that_a_failed_write_has_overwritten_is_kept():
    """grpc.aio tells of both in either order; reading then raises the one that it made itself."""

    class Call:
        def __init__(self) -> None:
            self.tell, self.status = None, None

        def add_done_callback(self, callback) -> None:
            self.tell = callback

        def ends(self, code: grpc.StatusCode, details: str) -> None:
            self.status = (code, details)
            self.tell(self)

        async def code(self) -> grpc.StatusCode:
            return self.status[0]

        async def details(self) -> str:
            return self.status[1]

        async def trailing_metadata(self) -> grpc.aio.Metadata:
            return grpc.aio.Metadata()

    nothing = grpc.aio.Metadata()
    own = (grpc.StatusCode.INTERNAL, "Internal error from Core")
    true = (grpc.StatusCode.PERMISSION_DENIED, "not here")
    raised = grpc.aio.AioRpcError(own[0], nothing, nothing, details=own[1])
    for order in ((true, own), (own, true)):
        call = Call()
        ending = Ending(call)
        for status in order:
            call.ends(*status)
        found = asyncio.run(ending.of(raised))
        assert (found.code(), found.details()) == true
    other = status_of(grpc.StatusCode.UNAVAILABLE)
    assert asyncio.run(Ending(Call()).of(other)) is other

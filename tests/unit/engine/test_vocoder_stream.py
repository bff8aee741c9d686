"""The vocoder's stream: each frame once, with its context, for any arrival; restarts; refusals.

The networks are replaced by ones whose output names the frame it stands for.
"""

from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqaa.engine.tiles import FrameGrid, TilePlan
from aqaa.engine.vocoder import Restart, Vocoder
from aqaa.errors import InvalidToken, StateError

PLAN = TilePlan((2, 3, 5), 2, 1, (5, 8))
NANO, PUBLIC = Fraction(12), Fraction(12 * 22050, 100 * 256)
DIGEST = "ab" * 32
FLOOR = -7.0


@dataclass
class FrameNames:
    """A solver whose mel holds each frame's absolute number; it notes what it was asked for."""

    grid: FrameGrid
    bins: int = 1
    asked: list[tuple[int, list[int]]] = field(default_factory=list)

    def solve(self, codes, first, draws):
        self.asked.append((first, codes[:, 0].tolist()))
        frames = np.arange(self.grid.edge(first), self.grid.edge(first + len(codes)))
        return frames[:, None].astype(np.float32)

    def solve_together(self, windows):
        return [self.solve(window.codes, window.first, window.draws) for window in windows]


@dataclass
class Echo:
    """A head that repeats each frame's value, after a look at the context of every hop.

    ``frames`` is where the segment ends.
    """

    frames_before: int = 9
    frames_after: int = 4
    sample_rate: int = 400
    hop: int = 4
    floor: float = FLOOR
    frames: int = 0
    windows: list[int] = field(default_factory=list)

    def render(self, mel, frame, count, phase, draws):
        self.windows.append(len(mel))
        needed = self.frames_before + count + self.frames_after
        place = frame - self.frames_before + np.arange(needed)
        outside = (place < 0) | (place >= self.frames)
        np.testing.assert_allclose(mel[:needed, 0], np.where(outside, FLOOR, place), atol=1e-2)
        pcm = np.repeat(mel[self.frames_before : self.frames_before + count, 0], self.hop)
        return pcm, phase + count

    def render_together(self, spans):
        return [self.render(span.mel, span.frame, span.count, span.phase, span.draws) for span in spans]


def vocoder(groups: int = 400, rate: Fraction = NANO, plan: TilePlan = PLAN) -> Vocoder:
    """A vocoder for a segment of so many groups, or for the beginning of it."""
    grid = FrameGrid(rate)
    return Vocoder(DIGEST, plan, FrameNames(grid), Echo(frames=grid.edge(groups)), (50, 50, 90))


def numbered(groups: int) -> np.ndarray:
    return np.stack([np.arange(groups) % 50] * 3, axis=1)


def sound(chunks) -> np.ndarray:
    return np.concatenate([np.empty(0, np.float32), *(chunk.pcm for chunk in chunks)])


@settings(deadline=None)
@given(
    groups=st.integers(0, 40),
    cuts=st.lists(st.integers(0, 40), max_size=8),
    rate=st.sampled_from([NANO, PUBLIC]),
    right=st.integers(0, 3),
)
def test_every_frame_sounds_once_with_its_context_for_any_arrival(groups, cuts, rate, right):
    plan = TilePlan((2, 3, 5), 2, right, (4 + right, 7 + right))
    made = vocoder(groups, rate, plan)
    stream = made.stream(seed=1)
    chunks = [c for part in np.split(numbered(groups), sorted(cuts)) for c in stream.push(part)]
    chunks += stream.finish()
    assert [c.start for c in chunks] == np.cumsum([0, *(len(c.pcm) for c in chunks)])[:-1].tolist()
    expected = np.repeat(np.arange(made.grid.edge(groups)), made.head.hop)
    np.testing.assert_allclose(sound(chunks), expected, atol=1e-2)
    assert len(expected) == made.samples(groups) == stream.state.sample


def test_a_tile_runs_as_soon_as_its_window_is_there_and_sees_no_more():
    made = vocoder()
    stream = made.stream(seed=1)
    assert stream.push(numbered(2)) == []
    (chunk,) = stream.push(numbered(3)[2:])
    assert len(chunk.pcm) == (2 * 12 - 4) * 4
    stream.push(numbered(40)[3:])
    assert made.solver.asked[:2] == [(-2, [-1, -1, 0, 1, 2]), (0, [0, 1, 2, 3, 4, 5, -1, -1])]
    assert made.solver.asked[2] == (3, [3, 4, 5, 6, 7, 8, 9, 10])


def test_the_last_tile_takes_the_smallest_shape_and_marks_what_is_not_there():
    made = vocoder(6)
    made.synthesize(numbered(6), seed=1)
    assert made.solver.asked[-1] == (3, [3, 4, 5, -1, -1])


def test_work_is_flat_however_long_the_answer():
    made = vocoder()
    stream = made.stream(seed=1)
    for group in numbered(400):
        stream.push(group[None])
    assert {len(codes) for _, codes in made.solver.asked[3:]} == {8}
    assert len(set(made.head.windows[3:])) == 1
    held = [len(stream._groups), len(stream._mel)]
    assert max(held) < 120, "a stream keeps context, not the answer"


@settings(deadline=None, max_examples=60)
@given(
    groups=st.integers(1, 40),
    where=st.floats(0, 1),
    rate=st.sampled_from([NANO, PUBLIC]),
    pushes=st.integers(1, 3),
)
def test_a_restart_anywhere_hands_out_the_rest(groups, where, rate, pushes):
    whole = vocoder(groups, rate).synthesize(numbered(groups), seed=3)
    stream = vocoder(groups, rate).stream(seed=3)
    chunks = stream.push(numbered(groups)) + stream.finish()
    sample = int(where * len(whole))
    chunk = next(c for c in reversed(chunks) if c.start <= sample)
    other = vocoder(groups, rate)
    resumed = other.resume(Restart.from_bytes(chunk.before.at(sample).to_bytes()))
    parts = np.array_split(numbered(groups), pushes)
    again = [c for part in parts for c in resumed.push(part)] + resumed.finish()
    np.testing.assert_allclose(sound(again), whole[sample:], atol=1e-2)
    assert resumed.state == stream.state
    assert all(c.start >= sample for c in again)


def test_a_restart_solves_a_bounded_number_of_tiles_again():
    stream = vocoder().stream(seed=3)
    state = stream.push(numbered(400))[-1].after
    other = vocoder()
    other.resume(state).push(numbered(400))
    assert len(other.solver.asked) <= 3


def test_after_and_before_meet():
    stream = vocoder(20).stream(seed=3)
    chunks = stream.push(numbered(20)) + stream.finish()
    assert [c.before for c in chunks[1:]] == [c.after for c in chunks[:-1]]
    assert chunks[-1].after == stream.state


def test_a_whole_chunk_already_handed_out_is_passed_over():
    stream = vocoder().stream(seed=3)
    first, second, *_ = stream.push(numbered(20))
    resumed = vocoder().resume(first.before.at(second.start))
    assert resumed.push(numbered(20))[0].start == second.start


def test_segments_and_seeds_start_at_phases_of_their_own():
    made = vocoder()
    phases = {made.stream(seed, segment).state.phase for seed in (1, 2) for segment in (0, 1)}
    assert len(phases) == 4


def test_the_state_of_another_bundle_is_refused():
    state = replace(vocoder().stream(seed=1).state, digest="cd" * 32)
    with pytest.raises(StateError, match="belongs to bundle cdcd"):
        vocoder().resume(state)


def test_a_segment_that_ends_before_the_restart_is_refused():
    state = vocoder().stream(seed=1).push(numbered(20))[-1].after
    resumed = vocoder().resume(state)
    resumed.push(numbered(2))
    with pytest.raises(StateError, match="2 groups make 96 samples"):
        resumed.finish()


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([[0, 0, 90]], "group 0, place 2: code 90, expected 0 … 89"),
        ([[0, 1, 2], [0, -1, 2]], "group 1, place 1: code -1, expected 0 … 49"),
        ([[0, 1]], r"int64 of shape \(1, 2\), expected integers \(G, 3\)"),
        ([[0.0, 1.0, 2.0]], "float64"),
    ],
)
def test_groups_that_no_codebook_holds_are_refused(groups, message):
    with pytest.raises(InvalidToken, match=message):
        vocoder().stream(seed=1).push(np.array(groups))


def test_a_finished_stream_takes_no_more():
    stream = vocoder().stream(seed=1)
    assert stream.finish() == []
    with pytest.raises(StateError, match="has been finished"):
        stream.push(numbered(1))
    with pytest.raises(StateError, match="has been finished"):
        stream.finish()


@pytest.mark.parametrize(("seed", "segment"), [(-1, 0), (1 << 64, 0), (0, -1), (0, 1 << 32)])
def test_numbers_that_no_state_could_carry_are_refused(seed, segment):
    with pytest.raises(StateError, match="expected 0"):
        vocoder().stream(seed, segment)

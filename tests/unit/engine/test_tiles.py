"""The tile schedule covers every group once, whoever asks and in whatever order."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqaa.engine.tiles import FrameGrid, Tile, TilePlan

sizes = st.integers(1, 9)


@st.composite
def plans(draw: st.DrawFn) -> TilePlan:
    schedule = tuple(draw(st.lists(sizes, min_size=1, max_size=4)))
    left, right = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    shapes = {left + size + right for size in schedule}
    return TilePlan(schedule, left, right, tuple(sorted(shapes)))


@given(plan=plans(), groups=st.integers(0, 80))
def test_the_tiles_of_a_segment_cover_it_once_in_order(plan, groups):
    tiles = [plan.tile(k, groups) for k in range(plan.count(groups))]
    assert [g for tile in tiles for g in range(tile.start, tile.stop)] == list(range(groups))
    assert all(plan.index(g) == tile.index for tile in tiles for g in range(tile.start, tile.stop))


@given(plan=plans(), index=st.integers(0, 30), more=st.integers(0, 20))
def test_a_tile_does_not_depend_on_what_follows_its_window(plan, index, more):
    assert plan.tile(index) == plan.tile(index, plan.needs(index) + more)


@given(plan=plans(), groups=st.integers(1, 80))
def test_every_window_fits_its_shape(plan, groups):
    for index in range(plan.count(groups)):
        tile = plan.tile(index, groups)
        assert tile.first == tile.start - plan.left
        assert tile.stop <= tile.last <= min(tile.stop + plan.right, groups)
        assert tile.length in plan.shapes
        assert tile.length >= tile.last - tile.first


def test_the_schedule_grows_and_then_repeats_its_last_size():
    plan = TilePlan((3, 3, 6, 12), 3, 2, (8, 11, 17))
    assert [plan.start(k) for k in range(7)] == [0, 3, 6, 12, 24, 36, 48]
    assert plan.needs(0) == 5
    assert plan.tile(3) == Tile(3, start=12, stop=24, first=9, last=26, length=17)
    assert plan.tile(3, 13) == Tile(3, start=12, stop=13, first=9, last=13, length=8)


@pytest.mark.parametrize("schedule", [(), (3, 0)])
def test_a_plan_without_progress_is_refused(schedule):
    with pytest.raises(ValueError, match="at least one group"):
        TilePlan(schedule, 1, 1, (9,))


def test_a_window_that_fits_no_shape_is_refused():
    with pytest.raises(ValueError, match=r"no shape of \(8, 10\) holds the largest window of 11 groups"):
        TilePlan((3, 6), 3, 2, (8, 10))


@given(rate=st.fractions(Fraction(1, 2), 40, max_denominator=6400), group=st.integers(-50, 10_000), n=sizes)
def test_frame_edges_follow_the_rational_clock(rate, group, n):
    grid = FrameGrid(rate)
    assert grid.edge(group) <= rate * group < grid.edge(group) + 1
    assert grid.edge(group + n) - grid.edge(group) <= grid.most(n)
    frame = grid.edge(group)
    assert grid.edge(grid.group(frame)) <= frame < grid.edge(grid.group(frame) + 1)


def test_a_rate_that_is_not_whole_does_not_drift():
    grid = FrameGrid(Fraction(12 * 22050, 100 * 256))
    assert [grid.edge(g) for g in (0, 1, 2, 3, 100)] == [0, 10, 20, 31, 1033]

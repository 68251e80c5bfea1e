"""Where a large field is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.images.tiles import Tile, plan

SIZES = st.integers(1, 3000)


@given(SIZES, SIZES, st.integers(40, 900), st.floats(0.02, 0.6), st.integers(0, 10**6))
def test_whatever_fits_into_the_overlap_is_whole_in_a_tile(
    width: int, height: int, side: int, share: float, place: int
) -> None:
    overlap = share * side
    tiles = plan(width, height, (side, side), (overlap, overlap))
    w, h = min(int(overlap), width), min(int(overlap), height)
    x, y = place % (width - w + 1), place // 7 % (height - h + 1)
    assert any(t.x0 <= x and t.y0 <= y and x + w <= t.x1 and y + h <= t.y1 for t in tiles)


@given(SIZES, SIZES, st.integers(40, 900), st.integers(40, 900), st.floats(0, 0.6))
def test_tiles_are_alike_lie_in_the_field_and_know_where_they_cut_it(
    width: int, height: int, across: int, down: int, share: float
) -> None:
    tiles = plan(width, height, (across, down), (share * across, share * down))
    assert len({(t.width, t.height) for t in tiles}) == 1
    assert tiles[0].width <= max(across, 1) + 1
    assert tiles[0].height <= max(down, 1) + 1
    for t in tiles:
        assert t.x0 >= 0 <= t.y0
        assert t.x1 <= width
        assert t.y1 <= height
        assert t.cut == (t.x0 > 0, t.y0 > 0, t.x1 < width, t.y1 < height)
    for end, low, high in ((width, "x0", "x1"), (height, "y0", "y1")):
        runs = sorted({(getattr(t, low), getattr(t, high)) for t in tiles})
        assert runs[0][0] == 0
        assert runs[-1][1] == end
        assert all(b[0] <= a[1] for a, b in itertools.pairwise(runs))


def test_a_field_that_fits_is_not_cut() -> None:
    assert plan(640, 480, (640, 480), (100, 100)) == (Tile(0, 0, 640, 480),)


def test_tiles_that_cannot_advance_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot overlap"):
        plan(500, 10, (100, 100), (100, 100))

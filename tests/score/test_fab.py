"""FAB types of a slide: the rule of GUIDE.md against its closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detect.score.bags import Bag
from detect.score.differential import Slide
from detect.score.patterns import FAB, fab_type


def bag(l1: int, l2: int, l3: int, others: int = 0) -> tuple[Slide, Bag]:
    """A slide of so many lymphoblasts and other white cells."""
    types = ["FAB L1"] * l1 + ["FAB L2"] * l2 + ["FAB L3"] * l3 + ["Lymphocyte"] * others
    n = len(types)
    cells = tuple(("s/1.png", i) for i in range(n))
    slide = Slide("s", 1, 0, n, (), (), None)
    return slide, Bag(cells, tuple(types), np.linspace(0.5, 1, n), np.zeros((n, 0), np.float32))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's interval, written out once more."""
    z = 1.959963984540054
    p = hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return middle - half, middle + half


@settings(max_examples=150)
@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 400), st.integers(0, 300))
def test_fab_is_called_as_the_guide_says(l1: int, l2: int, l3: int, others: int) -> None:
    got = fab_type(*bag(l1, l2, l3, others), "real")
    named = l1 + l2 + l3
    if named + others < 100 or named < 100:
        assert got.pattern is None
        assert got.said.startswith("not called")
        return
    low, high = wilson(l3, named)
    if low > 0.5:
        assert got.pattern == "FAB L3"
    elif high >= 0.5:
        assert (got.pattern, got.said[:9]) == (None, "undecided")
    else:
        low, high = wilson(l2, l1 + l2)
        expected = "FAB L2" if low > 0.25 else "FAB L1" if high < 0.25 else None
        assert got.pattern == expected
    if got.pattern is not None:
        assert got.said == f"pattern resembling {got.pattern}"
        assert got.share is not None
        assert got.share.low <= got.share.value <= got.share.high
    assert got.counted == (named if got.pattern == "FAB L3" or "L3" in got.said else l1 + l2)


def test_the_cells_that_decided_are_the_surest() -> None:
    slide, cells = bag(120, 3, 0, 10)
    got = fab_type(slide, cells, "synthetic")
    assert got.cells == tuple(("s/1.png", i) for i in range(119, 107, -1))
    assert got.trained_on == "synthetic"


@pytest.mark.parametrize("white", [0, 99])
def test_no_slide_is_called_under_a_hundred_white_cells(white: int) -> None:
    slide, cells = bag(white, 0, 0)
    got = fab_type(slide, cells if white else None, "real")
    assert (got.pattern, got.said) == (None, f"not called: {white} white cells counted, 100 needed")


def test_fab_names_are_those_of_the_taxonomy() -> None:
    from detect.taxonomy import taxonomy

    assert all(taxonomy().is_a(name, "Lymphoblast") for name in FAB)

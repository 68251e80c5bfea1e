"""Cutting cells out of fields."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.classify.crops import at_border, crop, resize
from detect.types import Image


def field(width: int = 200, height: int = 150) -> Image:
    """A field whose pixels tell where they are."""
    y, x = np.mgrid[0:height, 0:width]
    return np.ascontiguousarray(np.stack([x, y, (x + y) // 2], axis=2).astype(np.uint8))


def test_a_crop_is_the_box_and_its_margin() -> None:
    got = crop(field(), (60, 40, 100, 80), 0.25)
    assert got.pixels.shape == (60, 60, 3)
    assert got.pixels[0, 0].tolist() == [50, 30, 40]
    assert got.pixels[-1, -1].tolist() == [109, 89, 99]
    assert (got.box, got.at_border) == ((60, 40, 100, 80), False)


def test_a_long_box_gets_a_square_around_its_middle() -> None:
    got = crop(field(), (50, 70, 110, 90), 0.0)
    assert got.pixels.shape == (60, 60, 3)
    assert got.pixels[0, 0].tolist() == [50, 50, 50]


def test_outside_the_field_its_last_pixels_are_repeated() -> None:
    got = crop(field(), (0, 0, 20, 20), 0.5)
    assert got.pixels.shape == (40, 40, 3)
    assert got.at_border
    assert got.pixels[0, 0].tolist() == [0, 0, 0]
    assert got.pixels[0, 30].tolist() == [20, 0, 10]
    assert got.pixels[10, 10].tolist() == [0, 0, 0]
    assert got.pixels[11, 11].tolist() == [1, 1, 1]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 10**6), st.floats(0, 1))
def test_any_box_of_a_field_gives_a_square_of_its_pixels(width: int, height: int, seed: int, margin: float) -> None:
    pixels = field(width, height)
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(0, width, 2))
    y = np.sort(rng.uniform(0, height, 2))
    got = crop(pixels, (float(x[0]), float(y[0]), float(x[1]), float(y[1])), margin).pixels
    assert got.dtype == np.uint8
    assert got.shape[0] == got.shape[1] >= 1
    assert got.flags.c_contiguous
    assert abs(got.shape[0] - max(x[1] - x[0], y[1] - y[0]) * (1 + 2 * margin)) <= 1
    assert {tuple(p) for p in got.reshape(-1, 3)} <= {tuple(p) for p in pixels.reshape(-1, 3)}


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((199.7, 10.2, 200.0, 10.4), [199, 10, 104]),
        ((10.2, 149.7, 10.4, 150.0), [10, 149, 79]),
        ((0.0, 10.2, 0.2, 10.4), [0, 10, 5]),
    ],
)
def test_a_sliver_at_the_border_is_a_pixel_of_the_field(
    box: tuple[float, float, float, float], expected: list[int]
) -> None:
    for _ in range(20):
        assert crop(field(), box, 0.0).pixels.tolist() == [[expected]]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10, 10, 50, 50), False),
        ((1, 10, 50, 50), True),
        ((10, 1.9, 50, 50), True),
        ((10, 10, 99, 50), True),
        ((10, 10, 50, 79.5), True),
        ((2, 2, 98, 78), False),
    ],
)
def test_cells_at_the_border_are_told(box: tuple[float, float, float, float], expected: bool) -> None:
    assert at_border(box, 100, 80) is expected


def test_the_field_is_left_alone() -> None:
    pixels = field()
    crop(pixels, (0, 0, 30, 30), 0.3).pixels[:] = 7
    crop(pixels, (50, 50, 80, 80), 0.0).pixels[:] = 7
    assert np.array_equal(pixels, field())


def test_shrinking_averages() -> None:
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::2] = 200
    assert resize(stripes, 48).min() == resize(stripes, 48).max() == 100
    assert np.array_equal(resize(stripes, 96), stripes)
    assert resize(stripes[:10, :10], 96).shape == (96, 96, 3)

"""Filters and colour spaces: against scipy and scikit-image, and by what they are for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from detect.images import filters
from detect.types import Image
from tests import data

SPACES: tuple[filters.Space, ...] = ("Lab", "YCbCr", "HSV", "CMYK")
ALL: dict[str, Callable[[Image], Image]] = {
    "correct_illumination": filters.correct_illumination,
    "median": partial(filters.median, size=5),
    "gaussian": filters.gaussian,
    "unsharp": filters.unsharp,
    "adaptive_unsharp": filters.adaptive_unsharp,
    "log_high_boost": filters.log_high_boost,
    **{space: partial(filters.colour_space, space=space) for space in SPACES},
}
SMEAR = data.smear(240, 180)
PICTURES = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))


def apart(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())


def by_channel(work: Callable[[NDArray[np.float64]], NDArray[np.float64]], picture: Image) -> NDArray[np.float64]:
    return np.stack([work(picture[:, :, c].astype(np.float64)) for c in range(3)], axis=-1)


@pytest.mark.parametrize("name", ALL)
@given(picture=PICTURES)
def test_a_picture_goes_in_and_a_picture_comes_out(name: str, picture: Image) -> None:
    before = picture.copy()
    with np.errstate(all="raise"):
        out = ALL[name](picture)
    assert out.shape == picture.shape
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(picture, before)
    np.testing.assert_array_equal(ALL[name](picture), out)


@pytest.mark.parametrize("name", [n for n in ALL if n not in SPACES])
@pytest.mark.parametrize("level", [0, 1, 77, 254, 255])
def test_an_empty_field_stays_as_it_is(name: str, level: int) -> None:
    empty = np.full((30, 40, 3), (level, level // 2, level), np.uint8)
    np.testing.assert_array_equal(ALL[name](empty), empty)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.3])
def test_gaussian_is_that_of_scipy(sigma: float) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    expected = by_channel(lambda c: ndimage.gaussian_filter(c, sigma), SMEAR)
    assert apart(filters.gaussian(SMEAR, sigma), expected) <= 0.51


@pytest.mark.parametrize("size", [3, 5, 7])
def test_median_is_that_of_scipy(size: int) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    expected = by_channel(lambda c: ndimage.median_filter(c, size, mode="nearest"), SMEAR)
    np.testing.assert_array_equal(filters.median(SMEAR, size), expected)


@pytest.mark.parametrize(("sigma", "amount"), [(0.7, 0.5), (1.0, 1.5), (4.0, 1.0)])
def test_unsharp_is_that_of_scikit_image(sigma: float, amount: float) -> None:
    library = pytest.importorskip("skimage.filters")
    expected = 255 * library.unsharp_mask(SMEAR / 255, sigma, amount, channel_axis=2)  # it mistakes -1
    assert apart(filters.unsharp(SMEAR, sigma, amount), expected) <= 0.51


@pytest.mark.parametrize(("sigma", "amount"), [(1.0, 1.0), (1.5, 0.5), (4.0, 2.0)])
def test_high_boost_is_by_the_laplacian_of_scipy(sigma: float, amount: float) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    laplacian = by_channel(lambda c: sigma**2 * ndimage.gaussian_laplace(c, sigma), SMEAR)
    expected = np.clip(SMEAR - amount * laplacian, 0, 255)
    assert apart(filters.log_high_boost(SMEAR, sigma, amount), expected) <= 1.5  # theirs does not sum to 0 quite


def test_lab_ycbcr_and_hsv_are_those_of_scikit_image() -> None:
    colour = pytest.importorskip("skimage.color")
    rng = np.random.default_rng(1)
    picture = np.concatenate([SMEAR, rng.integers(0, 256, SMEAR.shape, dtype=np.uint8)])
    lab = colour.rgb2lab(picture) * [2.55, 1, 1] + [0, 128, 128]
    assert apart(filters.colour_space(picture, "Lab"), lab) <= 2.5  # by tables; of saturated colours only
    # scikit-image's is the television's, from 16 to 235 and 240.
    ycbcr = (colour.rgb2ycbcr(picture) - [16, 128, 128]) * [255 / 219, 255 / 224, 255 / 224] + [0, 128, 128]
    assert apart(filters.colour_space(picture, "YCbCr"), np.clip(ycbcr, 0, 255)) <= 1
    off = filters.colour_space(picture, "HSV") - colour.rgb2hsv(picture) * 255
    off[:, :, 0] = (off[:, :, 0] + 127.5) % 255 - 127.5  # hue goes round
    assert np.abs(off).max() <= 2


def test_cmyk_takes_the_black_out() -> None:
    colours = np.array([[(0, 255, 255), (255, 0, 0), (100, 100, 100), (0, 0, 0), (200, 100, 50)]], np.uint8)
    inks = [(255, 0, 0), (0, 255, 255), (0, 0, 0), (0, 0, 0), (0, 128, 191)]
    np.testing.assert_array_equal(filters.colour_space(colours, "CMYK")[0], inks)


def vignette(height: int, width: int, kind: str) -> NDArray[np.float64]:
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    if kind == "slope":
        return np.asarray(0.8 + 0.2 * x)
    if kind == "beside the middle":
        return np.asarray(np.exp(-0.15 * ((x - 0.4) ** 2 + (y + 0.3) ** 2)))
    return np.asarray(np.cos(0.6 * np.sqrt((x**2 + y**2) / 2)) ** 4)  # of a lens


@pytest.mark.parametrize("kind", ["lens", "slope", "beside the middle"])
def test_light_is_evened_out(kind: str) -> None:
    """Whatever the cells cover, the ground is flat afterwards, and no cell is taken for a shadow."""
    field = data.smear(480, 360, seed=2)
    ground = cv2.erode((field.min(axis=2) > 215).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    light = vignette(360, 480, kind)
    dim = np.rint(field * light[:, :, None]).astype(np.uint8)
    out = filters.correct_illumination(dim)
    before, after = dim[ground].mean(axis=1), out[ground].mean(axis=1)
    assert before.std() / before.mean() > 0.06
    assert after.std() / after.mean() < 0.01
    # As bright as the brightest place was, and every pixel as it was in even light.
    assert apart(out[ground].mean(axis=0), field[ground].mean(axis=0) * light.max()) < 4
    assert np.abs(out.astype(float) - field * light.max()).mean() < 3


def test_even_light_is_left_alone() -> None:
    assert apart(filters.correct_illumination(SMEAR), SMEAR) <= 5
    gain = filters.correct_illumination(np.full((60, 80, 3), 200, np.uint8))
    assert (gain == 200).all()


def test_the_gain_has_a_limit() -> None:
    dark = np.rint(200 * vignette(200, 300, "lens") ** 2)[:, :, None].repeat(3, axis=2).astype(np.uint8)
    assert filters.correct_illumination(dark, 1.5)[0, 0, 0] <= 1.5 * dark[0, 0, 0] + 1
    assert filters.correct_illumination(dark, 8.0)[0, 0, 0] > 180


def test_adaptive_unsharp_spares_the_ground() -> None:
    rng = np.random.default_rng(3)
    grain = rng.normal(0, 3, (120, 160, 1))
    flat = np.full((120, 160, 3), 180.0)
    flat[:, 80:] = 90
    picture = np.clip(flat + grain, 0, 255).round().astype(np.uint8)
    plain, adaptive = filters.unsharp(picture, 1.5, 1.5), filters.adaptive_unsharp(picture, 1.5, 1.5)
    ground, edge = np.s_[:, 10:70], np.s_[:, 78:82]
    assert picture[ground].std() * 1.8 < plain[ground].std()
    assert adaptive[ground].std() < picture[ground].std() * 1.3
    rise = [
        float(p[edge].mean(axis=(0, 2)).max() - p[edge].mean(axis=(0, 2)).min()) for p in (picture, adaptive, plain)
    ]
    assert rise[1] > rise[0] + 0.8 * (rise[2] - rise[0]) > rise[0] + 20


def test_sharpening_takes_on_no_colour() -> None:
    """The adaptive mask adds the same to all channels."""
    picture = np.full((30, 40, 3), (200, 150, 170), np.uint8)
    picture[:, 20:] = (160, 90, 150)
    change = filters.adaptive_unsharp(picture).astype(int) - picture
    assert np.ptp(change, axis=2).max() <= 1
    assert np.abs(change).max() > 10

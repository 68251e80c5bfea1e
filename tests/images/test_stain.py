"""Stain separation, jitter, normalization: against scikit-image, torchstain, and pictures made to order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from detect.images import stain
from detect.types import Image
from tests import data

PURPLE = np.array([0.70, 0.65, 0.30])
PINK = np.array([0.15, 0.90, 0.40])
VECTORS = np.stack([PURPLE / np.linalg.norm(PURPLE), PINK / np.linalg.norm(PINK)], axis=1)
PICTURES = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3)))


def stained(vectors: NDArray[np.float64] = VECTORS, strength: float = 1.0, light: float = 240, seed: int = 0) -> Image:
    """A field of two stains by the law of Beer and Lambert: a third is ground, nuclei are purple, red cells pink.

    In each of the stained areas a hundredth and more is of one stain alone, as Macenko's percentiles want it.
    """
    rng = np.random.default_rng(seed)
    amounts = np.zeros((120, 150, 2))
    amounts[40:80] = rng.uniform(0.9, 1.4, (40, 150, 1)) * [0, 1]
    amounts[80:] = rng.uniform(0.9, 1.8, (40, 150, 1)) * [1, 0]
    amounts[60:90, 40:110] = rng.uniform(0.5, 1.0, (30, 70, 2))
    density = amounts * strength @ vectors.T
    # The logarithm of the method is of the grey level plus 1.
    return np.clip(np.rint(light * np.exp(-density) - 1), 0, 255).astype(np.uint8)


def apart(a: Image, b: Image) -> NDArray[np.int64]:
    return np.abs(a.astype(np.int64) - b)


def test_stains_are_those_of_scikit_image() -> None:
    colour = pytest.importorskip("skimage.color")
    picture = np.concatenate(
        [data.smear(200, 150), np.zeros((4, 200, 3), np.uint8), np.full((4, 200, 3), 255, np.uint8)]
    )
    ours = stain.rgb_to_hed(picture)
    np.testing.assert_allclose(ours, colour.rgb2hed(picture), atol=1e-6)
    theirs = np.rint(colour.hed2rgb(colour.rgb2hed(picture)) * 255)
    assert apart(stain.hed_to_rgb(ours), theirs.astype(np.uint8)).max() <= 1
    assert (stain.hed_to_rgb(ours) == theirs).mean() > 0.999


@given(arrays(np.float32, (6, 7, 3), elements=st.floats(0, 0.125, width=32)))
def test_stains_that_were_laid_on_are_found_again(amounts: NDArray[np.float32]) -> None:
    picture = stain.hed_to_rgb(amounts)
    found = stain.rgb_to_hed(picture)
    assert apart(stain.hed_to_rgb(found), picture).max() <= 1
    bright = picture.min(axis=2) > 40  # below, a level of rounding is much density
    np.testing.assert_allclose(found[bright], amounts[bright], atol=4e-3)


@given(PICTURES)
def test_jitter_by_nothing_changes_nothing(picture: Image) -> None:
    np.testing.assert_array_equal(stain.jitter_hed(picture, [1, 1, 1], [0, 0, 0]), picture)
    np.testing.assert_array_equal(stain.jitter_macenko(picture, [1, 1]), picture)


def test_jitter_adds_what_it_says() -> None:
    ground = np.full((2, 3, 3), 200, np.uint8)
    more = stain.jitter_hed(ground, [1, 1, 1], [0.3, 0, 0])
    np.testing.assert_array_equal(more[0, 0], np.rint(200 * np.exp(-0.3 * stain.HED[0])))
    less = stain.jitter_hed(ground, [1, 1, 1], [0, -0.1, 0])
    np.testing.assert_array_equal(less[0, 0], np.rint(200 * np.exp(0.1 * stain.HED[1])))
    eosin = np.rint(255 * np.exp(-0.5 * stain.HED[1])).astype(np.uint8).reshape(1, 1, 3)
    twice = stain.jitter_hed(eosin, [1, 2, 1], [0, 0, 0])
    assert apart(twice, np.rint(255 * np.exp(-1.0 * stain.HED[1])).astype(np.uint8)).max() <= 2


def test_macenko_jitter_leaves_the_ground_alone() -> None:
    picture = stained()
    ground = np.zeros(picture.shape[:2], bool)
    ground[:40] = True
    assert (picture[ground] >= 239).all()
    out = stain.jitter_macenko(picture, [1.3, 0.7])
    np.testing.assert_array_equal(out[ground], picture[ground])
    assert apart(out, picture)[~ground].mean() > 5
    assert out[100:].mean() < picture[100:].mean()  # more of the purple
    assert out[40:60].mean() > picture[40:60].mean()  # less of the pink


def test_macenko_finds_the_stains_that_were_laid_on() -> None:
    found = stain.fit_macenko(stained())
    assert found is not None
    np.testing.assert_allclose(found.vectors, VECTORS, atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=0), 1)
    np.testing.assert_allclose(found.most, [1.78, 1.39], rtol=0.03)


def test_a_field_with_its_own_stains_stays_as_it_is() -> None:
    picture = stained()
    reference = stain.fit_macenko(picture)
    assert reference is not None
    assert apart(stain.apply_macenko(picture, reference), picture).max() <= 2


def test_a_field_takes_on_the_stains_of_another() -> None:
    """Other dyes, twice as strong, under the same cells: one looks like the other after it."""
    other = np.stack([[0.55, 0.75, 0.36], [0.30, 0.92, 0.25]], axis=1)
    other /= np.linalg.norm(other, axis=0)
    source, target = stained(other, strength=0.6), stained()
    reference = stain.fit_macenko(target)
    assert reference is not None
    before, after = apart(source, target), apart(stain.apply_macenko(source, reference), target)
    assert before.mean() > 15
    assert after.mean() < 2
    assert after.max() <= 12


def bare() -> dict[str, Image]:
    """Fields that show no two stains."""
    rng = np.random.default_rng(1)
    few = np.full((100, 100, 3), 238, np.uint8)
    few[10:16, 10:16] = stained()[80:86, 40:46]
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    return {
        "white": np.full((40, 50, 3), 255, np.uint8),
        "black": np.zeros((40, 50, 3), np.uint8),
        "pink": np.full((40, 50, 3), (220, 150, 160), np.uint8),
        "one pixel": np.full((1, 1, 3), 90, np.uint8),
        "ground with grain": rng.normal(225, 3, (60, 60, 3)).clip(0, 255).astype(np.uint8),
        "few stained pixels": few,
        "greys": np.repeat(grey, 20, axis=0),
    }


@pytest.mark.parametrize("name", bare())
def test_a_field_without_two_stains_is_left_alone(name: str) -> None:
    picture, reference = bare()[name], stain.fit_macenko(stained())
    assert reference is not None
    with np.errstate(all="raise"):
        assert stain.fit_macenko(picture) is None
        np.testing.assert_array_equal(stain.apply_macenko(picture, reference), picture)
        np.testing.assert_array_equal(stain.jitter_macenko(picture, [1.2, 0.8]), picture)


@settings(max_examples=100)
@given(picture=PICTURES)
def test_no_picture_makes_it_stumble(picture: Image) -> None:
    macenko, reinhard = stain.fit_macenko(stained()), stain.fit_reinhard(stained())
    assert macenko is not None
    with np.errstate(all="raise", under="ignore"):
        for out in (
            stain.apply_macenko(picture, macenko),
            stain.apply_reinhard(picture, reinhard),
            stain.jitter_hed(picture, [1.1, 0.9, 1.0], [0.1, -0.1, 0.05]),
            stain.jitter_macenko(picture, [1.1, 0.9]),
        ):
            assert out.shape == picture.shape
            assert out.dtype == np.uint8
            assert out.flags.c_contiguous


def test_macenko_is_that_of_torchstain() -> None:
    library = pytest.importorskip("torchstain", reason="torchstain is not installed")
    theirs = library.normalizers.MacenkoNormalizer(backend="numpy")
    target, smear = stained(), data.smear(200, 150)
    for fitted, given_ in ((target, smear), (smear, target), (smear, data.smear(200, 150, 3))):
        theirs.fit(fitted)
        ours = stain.fit_macenko(fitted)
        assert ours is not None
        np.testing.assert_allclose(ours.vectors, theirs.HERef, atol=1e-9)
        np.testing.assert_allclose(ours.most, theirs.maxCRef, atol=1e-9)
        out, expected = stain.apply_macenko(given_, ours), theirs.normalize(given_, stains=False)[0]
        assert apart(out, expected).max() <= 1  # both cut fractions off; the last digit may decide
        assert (out == expected).mean() > 0.9999


def test_reinhard_is_that_of_torchstain() -> None:
    library = pytest.importorskip("torchstain", reason="torchstain is not installed")
    theirs = library.normalizers.ReinhardNormalizer(backend="numpy")
    target, smear = stained(), data.smear(200, 150)
    theirs.fit(target)
    ours = stain.fit_reinhard(target)
    np.testing.assert_allclose(ours.mean, theirs.target_means, atol=0.2)  # OpenCV's CIELAB is by tables
    np.testing.assert_allclose(ours.spread, theirs.target_stds, atol=0.2)
    difference = apart(stain.apply_reinhard(smear, ours), theirs.normalize(smear))
    assert difference.max() <= 2  # theirs cuts fractions off
    assert (difference <= 1).mean() > 0.999


def test_reinhard_gives_mean_and_spread() -> None:
    rng = np.random.default_rng(2)
    picture = np.clip(rng.normal((150, 120, 140), (25, 20, 15), (80, 90, 3)), 0, 255).astype(np.uint8)
    reference = stain.ReinhardReference(np.array([60.0, 8.0, -5.0]), np.array([6.0, 4.0, 5.0]))
    out = stain.apply_reinhard(picture, reference)
    assert out.min() > 0  # nothing is clipped
    assert out.max() < 255
    found = stain.fit_reinhard(out)
    np.testing.assert_allclose(found.mean, reference.mean, atol=0.1)
    np.testing.assert_allclose(found.spread, reference.spread, atol=0.1)
    assert apart(stain.apply_reinhard(picture, stain.fit_reinhard(picture)), picture).max() <= 1


def test_reinhard_does_not_colour_an_empty_field() -> None:
    reference = stain.fit_reinhard(stained())
    for picture in (bare()["white"], bare()["ground with grain"][:, :, :1].repeat(3, axis=2) // 200 * 200):
        np.testing.assert_array_equal(stain.apply_reinhard(picture, reference), picture)
    out = stain.apply_reinhard(bare()["greys"], reference)  # no spread of colour: moved, not stretched
    assert np.ptp(out.astype(int) - out[:, :, 1:2], axis=(0, 1)).max() < 90

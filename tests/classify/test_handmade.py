"""Measured features against scikit-image, closed cases and their meaning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import groupby

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn

pytest.importorskip("skimage", reason="scikit-image is not installed")

from skimage.color import rgb2hsv
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from skimage.measure import moments_central, moments_hu, moments_normalized

from detect.classify.handmade import (
    FEATURES,
    GREYS,
    Crop,
    check,
    columns,
    measure,
    run_features,
    run_lengths,
    segmented,
)
from detect.errors import ConfigError
from tests import drawn as sample


def noisy(seed: int, side: int = 40) -> Crop:
    """Noise, and a disc in a disc."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    y, x = np.mgrid[:side, :side]
    far = np.hypot(x - side / 2, y - side / 2)
    return Crop(pixels, cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), far < side / 6, far < side / 3)


def test_texture_is_scikit_images() -> None:
    crop = noisy(1)
    levels = (crop.grey // (256 // GREYS)).astype(np.uint8)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    counts = graycomatrix(levels, [1, 3], angles, GREYS, symmetric=True, normed=True)
    told = FEATURES["glcm"](crop)
    for name in ("contrast", "homogeneity", "correlation", "ASM"):
        values = graycoprops(counts, name)
        assert told[f"{name} at 1"] == pytest.approx(values[0].mean())
        assert told[f"{name} range at 3"] == pytest.approx(np.ptp(values[1]))
    codes = local_binary_pattern(crop.grey, 8, 1, "uniform")
    patterns = FEATURES["lbp"](crop)
    for i in range(10):
        assert patterns[f"pattern {i} of 8"] == pytest.approx((codes == i).mean())
    assert sum(v for k, v in patterns.items() if k.endswith("of 16")) == pytest.approx(1)


def test_runs_of_known_pictures() -> None:
    """A picture of one grey is one run a line; a chessboard has runs of one, but along diagonals."""
    plain = np.full((4, 6), 2, np.uint8)
    across = run_lengths(plain, 3, (0, 1))
    assert across[2, 5] == 4
    assert across.sum() == 4
    assert run_lengths(plain, 3, (1, 0))[2, 3] == 6
    board = (np.indices((4, 4)).sum(axis=0) % 2).astype(np.uint8)
    assert run_lengths(board, 2, (0, 1))[:, 0].sum() == 16
    diagonal = run_lengths(board, 2, (1, 1))
    assert diagonal.sum() == 7
    assert diagonal[:, 3].sum() == 1
    told = run_features(across, plain.size)
    assert told["long runs"] == 36
    assert told["short runs"] == pytest.approx(1 / 36)
    assert told["grey non-uniformity"] == 4
    assert told["length non-uniformity"] == 4
    assert told["runs"] == pytest.approx(4 / 24)
    assert told["low grey"] == pytest.approx(1 / 9)
    assert told["high grey"] == 9
    assert told["long high"] == 36 * 9


def test_features_of_runs_by_their_formulas() -> None:
    """All eleven, a run at a time."""
    levels = np.random.default_rng(8).integers(0, 5, (12, 17)).astype(np.uint8)
    runs = [(int(v) + 1, len(list(same))) for row in levels for v, same in groupby(row.tolist())]
    formulas: dict[str, Callable[[int, int], float]] = {
        "short runs": lambda g, n: 1 / n**2,
        "long runs": lambda g, n: n**2,
        "low grey": lambda g, n: 1 / g**2,
        "high grey": lambda g, n: g**2,
        "short low": lambda g, n: 1 / (n * g) ** 2,
        "short high": lambda g, n: (g / n) ** 2,
        "long low": lambda g, n: (n / g) ** 2,
        "long high": lambda g, n: (n * g) ** 2,
    }
    expected = {name: sum(f(g, n) for g, n in runs) / len(runs) for name, f in formulas.items()}
    for name, which in (("grey non-uniformity", 0), ("length non-uniformity", 1)):
        expected[name] = sum(n**2 for n in Counter(run[which] for run in runs).values()) / len(runs)
    expected["runs"] = len(runs) / levels.size
    told = run_features(run_lengths(levels, 5, (0, 1)), levels.size)
    assert told.keys() == expected.keys()
    assert told == pytest.approx(expected)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([(0, 1), (1, 1), (1, 0), (1, -1)]))
def test_runs_cover_every_pixel_once(seed: int, direction: tuple[int, int]) -> None:
    levels = np.random.default_rng(seed).integers(0, 4, (9, 13)).astype(np.uint8)
    counts = run_lengths(levels, 4, direction)
    covered = (counts * np.arange(1, counts.shape[1] + 1)).sum(axis=1)
    assert covered.tolist() == np.bincount(levels.ravel(), minlength=4).tolist()


@given(st.integers(0, 10**6))
@settings(max_examples=10)
def test_runs_do_not_depend_on_which_way_round(seed: int) -> None:
    levels = np.random.default_rng(seed).integers(0, 3, (8, 8)).astype(np.uint8)
    assert np.array_equal(run_lengths(levels, 3, (1, -1)), run_lengths(levels[:, ::-1], 3, (1, 1)))
    assert np.array_equal(run_lengths(levels, 3, (1, 0)), run_lengths(levels.T, 3, (0, 1)))


def test_colour_moments_and_bars() -> None:
    crop = noisy(2)
    told = FEATURES["colour"](crop)
    red = crop.pixels[:, :, 0].astype(float) / 255
    assert told["R of RGB mean"] == pytest.approx(red.mean())
    assert told["R of RGB spread"] == pytest.approx(red.std())
    assert told["R of RGB skewness"] == pytest.approx(((red - red.mean()) ** 3).mean() / red.std() ** 3, rel=1e-4)
    assert sum(told[f"G bar {i}"] for i in range(8)) == pytest.approx(1)
    assert told["S of HSV mean"] == pytest.approx(rgb2hsv(crop.pixels)[:, :, 1].mean(), abs=0.005)


def test_moments_and_waves() -> None:
    crop = noisy(3)
    values = moments_hu(moments_normalized(moments_central(crop.cell.astype(float))))
    told = FEATURES["hu"](crop)
    for i, v in enumerate(values):
        assert told[f"cell moment {i + 1}"] == pytest.approx(np.sign(v) * np.log10(1 + abs(v) * 1e6))
    flat = np.full((64, 64, 3), 51, np.uint8)
    waves = FEATURES["dct"](Crop(flat, flat[:, :, 0], flat[:, :, 0] > 99, flat[:, :, 0] > 99))
    assert waves["wave 0 0"] == pytest.approx(0.2)
    assert max(abs(v) for k, v in waves.items() if k != "wave 0 0") < 1e-9
    small = cv2.resize(crop.grey, (64, 64), interpolation=cv2.INTER_AREA) / 255
    expected = dctn(small, norm="ortho") / 64
    told = FEATURES["dct"](crop)
    for i in range(6):
        for j in range(6):
            assert told[f"wave {i} {j}"] == pytest.approx(expected[i, j], abs=1e-9)


def test_shape_and_nucleus_of_discs() -> None:
    crop = noisy(4, 120)
    told = FEATURES["shape"](crop)
    assert told["nucleus area"] == pytest.approx(np.pi / 36, rel=0.02)
    assert told["nucleus circularity"] == pytest.approx(1, abs=0.12)
    assert told["nucleus eccentricity"] < 0.1
    assert told["nucleus parts"] == 1
    assert FEATURES["nucleus"](crop)["nucleus share"] == pytest.approx(0.25, rel=0.03)
    empty = Crop(crop.pixels, crop.grey, np.zeros_like(crop.nucleus), np.zeros_like(crop.cell))
    assert all(np.isfinite(v) for f in FEATURES.values() for v in f(empty).values())


def test_columns_name_what_is_measured() -> None:
    names = list(FEATURES)
    rows = measure(names, np.stack([noisy(i).pixels for i in range(3)]))
    assert rows.shape == (3, len(columns(names)))
    assert len(set(columns(names))) == len(columns(names))
    assert np.isfinite(rows).all()
    assert measure(["hu"], np.zeros((0, 40, 40, 3), np.uint8)).shape[0] == 0
    with pytest.raises(ConfigError, match="there are: glcm"):
        check(["glcm", "gabor"], "c.yaml")


def test_a_drawn_cell_has_a_nucleus_in_its_cell() -> None:
    """Lymphocytes are mostly nucleus, eosinophils are not."""
    ratio = {}
    for kind in ("Lymphocyte", "Eosinophil"):
        found = []
        for seed in range(4):
            pixels, truth = sample.field(40 + seed, [kind])
            x0, y0, x1, y1 = (round(v) for v in next(t for t in truth if t.name == kind).box)
            crop = segmented(cv2.resize(pixels[max(0, y0) : y1, max(0, x0) : x1], (96, 96)))
            assert not (crop.nucleus & ~crop.cell).any()
            found.append(crop.nucleus.sum() / crop.cell.sum())
        ratio[kind] = np.mean(found)
    assert ratio["Lymphocyte"] > ratio["Eosinophil"] + 0.1

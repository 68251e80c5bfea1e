"""Attributes of cells of known form, and FAB's criteria in words."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detect.classify.morphology import fab_features, fab_words, lobes, measure, shape
from detect.classify.parts import CYTOPLASM, NUCLEUS, Parts

Labels = NDArray[np.uint8]


def disc(side: int, x: float, y: float, a: float, b: float | None = None, turn: float = 0.0) -> NDArray[np.bool_]:
    """An ellipse with half axes a and b."""
    b = a if b is None else b
    v, u = np.mgrid[:side, :side] + 0.5
    u, v = u - x, v - y
    u, v = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
    return np.asarray((u / a) ** 2 + (v / b) ** 2 <= 1)


def cell(labels: Labels, cytoplasm: tuple[int, int, int] = (150, 160, 220)) -> Parts:
    """A cell of plain colours on a bright ground."""
    pixels = np.full((*labels.shape, 3), 235, np.uint8)
    pixels[labels == CYTOPLASM] = cytoplasm
    pixels[labels == NUCLEUS] = (90, 40, 140)
    return Parts(0, 0, labels, pixels)


def round_cell(radius: float, inner: float, side: int = 200) -> Labels:
    """A round cell with a round nucleus."""
    labels = np.zeros((side, side), np.uint8)
    labels[disc(side, side / 2, side / 2, radius)] = CYTOPLASM
    labels[disc(side, side / 2, side / 2, inner)] = NUCLEUS
    return labels


@settings(max_examples=25, deadline=None)
@given(st.floats(25, 90), st.floats(0.3, 0.95), st.floats(0.04, 0.3))
def test_a_round_cell_in_closed_form(radius: float, share: float, um: float) -> None:
    got = measure(cell(round_cell(radius, share * radius)), um)
    assert got["area um2"] == pytest.approx(np.pi * radius**2 * um**2, rel=0.03)
    assert got["diameter um"] == pytest.approx(2 * radius * um, rel=0.02)
    assert got["cytoplasm share"] == pytest.approx(1 - share**2, abs=0.03)
    assert got["N:C"] == pytest.approx(share**2 / (1 - share**2), rel=0.25)
    assert got["nucleus roundness"] > 0.8
    assert got["nucleus solidity"] > 0.95
    assert got["nucleus eccentricity"] < 0.25
    assert got["lobes"] == 1


def test_without_a_scale_lengths_are_pixels() -> None:
    got = measure(cell(round_cell(50, 30)))
    assert got["diameter px"] == pytest.approx(100, rel=0.02)
    assert not any("um" in name for name in got)
    assert got["N:C"] == pytest.approx(900 / 1600, rel=0.05)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.4, 0.9), st.floats(0, np.pi))
def test_an_ellipse_has_its_eccentricity_however_it_lies(ratio: float, turn: float) -> None:
    got = shape(disc(160, 80, 80, 60, 60 * ratio, turn))
    assert got["nucleus eccentricity"] == pytest.approx(np.sqrt(1 - ratio**2), abs=0.02)
    assert got["nucleus solidity"] > 0.95


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_lobes_are_counted(n: int) -> None:
    nucleus = np.zeros((120, 60 + 50 * n), np.uint8)
    for i in range(n):
        cv2.circle(nucleus, (50 + 50 * i, 60), 19, 1, -1)
    cv2.line(nucleus, (50, 60), (50 * n, 60), 1, 7)  # threads between them
    assert lobes(nucleus.astype(bool)) == n


def test_dents_lower_solidity_and_not_the_area() -> None:
    plain = disc(160, 80, 80, 55)
    dented = plain & ~disc(160, 80, 30, 32)
    assert shape(dented)["nucleus solidity"] < 0.9 < 0.95 < shape(plain)["nucleus solidity"]


def test_blue_cytoplasm_is_basophilic_and_pink_is_not() -> None:
    blue = measure(cell(round_cell(60, 35), (90, 110, 210)))["basophilia"]
    pink = measure(cell(round_cell(60, 35), (225, 190, 200)))["basophilia"]
    assert blue > 0.5 > 0.2 > pink


def test_vacuoles_are_counted() -> None:
    parts = cell(round_cell(80, 40), (90, 110, 210))
    for angle in np.linspace(0, 2 * np.pi, 7)[:-1]:
        x, y = 100 + 62 * np.cos(angle), 100 + 62 * np.sin(angle)
        parts.pixels[disc(200, x, y, 6)] = 230
    assert measure(parts)["vacuoles"] == 6
    assert measure(cell(round_cell(80, 40), (90, 110, 210)))["vacuoles"] == 0


def test_grain_shows_as_texture() -> None:
    smooth = cell(round_cell(80, 45))
    rough = cell(round_cell(80, 45))
    grain = cv2.GaussianBlur(np.random.default_rng(1).normal(0, 60, (200, 200)).astype(np.float32), (0, 0), 2)
    rough.pixels[:] = np.clip(rough.pixels + 4 * grain[..., None], 0, 255).astype(np.uint8)
    for name in ("chromatin texture", "granularity"):
        assert measure(rough)[name] > 3 * measure(smooth)[name] + 0.005


def test_no_cell_no_attributes_and_no_nucleus_no_ratio() -> None:
    assert measure(cell(np.zeros((40, 40), np.uint8))) == {}
    bare = np.where(disc(80, 40, 40, 30), np.uint8(CYTOPLASM), np.uint8(0))
    got = measure(cell(bare))
    assert "N:C" not in got
    assert "granularity" in got
    only = np.where(disc(80, 40, 40, 30), np.uint8(NUCLEUS), np.uint8(0))
    assert measure(cell(only))["cytoplasm share"] == 0
    assert "N:C" not in measure(cell(only))
    one = np.zeros((5, 5), np.uint8)
    one[2, 2] = NUCLEUS
    assert all(np.isfinite(v) for v in measure(cell(one)).values())


L1 = {"diameter um": 11.0, "cytoplasm share": 0.14, "nucleus solidity": 0.98, "basophilia": 0.2, "vacuoles": 0.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "small, regular nucleus, scanty cytoplasm: L1-like"),
        # One feature of L2: a prominent nucleolus, which is not measured, would be the second.
        ({"diameter um": 16.0}, "large, regular nucleus, scanty cytoplasm: L1 or L2, as nucleoli say"),
        ({"cytoplasm share": 0.2, "diameter um": 16.0}, "large, regular nucleus, moderate cytoplasm: L2-like"),
        ({"nucleus solidity": 0.9, "diameter um": 14.0}, "large, irregular nucleus, scanty cytoplasm: L2-like"),
        (
            {"diameter um": 16.0, "cytoplasm share": 0.3, "basophilia": 0.6, "vacuoles": 5.0},
            "large, regular nucleus, moderate cytoplasm, very deep basophilia, vacuoles: L3-like if nucleoli are "
            "prominent",
        ),
        (
            {"basophilia": 0.2, "vacuoles": 5.0},  # vacuoles alone decide nothing
            "small, regular nucleus, scanty cytoplasm, vacuoles: L1-like",
        ),
        ({"diameter um": None}, "regular nucleus, scanty cytoplasm: L1 or L2, as nucleoli and size say"),
        (
            {"diameter um": None, "cytoplasm share": 0.3, "nucleus solidity": 0.9},
            "irregular nucleus, moderate cytoplasm: L2-like",
        ),
        ({"cytoplasm share": None}, ""),
    ],
)
def test_fab_in_words(change: dict[str, float | None], words: str) -> None:
    told = {k: v for k, v in (L1 | change).items() if v is not None}
    assert fab_words(told) == words


def test_what_was_not_measured_is_not_judged() -> None:
    assert set(fab_features({}).values()) == {None}


@pytest.mark.parametrize("radius", [8, 12, 20, 40, 80])
def test_roundness_is_the_same_at_every_magnification(radius: int) -> None:
    """4 pi area / perimeter squared is 1 of a disc and pi / 4 of a square."""
    y, x = np.mgrid[-radius - 2 : radius + 3, -radius - 2 : radius + 3]
    half = round(radius * np.sqrt(np.pi) / 2)
    disc = shape(x**2 + y**2 <= radius**2)["nucleus roundness"]
    square = shape((abs(x) <= half) & (abs(y) <= half))["nucleus roundness"]
    assert disc == pytest.approx(1, abs=0.07)
    assert square == pytest.approx(np.pi / 4, abs=0.07)

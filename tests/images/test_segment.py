"""Pixels to regions: the ground, holes, watersheds, and the size of the red cells, on drawn shapes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from detect.images import segment


def disc(radius: int, side: int = 120) -> segment.Mask:
    y, x = np.mgrid[:side, :side]
    return np.asarray(np.hypot(x - side // 2, y - side // 2) <= radius)


def test_the_ground_has_no_density_and_a_darker_disc_has_its_own() -> None:
    pixels = np.full((120, 120, 3), (230, 220, 210), np.uint8)
    pixels[disc(30)] = (115, 110, 105)
    density = segment.optical_density(pixels)
    assert np.abs(density[:20]).max() < 0.02
    assert density[60, 60] == pytest.approx([np.log(2)] * 3, abs=0.02)


def test_pallor_is_filled_and_a_wide_gap_is_not() -> None:
    ring = disc(40) & ~disc(10)
    assert segment.fill_holes(ring, 400).sum() == disc(40).sum()
    assert np.array_equal(segment.fill_holes(ring, 200), ring)


@pytest.mark.parametrize("radius", [8, 15, 30])
def test_the_size_of_red_cells_is_measured(radius: int) -> None:
    pixels = np.full((14 * radius, 14 * radius, 3), (225, 220, 222), np.uint8)
    for x in (3, 7, 11):
        for y in (3, 7, 11):
            cv2.circle(pixels, (x * radius, y * radius), radius, (196, 150, 160), -1)
    found = segment.stain(pixels, "otsu", nucleus_least=0.3, body_part=0.75, body_least=0.04, body_most=0.25)
    assert not found.nucleus.any()
    assert segment.red_diameter(found) == pytest.approx(2 * radius / segment.OVAL, rel=0.15)


def test_immersion_cuts_two_discs_at_their_neck() -> None:
    inside = np.zeros((60, 110), bool)
    for x in (35, 75):
        inside |= np.hypot(*(np.mgrid[:60, :110] - np.array([30, x])[:, None, None])) <= 22
    seeds = np.zeros(inside.shape, np.int32)
    seeds[30, 35], seeds[30, 75] = 1, 2
    cells = segment.immerse(segment.depth(inside), seeds, inside)
    assert np.array_equal(cells > 0, inside)
    assert abs(int((cells == 1).sum()) - int((cells == 2).sum())) < 0.03 * inside.sum()
    assert np.nonzero(cells == 1)[1].max() <= 57


def test_a_flood_stays_inside_and_stops_at_an_edge() -> None:
    relief = np.zeros((40, 80, 3), np.float32)
    relief[:, 30:] = 0.6
    inside = np.zeros((40, 80), bool)
    inside[5:35, 5:75] = True
    seeds = np.zeros((40, 80), np.int32)
    seeds[20, 10], seeds[20, 70] = 1, 2
    cells = segment.flood(relief, seeds, inside)
    assert not cells[~inside].any()
    assert np.nonzero(cells == 1)[1].max() in range(28, 31)
    assert np.nonzero(cells == 2)[1].min() in range(29, 32)


def test_a_circle_votes_for_its_middle() -> None:
    votes = segment.roundness(disc(20).astype(np.float32), 20)
    assert np.hypot(*(np.array(np.unravel_index(votes.argmax(), votes.shape)) - 60)) <= 1.5
    assert votes.max() > 5 * np.median(votes[disc(50) & ~disc(45)])
    assert not segment.roundness(np.zeros((30, 30), np.float32), 5).any()

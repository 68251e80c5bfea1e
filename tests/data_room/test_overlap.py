"""Key points: copies turned by any angle, sheared, mirrored, recoloured or cut are found, strangers are not."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detect.data import overlap
from detect.data.joined import Groups
from detect.images import decode
from tests import data

PICTURES = [data.smear(320, 240, seed) for seed in range(12)]


def overlaps(pictures: list[overlap.Points]) -> list[overlap.Overlap]:
    return overlap.overlaps(pictures, Groups(len(pictures)))


def mapped(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Under an affine map about the middle; what comes from outside is black, as augmentation leaves it."""
    height, width = pixels.shape[:2]
    middle = np.array([width / 2, height / 2])
    shift = middle - matrix @ middle
    return np.asarray(cv2.warpAffine(pixels, np.column_stack([matrix, shift]), (width, height)), np.uint8)


def turned(pixels: np.ndarray, degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return mapped(pixels, np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]))


CHANGES = {
    **{f"turned {d}": (lambda p, d=d: turned(p, d)) for d in (10, 45, 100, 170, 250)},
    "mirrored and turned": lambda p: turned(np.ascontiguousarray(p[:, ::-1]), 30),
    "sheared": lambda p: mapped(p, np.array([[1, 0.2], [0, 1.0]])),
    "stretched": lambda p: cv2.resize(p, (320, 320)),
    "half size and turned": lambda p: cv2.resize(turned(p, 20), (160, 120), interpolation=cv2.INTER_AREA),
    "cut": lambda p: np.ascontiguousarray(p[60:, 100:]),
    "cut and mirrored": lambda p: np.ascontiguousarray(p[:200, 240::-1]),
    "recoloured and turned": lambda p: np.clip(turned(p, 15) * [0.95, 1.05, 0.8], 0, 255).astype(np.uint8),
    "brighter and turned": lambda p: np.clip(turned(p, 15).astype(int) + 20, 0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_found_among_strangers(change: str) -> None:
    pictures = [overlap.points(p) for p in (*PICTURES, np.ascontiguousarray(CHANGES[change](PICTURES[5])))]
    found = overlaps(pictures)
    assert [{o.a, o.b} for o in found] == [{5, len(PICTURES)}]
    assert found[0].matches >= overlap.LEAST_MATCHES
    assert 0.9 < found[0].correlation <= 1
    assert 0.3 < found[0].share <= 1.1


def test_two_shots_of_one_place_are_found() -> None:
    place = data.smear(640, 480, 40)
    shots = [place[:360, :480], place[120:, 160:]]  # they share two thirds by two thirds of each
    pictures = [overlap.points(np.ascontiguousarray(p)) for p in (*shots, *PICTURES)]
    (found,) = overlaps(pictures)
    assert (found.a, found.b) == (0, 1)
    assert found.share == pytest.approx(4 / 9, abs=0.05)


def test_strangers_are_not_joined() -> None:
    assert overlaps([overlap.points(data.smear(320, 240, seed)) for seed in range(100, 160)]) == []


def test_real_fields_are_told_apart_and_their_turned_copies_found(shared_data: Path) -> None:
    pictures = [decode.read(p) for p in sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[::40]]
    both = [*pictures, *(turned(p, 17 + 31 * i) for i, p in enumerate(pictures))]
    found = {frozenset((o.a, o.b)) for o in overlaps([overlap.points(p) for p in both])}
    assert found == {frozenset((i, i + len(pictures))) for i in range(len(pictures))}


@given(st.floats(0, 360), st.booleans(), st.floats(0.7, 1.4))
@settings(max_examples=25, deadline=None)
def test_the_map_is_found_whatever_the_angle(degrees: float, mirrored: bool, zoom: float) -> None:
    original = PICTURES[3]
    copy = turned(np.ascontiguousarray(original[:, ::-1]) if mirrored else original, degrees)
    copy = cv2.resize(copy, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
    pictures = [overlap.points(original), overlap.points(copy)]
    assert overlap.compare(pictures, 0, 1, mirrored) is not None
    assert overlap.compare(pictures, 0, 1, not mirrored) is None


def test_a_mirrored_descriptor_is_that_of_the_mirrored_picture() -> None:
    upright = overlap.points(PICTURES[2])
    mirrored = overlap.points(np.ascontiguousarray(PICTURES[2][:, ::-1]))
    width = upright.grey.shape[1]
    agreed = []
    for place, said in zip(upright.places, upright.descriptors[:, overlap._MIRRORED].astype(float), strict=True):
        apart = np.linalg.norm(mirrored.places - [width - 1 - place[0], place[1]], axis=1)
        if apart.min() < 0.5:
            own = mirrored.descriptors[apart < apart.min() + 0.1].astype(float)
            agreed.append(max(float(o @ said / np.linalg.norm(o) / np.linalg.norm(said)) for o in own))
    assert len(agreed) > 30
    assert np.median(agreed) > 0.95


def test_the_same_pairs_each_time() -> None:
    pictures = [overlap.points(p) for p in (*PICTURES, *(turned(p, 40) for p in PICTURES))]
    assert overlaps(pictures) == overlap.overlaps(pictures, Groups(len(pictures)), workers=4)


def test_pictures_joined_already_are_not_compared() -> None:
    pictures = [overlap.points(p) for p in (PICTURES[0], turned(PICTURES[0], 40), PICTURES[1])]
    assert overlap.overlaps(pictures, Groups(3, [(0, 1)])) == []
    assert len(overlaps(pictures)) == 1


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (64, 64), (500, 500)])
def test_pictures_that_show_nothing_have_no_copies(shape: tuple[int, int]) -> None:
    blank = overlap.points(np.full((*shape, 3), 200, np.uint8))
    assert overlaps([blank, blank, *(overlap.points(p) for p in PICTURES[:2])]) == []
    assert overlaps([]) == []

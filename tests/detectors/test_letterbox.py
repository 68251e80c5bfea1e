"""Fields into the input and boxes back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect import geometry
from detect.images.letterbox import Letterbox, place, plan
from tests import drawn as sample

SIDES = st.integers(1, 6000)


def into(box: Letterbox, boxes: np.ndarray) -> np.ndarray:
    """Boxes of a field in pixels of the input."""
    scale = np.array([box.scale_x, box.scale_y, box.scale_x, box.scale_y])
    return (boxes * scale + [box.left, box.top, box.left, box.top]).astype(np.float32)


@given(SIDES, SIDES, st.sampled_from([64, 416, 640, 1280]), st.integers(0, 10**6))
def test_boxes_come_back(width: int, height: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (8, 2, 2)), axis=1).reshape(8, 4)
    boxes = (corners * [width, height, width, height]).astype(np.float32)
    lettered = plan(width, height, size, 32)
    assert np.abs(lettered.back(into(lettered, boxes), width, height) - boxes).max() <= 0.01


@given(SIDES, SIDES, st.sampled_from([64, 416, 640]), st.sampled_from([1, 32]))
def test_the_field_lies_inside_the_input(width: int, height: int, size: int, stride: int) -> None:
    box = plan(width, height, size, stride)
    assert max(box.inner) == size
    assert box.width % stride == box.height % stride == 0
    assert box.left >= 0
    assert box.left + box.inner[0] <= box.width < box.inner[0] + stride
    assert box.top >= 0
    assert box.top + box.inner[1] <= box.height < box.inner[1] + stride


def test_boxes_outside_are_cut_to_the_field() -> None:
    box = plan(640, 480, 416, 32)
    got = box.back(np.array([[-50, -50, 2000, 2000]], np.float32), 640, 480)
    assert got.tolist() == [[0, 0, 640, 480]]
    assert geometry.area(got)[0] == 640 * 480


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (640, 480, 416),
        (480, 640, 416),
        (416, 416, 416),
        (300, 300, 416),
        (575, 361, 416),
        (1920, 1079, 640),
        (333, 1000, 640),
        (1000, 9, 416),
        (2, 900, 640),
        (1, 1, 64),
        (97, 61, 64),
    ],
)
def test_equals_the_library_that_trains(width: int, height: int, size: int) -> None:
    library = pytest.importorskip("ultralytics.data.augment", reason="ultralytics is not installed")
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    box = plan(width, height, size, 32)
    out = np.empty((box.height, box.width, 3), np.uint8)
    place(pixels, box, 114, out)
    expected = library.LetterBox((size, size), auto=True, stride=32)(image=pixels)
    assert out.shape == expected.shape
    assert np.array_equal(out, expected)


def test_a_place_used_before_is_cleaned() -> None:
    pixels, _ = sample.field(1, ["Neutrophil"])
    box = plan(sample.WIDTH, 300, 416, 32)
    clean, used = (np.full((box.height, box.width, 3), value, np.uint8) for value in (0, 255))
    place(pixels[:300], box, 114, clean)
    place(pixels[:300], box, 114, used)
    assert np.array_equal(clean, used)
    assert (clean[0] == 114).all()

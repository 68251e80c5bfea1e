"""Mask images: instances by grey level, nucleus and cytoplasm by grey level, and back."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PilImage
from pycocotools import mask as rle

from detect.formats import masks
from detect.formats.tally import Tally
from detect.types import Annotations

LEVELS = {"nucleus": 255, "cytoplasm": 128}


def disc(width: int, height: int, x: int, y: int, radius: int, level: int, on: NDArray | None = None) -> NDArray:
    """A picture with a disc of that grey level."""
    picture = np.zeros((height, width), np.uint8) if on is None else on
    return cv2.circle(picture, (x, y), radius, level, -1)


@given(seed=st.integers(0, 10_000), depth=st.sampled_from([np.uint8, np.uint16, np.int32]))
def test_instances_there_and_back_are_equal(seed: int, depth: type) -> None:
    rng = np.random.default_rng(seed)
    picture = np.zeros((80, 100), depth)
    for level in range(1, int(rng.integers(1, 9))):
        x, y, side = (int(v) for v in rng.integers(0, [90, 70, 30]))
        picture[y : y + side + 1, x : x + side + 1] = level
    cells = masks.from_instances(picture, 2)
    assert cells.ids == tuple(int(v) for v in np.unique(picture) if v)
    assert set(cells.labels.tolist()) <= {2}
    for level, box, mask in zip(cells.ids, cells.boxes.astype(int), cells.masks, strict=True):
        np.testing.assert_array_equal(rle.decode(mask).astype(bool), picture == level)
        inside = picture[box[1] : box[3], box[0] : box[2]] == level
        assert inside.sum() == (picture == level).sum()
        assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
    canvas, hidden = masks.to_instances(cells, 100, 80)
    assert hidden == 0
    assert canvas.dtype == np.uint16
    assert masks.from_instances(canvas, 2).masks == cells.masks


def test_levels_beyond_eight_bits_are_kept() -> None:
    picture = np.zeros((20, 20), np.uint16)
    picture[2:5, 3:7] = 40_000
    picture[10:12, 10:12] = 40_001
    cells = masks.from_instances(picture, 0)
    assert cells.ids == (40_000, 40_001)
    assert cells.boxes.tolist() == [[3, 2, 7, 5], [10, 10, 12, 12]]


def test_an_empty_picture_holds_no_cell() -> None:
    assert len(masks.from_instances(np.zeros((20, 20), np.uint8), 0)) == 0


def test_a_cell_that_lies_under_another_is_counted_as_hidden() -> None:
    cells = Annotations.of([[2, 2, 6, 6], [1, 1, 9, 9]], [0, 0])
    canvas, hidden = masks.to_instances(cells, 20, 20)
    assert hidden == 1
    assert (canvas == 2).sum() == 64


def test_a_box_over_the_border_is_drawn_as_far_as_it_is_inside() -> None:
    canvas, hidden = masks.to_instances(Annotations.of([[-5, -5, 10, 10], [15, 15, 30, 30]], [0, 0]), 20, 20)
    assert hidden == 0
    assert (canvas == 1).sum() == 100
    assert (canvas == 2).sum() == 25


def test_nucleus_and_cytoplasm_make_one_cell() -> None:
    picture = disc(60, 50, 30, 25, 8, 255, disc(60, 50, 30, 25, 15, 128))
    tally = Tally()
    cells = masks.from_levels(picture, LEVELS, 1, "a.png", tally)
    assert tally.counts() == {}
    assert cells.boxes.tolist() == [[15, 10, 46, 41]]
    assert cells.labels.tolist() == [1]
    (whole,) = (rle.decode(m) for m in cells.masks)
    parts = {name: rle.decode(cells.extra[0][f"{name}_mask"]) for name in LEVELS}
    np.testing.assert_array_equal(whole, picture > 0)
    np.testing.assert_array_equal(parts["nucleus"], picture == 255)
    np.testing.assert_array_equal(parts["cytoplasm"], picture == 128)
    np.testing.assert_array_equal(parts["nucleus"] + parts["cytoplasm"], whole)


def test_levels_of_a_recompressed_mask_go_to_the_nearest_and_are_noted() -> None:
    picture = disc(60, 50, 30, 25, 8, 250, disc(60, 50, 30, 25, 15, 131))
    picture[0, 0] = 9
    tally = Tally()
    cells = masks.from_levels(picture, LEVELS, 0, "a.png", tally)
    assert [(p.kind, p.where, p.action) for p in tally.problems] == [
        ("grey level between the named ones", "a.png", "repaired")
    ]
    assert tally.problems[0].detail == f"{(picture > 0).sum()} pixels"
    assert cells.boxes.tolist() == [[15, 10, 46, 41]]


def test_an_empty_mask_is_named_not_a_cell_of_nothing() -> None:
    tally = Tally()
    assert len(masks.from_levels(np.zeros((9, 9), np.uint8), LEVELS, 0, "a.png", tally)) == 0
    assert tally.counts() == {"empty mask, dropped": 1}


@pytest.mark.parametrize(("folder", "count"), [("Dataset 1", 300), ("Dataset 2", 50)])
def test_the_published_masks(shared_data: Path, folder: str, count: int) -> None:
    files = sorted((shared_data / "wbc-masks" / folder).glob("*.png"))
    assert len(files) == count
    for path in files[:: count // 10]:
        picture = np.asarray(PilImage.open(path).convert("L"))
        tally = Tally()
        cells = masks.from_levels(picture, LEVELS, 0, str(path), tally)
        assert len(cells) == 1
        whole = rle.decode(cells.masks[0]).astype(bool)
        # Every pixel but those between the levels is where the publisher has it.
        np.testing.assert_array_equal(
            whole[np.isin(picture, (0, 128, 255))], picture[np.isin(picture, (0, 128, 255))] > 0
        )
        assert set(tally.counts()) <= {"grey level between the named ones, repaired"}


@given(seed=st.integers(0, 10_000), width=st.integers(1, 40), height=st.integers(1, 40))
def test_compressed_runs_are_those_of_the_picture(seed: int, width: int, height: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = rng.random((height, width)) < rng.random()
    mask = masks.encode(drawn)
    runs = masks.run_lengths(mask["counts"])
    values = np.arange(len(runs)) % 2 == 1
    np.testing.assert_array_equal(np.repeat(values, runs), drawn.T.ravel())
    assert masks.from_runs(mask["counts"].decode(), width, height) == mask
    assert masks.from_runs(runs.tolist(), width, height) == mask


@pytest.mark.parametrize("counts", ["", [], "P", "0", [-1, 13], [13], [6.5, 5.5], 12, None, "ooooooooooo0"], ids=repr)
def test_runs_that_do_not_fill_the_picture_are_refused(counts: object) -> None:
    with pytest.raises(ValueError, match="run"):
        masks.from_runs(counts, 4, 3)

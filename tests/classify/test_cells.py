"""Cells that are kept to learn from: their crops are those of the field, by true boxes and detected ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as rle

from detect.data.typed import TypedCell
from detect.errors import DataError
from tests.classify.conftest import TYPES

pytest.importorskip("torch", reason="torch is not installed")

from detect.classify.cells import keep
from detect.classify.crops import crop, resize
from detect.classify.settings import CropSettings
from detect.images import decode

Drawn = tuple[list[TypedCell], list[TypedCell]]


def test_crops_of_what_is_kept_are_crops_of_the_field(drawn_cells: Drawn) -> None:
    """Also at the border of the field, and for every box that jitter can give."""
    edges = [(x, 3.25, x + 120.5, 99.75) for x in range(-20, 300, 40)]
    edges += [(x, y, x + 101, y + 50) for x, y in ((17, 33), (18, 33), (501, 0), (560, 399), (0, 411))]  # halves
    cells = [replace(c, box=tuple(map(float, box))) for c, box in zip(drawn_cells[0], edges, strict=False)]
    settings = CropSettings(image_size=64, margin=0.2)
    kept = keep(cells, TYPES, settings, jitter=0.2)
    for i, cell in enumerate(cells):
        field = decode.read(cell.path)
        assert np.array_equal(kept.crops(64, 0.2)[i], resize(crop(field, cell.box, 0.2).pixels, 64))
    again = keep(cells, TYPES, settings, jitter=0.2)
    for seed in range(40):
        i = seed % len(cells)
        drawn = kept.drawn(i, 64, 0.2, 0.2, np.random.default_rng(seed))
        assert drawn.shape == (64, 64, 3)
        assert np.array_equal(drawn, again.drawn(i, 64, 0.2, 0.2, np.random.default_rng(seed)))


def test_the_farthest_crop_lies_in_the_picture(drawn_cells: Drawn) -> None:
    """Nothing of a moved crop is repeated border where the field has pixels."""
    cell = replace(drawn_cells[0][0], box=(250.0, 180.0, 350.0, 300.0))
    field = decode.read(cell.path)
    kept = keep([cell], TYPES, CropSettings(margin=0.3), jitter=0.3)
    x0, y0, _, _ = cell.box
    left, top = x0 - kept.boxes[0][0][0], y0 - kept.boxes[0][0][1]
    for seed in range(30):
        rng = np.random.default_rng(seed)
        got = kept.drawn(0, 80, 0.3, 0.3, rng)
        dx, dy, grow = np.random.default_rng(seed).uniform(-0.3, 0.3, 3) * 120
        moved = (250 + dx - grow / 2, 180 + dy - grow / 2, 350 + dx + grow / 2, 300 + dy + grow / 2)
        assert np.array_equal(got, resize(crop(field, moved, 0.3).pixels, 80))
    assert left == int(left)
    assert top == int(top)


def test_detected_boxes_are_learnt_too(drawn_cells: Drawn) -> None:
    cells = drawn_cells[0][:3]
    kept = keep(cells, TYPES, CropSettings(), detected_by="cells-yolov8n")
    found = [i for i, boxes in enumerate(kept.boxes) if len(boxes) == 2]
    assert found
    for i in found:
        true, given = (np.array(b) for b in kept.boxes[i])
        assert not np.array_equal(true, given)
        assert np.abs(true - given).max() < 0.5 * (true[2] - true[0])


def test_masked_out_cells_stand_on_white(drawn_cells: Drawn) -> None:
    cell = drawn_cells[0][0]
    field = decode.read(cell.path)
    plain, seen = crop(field, cell.box, 0.2).pixels, crop(field, cell.box, 0.2, "ellipse").pixels
    side = len(seen)
    kept = (seen != 255).any(axis=2)
    assert np.array_equal(seen[kept], plain[kept])
    x0, y0, x1, y1 = cell.box
    assert kept.sum() == pytest.approx(np.pi / 4 * (x1 - x0) * (y1 - y0), rel=0.02)
    assert kept[side // 2, side // 2]
    assert not kept[0].any()
    settings = CropSettings(image_size=64, margin=0.2, mask_out="ellipse")
    held = keep([cell], TYPES, settings, jitter=0.1)
    assert np.array_equal(held.crops(64, 0.2)[0], resize(seen, 64))
    moved = held.drawn(0, 64, 0.2, 0.1, np.random.default_rng(3))  # the ellipse moves with the box
    assert 0.3 < (moved != 255).any(axis=2).mean() < 0.6
    outlined = CropSettings(image_size=64, mask_out="outline")
    with pytest.raises(DataError, match="has no outline"):
        keep([cell], TYPES, outlined)
    inside = np.zeros(field.shape[:2], np.uint8)
    inside[round(y0) + 9 : round(y1) - 9, round(x0) + 9 : round(x1) - 9] = 1
    drawn = rle.encode(np.asfortranarray(inside))
    held = keep([replace(cell, outline=drawn)], TYPES, outlined)
    expected = resize(crop(field, cell.box, 0.15, "outline", drawn).pixels, 64)
    assert np.array_equal(held.crops(64, 0.15)[0], expected)

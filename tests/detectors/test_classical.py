"""The detector without training, on drawn smears, on empty and strange pictures, and on real ones."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as rle

from detect import geometry
from detect.detectors.classical import (
    CLASSES,
    CYTOPLASM,
    NUCLEUS,
    ClassicalDetector,
    ClassicalSettings,
    nucleus_and_cytoplasm,
)
from detect.formats import masks
from detect.formats.masks import encode_at
from detect.images import decode
from detect.types import Detections, Image
from tests import drawn as sample

METHODS = ("otsu", "kmeans")
GROUND, RED, CYTO, PURPLE = (225, 220, 222), (196, 150, 160), (190, 150, 195), (95, 50, 150)
_Turn = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def discs(places: list[tuple[int, int]], radius: int, width: int = 400, height: int = 300) -> Image:
    """Red discs on a pale ground, soft edged."""
    field = np.full((height, width, 3), GROUND, np.uint8)
    for place in places:
        cv2.circle(field, place, radius, RED, -1, cv2.LINE_AA)
    return np.ascontiguousarray(cv2.GaussianBlur(field, (0, 0), 1))


def drawn_smear(unit: int = 60) -> Image:
    """Red discs, one white cell with an eccentric nucleus, one platelet; `unit` is the red cell diameter, pixels."""
    field = np.full((6 * unit, 8 * unit, 3), GROUND, np.uint8)
    for x, y in ((1.0, 1.0), (2.6, 1.2), (6.8, 1.1), (1.2, 4.6), (3.0, 4.9), (6.9, 4.4), (6.7, 2.8)):
        cv2.circle(field, (round(x * unit), round(y * unit)), unit // 2, RED, -1, cv2.LINE_AA)
    cv2.circle(field, (round(4.4 * unit), round(3.1 * unit)), unit, CYTO, -1, cv2.LINE_AA)
    cv2.circle(field, (round(4.2 * unit), round(3.0 * unit)), round(0.6 * unit), PURPLE, -1, cv2.LINE_AA)
    cv2.circle(field, (round(4.9 * unit), round(1.1 * unit)), round(0.17 * unit), PURPLE, -1, cv2.LINE_AA)
    return np.ascontiguousarray(cv2.GaussianBlur(field, (0, 0), unit / 50))


def of(found: Detections, name: str) -> NDArray[np.float32]:
    return found.boxes[found.labels == CLASSES.index(name)]


def detect(pixels: Image, **changes: object) -> Detections:
    return ClassicalDetector(ClassicalSettings.model_validate(changes)).predict([pixels])[0]


def check(found: Detections, pixels: Image) -> None:
    """What every result keeps, whatever the picture."""
    height, width = pixels.shape[:2]
    assert found.masks is not None
    assert np.array_equal(geometry.clip(found.boxes, width, height), found.boxes)
    for box, mask in zip(found.boxes, found.masks, strict=True):
        inside = rle.decode(dict(mask)).astype(bool)
        assert inside.shape == (height, width)
        assert masks.box_of(inside) == tuple(box)
        assert rle.area(dict(mask)) == inside.sum()
        assert inside.sum() >= 0.2 * geometry.area(box[None])[0]
    order = found.ordered()
    assert np.array_equal(order.boxes, found.boxes)


def nearest(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """The greatest distance of a side of a wanted box from that of the found box most like it."""
    assert len(found) == len(wanted) > 0
    best = geometry.iou(found, wanted).argmax(axis=0)
    assert len(set(best.tolist())) == len(wanted)
    return float(np.abs(found[best] - wanted).max())


@pytest.mark.parametrize("method", METHODS)
def test_each_kind_of_a_drawn_smear_is_found(method: str) -> None:
    pixels = drawn_smear()
    found = detect(pixels, method=method)
    check(found, pixels)
    sure = found.select(found.scores > 0.3)
    assert [len(of(sure, name)) for name in CLASSES] == [1, 7, 1]
    unit, swell = 60, ClassicalSettings().swell * 60
    white = np.array([[3.4 * unit, 2.1 * unit, 5.4 * unit, 4.1 * unit]], np.float32)
    assert np.abs(of(sure, "WBC") - white).max() <= swell + 4
    assert (
        geometry.iou(of(sure, "Platelet"), np.array([[284, 56, 304, 76]], np.float32)).max() > 0.35
    )  # annotators box them widely


@pytest.mark.parametrize("method", METHODS)
def test_most_cells_of_drawn_fields_are_found(method: str) -> None:
    hits = {name: [0, 0] for name in ("WBC", "RBC")}
    for pixels, cells in sample.fields(4, 5, sample.SLIDES["slide-a"]):
        found = detect(pixels, method=method)
        check(found, pixels)
        for name, count in hits.items():
            truth = [c.box for c in cells if (c.name if c.name in CLASSES.names else "WBC") == name]
            overlap = geometry.iou(of(found, name), np.array(truth, np.float32).reshape(-1, 4))
            count[0] += int((overlap.max(axis=0, initial=0) > 0.5).sum())
            count[1] += len(truth)
    assert hits["WBC"][0] >= 0.9 * hits["WBC"][1]
    assert hits["RBC"][0] >= 0.8 * hits["RBC"][1]


@settings(max_examples=12)
@given(gap=st.integers(-12, 2), angle=st.floats(0, 3.1), radius=st.integers(22, 34))
def test_touching_discs_are_told_apart(gap: int, angle: float, radius: int) -> None:
    half = radius + gap / 2
    dx, dy = half * np.cos(angle), half * np.sin(angle)
    places = [(round(200 + s * dx), round(150 + s * dy)) for s in (-1, 1)]
    found = detect(discs([*places, (50, 60), (340, 70), (60, 240), (330, 240)], radius))
    wanted = np.array([(x - radius, y - radius, x + radius, y + radius) for x, y in places], np.float32)
    overlap = geometry.iou(of(found, "RBC"), wanted)
    assert len(of(found, "RBC")) == 6
    assert (overlap.max(axis=0) > 0.7).all()


@pytest.mark.parametrize(
    "turn", [np.fliplr, np.flipud, np.rot90, lambda a: np.rot90(a, 2)], ids=["mirror", "flip", "quarter", "half"]
)
def test_a_turned_picture_gives_turned_boxes(turn: _Turn) -> None:
    pixels = drawn_smear()
    turned = detect(np.ascontiguousarray(turn(pixels)))
    plain = detect(pixels)
    assert plain.masks is not None
    for name in CLASSES:
        rows = np.flatnonzero(plain.labels == CLASSES.index(name))
        wanted = [masks.box_of(turn(rle.decode(dict(plain.masks[i]))).astype(bool)) for i in rows]
        assert nearest(of(turned, name), np.array(wanted, np.float32)) <= 2


@pytest.mark.parametrize("factor", [2, 4])
def test_a_larger_picture_gives_larger_boxes(factor: int) -> None:
    small, large = detect(drawn_smear(40)), detect(drawn_smear(40 * factor))
    for name in CLASSES:
        assert nearest(of(large, name) / factor, of(small, name)) <= 3.5


def test_small_cells_are_found() -> None:
    found = detect(drawn_smear(25))
    assert [len(of(found, name)) for name in ("WBC", "RBC")] == [1, 7]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 60, 170), (230, 225, 220)])
def test_nothing_is_found_where_nothing_is(method: str, colour: tuple[int, int, int]) -> None:
    for height, width in ((300, 400), (1, 1), (1, 500), (7, 3)):
        pixels = np.full((height, width, 3), colour, np.uint8)
        found = detect(pixels, method=method)
        assert len(found) == 0
        assert found.masks == ()
        assert not nucleus_and_cytoplasm(pixels, settings=ClassicalSettings(method=method)).any()


@settings(max_examples=25)
@given(height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 99), grain=st.integers(1, 12))
def test_any_picture_is_survived(height: int, width: int, seed: int, grain: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // grain), -(-width // grain), 3), dtype=np.uint8)
    pixels = np.ascontiguousarray(np.kron(coarse, np.ones((grain, grain, 1), np.uint8))[:height, :width])
    for method in METHODS:
        check(detect(pixels, method=method), pixels)
        parts = nucleus_and_cytoplasm(pixels, (width / 4, -3, width + 5, height), ClassicalSettings(method=method))
        assert parts.shape == (height, width)


def test_grey_pictures_have_red_cells_and_no_nuclei() -> None:
    grey = np.repeat(cv2.cvtColor(discs([(80, 80), (200, 150), (320, 90)], 30), cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    found = detect(grey)
    assert [len(of(found, name)) for name in CLASSES] == [0, 3, 0]


@pytest.mark.parametrize("method", METHODS)
def test_the_same_field_gives_the_same_cells(method: str) -> None:
    pixels = next(iter(sample.fields(1, 9, sample.SLIDES["slide-b"])))[0]
    detector = ClassicalDetector(ClassicalSettings(method=method))
    cv2.setRNGSeed(7)
    first, _, again = detector.predict([pixels, drawn_smear(), pixels])
    assert np.array_equal(first.boxes, again.boxes)
    assert np.array_equal(first.scores, again.scores)
    assert first.masks == again.masks


def test_a_reached_cap_is_told() -> None:
    found = detect(drawn_smear(), max_detections=3)
    assert len(found) == 3
    assert found.capped
    assert not detect(drawn_smear()).capped


def test_a_huge_field_ends_in_time() -> None:
    tile = drawn_smear(50)
    pixels = np.ascontiguousarray(np.tile(tile, (10, 10, 1))[:3000, :4000])
    started = time.process_time()
    found = detect(pixels, max_detections=5000)
    assert time.process_time() - started < 60  # about 4 s alone; the machine is shared
    assert len(of(found, "WBC")) == 100
    assert len(of(found, "RBC")) >= 680


@pytest.mark.parametrize("method", METHODS)
def test_nucleus_lies_within_its_cell(method: str) -> None:
    pixels = drawn_smear()
    parts = nucleus_and_cytoplasm(pixels, (198, 120, 330, 252), ClassicalSettings(method=method))
    assert set(np.unique(parts)) == {0, CYTOPLASM, NUCLEUS}
    yy, xx = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    cell, nucleus = np.hypot(xx - 264, yy - 186) <= 60, np.hypot(xx - 252, yy - 180) <= 36
    for seen, truth in ((parts > 0, cell), (parts == NUCLEUS, nucleus)):
        assert (seen & truth).sum() / (seen | truth).sum() > 0.85
    outside = np.ones(parts.shape, bool)
    outside[120:252, 198:330] = False
    assert not parts[outside].any()


def test_a_box_without_area_has_no_parts() -> None:
    assert not nucleus_and_cytoplasm(drawn_smear(), (50, 50, 50, 90)).any()
    assert not nucleus_and_cytoplasm(drawn_smear(), (-90, -90, -5, -5)).any()


@given(
    width=st.integers(1, 9),
    height=st.integers(1, 9),
    seed=st.integers(0, 999),
    x=st.integers(0, 3),
    y=st.integers(0, 3),
)
def test_encoding_at_a_place_is_that_of_the_whole_picture(width: int, height: int, seed: int, x: int, y: int) -> None:
    inside = np.random.default_rng(seed).random((height, width)) < 0.6
    whole = np.zeros((height + y + seed % 2, width + x + seed % 3), bool)
    whole[y : y + height, x : x + width] = inside
    assert encode_at(inside, x, y, whole.shape[1], whole.shape[0]) == masks.encode(whole)


def test_no_training_framework_is_imported() -> None:
    code = "import sys, detect.detectors.classical; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_real_fields_give_most_white_cells(shared_data: Path) -> None:
    """Every 24th field of the published train part of TXL-PBC: at least 8 of 10 white cells at IoU 0.5."""
    hits = total = 0
    for path in sorted((shared_data / "txl-pbc" / "images" / "train").glob("*.jpg"))[::24]:
        pixels = decode.read(path)
        height, width = pixels.shape[:2]
        lines = (shared_data / "txl-pbc" / "labels" / "train" / f"{path.stem}.txt").read_text("utf-8").splitlines()
        rows = np.array([line.split() for line in lines], np.float64).reshape(-1, 5)
        truth = geometry.from_centers(rows[rows[:, 0] == 0, 1:], width, height)
        overlap = geometry.iou(of(detect(pixels), "WBC"), truth)
        hits += int((overlap.max(axis=0, initial=0) > 0.5).sum())
        total += len(truth)
    assert total >= 30
    assert hits >= 0.8 * total


def test_real_nuclei_and_cells_are_outlined(shared_data: Path) -> None:
    """Every tenth picture of Dataset 1: mean IoU of nucleus and of whole cell at least 0.8."""
    scores = []
    for path in sorted((shared_data / "wbc-masks" / "Dataset 1").glob("*.bmp"))[::10]:
        truth, found = decode.levels(path.with_suffix(".png")), nucleus_and_cytoplasm(decode.read(path))
        pairs = ((found == NUCLEUS, truth > 190), (found > 0, truth > 64))
        scores.append([(a & b).sum() / (a | b).sum() for a, b in pairs])
    assert len(scores) == 30
    assert (np.mean(scores, axis=0) > 0.8).all()


def test_thresholds_drop_the_unsure() -> None:
    pixels = drawn_smear()
    found = ClassicalDetector(thresholds={"RBC": 0.99, "Platelet": 0.99}).predict([pixels])[0]
    assert found.labels.tolist() == [CLASSES.index("WBC")]
    assert len(ClassicalDetector(max_detections=2).predict([pixels])[0]) == 2

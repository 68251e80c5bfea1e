"""The size of red cells as a ruler: drawn smears whose every cell is known, at many magnifications."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from detect.bundles.folder import Bundle
from detect.data.smear import field as fields
from detect.data.smear import slide
from detect.data.smear.settings import load_smear
from detect.detectors import scale
from detect.detectors.bundled import BundleDetector
from detect.detectors.classical import ClassicalDetector
from detect.detectors.scale import estimate, of_slide
from detect.images.magnification import RED_CELL_UM, given
from detect.types import Detections, Field, Image
from tests.data import encode

FACTORS = (0.2, 0.35, 0.6, 1.0, 1.8)


@pytest.fixture(scope="module")
def detector(bundle: Bundle) -> BundleDetector:
    """The released detector."""
    return BundleDetector(bundle)


@cache
def smear(number: int) -> tuple[Image, float]:
    """A drawn field, and the median diameter of its whole red cells."""
    settings = load_smear("train")
    one = fields.draw(settings, slide.draw(settings, 3, number), 3, 0, 640, 640)
    boxes = np.array([c.box for c in one.cells if c.name == "RBC"], np.float64)
    boxes = boxes[(boxes[:, :2] > 1).all(1) & (boxes[:, 2:] < 639).all(1)]
    return one.pixels, float(np.median(np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))))


def resized(pixels: Image, across: float, down: float) -> Image:
    how = cv2.INTER_AREA if across * down < 1 else cv2.INTER_CUBIC
    return np.ascontiguousarray(cv2.resize(pixels, None, fx=across, fy=down, interpolation=how))


@pytest.mark.parametrize("factor", FACTORS)
def test_the_scale_of_a_slide_is_found(detector: BundleDetector, factor: float) -> None:
    right = 0
    for number in range(6):
        pixels, diameter = smear(number)
        found = estimate(detector, [resized(pixels, factor, factor)])
        right += found is not None and abs(found.diameter_px / (factor * diameter) - 1) <= 0.15
    assert right >= 5


def test_a_squeezed_picture_is_told_from_a_round_one(detector: BundleDetector) -> None:
    pixels, diameter = smear(1)
    found = estimate(detector, [resized(pixels, 0.6, 1)])
    assert found is not None
    assert found.width_px / found.height_px == pytest.approx(0.6, rel=0.1)
    assert found.height_px == pytest.approx(diameter, rel=0.15)
    plain = estimate(detector, [pixels])
    assert plain is not None
    assert plain.width_px == plain.height_px


def test_an_empty_field_has_no_scale(detector: BundleDetector) -> None:
    assert estimate(detector, [np.full((400, 400, 3), 235, np.uint8)]) is None
    assert estimate(ClassicalDetector(), [np.full((400, 400, 3), 235, np.uint8)]) is None


def test_noise_is_no_sure_scale(detector: BundleDetector) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (400, 400, 3), np.uint8)
    found = estimate(detector, [noise])
    assert found is None or not found.sure


def test_a_threshold_does_not_bend_the_ruler(bundle: Bundle, detector: BundleDetector) -> None:
    pixels, _ = smear(1)
    deaf = BundleDetector(bundle, thresholds=dict.fromkeys(bundle.card.classes, 1.0))
    assert estimate(deaf, [pixels]) == estimate(detector, [pixels])


def test_one_false_red_cell_decides_nothing(detector: BundleDetector) -> None:
    pixels, diameter = smear(1)
    one = Detections(np.array([[10, 10, 400, 250]]), np.array([0.9]), np.array([1]), detector.classes)

    class Fooled:
        classes, red_cell_px = detector.classes, 82.9

        def predict(self, fields: list[Image], *_: object, least: float) -> list[Detections]:
            return [one] * len(fields)

    found = estimate(Fooled(), [pixels])  # type: ignore[arg-type]
    assert found is not None
    assert not found.sure
    assert found.diameter_px == pytest.approx(diameter, rel=0.3)
    assert found.width_px == found.height_px


@pytest.mark.parametrize("factor", [0.1, 5.0, 15.0])
def test_a_first_guess_that_is_far_off_is_mended(
    detector: BundleDetector, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    pixels, diameter = smear(1)
    small = resized(pixels, 0.5, 0.5)  # at 15 times a red cell is wider than the field
    monkeypatch.setattr(scale, "red_cell_diameter", lambda _: factor * diameter / 2)
    found = estimate(detector, [small])
    assert found is not None
    assert found.diameter_px == pytest.approx(diameter / 2, rel=0.15)
    assert not found.sure


def test_fields_of_two_magnifications_are_mixed(detector: BundleDetector) -> None:
    pixels, _ = smear(1)
    small = resized(pixels, 0.5, 0.5)
    found = estimate(detector, [pixels, np.tile(small, (2, 2, 1))])
    assert found is not None
    assert found.mixed
    assert not found.sure


def test_a_slide_is_measured_by_its_readable_fields(detector: BundleDetector, tmp_path: Path) -> None:
    pixels, diameter = smear(1)
    listed = []
    for k in range(7):
        path = tmp_path / f"{k}.png"
        path.write_bytes(b"no picture" if k % 2 else encode(pixels, "PNG"))
        listed.append(Field(path.name, "s", path))
    found = of_slide(detector, listed)
    assert found is not None
    assert found.diameter_px == pytest.approx(diameter, rel=0.15)
    assert found.sure
    assert of_slide(detector, listed[1::2]) is None


def test_what_a_person_says_counts() -> None:
    told = given(mpp=0.1)
    assert told is not None
    assert told.diameter_px == pytest.approx(RED_CELL_UM / 0.1)
    assert told.um_per_px == pytest.approx(0.1)
    assert told.sure
    assert given() is None
    pixels = given(diameter_px=60)
    assert pixels is not None
    assert pixels.diameter_px == 60


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0])
def test_the_same_cells_are_found_at_any_magnification(detector: BundleDetector, factor: float) -> None:
    pixels, diameter = smear(1)
    whole = detector.predict([pixels], [given(diameter_px=diameter)])[0]
    other = resized(pixels, factor, factor)
    found = detector.predict([other], [given(diameter_px=factor * diameter)])[0]
    assert len(whole) > 30
    assert len(found) == pytest.approx(len(whole), rel=0.12)

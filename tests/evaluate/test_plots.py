"""Pictures of an evaluation are written and can be opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detect.evaluate.detection import measure
from detect.evaluate.plots import confusion, draw_all
from detect.images import decode
from detect.types import Detections
from tests.evaluate.records import CLASSES, random_set

NAMES = {"precision-recall", "confusion", "ap-by-kind", "errors", "froc", "counting", "calibration"}


def test_pictures_are_written(tmp_path: Path) -> None:
    data, found = random_set(1, 4)
    report, ap = measure(data, found, dict.fromkeys(CLASSES.names, 0.5), rounds=10)
    draw_all(report, ap, tmp_path, "title")
    assert {p.stem for p in tmp_path.iterdir()} == NAMES
    for name in NAMES:
        pixels = decode.read(tmp_path / f"{name}.png")
        assert min(pixels.shape[:2]) > 200
        assert pixels.std() > 5


def test_what_cannot_be_said_is_not_drawn(tmp_path: Path) -> None:
    data, _ = random_set(1, 4, exhaustive=())
    found = [Detections.empty(CLASSES)] * 4
    report, ap = measure(data, found, dict.fromkeys(CLASSES.names, 0.5), rounds=10)
    draw_all(report, ap, tmp_path, "title")
    assert {p.stem for p in tmp_path.iterdir()} == {"confusion", "errors", "ap-by-kind"}


def test_a_detector_that_finds_nothing_is_drawn(tmp_path: Path) -> None:
    data, _ = random_set(1, 4)
    report, ap = measure(data, [Detections.empty(CLASSES)] * 4, dict.fromkeys(CLASSES.names, 0.5), rounds=10)
    draw_all(report, ap, tmp_path, "title")
    assert {p.stem for p in tmp_path.iterdir()} == NAMES - {"calibration"}


def test_a_row_without_cells_is_drawn_too(tmp_path: Path) -> None:
    confusion(np.zeros((2, 2), np.int64), ["a", "b"], ["a", "b"], tmp_path / "empty.png", "nothing")
    assert decode.read(tmp_path / "empty.png").size > 0

"""Pictures of an evaluation are written and can be opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detect.evaluate.detection import measure
from detect.evaluate.plots import confusion, precision_recall
from detect.images import decode
from tests.evaluate.records import CLASSES, random_set


def test_pictures_are_written(tmp_path: Path) -> None:
    data, found = random_set(1, 4)
    report, ap = measure(data, found, dict.fromkeys(CLASSES.names, 0.5), rounds=10)
    precision_recall({n: ap.curve(n)[0] for n in CLASSES.names}, tmp_path / "pr.png", "title")
    heads = [*CLASSES.names, "background"]
    confusion(report.confusion, heads, heads, tmp_path / "confusion.png", "title")
    for name in ("pr.png", "confusion.png"):
        pixels = decode.read(tmp_path / name)
        assert min(pixels.shape[:2]) > 200
        assert pixels.std() > 5


def test_a_row_without_cells_is_drawn_too(tmp_path: Path) -> None:
    confusion(np.zeros((2, 2), np.int64), ["a", "b"], ["a", "b"], tmp_path / "empty.png", "nothing")
    assert decode.read(tmp_path / "empty.png").size > 0

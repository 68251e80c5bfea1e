"""Offsets by hand."""

from __future__ import annotations

import numpy as np
import pytest

from detect.evaluate.localisation import localisation, offsets
from detect.types import Annotations, Detections
from tests.evaluate.records import CLASSES, dataset, labelled, random_set


def test_offsets_by_hand() -> None:
    drawn = np.array([[100, 100, 200, 150]], np.float32)
    assert offsets(np.array([[110, 100, 210, 150]], np.float32), drawn).tolist() == [[10, 0, 0, 0]]
    assert offsets(np.array([[100, 105, 200, 155]], np.float32), drawn).tolist() == [[0, 10, 0, 0]]
    assert offsets(np.array([[95, 100, 205, 150]], np.float32), drawn)[0] == pytest.approx([0, 0, 10, 0])
    assert offsets(np.array([[100, 100, 200, 140]], np.float32), drawn)[0] == pytest.approx([0, -10, 0, -20])


def test_a_shift_of_every_box_is_found() -> None:
    data, _ = random_set(1, 10)
    found = []
    for f in data.fields:
        b = f.annotations.boxes
        side = b[:, 2:] - b[:, :2]
        moved = b + np.concatenate([side, side], axis=1) * np.array([0.1, 0, 0.1, 0], np.float32)
        found.append(Detections(moved, np.linspace(0.3, 0.9, len(b)), f.annotations.labels, CLASSES))
    got = localisation(data, found, [f.field.id for f in data.fields], rounds=20)
    for where in got.values():
        assert where.dx.value == pytest.approx(10, abs=1e-3)
        assert (where.dx.low, where.dx.high) == (pytest.approx(10, abs=1e-3), pytest.approx(10, abs=1e-3))
        assert where.dw.value == pytest.approx(0, abs=1e-3)
        assert where.iou.value == pytest.approx(0.9 / 1.1, abs=1e-3)
        assert max(where.spread) < 1e-3


def test_only_cells_that_were_met_count() -> None:
    data = dataset([labelled(Annotations.of([[0, 0, 20, 20], [100, 0, 120, 20]], [0, 1]))], exhaustive=("WBC",))
    found = [Detections([[0, 0, 20, 20], [112, 0, 132, 20], [300, 0, 320, 20]], [0.9, 0.8, 0.7], [0, 1, 1], CLASSES)]
    got = localisation(data, found, ["a"], rounds=5)
    assert set(got) == {"WBC"}
    assert (got["WBC"].n, got["WBC"].iou.value) == (1, 1.0)

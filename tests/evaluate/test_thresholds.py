"""Thresholds of best F1 against trying every one."""

from __future__ import annotations

import numpy as np
import pytest

from detect.evaluate.matching import match
from detect.evaluate.thresholds import AS_GOOD, UNKNOWN, best_f1
from detect.types import Annotations, Dataset, Detections
from tests.evaluate.records import CLASSES, dataset, labelled, random_set

GRID = [round(0.05 + 0.01 * i, 2) for i in range(91)]


def f1_at(data: Dataset, found: list[Detections], label: int, limit: float) -> float:
    """F1 of one class, counted anew with only the detections from `limit` on."""
    hits = shown = truths = 0
    for field, all_found in zip(data.fields, found, strict=True):
        kept = all_found.select((all_found.scores >= np.float32(limit)) & (all_found.labels == label))
        got = match(kept, field.annotations)
        hits += int((got.truth_of >= 0).sum())
        shown += int((~got.ignored).sum())
        truths += int(((field.annotations.labels == label) & ~field.annotations.crowd).sum())
    return 2 * hits / max(shown + truths, 1e-9)


@pytest.mark.parametrize(("seed", "crowds"), [(1, 0.0), (2, 0.2), (3, 0.0)])
def test_middle_of_the_thresholds_around_the_best_that_are_as_good(seed: int, crowds: float) -> None:
    data, found = random_set(seed, 8, crowds=crowds)
    got = best_f1(data, found)
    for label, name in enumerate(CLASSES.names):
        tried = [f1_at(data, found, label, limit) for limit in GRID]
        best = int(np.argmax(tried))
        ends = [k for k in range(len(GRID)) if tried[k] < max(tried) - AS_GOOD]
        low = max((k + 1 for k in ends if k < best), default=0)
        high = min((k - 1 for k in ends if k > best), default=len(GRID) - 1)
        assert got[name] == GRID[(low + high) // 2]


def test_ghosts_below_a_score_are_cut_off() -> None:
    boxes = np.array([[0, 0, 20, 20], [40, 0, 60, 20], [80, 0, 100, 20]], np.float32)
    data = dataset([labelled(Annotations.of(boxes[:2], [0, 0]))])
    found = [Detections(boxes, [0.9, 0.8, 0.41], [0, 0, 0], CLASSES)]
    assert best_f1(data, found)["WBC"] == pytest.approx((0.42 + 0.80) / 2)  # far from the ghost and from the cells


def test_every_class_gets_a_threshold_on_the_grid() -> None:
    data, _ = random_set(1, 3)
    got = best_f1(data, [Detections.empty(CLASSES)] * 3)
    assert list(got) == list(CLASSES.names)
    assert set(got.values()) == {UNKNOWN}

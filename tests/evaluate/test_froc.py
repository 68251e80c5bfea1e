"""FROC against counting by hand and by trying every threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detect.evaluate.coco_ap import Ap
from detect.evaluate.froc import RATES, froc, sensitivities
from detect.evaluate.matching import match
from detect.types import Annotations, Dataset, Detections
from tests.evaluate.records import CLASSES, dataset, labelled, random_set

BOXES = np.array([[30 * i, 0, 30 * i + 20, 20] for i in range(8)], np.float32)


def slow(data: Dataset, found: list[Detections], label: int, rate: float) -> float:
    """The best sensitivity of all thresholds with no more false positives per field than `rate`."""
    scores = np.unique(np.concatenate([[2.0], *(d.scores[d.labels == label] for d in found)]))
    best = 0.0
    for limit in scores:
        hits = false = truths = 0
        for f, d in zip(data.fields, found, strict=True):
            matches = match(d.select((d.labels == label) & (d.scores >= limit)), f.annotations)
            hits += int((matches.truth_of >= 0).sum())
            false += int(((matches.truth_of < 0) & ~matches.ignored).sum())
            truths += int((f.annotations.labels[~f.annotations.crowd] == label).sum())
        if false / len(found) <= rate:
            best = max(best, hits / truths)
    return best


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_equals_trying_every_threshold(seed: int, tied: bool) -> None:
    data, found = random_set(seed, 6)
    if tied:
        found = [Detections(d.boxes, np.round(d.scores, 1), d.labels, CLASSES) for d in found]
    for k, (name, matched) in enumerate(Ap(data, found).matched.items()):
        got = froc(matched, Ap(data, found).groups, rounds=5)
        if got is None:
            assert not any((f.annotations.labels == k).any() for f in data.fields)
            continue
        for rate, sensitivity in zip(RATES, got.sensitivity, strict=True):
            assert sensitivity.value == pytest.approx(slow(data, found, k, rate)), name
        assert got.mean.value == pytest.approx(np.mean([s.value for s in got.sensitivity]))


def test_by_hand() -> None:
    # Two fields; from the best score: hit, false, hit, false, false, hit of 4 cells: 0.5, 1.5 false a field.
    data = dataset([labelled(Annotations.of(BOXES[:2], [0, 0])), labelled(Annotations.of(BOXES[:2], [0, 0]), 1)])
    found = [
        Detections(BOXES[[0, 5, 1]], [0.9, 0.8, 0.7], [0, 0, 0], CLASSES),
        Detections(BOXES[[5, 6, 0]], [0.6, 0.5, 0.4], [0, 0, 0], CLASSES),
    ]
    ap = Ap(data, found)
    got = froc(ap.matched["WBC"], ap.groups, rounds=5)
    assert got is not None
    assert [s.value for s in got.sensitivity] == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 0.75]
    assert got.n_cells == 4
    assert got.curve[-1].tolist() == [1.5, 0.75]


def test_rising_with_the_rate_and_the_limits_hold_it() -> None:
    data, found = random_set(3, 30)
    ap = Ap(data, found)
    got = froc(ap.matched["RBC"], ap.groups, rounds=200)
    assert got is not None
    values = [s.value for s in got.sensitivity]
    assert values == sorted(values)
    assert got.mean.low < got.mean.value < got.mean.high


def test_a_detector_that_finds_nothing() -> None:
    data, _ = random_set(3, 4)
    ap = Ap(data, [Detections.empty(CLASSES)] * 4)
    got = froc(ap.matched["RBC"], ap.groups, rounds=5)
    assert got is not None
    assert got.mean.value == 0
    assert sensitivities(ap.matched["RBC"], np.ones((2, 4))).tolist() == [[0.0] * 8] * 2


def test_a_class_without_cells_has_none() -> None:
    data = dataset([labelled(Annotations.of(BOXES[:1], [0]))])
    ap = Ap(data, [Detections(BOXES[:1], [0.9], [1], CLASSES)])
    assert froc(ap.matched["RBC"], ap.groups, rounds=5) is None

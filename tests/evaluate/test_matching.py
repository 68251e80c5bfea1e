"""One-to-one matching."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect import geometry
from detect.evaluate.matching import match
from detect.types import Annotations, Detections
from tests.evaluate.records import CLASSES, random_annotations, random_detections

SEEDS = st.integers(0, 10**6)


def made(seed: int, crowds: float = 0.0) -> tuple[Detections, Annotations]:
    """Cells and what was found of them."""
    rng = np.random.default_rng(seed)
    truth = random_annotations(rng, 12, crowds)
    return random_detections(rng, truth, 5), truth


@given(SEEDS, st.sampled_from([0.3, 0.5, 0.75]), st.booleans())
def test_each_cell_is_met_once_and_well_enough(seed: int, min_iou: float, by_class: bool) -> None:
    found, truth = made(seed, 0.2)
    got = match(found, truth, min_iou, by_class=by_class)
    met = got.truth_of[got.truth_of >= 0]
    assert len(np.unique(met)) == len(met)
    overlap = geometry.iou(found.boxes, truth.boxes)
    for i, j in enumerate(got.truth_of):
        if j < 0:
            assert got.iou[i] == 0
        else:
            assert overlap[i, j] == got.iou[i] >= min_iou
            assert not truth.crowd[j]
            assert not by_class or found.labels[i] == truth.labels[j]


@given(SEEDS)
def test_missed_and_met_are_all_cells(seed: int) -> None:
    found, truth = made(seed, 0.2)
    got = match(found, truth)
    met = got.truth_of[got.truth_of >= 0]
    assert sorted([*met, *got.missed]) == np.flatnonzero(~truth.crowd).tolist()


@given(SEEDS)
def test_nothing_that_could_meet_is_left_beside_a_free_cell(seed: int) -> None:
    found, truth = made(seed)
    got = match(found, truth)
    overlap = geometry.iou(found.boxes, truth.boxes)
    for i in np.flatnonzero(got.truth_of < 0):
        for j in got.missed:
            assert overlap[i, j] < 0.5 or found.labels[i] != truth.labels[j]


@given(SEEDS, st.floats(0.05, 0.95))
def test_lower_scores_change_no_match_above_them(seed: int, limit: float) -> None:
    found, truth = made(seed)
    kept = found.scores >= np.float32(limit)
    whole, part = match(found, truth), match(found.select(kept), truth)
    assert whole.truth_of[kept].tolist() == part.truth_of.tolist()


def test_the_better_score_meets_the_cell() -> None:
    truth = Annotations.of([[0, 0, 10, 10]], [0])
    found = Detections([[0, 0, 10, 10], [1, 0, 11, 10]], [0.4, 0.8], [0, 0], CLASSES)
    assert match(found, truth).truth_of.tolist() == [-1, 0]


def test_of_two_cells_the_more_overlapped_is_met() -> None:
    truth = Annotations.of([[3, 0, 13, 10], [1, 0, 11, 10]], [0, 0])
    found = Detections([[0, 0, 10, 10]], [0.9], [0], CLASSES)
    assert match(found, truth).truth_of.tolist() == [1]


def test_a_wrong_class_meets_its_cell_only_when_asked() -> None:
    truth = Annotations.of([[0, 0, 10, 10]], [0])
    found = Detections([[0, 0, 10, 10]], [0.9], [1], CLASSES)
    assert match(found, truth).truth_of.tolist() == [-1]
    assert match(found, truth, by_class=False).truth_of.tolist() == [0]


@pytest.mark.parametrize(("label", "ignored"), [(1, True), (0, False)])
def test_inside_a_crowd_of_its_class_is_neither_right_nor_wrong(label: int, ignored: bool) -> None:
    truth = Annotations.of([[0, 0, 100, 100]], [1], crowd=[True])
    found = Detections([[20, 20, 40, 40]], [0.9], [label], CLASSES)
    got = match(found, truth)
    assert got.truth_of.tolist() == [-1]
    assert got.ignored.tolist() == [ignored]
    assert len(got.missed) == 0


def test_nothing_against_nothing() -> None:
    none = Annotations.of(np.zeros((0, 4)), [])
    got = match(Detections.empty(CLASSES), none)
    assert (len(got.truth_of), len(got.missed)) == (0, 0)

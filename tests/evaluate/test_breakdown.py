"""Each kind of error, placed by hand, and sums over random fields."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect import geometry
from detect.evaluate.breakdown import ERRORS, FALSE, Kind, breakdown, judge
from detect.evaluate.matching import match
from detect.types import Annotations, Detections
from tests.evaluate.records import CLASSES, dataset, labelled, random_annotations, random_detections

ALL = frozenset(CLASSES.names)
CELL = [100, 100, 200, 200]


def one(box: list[int], label: int, *others: tuple[list[int], int]) -> tuple[Kind, int]:
    """The kind and partner of a detection beside a WBC (label 0) at `CELL`, and other cells."""
    truth = Annotations.of([CELL, *(b for b, _ in others)], [0, *(k for _, k in others)])
    judged = judge(Detections([box], [0.9], [label], CLASSES), truth, ALL)
    return judged.detections[0], int(judged.partner[0])


@pytest.mark.parametrize(
    ("box", "label", "kind", "partner"),
    [
        ([110, 100, 210, 200], 0, Kind.RIGHT, 0),
        ([160, 100, 260, 200], 0, Kind.MISPLACED, 0),
        ([110, 100, 210, 200], 1, Kind.WRONG_CLASS, 0),
        ([160, 100, 260, 200], 1, Kind.MISPLACED_WRONG_CLASS, 0),
        ([190, 100, 290, 200], 0, Kind.BACKGROUND, 0),  # IoU 0.05
        ([300, 300, 340, 340], 1, Kind.BACKGROUND, -1),
    ],
)
def test_each_kind(box: list[int], label: int, kind: Kind, partner: int) -> None:
    assert one(box, label) == (kind, partner)


def test_the_right_box_of_a_wrong_class_beside_a_neighbour_is_a_wrong_class() -> None:
    neighbour = ([170, 100, 270, 200], 1)  # an RBC that overlaps the box a little
    assert one([105, 100, 205, 200], 1, neighbour) == (Kind.WRONG_CLASS, 0)


def test_the_worse_of_two_on_a_cell_is_a_double() -> None:
    truth = Annotations.of([CELL], [0])
    found = Detections([CELL, [105, 100, 205, 200]], [0.6, 0.9], [0, 0], CLASSES)
    judged = judge(found, truth, ALL)
    assert judged.detections == (Kind.DOUBLE, Kind.RIGHT)
    assert judged.annotations == (Kind.FOUND,)
    assert judged.partner.tolist() == [0, 0]
    assert judged.iou[0] == 1


def test_crowds_and_classes_that_are_not_exhaustive_are_ignored() -> None:
    truth = Annotations.of([[0, 0, 200, 40], CELL], [1, 0], crowd=[True, False])
    found = Detections([[10, 10, 30, 30], [300, 0, 320, 20], CELL], [0.9, 0.8, 0.7], [1, 2, 0], CLASSES)
    judged = judge(found, truth, frozenset({"WBC", "RBC"}))
    assert judged.detections == (Kind.IGNORED, Kind.IGNORED, Kind.RIGHT)
    assert judged.annotations == (Kind.IGNORED, Kind.FOUND)


def test_nothing_drawn_and_nothing_found() -> None:
    none = Annotations.of([], [])
    assert judge(Detections.empty(CLASSES), none, ALL).detections == ()
    assert judge(Detections([CELL], [0.9], [0], CLASSES), none, ALL).detections == (Kind.BACKGROUND,)
    assert judge(Detections.empty(CLASSES), Annotations.of([CELL], [0]), ALL).annotations == (Kind.MISSED,)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.2]))
def test_kinds_agree_with_the_matching_and_their_partner(seed: int, crowds: float) -> None:
    rng = np.random.default_rng(seed)
    truth = random_annotations(rng, 12, crowds)
    found = random_detections(rng, truth, 5)
    judged, matches = judge(found, truth, ALL), match(found, truth)
    overlap = geometry.iou(found.boxes, truth.boxes)
    for i, kind in enumerate(judged.detections):
        assert (kind == Kind.RIGHT) == (matches.truth_of[i] >= 0)
        assert (kind == Kind.IGNORED) == matches.ignored[i]
        j = judged.partner[i]
        if kind in FALSE and j >= 0:
            assert judged.iou[i] == overlap[i, j]
            same = truth.labels[j] == found.labels[i]
            low, high = {
                Kind.BACKGROUND: (0, 0.1),
                Kind.MISPLACED: (0.1, 0.5),
                Kind.MISPLACED_WRONG_CLASS: (0.1, 0.5),
            }.get(kind, (0.5, 1.01))
            assert low <= overlap[i, j] < high
            if kind != Kind.BACKGROUND:
                assert same == (kind in (Kind.MISPLACED, Kind.DOUBLE))
    missed = [j for j, kind in enumerate(judged.annotations) if kind == Kind.MISSED]
    assert missed == matches.missed.tolist()


@given(st.integers(0, 10**6))
def test_the_order_of_the_cells_changes_no_kind(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = random_annotations(rng, 12)
    found = random_detections(rng, truth, 5)
    rows, columns = rng.permutation(len(found)), rng.permutation(len(truth))
    plain, turned = judge(found, truth, ALL), judge(found.select(rows), truth.select(columns), ALL)
    assert [plain.detections[i] for i in rows] == list(turned.detections)
    assert [plain.annotations[j] for j in columns] == list(turned.annotations)


def test_counts_and_rates_per_class() -> None:
    truth = Annotations.of([CELL, [250, 100, 300, 150]], [0, 1])
    found = Detections([CELL, CELL, [0, 0, 40, 40]], [0.9, 0.8, 0.7], [0, 0, 0], CLASSES)
    got = breakdown(dataset([labelled(truth)] * 2), [found] * 2, ["a", "b"], rounds=10)
    expected = dict.fromkeys(map(str, ERRORS), 0)
    assert got["WBC"].counts == expected | {"double": 2, "background": 2}
    assert got["WBC"].per_100["double"].value == 100
    assert got["RBC"].counts == expected | {"missed": 2}
    assert got["RBC"].per_100["missed"].high == 100
    assert np.isnan(got["Platelet"].per_100["missed"].value)

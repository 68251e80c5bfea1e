"""Doubts about labels: each kind of error is seen for what it is, and good labels next to it are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.review.doubt import Doubt, doubts
from detect.types import Annotations, ClassMap, Detections

CLASSES = ClassMap(("WBC", "RBC", "Platelet"))
ALL = list(CLASSES.names)


def cells(*rows: tuple[float, float, float, float]) -> list[list[float]]:
    return [list(row) for row in rows]


def found(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Detections:
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores), np.array(labels), CLASSES)


GOOD = cells((0, 0, 40, 40), (60, 0, 100, 40), (0, 60, 40, 100))
SEEN = found(GOOD, [0.95, 0.9, 0.97], [0, 1, 1])


def test_labels_that_the_model_shares_cast_little_doubt() -> None:
    told = doubts(SEEN, Annotations.of(GOOD, [0, 1, 1]), ALL)
    assert told.cells.max() < 0.15
    assert told.missing.max() == 0


def test_a_wrong_label_is_named_with_what_is_seen() -> None:
    told = doubts(SEEN, Annotations.of(GOOD, [0, 0, 1]), ALL)
    assert told.cells.argmax() == 1
    assert told.cells[1] == pytest.approx(0.9)
    assert told.kinds[1] is Doubt.LABEL
    assert told.says[1] == "RBC"
    assert told.cells[[0, 2]].max() < 0.15


def test_a_moved_box_is_doubted_once() -> None:
    boxes = cells((0, 0, 40, 40), (75, 12, 115, 52), (0, 60, 40, 100))
    told = doubts(SEEN, Annotations.of(boxes, [0, 1, 1]), ALL)
    assert told.cells.argmax() == 1
    assert told.kinds[1] is Doubt.PLACE
    assert told.cells[1] > 0.85
    assert told.missing.max() == 0  # the detection belongs to the moved box, it is no missing cell


def test_a_cell_that_nobody_drew_is_missing_once() -> None:
    twice = found([*GOOD, GOOD[1]], [0.95, 0.9, 0.97, 0.4], [0, 1, 1, 0])
    told = doubts(twice, Annotations.of([GOOD[0], GOOD[2]], [0, 1]), ALL)
    assert told.missing.tolist() == pytest.approx([0, 0.9, 0, 0])


def test_nothing_is_missing_of_a_class_of_which_not_every_cell_is_drawn() -> None:
    told = doubts(SEEN, Annotations.of([GOOD[0]], [0]), ["WBC"])
    assert told.missing.max() == 0


def test_a_drawn_cell_that_is_not_seen_is_doubted() -> None:
    told = doubts(SEEN, Annotations.of([*GOOD, [60, 60, 90, 90]], [0, 1, 1, 2]), ALL)
    assert told.kinds[3] is Doubt.NOTHING
    assert 0.5 < told.cells[3] < 1


def test_of_two_boxes_around_one_cell_the_second_is_doubted() -> None:
    told = doubts(SEEN, Annotations.of([*GOOD, [61, 1, 100, 40]], [0, 1, 1, 1]), ALL)
    assert told.kinds[3] is Doubt.TWICE
    assert told.cells[3] > 0.8
    assert told.cells[1] < 0.15


def test_crowds_are_not_doubted() -> None:
    told = doubts(found([], [], []), Annotations.of([GOOD[0]], [1], crowd=[True]), ALL)
    assert told.cells.tolist() == [0]


@given(
    st.lists(st.tuples(*[st.floats(0, 90)] * 2, *[st.floats(1, 60)] * 2, st.integers(0, 2)), max_size=8),
    st.lists(
        st.tuples(*[st.floats(0, 90)] * 2, *[st.floats(1, 60)] * 2, st.integers(0, 2), st.floats(0, 1)), max_size=8
    ),
)
def test_doubts_are_probabilities(drawn: list[tuple[float, ...]], seen: list[tuple[float, ...]]) -> None:
    truth = Annotations.of([[x, y, x + w, y + h] for x, y, w, h, _ in drawn], [int(d[4]) for d in drawn])
    boxes = [[x, y, x + w, y + h] for x, y, w, h, *_ in seen]
    told = doubts(found(boxes, [s[5] for s in seen], [int(s[4]) for s in seen]), truth, ALL)
    assert len(told.cells) == len(told.kinds) == len(told.says) == len(drawn)
    assert len(told.missing) == len(seen)
    for values in (told.cells, told.missing):
        assert ((values >= 0) & (values <= 1)).all()

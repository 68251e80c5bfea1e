"""Records refuse columns that do not fit together, and keep them together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.errors import MissingExtraError, RecordError, SmearError
from detect.types import Annotations, ClassMap, Detections

CLASSES = ClassMap(("WBC", "RBC"))


def detections(n: int = 3, **changed: Any) -> Detections:
    boxes = np.array([[i, i, i + 10, i + 20] for i in range(n)], np.float32).reshape(n, 4)
    columns: dict[str, Any] = {"boxes": boxes, "scores": np.linspace(0.9, 0.5, n), "labels": np.zeros(n, int)}
    return Detections(**{**columns, "classes": CLASSES, **changed})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"boxes": np.zeros((3, 5))}, r"boxes: expected shape \(3, 4\), got \(3, 5\)"),
        ({"boxes": np.zeros((2, 4))}, r"scores: expected shape \(2,\), got \(3,\)"),
        ({"scores": [0.5, 0.5]}, r"scores: expected shape \(3,\), got \(2,\)"),
        ({"scores": [0.5, 0.5, 1.5]}, r"scores: expected \[0, 1\], got 0.5 to 1.5"),
        ({"scores": [0.5, 0.5, -0.1]}, r"scores: expected \[0, 1\]"),
        ({"scores": [0.5, 0.5, np.nan]}, r"scores: expected \[0, 1\]"),
        ({"labels": [0, 1]}, r"labels: expected shape \(3,\), got \(2,\)"),
        ({"labels": [0, 1, 2]}, "labels: expected 0 to 1"),
        ({"labels": [0, 1, -1]}, "labels: expected 0 to 1"),
        ({"boxes": np.full((3, 4), np.nan)}, "not finite"),
        ({"boxes": np.full((3, 4), np.inf)}, "not finite"),
        ({"masks": ({},)}, "masks: expected 3, got 1"),
    ],
)
def test_detections_refuse_what_does_not_fit(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(RecordError, match=said):
        detections(**changed)


def test_columns_take_the_types_of_the_convention() -> None:
    made = Detections([[0, 0, 1, 1]], [1], [1.0], CLASSES)  # type: ignore[arg-type]
    assert (made.boxes.dtype, made.scores.dtype, made.labels.dtype) == (np.float32, np.float32, np.int64)


def test_empty_detections() -> None:
    none = Detections.empty(CLASSES)
    assert len(none) == 0
    assert none.boxes.shape == (0, 4)
    assert len(none.ordered()) == 0
    assert len(Detections([], [], [], CLASSES)) == 0  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 4), max_size=8))
def test_selection_keeps_every_column_together(rows: list[int]) -> None:
    masks = tuple({"size": [9, 9], "counts": bytes([i])} for i in range(5))
    whole = detections(5, masks=masks, labels=[0, 1, 0, 1, 0], capped=True)
    part = whole.select(rows)
    assert len(part) == len(rows)
    for new, old in enumerate(rows):
        assert part.boxes[new].tolist() == whole.boxes[old].tolist()
        assert part.scores[new] == whole.scores[old]
        assert part.labels[new] == whole.labels[old]
        assert part.masks is not None
        assert part.masks[new] is masks[old]
    assert part.capped
    assert part.classes is CLASSES


def test_selection_by_truth_is_selection_by_position() -> None:
    whole = detections(4)
    truth = np.array([True, False, True, False])
    np.testing.assert_array_equal(whole.select(truth).boxes, whole.select([0, 2]).boxes)
    assert len(whole.select(np.zeros(4, bool))) == 0
    assert len(whole.select([])) == 0


@pytest.mark.parametrize("length", [1, 3, 6])
def test_selection_by_truth_of_another_length_is_refused(length: int) -> None:
    with pytest.raises((RecordError, IndexError)):
        detections(4).select(np.ones(length, bool))


def test_order_is_score_then_x_then_y_then_label() -> None:
    boxes = [[5, 0, 9, 9], [1, 7, 9, 9], [1, 2, 9, 9], [1, 2, 9, 9], [0, 0, 1, 1]]
    made = Detections(boxes, [0.5, 0.5, 0.5, 0.5, 0.4], [0, 0, 1, 0, 0], CLASSES)  # type: ignore[arg-type]
    ordered = made.ordered()
    assert ordered.boxes[:, :2].tolist() == [[1, 2], [1, 2], [1, 7], [5, 0], [0, 0]]
    assert ordered.labels.tolist() == [0, 1, 0, 0, 0]


@given(st.permutations(range(6)))
def test_order_does_not_depend_on_the_order_given(order: list[int]) -> None:
    scores = np.array([0.5, 0.5, 0.9, 0.1, 0.5, 0.9], np.float32)
    whole = detections(6, scores=scores)
    np.testing.assert_array_equal(whole.select(order).ordered().boxes, whole.ordered().boxes)


def test_annotations_fill_in_the_usual_values() -> None:
    made = Annotations.of([[0, 0, 1, 1], [1, 1, 2, 2]], [1, 0])
    assert made.ids == (1, 2)
    assert made.crowd.tolist() == [False, False]
    assert made.masks == (None, None)
    assert made.extra == ({}, {})
    assert len(Annotations.of([], [])) == 0


@pytest.mark.parametrize("short", ["ids", "extra", "masks"])
def test_annotations_refuse_short_columns(short: str) -> None:
    with pytest.raises(RecordError, match=f"{short}: expected 2, got 1"):
        Annotations.of(np.zeros((2, 4)), [0, 0], **{short: [{}]})  # type: ignore[arg-type]


def test_annotations_select_keeps_ids_and_extras() -> None:
    made = Annotations.of(np.eye(4), [0, 1, 2, 3], ids=[7, 9, 40, 2], extra=[{"n": i} for i in range(4)])
    part = made.select([2, 0])
    assert part.ids == (40, 7)
    assert [e["n"] for e in part.extra] == [2, 0]
    assert part.labels.tolist() == [2, 0]


def test_a_class_map_refuses_repeats_and_nothing() -> None:
    with pytest.raises(RecordError, match="at least one name"):
        ClassMap(())
    with pytest.raises(RecordError, match="class names repeat"):
        ClassMap(("WBC", "RBC", "WBC"))


def test_a_class_map_lists_its_names_where_one_is_unknown() -> None:
    assert [CLASSES.index(name) for name in CLASSES] == [0, 1]
    assert len(CLASSES) == 2
    with pytest.raises(RecordError, match=r"no class 'person'; the classes are \['WBC', 'RBC'\]"):
        CLASSES.index("person")


def test_an_error_says_where_what_and_the_remedy() -> None:
    error = SmearError("3 is not 4", where="a.yaml:7", remedy="count again")
    assert str(error) == "a.yaml:7: 3 is not 4\n  remedy: count again"
    assert str(SmearError("3 is not 4")) == "3 is not 4"
    missing = MissingExtraError("review", "review")
    assert "smear-detect[review]" in str(missing)
    assert isinstance(missing, SmearError)

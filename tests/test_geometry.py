"""Box algebra against torchvision, and by round trip."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from detect import geometry

UPRIGHT = (
    st.integers(0, 12)
    .flatmap(
        lambda n: st.tuples(
            hnp.arrays(np.float32, (n, 2), elements=st.floats(-50, 600, width=32)),
            hnp.arrays(np.float32, (n, 2), elements=st.floats(0, 300, width=32)),
        )
    )
    .map(lambda pair: np.concatenate([pair[0], pair[0] + pair[1]], axis=1).astype(np.float32))
)


def crowd(n: int, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Many overlapping cells with distinct scores."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 400, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 120, (n, 2))], axis=1).astype(np.float32)
    scores = rng.permutation(np.linspace(0.01, 0.99, n)).astype(np.float32)
    return boxes, scores, rng.integers(0, classes, n)


@given(UPRIGHT, UPRIGHT)
def test_iou_is_that_of_torchvision(a: np.ndarray, b: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    expected = ops.box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    # torchvision divides 0 by 0 where both boxes are empty; we say that they share nothing.
    np.testing.assert_allclose(geometry.iou(a, b), np.nan_to_num(expected, nan=0.0), atol=1e-5)


@given(UPRIGHT)
def test_iou_with_itself_is_one_unless_it_is_empty(a: np.ndarray) -> None:
    own = np.diag(geometry.iou(a, a))
    np.testing.assert_allclose(own, (geometry.area(a) > 0).astype(np.float32), atol=1e-6)


@given(UPRIGHT, UPRIGHT)
def test_iou_is_symmetric_and_within_zero_and_one(a: np.ndarray, b: np.ndarray) -> None:
    found = geometry.iou(a, b)
    assert found.shape == (len(a), len(b))
    assert found.dtype == np.float32
    assert ((found >= 0) & (found <= 1 + 1e-6)).all()
    np.testing.assert_array_equal(found, geometry.iou(b, a).T)


def test_touching_boxes_share_nothing_because_boxes_are_half_open() -> None:
    boxes = np.array([[0, 0, 10, 10], [10, 0, 20, 10], [5, 0, 15, 10]], np.float32)
    assert geometry.iou(boxes[:1], boxes[1:]).tolist() == [[0.0, pytest.approx(1 / 3)]]


def test_a_box_turned_inside_out_has_no_area() -> None:
    assert geometry.area(np.array([[10, 10, 5, 20], [0, 0, 2, 3]], np.float32)).tolist() == [0, 6]


@pytest.mark.parametrize("threshold", [0.2, 0.45, 0.7])
@pytest.mark.parametrize("seed", range(4))
def test_nms_is_that_of_torchvision(seed: int, threshold: float) -> None:
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    boxes, scores, labels = crowd(200, seed)
    overlaps = geometry.iou(boxes, boxes)
    assert np.abs(overlaps - threshold).min() > 1e-7  # rounding decides nothing here
    expected = ops.batched_nms(*map(torch.from_numpy, (boxes, scores, labels)), threshold).numpy()
    kept = geometry.nms(boxes, scores, labels, threshold)
    assert len(kept) < 200
    np.testing.assert_array_equal(kept, expected)


@given(UPRIGHT, st.integers(0, 1000), st.floats(0.05, 0.95))
def test_nms_keeps_no_rivals_and_drops_none_without_a_better_one(boxes: np.ndarray, seed: int, at: float) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, len(boxes)).astype(np.float32) / 4  # ties are frequent
    labels = rng.integers(0, 2, len(boxes))
    kept = geometry.nms(boxes, scores, labels, at)
    rivals = (geometry.iou(boxes, boxes) > at) & (labels[:, None] == labels)
    np.fill_diagonal(rivals, False)
    assert not rivals[np.ix_(kept, kept)].any()
    for i in set(range(len(boxes))) - set(kept.tolist()):
        assert any(rivals[i, k] and scores[k] >= scores[i] for k in kept)
    ranks = [(-scores[k], k) for k in kept]
    assert ranks == sorted(ranks)


def test_nms_of_equal_scores_keeps_the_first() -> None:
    boxes = np.array([[0, 0, 10, 10]] * 3, np.float32)
    same = np.full(3, 0.5, np.float32)
    assert geometry.nms(boxes, same, np.array([0, 0, 1]), 0.5).tolist() == [0, 2]


def test_nms_drops_only_above_the_threshold() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)  # IoU is exactly one half
    scores, labels = np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64)
    assert geometry.nms(boxes, scores, labels, 0.5).tolist() == [0, 1]
    assert geometry.nms(boxes, scores, labels, 0.49).tolist() == [0]


@pytest.mark.parametrize("n", [0, 1])
def test_nms_of_few(n: int) -> None:
    boxes, scores, labels = crowd(n, 0)
    kept = geometry.nms(boxes, scores, labels, 0.5)
    assert kept.dtype == np.int64
    assert kept.tolist() == list(range(n))


@given(UPRIGHT)
def test_clip_stays_inside_and_leaves_inner_boxes_alone(boxes: np.ndarray) -> None:
    cut = geometry.clip(boxes, 320, 240)
    assert cut.dtype == np.float32
    assert ((cut >= 0) & (cut <= [320, 240, 320, 240])).all()
    inside = ((boxes >= 0) & (boxes <= [320, 240, 320, 240])).all(axis=1)
    np.testing.assert_array_equal(cut[inside], boxes[inside])
    np.testing.assert_allclose(geometry.area(cut), geometry.intersection(boxes, whole(320, 240))[:, 0], rtol=1e-3)


def whole(width: int, height: int) -> np.ndarray:
    return np.array([[0, 0, width, height]], np.float32)


@given(UPRIGHT)
def test_corner_form_round_trip(boxes: np.ndarray) -> None:
    back = geometry.from_xywh(geometry.to_xywh(boxes))
    np.testing.assert_array_equal(back, boxes)


@given(UPRIGHT, st.integers(1, 5000), st.integers(1, 5000))
def test_centre_form_round_trip(boxes: np.ndarray, width: int, height: int) -> None:
    assume(len(boxes))
    centres = geometry.to_centers(boxes, width, height)
    np.testing.assert_allclose(geometry.from_centers(centres, width, height), boxes, atol=1e-3)


def test_forms_by_hand() -> None:
    box = np.array([[10, 20, 30, 60]], np.float32)
    assert geometry.to_xywh(box).tolist() == [[10, 20, 20, 40]]
    np.testing.assert_allclose(geometry.to_centers(box, 100, 80), [[0.2, 0.5, 0.2, 0.5]])
    empty = np.zeros((0, 4))
    assert geometry.from_centers(empty, 10, 10).shape == geometry.from_xywh(empty).shape == (0, 4)


@given(UPRIGHT)
def test_forms_are_those_of_torchvision(boxes: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    for form, ours in (("xywh", geometry.to_xywh(boxes)), ("cxcywh", geometry.to_centers(boxes, 1, 1))):
        expected = ops.box_convert(torch.from_numpy(boxes), "xyxy", form).numpy()
        np.testing.assert_allclose(ours, expected, atol=1e-3)

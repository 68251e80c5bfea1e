"""Our AP against pycocotools' own, run here on its own from plain boxes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detect.errors import RecordError
from detect.evaluate.coco_ap import SIZES, Ap, masked, mean_and_each
from detect.types import Annotations, Dataset, Detections, Rle
from tests.evaluate.records import CLASSES, SIDE, dataset, labelled, random_set


def coco_precision(
    data: Dataset, found: Sequence[Detections], cap: int = 300, size: int = 0, masks: bool = False
) -> np.ndarray:
    """pycocotools' precision, (10 IoUs, 101 recalls, classes), one area range, `cap` detections; -1 if undefined."""
    truth, results = COCO(), []
    rows = []
    for i, field in enumerate(data.fields):
        cells = field.annotations
        columns = zip(cells.boxes.tolist(), cells.labels, cells.crowd, cells.masks, strict=True)
        for box, label, crowd, mask in columns:
            x0, y0, x1, y1 = box
            row = {"id": len(rows) + 1, "image_id": i + 1, "category_id": int(label) + 1, "iscrowd": int(crowd)}
            rows.append(row | {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)})
            if masks:
                rows[-1] |= {"segmentation": mask, "area": float(rle.area(mask))}
        columns = (found[i].boxes.tolist(), found[i].labels, found[i].scores)
        for k, (box, label, score) in enumerate(zip(*columns, strict=True)):
            x0, y0, x1, y1 = box
            row = {"image_id": i + 1, "category_id": int(label) + 1, "score": float(score)}
            shape = {"segmentation": found[i].masks[k]} if masks else {"bbox": [x0, y0, x1 - x0, y1 - y0]}
            results.append(row | shape)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.dataset = {
            "info": {},
            "images": [{"id": i + 1, "height": 400, "width": 400} for i in range(len(data))],
            "categories": [{"id": k + 1, "name": n} for k, n in enumerate(data.classes.names)],
            "annotations": rows,
        }
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(results), "segm" if masks else "bbox")
        evaluator.params.maxDets = [1, 10, cap]  # areaRng stays pycocotools' own
        evaluator.evaluate()
        evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"])[:, :, :, size, -1]


def mean_of(precision: np.ndarray) -> float:
    """As COCOeval.summarize takes the mean."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else float("nan")


def check_same(data: Dataset, found: Sequence[Detections], cap: int = 300) -> None:
    """Mean and per-class figures equal pycocotools'."""
    expected = coco_precision(data, found, cap)
    got = Ap(data, found, cap).report(rounds=2)
    assert got.map50.value == pytest.approx(mean_of(expected[0]), abs=1e-9, nan_ok=True)
    assert got.map50_95.value == pytest.approx(mean_of(expected), abs=1e-9, nan_ok=True)
    for k, name in enumerate(data.classes.names):
        if (expected[:, :, k] > -1).any():
            ap50, ap = got.per_class[name]
            assert ap50.value == pytest.approx(mean_of(expected[0, :, k]), abs=1e-9)
            assert ap.value == pytest.approx(mean_of(expected[:, :, k]), abs=1e-9)
        else:
            assert name not in got.per_class


@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools(seed: int) -> None:
    data, found = random_set(seed, 10, groups=4)
    assert sum(map(len, found)) > 30
    check_same(data, found)


@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools_with_crowds(seed: int) -> None:
    data, found = random_set(seed, 10, crowds=0.25, groups=3)
    assert any(f.annotations.crowd.any() for f in data.fields)
    check_same(data, found)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([0.0, 0.3]))
def test_equals_pycocotools_whatever_the_data(seed: int, fields: int, crowds: float) -> None:
    data, found = random_set(seed, fields, crowds=crowds)
    if any(len(d) for d in found):
        check_same(data, found)


def test_equals_pycocotools_where_the_cap_cuts() -> None:
    data, found = random_set(3, 6)
    assert max(np.bincount(d.labels, minlength=3).max(initial=0) for d in found) > 2
    check_same(data, found, cap=2)


def test_tied_scores_keep_the_order_of_pycocotools() -> None:
    data, found = random_set(11, 8)
    coarse = [Detections(d.boxes, np.round(d.scores, 1), d.labels, CLASSES) for d in found]
    check_same(data, coarse)


def test_perfect_and_absent_predictions() -> None:
    data, _ = random_set(5, 6)
    perfect = [
        Detections(f.annotations.boxes, np.full(len(f.annotations), 0.9), f.annotations.labels, CLASSES)
        for f in data.fields
    ]
    assert Ap(data, perfect).report(rounds=5).map50_95.value == pytest.approx(1.0)
    nothing = Ap(data, [Detections.empty(CLASSES)] * len(data)).report(rounds=5)
    assert nothing.map50.value == 0.0
    assert nothing.per_class["RBC"][0].value == 0.0


def test_fields_drawn_several_times_weigh_as_often() -> None:
    data, found = random_set(8, 6, crowds=0.15)
    weights = [2, 0, 1, 3, 0, 1]
    fields = [f for f, w in zip(data.fields, weights, strict=True) for _ in range(w)]
    expected = coco_precision(dataset(fields), [d for d, w in zip(found, weights, strict=True) for _ in range(w)])
    got = mean_and_each(Ap(data, found).matched, np.array([weights], np.float64))[0]
    assert got[0] == pytest.approx(mean_of(expected[0]), abs=1e-9)
    assert got[1] == pytest.approx(mean_of(expected), abs=1e-9)


def test_one_group_has_no_spread() -> None:
    data, found = random_set(4, 6, groups=1)
    report = Ap(data, found).report(rounds=20)
    assert report.map50.low == report.map50.value == report.map50.high
    assert report.map50_95.low == report.map50_95.value == report.map50_95.high


def test_limits_hold_the_figure_and_come_again() -> None:
    data, found = random_set(9, 30, groups=30)
    report = Ap(data, found).report(rounds=200, seed=3)
    assert report.map50.low < report.map50.value < report.map50.high
    assert report == Ap(data, found).report(rounds=200, seed=3)


def test_a_class_that_is_not_exhaustive_has_no_ap() -> None:
    data, found = random_set(2, 8, exhaustive=("WBC", "Platelet"))
    report = Ap(data, found).report(rounds=5)
    whole, _ = random_set(2, 8)
    per_class = Ap(whole, found).report(rounds=5).per_class
    assert set(report.per_class) == {"WBC", "Platelet"}
    mean = (per_class["WBC"][0].value + per_class["Platelet"][0].value) / 2
    assert report.map50.value == pytest.approx(mean)


def test_curve_falls_and_its_mean_is_ap50() -> None:
    data, found = random_set(6, 10)
    ap = Ap(data, found)
    precision, score = ap.curve("RBC")
    reached = ~np.isnan(precision)
    assert (np.diff(precision[reached]) <= 1e-12).all()
    assert (np.diff(score[reached]) <= 0).all()
    assert np.nan_to_num(precision).mean() == pytest.approx(ap.report(rounds=2).per_class["RBC"][0].value)


def few_of_two_classes(scores: Sequence[float], labels: Sequence[int]) -> tuple[Dataset, list[Detections]]:
    """One field, each detection on its own cell."""
    boxes = np.array([[20 * i, 0, 20 * i + 10, 10] for i in range(len(labels))], np.float32)
    data = dataset([labelled(Annotations.of(boxes, labels))])
    return data, [Detections(boxes, np.array(scores, np.float32), np.array(labels), CLASSES)]


def test_a_field_that_reaches_the_cap_in_a_class_is_counted() -> None:
    data, found = few_of_two_classes([0.9, 0.8, 0.7], [0, 0, 0])
    assert Ap(data, found, cap=3).report(rounds=2).capped_fields == 1


def test_the_cap_is_per_class_and_so_is_its_warning() -> None:
    data, found = few_of_two_classes([0.9, 0.8, 0.7, 0.6], [0, 0, 1, 1])
    assert Ap(data, found, cap=3).report(rounds=2).capped_fields == 0


def grown(data: Dataset, found: Sequence[Detections]) -> tuple[Dataset, list[Detections]]:
    """The same with some cells three times as large, so that every size of COCO is there."""
    rng = np.random.default_rng(1)

    def boxes(b: np.ndarray) -> np.ndarray:
        factor = np.where(b[:, :1] % 3 < 1, 3, 1)  # by place, so that a cell and what found it mostly grow alike
        return np.concatenate([b[:, :2], b[:, :2] + (b[:, 2:] - b[:, :2]) * factor], axis=1)

    fields = []
    out = []
    for f, d in zip(data.fields, found, strict=True):
        fields.append(replace(f, annotations=replace(f.annotations, boxes=boxes(f.annotations.boxes))))
        out.append(replace(d, boxes=boxes(d.boxes + rng.uniform(0, 0.1, d.boxes.shape).astype(np.float32))))
    return replace(data, fields=tuple(fields)), out


def check_sizes(data: Dataset, found: Sequence[Detections], masks: bool = False, cap: int = 300) -> None:
    """Every area range equals pycocotools'."""
    slices = {s.name: s for s in Ap(data, found, cap, masks=masks).sizes(rounds=2)}
    for number, size in enumerate(SIZES):
        expected = coco_precision(data, found, cap, number, masks)
        if size == "all" or not (expected > -1).any():
            assert size == "all" or size not in slices
            continue
        assert slices[size].map50.value == pytest.approx(mean_of(expected[0]), abs=1e-9)
        assert slices[size].map50_95.value == pytest.approx(mean_of(expected), abs=1e-9)
        for k, name in enumerate(data.classes.names):
            if (expected[:, :, k] > -1).any():
                assert slices[size].per_class[name][1].value == pytest.approx(mean_of(expected[:, :, k]), abs=1e-9)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3]), st.sampled_from([3, 300]))
def test_sizes_equal_pycocotools(seed: int, crowds: float, cap: int) -> None:
    data, found = grown(*random_set(seed, 6, crowds=crowds))
    if any(len(d) for d in found):
        check_sizes(data, found, cap=cap)


def test_every_size_is_there_and_counted() -> None:
    data, found = grown(*random_set(2, 20))
    sizes = Ap(data, found).sizes(rounds=2)
    assert [s.name for s in sizes] == ["small", "medium", "large"]
    assert sum(sum(s.cells.values()) for s in sizes) == sum(len(f.annotations) for f in data.fields)
    check_sizes(data, found)


def ellipses(boxes: np.ndarray) -> tuple[Rle, ...]:
    """A mask in each box."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    out = []
    for x0, y0, x1, y1 in boxes.astype(float):
        inside = ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1
        out.append(dict(rle.encode(np.asfortranarray(inside.astype(np.uint8)))))
    return tuple(out)


def with_masks(seed: int, crowds: float = 0.0) -> tuple[Dataset, list[Detections]]:
    """A random set in which everything has a mask."""
    data, found = grown(*random_set(seed, 5, crowds=crowds))
    fields = [replace(f, annotations=replace(f.annotations, masks=ellipses(f.annotations.boxes))) for f in data.fields]
    return replace(data, fields=tuple(fields)), [replace(d, masks=ellipses(d.boxes)) for d in found]


@pytest.mark.parametrize(("seed", "crowds"), [(1, 0.0), (2, 0.0), (3, 0.3), (4, 0.3)])
def test_masks_equal_pycocotools(seed: int, crowds: float) -> None:
    data, found = with_masks(seed, crowds)
    expected = coco_precision(data, found, masks=True)
    got = Ap(data, found, masks=True).report(rounds=2)
    assert got.map50.value == pytest.approx(mean_of(expected[0]), abs=1e-9)
    assert got.map50_95.value == pytest.approx(mean_of(expected), abs=1e-9)
    assert got.map50_95.value != pytest.approx(Ap(data, found).report(rounds=2).map50_95.value, abs=1e-6)
    check_sizes(data, found, masks=True)


def test_fields_without_masks_are_left_out_of_their_ap() -> None:
    data, found = with_masks(1)
    assert len(data.fields[0].annotations)
    bare = replace(
        data.fields[0], annotations=replace(data.fields[0].annotations, masks=(None,) * len(data.fields[0].annotations))
    )
    mixed = replace(data, fields=(bare, *data.fields[1:]))
    kept = masked(mixed, found)
    assert kept is not None
    assert kept[0].fields == data.fields[1:]
    assert len(kept[1]) == 4
    assert masked(mixed, [replace(d, masks=None) for d in found]) is None
    with pytest.raises(RecordError, match="no mask"):
        Ap(mixed, found, masks=True)


def test_kinds_of_fields_are_measured_alone() -> None:
    data, found = random_set(8, 12, groups=6)
    kinds = ["100 to 200 px" if i % 3 else "20 to 100 px" for i in range(12)]
    slices = Ap(data, found).by(kinds, rounds=20)
    assert [s.name for s in slices] == ["20 to 100 px", "100 to 200 px"]
    for s in slices:
        rows = [i for i, kind in enumerate(kinds) if kind == s.name]
        alone = Ap(dataset([data.fields[i] for i in rows]), [found[i] for i in rows]).report(rounds=20)
        assert s.n_fields == len(rows)
        assert (s.map50, s.map50_95, s.per_class) == (alone.map50, alone.map50_95, alone.per_class)


def test_two_detectors_side_by_side_are_each_themselves() -> None:
    data, found = random_set(8, 7, crowds=0.1)
    one, two = Ap(data, found), Ap(data, [d.select(d.scores > 0.4) for d in found])
    both = {n: m.beside(two.matched[n]) for n, m in one.matched.items()}
    on, off = np.ones((1, 7)), np.zeros((1, 7))
    for first, second, alone in ((on, off, one), (off, on, two)):
        got = mean_and_each(both, np.concatenate([first, second], axis=1))
        assert got[0] == pytest.approx(mean_and_each(alone.matched, on)[0])

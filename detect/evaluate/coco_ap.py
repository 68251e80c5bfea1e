"""COCO average precision of boxes or masks through pycocotools, and its bootstrap over groups.

pycocotools matches once; what it matched is then counted again for each bootstrap draw by the same rule
(101 recall points, precision made monotone), with fields weighted by how often they were drawn. With all weights
1 this gives pycocotools' own figures, which a test asserts, for all cells and for each of COCO's sizes.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detect import geometry
from detect.errors import RecordError
from detect.evaluate.intervals import Interval, intervals
from detect.types import Annotations, Dataset, Detections, LabelledField

IOUS = np.linspace(0.5, 0.95, 10)
SIZES: Mapping[str, tuple[float, float]] = {  # COCO's, square pixels; the order is pycocotools'
    "all": (0, 1e5**2),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e5**2),
}
_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, eq=False)
class Matched:
    """What pycocotools matched of one class, detections from the best score down.

    Attributes:
        fields: int64 (detections,), position of each one's field. scores: float64 (detections,).
        hit, counted: bool (10, detections), per IoU of `IOUS`; not counted is what met a crowd or another size.
        truths: float64 (fields,), cells drawn.
    """

    fields: NDArray[np.int64]
    scores: NDArray[np.float64]
    hit: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    truths: NDArray[np.float64]

    def of(self, keep: NDArray[np.bool_]) -> Matched:
        """Only the fields of `keep`, bool (fields,), counted anew from 0."""
        rows = keep[self.fields]
        number = np.cumsum(keep) - 1
        return Matched(
            number[self.fields[rows]], self.scores[rows], self.hit[:, rows], self.counted[:, rows], self.truths[keep]
        )

    def beside(self, other: Matched) -> Matched:
        """Both as one list over twice the fields, the other's behind: for weights that mix two detectors."""
        scores = np.concatenate([self.scores, other.scores])
        order = np.argsort(-scores, kind="mergesort")
        return Matched(
            np.concatenate([self.fields, other.fields + len(self.truths)])[order],
            scores[order],
            np.concatenate([self.hit, other.hit], axis=1)[:, order],
            np.concatenate([self.counted, other.counted], axis=1)[:, order],
            np.concatenate([self.truths, other.truths]),
        )


@dataclass(frozen=True)
class ApReport:
    """AP with 95 % intervals.

    Attributes:
        per_class: class to (AP50, AP50-95); classes without a cell in the set are left out.
        cap: most detections of one class in one field that were counted. capped_fields: fields that reached it.
    """

    map50: Interval
    map50_95: Interval
    per_class: dict[str, tuple[Interval, Interval]]
    cap: int
    capped_fields: int


@dataclass(frozen=True)
class ApSlice:
    """AP within one size of cells, or one kind of fields.

    Attributes:
        cells: class to cells drawn there. per_class: class to (AP50, AP50-95), classes without a cell left out.
    """

    name: str
    n_fields: int
    n_groups: int
    cells: dict[str, int]
    map50: Interval
    map50_95: Interval
    per_class: dict[str, tuple[Interval, Interval]]


class Ap:
    """AP of predictions on labelled fields.

    Args:
        dataset: fields under the model's classes (see `align`).
        found: predictions per field, in the order of the fields, down to low scores.
        cap: COCO's maxDets, per field and class.
        masks: overlap of masks in place of boxes; each cell and each detection must then have one (see `masked`).

    Raises:
        RecordError: `masks` was asked for and a cell or a detection has none.
    """

    def __init__(self, dataset: Dataset, found: Sequence[Detections], cap: int = 300, *, masks: bool = False) -> None:
        self._dataset = dataset
        self._cap = cap
        self.evaluator = _evaluate(dataset, found, cap, masks)
        whole = [k for k, name in enumerate(dataset.classes.names) if name in dataset.exhaustive_for]
        self._sizes = {
            size: {dataset.classes.names[k]: self._collect(k, a) for k in whole} for a, size in enumerate(SIZES)
        }
        self.groups = [f.field.group or f.field.id for f in dataset.fields]
        self.capped_fields = sum(bool(d.capped or np.bincount(d.labels, minlength=1).max() >= cap) for d in found)

    @property
    def matched(self) -> Mapping[str, Matched]:
        """Exhaustive class to what was matched of it, cells of every size."""
        return self._sizes["all"]

    def _collect(self, k: int, size: int) -> Matched:
        n = len(self._dataset)
        e: Any = self.evaluator
        start = (k * len(SIZES) + size) * n
        images = e.evalImgs[start : start + n]
        positions, scores, hits, counted = [], [], [], []
        truths = np.zeros(n)
        for i, image in enumerate(images):
            if image is None:
                continue
            truths[i] = np.sum(np.asarray(image["gtIgnore"]) == 0)
            d = len(image["dtScores"])
            positions.append(np.full(d, i, np.int64))
            scores.append(np.asarray(image["dtScores"], np.float64))
            ignored = np.asarray(image["dtIgnore"], bool).reshape(len(IOUS), d)
            hits.append((np.asarray(image["dtMatches"]).reshape(len(IOUS), d) > 0) & ~ignored)
            counted.append(~ignored)
        if not positions:
            none = np.zeros((len(IOUS), 0), bool)
            return Matched(np.zeros(0, np.int64), np.zeros(0), none, none, truths)
        score = np.concatenate(scores)
        hit, count = np.concatenate(hits, axis=1), np.concatenate(counted, axis=1)
        order = np.argsort(-score, kind="mergesort")
        order = order[np.any(count, axis=0)[order]]
        return Matched(np.concatenate(positions)[order], score[order], hit[:, order], count[:, order], truths)

    def report(self, *, rounds: int = 1000, seed: int = 1) -> ApReport:
        """Figures with intervals by bootstrap over the fields' groups."""
        got = _intervals(self.matched, self.groups, rounds, seed)
        return ApReport(*got, self._cap, self.capped_fields)

    def sizes(self, *, rounds: int = 1000, seed: int = 1) -> tuple[ApSlice, ...]:
        """AP of small, medium and large cells, by COCO's areas; a size without cells is left out.

        What is small in pixels depends on the magnification too: see `by`.
        """
        out = [_slice(n, m, self.groups, rounds, seed) for n, m in self._sizes.items() if n != "all"]
        return tuple(s for s in out if any(s.cells.values()))

    def by(self, kinds: Sequence[str], *, rounds: int = 1000, seed: int = 1) -> tuple[ApSlice, ...]:
        """AP of the fields of each kind, in the order of the names; one kind per field."""
        out = []
        for kind in dict.fromkeys(sorted(kinds, key=natural)):
            keep = np.array([k == kind for k in kinds], bool)
            groups = [g for g, kept in zip(self.groups, keep, strict=True) if kept]
            within = {name: m.of(keep) for name, m in self.matched.items()}
            out.append(_slice(kind, within, groups, rounds, seed))
        return tuple(s for s in out if any(s.cells.values()))

    def curve(self, name: str, iou_index: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(precision, score) at the 101 recalls of COCO for one class; NaN beyond the recall that was reached."""
        c = self.matched[name]
        precision = np.full(101, np.nan)
        score = np.full(101, np.nan)
        total = c.truths.sum()
        if total and len(c.scores):
            hits = np.cumsum(c.hit[iou_index])
            false = np.cumsum(c.counted[iou_index] & ~c.hit[iou_index])
            best = np.maximum.accumulate((hits / np.maximum(hits + false, 1e-12))[::-1])[::-1]
            at = np.searchsorted(hits / total, _RECALLS, side="left")
            reached = at < len(best)
            precision[reached], score[reached] = best[at[reached]], c.scores[at[reached]]
        return precision, score


def natural(name: str) -> tuple[float, str]:
    """Sort key: names that begin with a number by it, then the others."""
    digits = name.lstrip("<> ").split(" ")[0]
    return (float(digits) if digits.replace(".", "", 1).isdigit() else float("inf"), name)


def _slice(name: str, matched: Mapping[str, Matched], groups: Sequence[str], rounds: int, seed: int) -> ApSlice:
    cells = {c: int(m.truths.sum()) for c, m in matched.items()}
    return ApSlice(name, len(groups), len(set(groups)), cells, *_intervals(matched, groups, rounds, seed))


def _intervals(
    matched: Mapping[str, Matched], groups: Sequence[str], rounds: int, seed: int
) -> tuple[Interval, Interval, dict[str, tuple[Interval, Interval]]]:
    got = intervals(lambda w: mean_and_each(matched, w), groups, rounds=rounds, seed=seed)
    pairs = dict(zip(matched, zip(got[2::2], got[3::2], strict=True), strict=True))
    return got[0], got[1], {n: pair for n, pair in pairs.items() if not np.isnan(pair[0].value)}


def mean_and_each(matched: Mapping[str, Matched], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """mAP50, mAP50-95, then AP50 and AP50-95 of each class, float64 (rounds, 2 + 2 classes).

    Args:
        weights: (rounds, fields), whole numbers. A class without a cell is NaN and no part of the mean; where all
            fields that hold a class have weight 0 the mean is NaN too, or it would be of other classes by chance.
    """
    each = [average_precision(m, weights) for m in matched.values()]
    there = [ap for ap, m in zip(each, matched.values(), strict=True) if m.truths.any()]
    mean = np.mean(there, axis=0) if there else np.full((len(weights), 2), np.nan)
    return np.concatenate([mean, *each], axis=1)


def average_precision(c: Matched, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(AP50, AP50-95) of one class with weighted fields, (rounds, fields) to (rounds, 2); NaN where it has no truths.

    Monotone precision changes at hits only, so nothing is kept of what lies between them but its sum.
    """
    total = weights @ c.truths
    drawn = weights.take(c.fields, axis=1)  # much faster than indexing
    everything = np.cumsum(drawn, axis=1)
    needed = _needed(total)
    out = np.zeros((len(weights), len(IOUS)))
    for t in range(len(IOUS)):
        at = np.flatnonzero(c.hit[t])
        if len(at) == 0:
            continue
        hits = np.cumsum(drawn.take(at, axis=1), axis=1)
        seen = everything.take(at, axis=1)
        uncounted = np.flatnonzero(~c.counted[t, : at[-1]])
        if len(uncounted):
            before = np.searchsorted(uncounted, at)
            apart = np.cumsum(drawn[:, uncounted], axis=1)
            seen = seen - np.where(before > 0, apart[:, before - 1], 0)
        best = np.maximum.accumulate((hits / np.maximum(seen, 1))[:, ::-1], axis=1)[:, ::-1]
        first = _first(hits, needed)
        reached = first < len(at)
        precision = np.take_along_axis(best, np.minimum(first, len(at) - 1), axis=1)
        out[:, t] = np.where(reached, precision, 0).mean(axis=1)
    return np.where(total[:, None] > 0, np.stack([out[:, 0], out.mean(axis=1)], axis=1), np.nan)


def _needed(total: NDArray[np.float64]) -> NDArray[np.float64]:
    """The fewest hits whose share of `total`, (rounds,), reaches each of the 101 recalls, float64 (rounds, 101).

    By the comparison of floats that pycocotools makes, so that a share of exactly a recall counts as it does there.
    """
    n = np.maximum(total, 1)[:, None]
    needed = np.ceil(_RECALLS * n)
    needed -= (needed - 1) / n >= _RECALLS
    return np.asarray(needed + (needed / n < _RECALLS), np.float64)


def _first(rising: NDArray[np.float64], needed: NDArray[np.float64]) -> NDArray[np.int64]:
    """Per row the first position that reaches each number, (rounds, n) and (rounds, k) to (rounds, k); n if none."""
    rows, n = rising.shape
    # One search for all rows: each is lifted above the row before it.
    lift = np.arange(rows)[:, None] * (max(rising[:, -1].max(), needed.max()) + 1)
    found = np.searchsorted((rising + lift).ravel(), (needed + lift).ravel()).reshape(needed.shape)
    return np.asarray(np.minimum(found - np.arange(rows)[:, None] * n, n), np.int64)


def masked(dataset: Dataset, found: Sequence[Detections]) -> tuple[Dataset, list[Detections]] | None:
    """The fields of which every cell has a mask, with their predictions, for AP of masks.

    None where the detector draws no masks, or no field has any.
    """
    if not any(len(d) for d in found) or any(d.masks is None for d in found if len(d)):
        return None
    keep = [_has_masks(f) for f in dataset.fields]
    if not any(k and len(f.annotations) for k, f in zip(keep, dataset.fields, strict=True)):
        return None
    fields = tuple(f for k, f in zip(keep, dataset.fields, strict=True) if k)
    return replace(dataset, fields=fields), [d for k, d in zip(keep, found, strict=True) if k]


def _has_masks(labelled: LabelledField) -> bool:
    return all(m is not None for m in labelled.annotations.masks)


def _truths(i: int, cells: Annotations, masks: bool, first: int) -> Iterator[dict[str, Any]]:
    columns = zip(geometry.to_xywh(cells.boxes), cells.labels, cells.crowd, cells.masks, strict=True)
    for number, (box, label, crowd, mask) in enumerate(columns, first):
        row = {"id": number, "image_id": i, "category_id": int(label), "bbox": box.tolist(), "iscrowd": int(crowd)}
        if masks:
            if mask is None:
                raise RecordError(f"annotation {number} of field {i} has no mask", remedy="measure boxes instead")
            yield row | {"segmentation": dict(mask), "area": float(rle.area(mask))}
        else:
            yield row | {"area": float(box[2] * box[3])}


def _results(i: int, d: Detections, masks: bool) -> Iterator[dict[str, Any]]:
    if masks and d.masks is None and len(d):
        raise RecordError(f"the detections of field {i} have no masks", remedy="measure boxes instead")
    drawn = d.masks if masks and d.masks is not None else (None,) * len(d)
    for box, label, score, mask in zip(geometry.to_xywh(d.boxes), d.labels, d.scores, drawn, strict=True):
        row = {"image_id": i, "category_id": int(label), "score": float(score)}
        yield row | ({"bbox": box.tolist()} if mask is None else {"segmentation": dict(mask)})


def _evaluate(dataset: Dataset, found: Sequence[Detections], cap: int, masks: bool) -> Any:
    truths: list[dict[str, Any]] = []
    for i, labelled in enumerate(dataset.fields):
        truths += _truths(i, labelled.annotations, masks, len(truths) + 1)
    results = [row for i, d in enumerate(found) for row in _results(i, d, masks)]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports by printing
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [
                {"id": i, "height": f.field.height, "width": f.field.width} for i, f in enumerate(dataset.fields)
            ],
            "annotations": truths,
            "categories": [{"id": k, "name": name} for k, name in enumerate(dataset.classes.names)],
        }
        truth.createIndex()
        loaded = truth.loadRes(results) if results else _no_results(truth)
        evaluator = COCOeval(truth, loaded, "segm" if masks else "bbox")
        evaluator.params.maxDets = [1, 10, cap]
        evaluator.params.areaRng = [list(limits) for limits in SIZES.values()]
        evaluator.evaluate()
    return evaluator


def _no_results(truth: Any) -> Any:
    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty

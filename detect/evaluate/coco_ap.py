"""COCO average precision through pycocotools, and its bootstrap over groups.

pycocotools matches once; what it matched is then counted again for each bootstrap draw by the same rule
(101 recall points, precision made monotone), with fields weighted by how often they were drawn. With all weights
1 this gives pycocotools' own figures, which a test asserts.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detect import geometry
from detect.evaluate.intervals import Interval, bootstrap
from detect.types import Dataset, Detections

IOUS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, eq=False)
class _Class:
    """Sorted detections of one class: score order, field of each, hit and ignored per IoU, and truths per field."""

    fields: NDArray[np.int64]
    scores: NDArray[np.float64]
    hit: NDArray[np.bool_]  # (10, detections)
    counted: NDArray[np.bool_]  # (10, detections)
    truths: NDArray[np.float64]  # (fields,)


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


class Ap:
    """AP of predictions on labelled fields.

    Args:
        dataset: fields under the model's classes (see `align`).
        found: predictions per field, in the order of the fields, down to low scores.
        cap: COCO's maxDets, per field and class.
    """

    def __init__(self, dataset: Dataset, found: Sequence[Detections], cap: int = 300) -> None:
        self._dataset = dataset
        self._cap = cap
        self.evaluator = _evaluate(dataset, found, cap)
        self._classes = {
            name: self._collect(k) for k, name in enumerate(dataset.classes.names) if name in dataset.exhaustive_for
        }
        self.capped_fields = sum(bool(d.capped or np.bincount(d.labels, minlength=1).max() >= cap) for d in found)

    def _collect(self, k: int) -> _Class:
        n = len(self._dataset)
        e: Any = self.evaluator
        areas = len(e.params.areaRng)
        images = e.evalImgs[k * areas * n : k * areas * n + n]  # area range "all" comes first
        fields, scores, hits, counted = [], [], [], []
        truths = np.zeros(n)
        for i, image in enumerate(images):
            if image is None:
                continue
            truths[i] = np.sum(np.asarray(image["gtIgnore"]) == 0)
            d = len(image["dtScores"])
            fields.append(np.full(d, i, np.int64))
            scores.append(np.asarray(image["dtScores"], np.float64))
            ignored = np.asarray(image["dtIgnore"], bool).reshape(len(IOUS), d)
            hits.append((np.asarray(image["dtMatches"]).reshape(len(IOUS), d) > 0) & ~ignored)
            counted.append(~ignored)
        if not fields:
            none = np.zeros((len(IOUS), 0), bool)
            return _Class(np.zeros(0, np.int64), np.zeros(0), none, none, truths)
        score = np.concatenate(scores)
        order = np.argsort(-score, kind="mergesort")
        return _Class(
            np.concatenate(fields)[order],
            score[order],
            np.concatenate(hits, axis=1)[:, order],
            np.concatenate(counted, axis=1)[:, order],
            truths,
        )

    def _figures(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = [_average_precision(c, weights) for c in self._classes.values()]
        table = np.array(rows)  # (classes, 2)
        with np.errstate(all="ignore"):
            mean = np.nanmean(table, axis=0) if not np.isnan(table).all() else np.full(2, np.nan)
        return np.concatenate([mean, table.ravel()])

    def report(self, *, rounds: int = 1000, seed: int = 1) -> ApReport:
        """Figures with intervals by bootstrap over the fields' groups."""
        groups = [f.field.group or f.field.id for f in self._dataset.fields]
        value = self._figures(np.ones(len(self._dataset)))
        low, high = bootstrap(self._figures, groups, rounds=rounds, seed=seed)
        got = [Interval(float(v), float(a), float(b)) for v, a, b in zip(value, low, high, strict=True)]
        per_class = {
            name: (got[2 + 2 * i], got[3 + 2 * i])
            for i, name in enumerate(self._classes)
            if not np.isnan(got[2 + 2 * i].value)
        }
        return ApReport(got[0], got[1], per_class, self._cap, self.capped_fields)

    def curve(self, name: str, iou_index: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(precision, score) at the 101 recalls of COCO for one class; NaN beyond the recall that was reached."""
        c = self._classes[name]
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


def _average_precision(c: _Class, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(AP50, AP50-95) of one class with weighted fields; NaN where it has no truths."""
    total = float((c.truths * weights).sum())
    if total == 0:
        return np.full(2, np.nan)
    w = weights[c.fields]
    hits = np.cumsum(c.hit * w, axis=1)
    false = np.cumsum((c.counted & ~c.hit) * w, axis=1)
    precision = hits / np.maximum(hits + false, np.spacing(1.0))
    out = np.zeros(len(IOUS))
    for t in range(len(IOUS)):
        best = np.maximum.accumulate(precision[t][::-1])[::-1]
        at = np.searchsorted(hits[t] / total, _RECALLS, side="left")
        out[t] = np.where(at < len(best), best[np.minimum(at, len(best) - 1)], 0).mean() if len(best) else 0.0
    return np.array([out[0], out.mean()])


def _evaluate(dataset: Dataset, found: Sequence[Detections], cap: int) -> Any:
    truths: list[dict[str, Any]] = []
    for i, labelled in enumerate(dataset.fields):
        cells = labelled.annotations
        for box, label, crowd in zip(geometry.to_xywh(cells.boxes), cells.labels, cells.crowd, strict=True):
            truths.append(
                {
                    "id": len(truths) + 1,
                    "image_id": i,
                    "category_id": int(label),
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3]),
                    "iscrowd": int(crowd),
                }
            )
    results = [
        {"image_id": i, "category_id": int(label), "bbox": box.tolist(), "score": float(score)}
        for i, d in enumerate(found)
        for box, label, score in zip(geometry.to_xywh(d.boxes), d.labels, d.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports by printing
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(dataset))],
            "annotations": truths,
            "categories": [{"id": k, "name": name} for k, name in enumerate(dataset.classes.names)],
        }
        truth.createIndex()
        loaded = truth.loadRes(results) if results else _no_results(truth)
        evaluator = COCOeval(truth, loaded, "bbox")
        evaluator.params.maxDets = [1, 10, cap]
        evaluator.evaluate()
    return evaluator


def _no_results(truth: Any) -> Any:
    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty

"""A detector measured on labelled fields: AP, figures at its thresholds, and every way of being wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from detect.evaluate.breakdown import Breakdown, breakdown
from detect.evaluate.calibration import Calibration, calibration
from detect.evaluate.calibration import shown as calibrated_on
from detect.evaluate.coco_ap import Ap, ApReport, ApSlice, masked
from detect.evaluate.counting import Counting, counting
from detect.evaluate.froc import Froc, froc
from detect.evaluate.intervals import Interval, intervals, ratio
from detect.evaluate.localisation import Localisation, localisation
from detect.evaluate.matching import match
from detect.evaluate.strata import Strata, strata
from detect.types import Dataset, Detections

_T = TypeVar("_T")


@dataclass(frozen=True)
class ClassReport:
    """One class at its threshold, matched one to one at IoU 0.5.

    Attributes:
        truths, found, hits: cells drawn, cells found, cells found that met a drawn one.
        precision, f1: None where the set does not hold every cell of the class.
    """

    threshold: float
    truths: int
    found: int
    hits: int
    recall: Interval
    precision: Interval | None
    f1: Interval | None


@dataclass(frozen=True)
class MaskReport:
    """AP by overlap of masks, on the fields of which every cell has one."""

    ap: ApReport
    sizes: tuple[ApSlice, ...]
    n_fields: int


@dataclass(frozen=True, eq=False)
class DetectionReport:
    """Everything that `metrics.json` holds.

    Attributes:
        confusion: int (classes + 1, classes + 1), rows drawn, columns found, the last of each is background.
        not_exhaustive: classes of which unmatched detections were ignored; they have recall, localisation and
            missed cells only.
        sizes, sources, magnifications: AP within each. source_rule: how sources are known.
        masks: None where the detector draws none, or the set has none.
    """

    ap: ApReport
    classes: dict[str, ClassReport]
    confusion: NDArray[np.int64]
    not_exhaustive: tuple[str, ...]
    n_fields: int
    n_groups: int
    n_cells: int
    sizes: tuple[ApSlice, ...]
    sources: tuple[ApSlice, ...]
    source_rule: str
    magnifications: tuple[ApSlice, ...]
    masks: MaskReport | None
    froc: dict[str, Froc]
    counting: dict[str, Counting]
    calibration: dict[str, Calibration]
    localisation: dict[str, Localisation]
    errors: dict[str, Breakdown]

    def to_json(self) -> dict[str, Any]:
        """Values for `plain_json`, intervals as value, low and high."""
        masks = None
        if self.masks is not None:
            masks = _ap_json(self.masks.ap) | {
                "n_fields": self.masks.n_fields,
                "per_size": {s.name: _slice_json(s) for s in self.masks.sizes},
            }
        return {
            **_ap_json(self.ap),
            "max_detections": self.ap.cap,
            "fields_that_reached_it": self.ap.capped_fields,
            "classes": {name: asdict(report) for name, report in self.classes.items()},
            "confusion": {
                "rows_drawn_columns_found": [*self.classes, "background"],
                "counts": self.confusion.tolist(),
            },
            "not_exhaustive": list(self.not_exhaustive),
            "n_fields": self.n_fields,
            "n_groups": self.n_groups,
            "n_cells": self.n_cells,
            "per_size": {s.name: _slice_json(s) for s in self.sizes},
            "sources_known_by": self.source_rule,
            "per_source": {s.name: _slice_json(s) for s in self.sources},
            "per_magnification": {s.name: _slice_json(s) for s in self.magnifications},
            "masks": masks,
            "froc": self.froc,
            "counting": self.counting,
            "calibration": self.calibration,
            "localisation": self.localisation,
            "errors": self.errors,
        }


def _ap_json(ap: ApReport | ApSlice) -> dict[str, Any]:
    return {
        "map50": asdict(ap.map50),
        "map50_95": asdict(ap.map50_95),
        "per_class_ap": {n: {"ap50": asdict(a), "ap50_95": asdict(b)} for n, (a, b) in ap.per_class.items()},
    }


def _slice_json(s: ApSlice) -> dict[str, Any]:
    return {"n_fields": s.n_fields, "n_groups": s.n_groups, "cells": s.cells, **_ap_json(s)}


def measure(
    dataset: Dataset,
    found: Sequence[Detections],
    thresholds: Mapping[str, float],
    *,
    cap: int = 300,
    rounds: int = 1000,
    seed: int = 1,
    kinds: Strata | None = None,
) -> tuple[DetectionReport, Ap]:
    """Measure predictions made down to low scores; the figures at thresholds use those above them.

    Args:
        dataset: fields under the model's classes (see `align`), in the order of `found`.
        cap: most detections per field and class that AP counts.
        kinds: `strata` of the set under its own classes; of `dataset` where not given.
    """
    ap = Ap(dataset, found, cap)
    kinds = kinds or strata(dataset)
    shown = above(found, thresholds)
    counts = count(dataset, shown)
    groups, more = ap.groups, {"rounds": rounds, "seed": seed}
    judged_on = calibrated_on(dataset, found)
    whole = [(k, n) for k, n in enumerate(dataset.classes.names) if n in dataset.exhaustive_for]
    known = countable(dataset)
    report = DetectionReport(
        ap=ap.report(**more),
        classes=_classes(dataset, thresholds, counts, groups, rounds, seed),
        confusion=confusion(dataset, shown),
        not_exhaustive=tuple(n for n in dataset.classes.names if n not in dataset.exhaustive_for),
        n_fields=len(dataset),
        n_groups=len(set(groups)),
        n_cells=int(counts[:, 0].sum()),
        sizes=ap.sizes(**more),
        sources=ap.by(kinds.sources, **more),
        source_rule=kinds.source_rule,
        magnifications=ap.by(kinds.magnifications, **more),
        masks=_masks(dataset, found, cap, rounds, seed),
        froc=_there({n: froc(m, groups, **more) for n, m in ap.matched.items()}),
        counting=_there({n: counting(counts[:, 0, k], counts[:, 1, k], known[:, k], groups, **more) for k, n in whole}),
        calibration=_there({n: calibration(s, groups, **more) for n, s in judged_on.items()}),
        localisation=localisation(dataset, shown, groups, **more),
        errors=breakdown(dataset, shown, groups, **more),
    )
    return report, ap


def above(found: Sequence[Detections], thresholds: Mapping[str, float]) -> list[Detections]:
    """The detections that reach the threshold of their class."""
    return [d.select(d.scores >= np.array([thresholds[n] for n in d.classes], np.float32)[d.labels]) for d in found]


def _there(values: Mapping[str, _T | None]) -> dict[str, _T]:
    return {name: value for name, value in values.items() if value is not None}


def _masks(dataset: Dataset, found: Sequence[Detections], cap: int, rounds: int, seed: int) -> MaskReport | None:
    kept = masked(dataset, found)
    if kept is None:
        return None
    ap = Ap(*kept, cap, masks=True)
    return MaskReport(ap.report(rounds=rounds, seed=seed), ap.sizes(rounds=rounds, seed=seed), len(kept[0]))


def scores_at_thresholds(counts: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Recall, precision and F1, classes within each, (rounds, fields) to (rounds, 3 classes).

    Args:
        counts: of `count`, (fields, 3, classes).
    """
    truths, there, hits = np.moveaxis(np.tensordot(weights, counts, axes=1), 1, 0)
    return np.concatenate([ratio(hits, truths), ratio(hits, there), ratio(2 * hits, truths + there)], axis=1)


def _classes(
    dataset: Dataset,
    thresholds: Mapping[str, float],
    counts: NDArray[np.float64],
    groups: Sequence[str],
    rounds: int,
    seed: int,
) -> dict[str, ClassReport]:
    got = intervals(lambda w: scores_at_thresholds(counts, w), groups, rounds=rounds, seed=seed)
    k = len(dataset.classes)
    total = counts.sum(axis=0).astype(int)
    out = {}
    for i, name in enumerate(dataset.classes.names):
        whole = name in dataset.exhaustive_for
        out[name] = ClassReport(
            float(thresholds[name]),
            int(total[0, i]),
            int(total[1, i]),
            int(total[2, i]),
            got[i],
            got[k + i] if whole else None,
            got[2 * k + i] if whole else None,
        )
    return out


def count(dataset: Dataset, shown: Sequence[Detections]) -> NDArray[np.float64]:
    """Per field and class: drawn, found, hits, float64 (fields, 3, classes).

    Found are those that met a cell, and the others where every cell of their class is drawn.
    """
    k = len(dataset.classes)
    counts = np.zeros((len(dataset), 3, k))
    exhaustive = np.array([name in dataset.exhaustive_for for name in dataset.classes.names])
    for i, (labelled, found) in enumerate(zip(dataset.fields, shown, strict=True)):
        cells = labelled.annotations
        own = match(found, cells, 0.5)
        met = own.truth_of >= 0
        counted = met | (exhaustive[found.labels] & ~own.ignored)
        counts[i, 0] = np.bincount(cells.labels[~cells.crowd], minlength=k)
        counts[i, 1] = np.bincount(found.labels[counted], minlength=k)
        counts[i, 2] = np.bincount(found.labels[met], minlength=k)
    return counts


def countable(dataset: Dataset) -> NDArray[np.bool_]:
    """Fields without a crowd region of a class, bool (fields, classes): only there is its number of cells known."""
    k = len(dataset.classes)
    crowds = [np.bincount(f.annotations.labels[f.annotations.crowd], minlength=k) for f in dataset.fields]
    return np.asarray(np.stack(crowds) == 0)


def confusion(dataset: Dataset, shown: Sequence[Detections]) -> NDArray[np.int64]:
    """Rows drawn, columns found, the last of each background, int64 (classes + 1, classes + 1)."""
    k = len(dataset.classes)
    out = np.zeros((k + 1, k + 1), np.int64)
    exhaustive = np.array([name in dataset.exhaustive_for for name in dataset.classes.names])
    for labelled, found in zip(dataset.fields, shown, strict=True):
        cells = labelled.annotations
        any_class = match(found, cells, 0.5, by_class=False)
        met = any_class.truth_of >= 0
        np.add.at(out, (cells.labels[any_class.truth_of[met]], found.labels[met]), 1)
        ghosts = ~met & ~any_class.ignored & exhaustive[found.labels]
        out[k, :k] += np.bincount(found.labels[ghosts], minlength=k)
        out[:k, k] += np.bincount(cells.labels[any_class.missed], minlength=k)
    return out

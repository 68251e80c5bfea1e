"""A detector measured on labelled fields: AP, precision, recall and F1 at its thresholds, confusion, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.evaluate.coco_ap import Ap, ApReport
from detect.evaluate.intervals import Interval, bootstrap, plain_json
from detect.evaluate.matching import match
from detect.types import Dataset, Detections


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


@dataclass(frozen=True, eq=False)
class DetectionReport:
    """Everything that `metrics.json` holds.

    Attributes:
        confusion: int (classes + 1, classes + 1), rows drawn, columns found, the last of each is background.
        not_exhaustive: classes of which unmatched detections were ignored.
    """

    ap: ApReport
    classes: dict[str, ClassReport]
    confusion: NDArray[np.int64]
    not_exhaustive: tuple[str, ...]
    n_fields: int
    n_groups: int
    n_cells: int

    def to_json(self) -> dict[str, Any]:
        """Plain values, intervals as value, low and high."""
        return {
            "map50": asdict(self.ap.map50),
            "map50_95": asdict(self.ap.map50_95),
            "per_class_ap": {n: {"ap50": asdict(a), "ap50_95": asdict(b)} for n, (a, b) in self.ap.per_class.items()},
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
        }


def measure(
    dataset: Dataset,
    found: Sequence[Detections],
    thresholds: Mapping[str, float],
    *,
    cap: int = 300,
    rounds: int = 1000,
    seed: int = 1,
) -> tuple[DetectionReport, Ap]:
    """Measure predictions made down to low scores; the figures at thresholds use those above them.

    Args:
        dataset: fields under the model's classes (see `align`), in the order of `found`.
        cap: most detections per field and class that AP counts.
    """
    names = dataset.classes.names
    ap = Ap(dataset, found, cap)
    limit = np.array([thresholds[name] for name in names], np.float32)
    shown = [d.select(d.scores >= limit[d.labels]) for d in found]
    counts, confusion = _count(dataset, shown)
    groups = [f.field.group or f.field.id for f in dataset.fields]

    def figures(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        truths, there, hits = np.tensordot(weights, counts, axes=1)
        with np.errstate(all="ignore"):
            return np.concatenate([hits / truths, hits / there, 2 * hits / (truths + there)])

    value = figures(np.ones(len(dataset)))
    low, high = bootstrap(figures, groups, rounds=rounds, seed=seed)
    k = len(names)
    total = counts.sum(axis=0).astype(int)
    reports = {}
    for i, name in enumerate(names):
        recall, precision, f1 = (
            Interval(float(value[j]), float(low[j]), float(high[j])) for j in (i, k + i, 2 * k + i)
        )
        whole = name in dataset.exhaustive_for
        reports[name] = ClassReport(
            float(thresholds[name]),
            int(total[0, i]),
            int(total[1, i]),
            int(total[2, i]),
            recall,
            precision if whole else None,
            f1 if whole else None,
        )
    report = DetectionReport(
        ap=ap.report(rounds=rounds, seed=seed),
        classes=reports,
        confusion=confusion,
        not_exhaustive=tuple(n for n in names if n not in dataset.exhaustive_for),
        n_fields=len(dataset),
        n_groups=len(set(groups)),
        n_cells=int(total[0].sum()),
    )
    return report, ap


def _count(dataset: Dataset, shown: Sequence[Detections]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Per field and class: drawn, found, hits, float64 (fields, 3, classes); and the confusion matrix."""
    k = len(dataset.classes)
    counts = np.zeros((len(dataset), 3, k))
    confusion = np.zeros((k + 1, k + 1), np.int64)
    exhaustive = np.array([name in dataset.exhaustive_for for name in dataset.classes.names])
    for i, (labelled, found) in enumerate(zip(dataset.fields, shown, strict=True)):
        cells = labelled.annotations
        own = match(found, cells, 0.5)
        met = own.truth_of >= 0
        counted = met | (exhaustive[found.labels] & ~own.ignored)
        counts[i, 0] = np.bincount(cells.labels[~cells.crowd], minlength=k)
        counts[i, 1] = np.bincount(found.labels[counted], minlength=k)
        counts[i, 2] = np.bincount(found.labels[met], minlength=k)
        any_class = match(found, cells, 0.5, by_class=False)
        for j in np.flatnonzero(any_class.truth_of >= 0):
            confusion[cells.labels[any_class.truth_of[j]], found.labels[j]] += 1
        ghosts = (any_class.truth_of < 0) & ~any_class.ignored & exhaustive[found.labels]
        confusion[k, :k] += np.bincount(found.labels[ghosts], minlength=k)
        confusion[:k, k] += np.bincount(cells.labels[any_class.missed], minlength=k)
    return counts, confusion


def markdown(report: DetectionReport, title: str) -> str:
    """A readable table."""
    lines = [
        f"# {title}",
        "",
        f"{report.n_fields} fields, {report.n_groups} groups, {report.n_cells} cells. "
        "95 % intervals by bootstrap over groups.",
        "",
        f"- mAP50 {report.ap.map50}",
        f"- mAP50-95 {report.ap.map50_95}",
        f"- at most {report.ap.cap} detections a field; {report.ap.capped_fields} fields reached it",
        "",
        "| class | cells | AP50 | AP50-95 | threshold | precision | recall | F1 |",
        "| --- | ---: | --- | --- | ---: | --- | --- | --- |",
    ]
    for name, c in report.classes.items():
        a, b = report.ap.per_class.get(name, ("-", "-"))
        lines.append(
            f"| {name} | {c.truths} | {a} | {b} | {c.threshold:.2f} | {c.precision or 'not exhaustive'} "
            f"| {c.recall} | {c.f1 or 'not exhaustive'} |"
        )
    heads = [*report.classes, "background"]
    lines += ["", "Confusion at the thresholds, IoU 0.5, rows drawn, columns found:", ""]
    lines += ["| | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    for name, row in zip(heads, report.confusion, strict=True):
        lines.append(f"| {name} | " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines) + "\n"


def write(report: DetectionReport, out: Path, title: str, about: Mapping[str, Any]) -> None:
    """`metrics.json` and `metrics.md`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(plain_json({**about, **report.to_json()}), "utf-8")
    (out / "metrics.md").write_text(markdown(report, title), "utf-8")

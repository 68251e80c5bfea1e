"""Label faults that no reader can see by itself: boxes of an unlikely size, doubles, cells that have no box."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detect import geometry
from detect.data.sources import Parts
from detect.errors import ImageError
from detect.formats.tally import Tally
from detect.images import decode
from detect.taxonomy import taxonomy
from detect.types import Annotations, Dataset, Detections, LabelledField

Severity = Literal["error", "warning"]

# Problems of a reader that make a set wrong, and not merely untidy.
ERRORS = {
    "annotation id used twice",
    "annotation without an image",
    "box outside the field",
    "box without area",
    "category name used twice",
    "category without a name",
    "category without an id",
    "class names in another order",
    "file name used twice",
    "image cannot be read",
    "image id used twice",
    "image without a file name",
    "image without a size",
    "image without an id",
    "label file is not text",
    "label file without an image",
    "labels ignore the EXIF rotation",
    "missing file",
    "not a box",
    "not a finite number",
    "not a number",
    "not a polygon",
    "not valid XML",
    "repeated box",
    "unknown category",
    "unknown class number",
    "unknown label",
    "wrong number of values",
    "wrong size",
}
_DOUBLE_IOU = 0.9
_UNLIKELY = 6.0  # robust standard deviations of log-size from the class's median
_LEAST_SPREAD = 0.02  # of log-size; boxes stamped in one size differ by rounding alone
_ENOUGH = 30  # cells of a class before its sizes say anything
_NOT_MET = 0.3  # IoU below which a box does not show the cell that was found


@dataclass(frozen=True)
class Fault:
    """One thing to look at.

    Attributes:
        where: file, and line or annotation id; or the field.
    """

    severity: Severity
    kind: str
    where: str
    detail: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.kind} ({self.detail})"


def check(parts: Parts, tally: Tally) -> list[Fault]:
    """Everything found in a set: what its reader tallied, then what the records show."""
    faults = [Fault("error" if p.kind in ERRORS else "warning", p.kind, p.where, p.detail) for p in tally.problems]
    faults += _case_variants(parts)
    everything = [(d, f) for d in parts.values() for f in d.fields]
    faults += [fault for d, f in everything for fault in _doubles(d, f)]
    faults += _unlikely_sizes(parts)
    faults += [
        Fault("warning", "field without a cell", f.field.id, "labelled, but empty")
        for _, f in everything
        if not len(f.annotations) and "label" not in f.extra
    ]
    return faults


def _case_variants(parts: Parts) -> list[Fault]:
    names = dict.fromkeys(n for d in parts.values() for n in d.classes.names)
    seen: dict[str, str] = {}
    out = []
    for name in names:
        other = seen.setdefault(name.casefold().strip(), name)
        if other != name:
            out.append(Fault("error", "case variant of a label", "classes", f"'{name}' and '{other}'"))
        if taxonomy().resolve(name) is None:
            out.append(Fault("warning", "label that the taxonomy does not know", "classes", f"'{name}'"))
    return out


def _doubles(dataset: Dataset, labelled: LabelledField) -> list[Fault]:
    cells = labelled.annotations
    overlap = np.triu(geometry.iou(cells.boxes, cells.boxes), 1)
    out = []
    for i, j in np.argwhere(overlap >= _DOUBLE_IOU):
        a, b = (dataset.classes.names[cells.labels[k]] for k in (i, j))
        kind = "one cell boxed twice" if a == b else "one cell under two labels"
        where = f"{labelled.field.id}: {cells.ids[i]} and {cells.ids[j]}"
        out.append(Fault("warning", kind, where, f"{a}, {b}, IoU {overlap[i, j]:.2f}"))
    return out


def _unlikely_sizes(parts: Parts) -> list[Fault]:
    """Boxes far from the sizes of their class, by the median and its absolute deviation of log-area and log-aspect."""
    rows: dict[str, list[tuple[float, float, str, str]]] = {}
    for dataset in parts.values():
        for labelled in dataset.fields:
            cells = labelled.annotations
            whole = ~_touches_border(cells, labelled.field.width, labelled.field.height) & ~cells.crowd
            for i in np.flatnonzero(whole):
                width, height = (cells.boxes[i, 2:] - cells.boxes[i, :2]).tolist()
                where = f"{labelled.field.id}: {cells.ids[i]}"
                name = dataset.classes.names[cells.labels[i]]
                text = f"{name} {width:.0f} x {height:.0f} px"
                rows.setdefault(name, []).append((np.log(width * height), np.log(width / height), where, text))
    out = []
    for name, mine in rows.items():
        if len(mine) < _ENOUGH:
            continue
        for column, what in ((0, "size"), (1, "shape")):
            values = np.array([row[column] for row in mine])
            middle = np.median(values)
            spread = max(1.4826 * np.median(np.abs(values - middle)), _LEAST_SPREAD)
            for k in np.flatnonzero(np.abs(values - middle) > _UNLIKELY * spread):
                typical = f"median of {len(mine)} {name}: {np.exp(middle / 2):.0f} px a side" if column == 0 else name
                out.append(Fault("warning", f"unlikely {what} of a box", mine[k][2], f"{mine[k][3]}; {typical}"))
    return out


def _touches_border(cells: Annotations, width: int, height: int) -> NDArray[np.bool_]:
    b = cells.boxes
    return np.asarray((b[:, 0] < 2) | (b[:, 1] < 2) | (b[:, 2] > width - 2) | (b[:, 3] > height - 2))


def readable(parts: Parts) -> tuple[Parts, list[Fault]]:
    """The fields whose pictures can be unpacked, and a fault for each that cannot: headers alone do not tell."""
    faults = []
    out = {}
    for part, dataset in parts.items():
        kept = []
        for labelled in dataset.fields:
            try:
                decode.read(labelled.field.path)
                kept.append(labelled)
                turned = decode.header(labelled.field.path.read_bytes()).orientation
                if turned != 1:
                    what = f"orientation {turned}: labels drawn by a tool that ignores it lie elsewhere"
                    faults.append(Fault("warning", "EXIF rotation", labelled.field.id, what))
            except ImageError as error:
                faults.append(Fault("error", "image cannot be read", str(labelled.field.path), error.problem))
        out[part] = replace(dataset, fields=tuple(kept))
    return out, faults


def without_a_box(dataset: Dataset, found: Sequence[Detections], min_score: float = 0.75) -> list[Fault]:
    """Cells that a detector is sure of and nobody drew, in classes that the set says to hold exhaustively.

    Args:
        dataset: fields under the detector's classes (see `evaluate.align`), in the order of `found`.
    """
    out = []
    for labelled, detections in zip(dataset.fields, found, strict=True):
        overlap = geometry.iou(detections.boxes, labelled.annotations.boxes).max(axis=1, initial=0)
        for i in np.flatnonzero((detections.scores >= min_score) & (overlap < _NOT_MET)):
            name = dataset.classes.names[detections.labels[i]]
            if name in dataset.exhaustive_for:
                place = ", ".join(f"{v:.0f}" for v in detections.boxes[i])
                what = f"{name} near {place}, score {detections.scores[i]:.2f}"
                out.append(Fault("warning", "cell that probably has no box", labelled.field.id, what))
    return out


def statistics(parts: Parts) -> dict[str, Any]:
    """Counts of a set, and how large its cells are, per part and class."""
    out: dict[str, Any] = {}
    for part, dataset in parts.items():
        sizes: dict[str, list[float]] = {}
        for labelled in dataset.fields:
            sides = np.sqrt(geometry.area(labelled.annotations.boxes))
            for label, side in zip(labelled.annotations.labels, sides, strict=True):
                sizes.setdefault(dataset.classes.names[label], []).append(float(side))
        per_field = [len(f.annotations) for f in dataset.fields]
        out[part] = {
            "fields": len(dataset),
            "cells": sum(per_field),
            "cells_per_field": [
                min(per_field, default=0),
                float(np.median(per_field or [0])),
                max(per_field, default=0),
            ],
            "field_sizes": dict(Counter(f"{f.field.width} x {f.field.height}" for f in dataset.fields).most_common(8)),
            "classes": {
                name: {
                    "cells": len(sizes.get(name, [])),
                    "fields": sum(bool((f.annotations.labels == k).any()) for f in dataset.fields),
                    "side_px": [round(float(q), 1) for q in np.quantile(sizes[name], [0.05, 0.5, 0.95])]
                    if name in sizes
                    else None,
                }
                for k, name in enumerate(dataset.classes.names)
            },
        }
    return out

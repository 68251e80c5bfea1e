"""How well boxes lie on the cells that they met: IoU, and offsets in per cent of the cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detect.evaluate.intervals import Interval, intervals, ratio
from detect.evaluate.matching import match
from detect.types import Dataset, Detections


@dataclass(frozen=True)
class Localisation:
    """Detections of one class that met a cell of it at IoU 0.5, at the threshold.

    Attributes:
        iou: mean overlap with the cell.
        dx, dy: mean shift of the centre to the right and down, per cent of the drawn width and height.
        dw, dh: mean excess of width and height, per cent of the drawn ones.
        spread: standard deviation of dx, dy, dw, dh, per cent.
    """

    iou: Interval
    dx: Interval
    dy: Interval
    dw: Interval
    dh: Interval
    spread: tuple[float, ...]
    n: int


def localisation(
    dataset: Dataset,
    shown: Sequence[Detections],
    groups: Sequence[str],
    *,
    rounds: int = 1000,
    seed: int = 1,
) -> dict[str, Localisation]:
    """Per class with at least one cell met; classes that are not exhaustive have it too."""
    fields, labels, values = _pairs(dataset, shown)
    out = {}
    for k, name in enumerate(dataset.classes.names):
        mine = labels == k
        if not mine.any():
            continue
        sums = np.zeros((len(dataset), 6))
        np.add.at(sums, fields[mine], np.column_stack([np.ones(mine.sum()), values[mine]]))
        iou, dx, dy, dw, dh = intervals(lambda w, sums=sums: _means(sums, w), groups, rounds=rounds, seed=seed)  # type: ignore[misc]
        spread = values[mine, 1:].std(axis=0)
        out[name] = Localisation(iou, dx, dy, dw, dh, tuple(map(float, spread)), int(mine.sum()))
    return out


def _means(sums: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    drawn = weights @ sums
    return ratio(drawn[:, 1:], drawn[:, :1])


def _pairs(
    dataset: Dataset, shown: Sequence[Detections]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Field, label and (iou, dx, dy, dw, dh) of every detection that met a cell."""
    fields, labels, values = [], [], []
    for i, (labelled, found) in enumerate(zip(dataset.fields, shown, strict=True)):
        matches = match(found, labelled.annotations, 0.5)
        met = matches.truth_of >= 0
        drawn = labelled.annotations.boxes[matches.truth_of[met]]
        fields.append(np.full(met.sum(), i, np.int64))
        labels.append(found.labels[met])
        values.append(np.column_stack([matches.iou[met], offsets(found.boxes[met], drawn)]))
    return np.concatenate(fields), np.concatenate(labels), np.concatenate(values)


def offsets(found: NDArray[np.float32], drawn: NDArray[np.float32]) -> NDArray[np.float64]:
    """dx, dy, dw, dh in per cent of the drawn cell's sides, float64 (n, 4), of boxes (n, 4), xyxy."""
    a, b = (boxes.astype(np.float64).reshape(-1, 2, 2) for boxes in (found, drawn))
    side = b[:, 1] - b[:, 0]
    shift, excess = a.mean(axis=1) - b.mean(axis=1), (a[:, 1] - a[:, 0]) - side
    return np.asarray(100 * np.concatenate([shift / side, excess / side], axis=1), np.float64)

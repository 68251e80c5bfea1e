"""What went wrong with each detection and each cell, and how often.

The kinds are those of TIDE (Bolya et al., ECCV 2020), counted per object. Where several apply, the closer overlap
decides: a double or a wrong class (IoU from 0.5) goes before badly placed, since in a smear the right box of a wrong
class nearly always touches a neighbour of that class a little.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from detect import geometry
from detect.evaluate.intervals import Interval, intervals, ratio
from detect.evaluate.matching import match
from detect.types import Annotations, Dataset, Detections

MIN_IOU, BACKGROUND_IOU = 0.5, 0.1


class Kind(StrEnum):
    """What a detection, or a drawn cell, came to.

    Of detections: RIGHT met a cell of its class; DOUBLE would have, but a better one had; WRONG_CLASS lies on a cell
    of another class; MISPLACED overlaps a cell of its class too little (IoU 0.1 to 0.5); MISPLACED_WRONG_CLASS only one
    of another class, too little; BACKGROUND touches nothing (IoU below 0.1). Of cells: FOUND, MISSED. Of both: IGNORED
    (crowd regions and what lies in them, and unmatched detections of classes of which not every cell is drawn).
    """

    RIGHT = "right"
    BACKGROUND = "background"
    MISPLACED = "badly placed"
    WRONG_CLASS = "wrong class"
    MISPLACED_WRONG_CLASS = "wrong class, badly placed"
    DOUBLE = "double"
    FOUND = "found"
    MISSED = "missed"
    IGNORED = "ignored"


FALSE = (Kind.BACKGROUND, Kind.MISPLACED, Kind.WRONG_CLASS, Kind.MISPLACED_WRONG_CLASS, Kind.DOUBLE)
ERRORS = (*FALSE, Kind.MISSED)


@dataclass(frozen=True, eq=False)
class Judged:
    """One field, object by object.

    Attributes:
        detections: what each detection is, in their order. annotations: what each drawn cell is.
        partner: int64 (detections,), the annotation that the kind speaks of (met, met by a better one, or overlapped
            most), or -1 where it touches none.
        iou: float32 (detections,), the overlap with it.
    """

    detections: tuple[Kind, ...]
    annotations: tuple[Kind, ...]
    partner: NDArray[np.int64]
    iou: NDArray[np.float32]


def judge(found: Detections, truth: Annotations, exhaustive: AbstractSet[str]) -> Judged:
    """Every detection and every cell of one field, matched one to one within classes at IoU 0.5.

    Args:
        found: at the operating thresholds. exhaustive: classes of which every cell is drawn.
    """
    matches = match(found, truth, MIN_IOU)
    overlap = geometry.iou(found.boxes, truth.boxes)
    overlap[:, truth.crowd] = 0
    whole = np.array([name in exhaustive for name in found.classes.names], bool)
    kinds, partner = [], matches.truth_of.copy()
    for i, met in enumerate(matches.truth_of):
        if met >= 0:
            kinds.append(Kind.RIGHT)
        elif matches.ignored[i] or not whole[found.labels[i]]:
            kinds.append(Kind.IGNORED)
        else:
            kind, partner[i] = _mistake(overlap[i], truth.labels == found.labels[i])
            kinds.append(kind)
    cells = np.where(truth.crowd, Kind.IGNORED, Kind.FOUND).astype(object)
    cells[matches.missed] = Kind.MISSED
    iou = np.array([overlap[i, j] if j >= 0 else 0 for i, j in enumerate(partner)], np.float32)
    return Judged(tuple(kinds), tuple(Kind(c) for c in cells), partner, iou)


def _mistake(overlap: NDArray[np.float32], same: NDArray[np.bool_]) -> tuple[Kind, int]:
    """The kind of an unmatched detection and the cell that it speaks of. overlap, same: (annotations,)."""
    own, other = _most(np.where(same, overlap, 0)), _most(np.where(same, 0, overlap))
    if own[1] >= MIN_IOU:
        return Kind.DOUBLE, own[0]
    if other[1] >= MIN_IOU:
        return Kind.WRONG_CLASS, other[0]
    if own[1] >= BACKGROUND_IOU:
        return Kind.MISPLACED, own[0]
    if other[1] >= BACKGROUND_IOU:
        return Kind.MISPLACED_WRONG_CLASS, other[0]
    return Kind.BACKGROUND, max(own, other, key=lambda found: found[1])[0]


def _most(overlap: NDArray[np.floating]) -> tuple[int, float]:
    """Position and value of the greatest overlap; -1 where there is none."""
    best = int(np.argmax(overlap)) if len(overlap) else -1
    return (best, float(overlap[best])) if best >= 0 and overlap[best] > 0 else (-1, 0.0)


@dataclass(frozen=True)
class Breakdown:
    """One class at its threshold.

    Attributes:
        counts: error to how often, missed cells by their drawn class, the others by the class that was found.
        per_100: the same per 100 cells drawn of the class. Empty, as are the counts but for those missed, where not
            every cell of the class is drawn.
    """

    counts: dict[str, int]
    per_100: dict[str, Interval]


def breakdown(
    dataset: Dataset,
    shown: Sequence[Detections],
    groups: Sequence[str],
    *,
    rounds: int = 1000,
    seed: int = 1,
) -> dict[str, Breakdown]:
    """Sums of `judge` per class."""
    names = dataset.classes.names
    counts, drawn = _counts(dataset, shown)
    out = {}
    for k, name in enumerate(names):
        told = ERRORS if name in dataset.exhaustive_for else (Kind.MISSED,)
        columns = [ERRORS.index(kind) for kind in told]
        mine, cells = counts[:, k][:, columns], drawn[:, k]

        def rates(
            w: NDArray[np.float64], mine: NDArray[np.float64] = mine, cells: NDArray[np.float64] = cells
        ) -> NDArray[np.float64]:
            return 100 * ratio(w @ mine, (w @ cells)[:, None])

        got = intervals(rates, groups, rounds=rounds, seed=seed)
        total = mine.sum(axis=0).astype(int)
        out[name] = Breakdown(
            {str(kind): int(n) for kind, n in zip(told, total, strict=True)},
            {str(kind): v for kind, v in zip(told, got, strict=True)},
        )
    return out


def _counts(dataset: Dataset, shown: Sequence[Detections]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per field, class and error of `ERRORS`: how often; and cells drawn per field and class."""
    k = len(dataset.classes)
    counts = np.zeros((len(dataset), k, len(ERRORS)))
    drawn = np.zeros((len(dataset), k))
    for i, (labelled, found) in enumerate(zip(dataset.fields, shown, strict=True)):
        cells = labelled.annotations
        judged = judge(found, cells, dataset.exhaustive_for)
        drawn[i] = np.bincount(cells.labels[~cells.crowd], minlength=k)
        for label, kind in zip([*found.labels, *cells.labels], judged.detections + judged.annotations, strict=True):
            if kind in ERRORS:
                counts[i, label, ERRORS.index(kind)] += 1
    return counts, drawn

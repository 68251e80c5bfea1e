"""One-to-one matching of detections to annotations. The pairs that are counted are the pairs that review shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detect import geometry
from detect.types import Annotations, Detections

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Matches:
    """Who met whom in one field.

    Attributes:
        truth_of: int64 (detections,), the annotation that each detection met, or -1.
        iou: float32 (detections,), its overlap with that annotation, or 0.
        ignored: bool (detections,), detections inside a crowd region that met nothing: neither right nor wrong.
        missed: annotations that nothing met, crowds left out.
    """

    truth_of: Ints
    iou: NDArray[np.float32]
    ignored: NDArray[np.bool_]
    missed: Ints


def match(found: Detections, truth: Annotations, min_iou: float = 0.5, *, by_class: bool = True) -> Matches:
    """Greedy by score: each detection takes the free annotation that it overlaps most, from `min_iou` on.

    Args:
        by_class: only annotations of the detection's class can be met. Without it, a wrong class still meets its
            cell, which is what a confusion matrix counts.
    """
    n, m = len(found), len(truth)
    overlap = geometry.iou(found.boxes, truth.boxes)
    allowed = overlap >= min_iou
    if by_class:
        allowed &= found.labels[:, None] == truth.labels[None, :]
    allowed[:, truth.crowd] = False
    truth_of = np.full(n, -1, np.int64)
    best = np.zeros(n, np.float32)
    free = np.ones(m, bool)
    for i in np.argsort(-found.scores, kind="stable"):
        open_to = allowed[i] & free
        if open_to.any():
            j = int(np.argmax(np.where(open_to, overlap[i], -1)))
            truth_of[i], best[i], free[j] = j, overlap[i, j], False
    ignored = np.zeros(n, bool)
    if truth.crowd.any() and n:
        regions = truth.boxes[truth.crowd]
        covered = geometry.intersection(found.boxes, regions) / np.maximum(geometry.area(found.boxes), 1e-9)[:, None]
        same = found.labels[:, None] == truth.labels[truth.crowd][None, :]
        ignored = ((covered >= min_iou) & (same | (not by_class))).any(axis=1) & (truth_of < 0)
    return Matches(truth_of, best, ignored, np.flatnonzero(free & ~truth.crowd))

"""Per-class thresholds, chosen on a dev part only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detect.evaluate.matching import match
from detect.types import Dataset, Detections

UNKNOWN = 0.25  # where nothing can be chosen: a class without cells, or not all drawn, or of which none is found
AS_GOOD = 0.005  # of F1: far within its limits on any part that thresholds are chosen on
CHOICE = f"middle of the scores whose F1 at IoU 0.5 is within {AS_GOOD} of the highest"


def best_f1(dataset: Dataset, found: Sequence[Detections], min_iou: float = 0.5) -> dict[str, float]:
    """Per class a score, rounded to 0.01, from which on F1 at `min_iou` is as good as highest: the middle of the scores
    around the best that lose at most `AS_GOOD`. At home F1 hardly changes over a wide range of scores, and its highest
    point is chance; on another lab's slides both ends of that range fail first, its lower one by false cells.
    `UNKNOWN` for a class of which the set holds no cells, or not all, or none is found.

    Matching is greedy by score, so what a detection above a threshold meets does not depend on those below it, and
    one matching serves every threshold.

    Args:
        dataset: fields under the model's classes. found: predictions per field, down to low scores.
    """
    grid = np.round(np.arange(0.05, 0.951, 0.01), 2)
    hits = np.zeros((len(dataset.classes), len(grid)))
    shown = np.zeros_like(hits)
    truths = np.zeros(len(dataset.classes))
    for labelled, detections in zip(dataset.fields, found, strict=True):
        cells = labelled.annotations
        matches = match(detections, cells, min_iou)
        truths += np.bincount(cells.labels[~cells.crowd], minlength=len(truths))
        above = detections.scores[:, None] >= grid[None, :].astype(np.float32)
        for k in range(len(truths)):
            mine = (detections.labels == k) & ~matches.ignored
            shown[k] += above[mine].sum(axis=0)
            hits[k] += above[mine & (matches.truth_of >= 0)].sum(axis=0)
    f1 = 2 * hits / np.maximum(shown + truths[:, None], 1e-9)
    return {
        name: float(grid[_middle(f1[k])]) if f1[k].max() > 0 and name in dataset.exhaustive_for else UNKNOWN
        for k, name in enumerate(dataset.classes.names)
    }


def _middle(f1: np.ndarray[tuple[int], np.dtype[np.float64]]) -> int:
    """Place in the middle of the run around the best that is as good as that."""
    low = high = int(np.argmax(f1))
    as_good = f1 >= f1[low] - AS_GOOD
    while low > 0 and as_good[low - 1]:
        low -= 1
    while high < len(f1) - 1 and as_good[high + 1]:
        high += 1
    return (low + high) // 2

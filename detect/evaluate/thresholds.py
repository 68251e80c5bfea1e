"""Per-class thresholds, chosen on a dev part only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detect.evaluate.matching import match
from detect.types import Dataset, Detections

UNKNOWN = 0.25  # where nothing can be chosen: a class without cells, or without all of its cells drawn


def best_f1(dataset: Dataset, found: Sequence[Detections], min_iou: float = 0.5) -> dict[str, float]:
    """Per class the score, rounded to 0.01, from which on F1 at `min_iou` is highest; ties take the lower score.
    `UNKNOWN` for a class of which the set holds no cells, or not all.

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
        name: float(grid[int(np.argmax(f1[k]))]) if truths[k] and name in dataset.exhaustive_for else UNKNOWN
        for k, name in enumerate(dataset.classes.names)
    }

"""Predictions as labels to be corrected: machine-made until a person confirms them, and never exported before.

A person confirms a cell by the tag `confirmed`, which the App puts on a whole view at once, or by an edit of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from detect import geometry
from detect.review import documents
from detect.review.database import reached
from detect.review.documents import TRUTH
from detect.review.judge import rewritten, size_of, xyxy_of
from detect.review.open import Progress
from detect.review.predictions import Found, Predictions
from detect.review.snapshot import Row

_SAME = 0.5  # IoU from which a drawn cell is the one that was found


def prelabel(
    dataset: Any, predictions: Predictions, attributes: Mapping[str, type], progress: Progress | None = None
) -> int:
    """Add what was found, and is not drawn yet, as machine-made cells; how many.

    A field is labelled so once: a machine-made cell that a person deleted does not come back.
    """

    def make(row: Row, found: Found | None) -> tuple[Row, int]:
        if found is None or row.get("prelabelled"):
            return {"prelabelled": row.get("prelabelled")}, 0
        new = _cells(row, found, attributes)
        cells = [*documents.cells_of(row), *new]
        return {f"{TRUTH}.detections": cells, "prelabelled": predictions.name}, len(new)

    with reached():
        return sum(rewritten(dataset, predictions, make, progress))


def _cells(row: Row, found: Found, attributes: Mapping[str, type]) -> list[Row]:
    width, height = size_of(row)
    there = xyxy_of(documents.cells_of(row), width, height).astype(np.float32)
    out = []
    for i in np.flatnonzero(found.shown):
        if len(there) and geometry.iou(found.boxes[i : i + 1], there).max() >= _SAME:
            continue
        x0, y0, x1, y1 = (float(v) for v in found.boxes[i])
        mask = found.masks[i] if found.masks else None
        cell = documents.cell(found.names[int(i)], (x0, y0, x1 - x0, y1 - y0), width, height, mask)
        cell |= {"machine": True, "crowd": False, "confidence": float(found.scores[i])}
        out.append(cell | {"made_as": documents.as_made(cell, attributes)})
    return out

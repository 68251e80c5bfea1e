"""Predictions as labels to be corrected: machine-made until a person confirms them, and never exported before.

A person confirms a cell by the tag `confirmed`, which the App puts on a whole view at once, or by an edit of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from detect import geometry
from detect.review import documents
from detect.review.database import reached
from detect.review.documents import TRUTH
from detect.review.edits import as_made
from detect.review.judge import entry_of_row, size_of, xyxy_of
from detect.review.open import Progress
from detect.review.predictions import Found, Predictions
from detect.review.snapshot import Row

_SAME = 0.5  # IoU from which a drawn cell is the one that was found
_FEW = 64


def prelabel(dataset: Any, predictions: Predictions, progress: Progress | None = None) -> int:
    """Add what was found, and is not drawn yet, as machine-made cells; how many.

    Machine-made cells of an earlier call stay as they are, so that a second call adds nothing twice.
    """
    made = 0

    def changes() -> Iterator[tuple[Any, Row]]:
        nonlocal made
        rows, total = documents.read(dataset, [TRUTH, "slide", "group"]), dataset.count()
        while few := list(islice(rows, _FEW)):
            found = predictions.of([entry_of_row(row) for row in few])
            for row, cells in zip(few, found, strict=True):
                new = _cells(row, cells) if cells is not None else []
                made += len(new)
                if new:
                    yield row["_id"], {f"{TRUTH}.detections": [*row[TRUTH]["detections"], *new]}
            if progress is not None:
                progress(len(few), total)

    with reached():
        documents.update(dataset, changes())
    return made


def _cells(row: Row, found: Found) -> list[Row]:
    width, height = size_of(row)
    there = xyxy_of(row[TRUTH]["detections"], width, height).astype(np.float32)
    out = []
    for i in np.flatnonzero(found.shown):
        if len(there) and geometry.iou(found.boxes[i : i + 1], there).max() >= _SAME:
            continue
        x0, y0, x1, y1 = (float(v) for v in found.boxes[i])
        mask = found.masks[i] if found.masks else None
        cell = documents.cell(found.names[int(i)], (x0, y0, x1 - x0, y1 - y0), width, height, mask)
        cell |= {"machine": True, "crowd": False, "confidence": float(found.scores[i])}
        out.append(cell | {"made_as": as_made(cell)})
    return out

"""Which labels are probably wrong, from what a detector says of the same field.

Detector scores are taken for what they claim to be, the probability that a cell of that class is there. Every cell gets
the largest of the doubts below, and so does every place where the detector sees a cell that nobody drew. FiftyOne's
mistakenness ranks the first kind only, flags the others without an order, and hides its thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from detect import geometry
from detect.evaluate.matching import match
from detect.types import Annotations, Detections


class Doubt(StrEnum):
    """What is probably wrong with a label."""

    LABEL = "label"  # the detector sees another class there
    PLACE = "place"  # the detector sees the cell, but its box elsewhere
    NOTHING = "nothing there"  # the detector sees nothing where a cell is drawn
    MISSING = "not drawn"  # the detector sees a cell where none is drawn
    TWICE = "drawn twice"  # another drawn box covers the same cell


@dataclass(frozen=True)
class DoubtSettings:
    """Chosen on the dev part of TXL-PBC with injected errors (`tools/bench_doubt.py --split dev`).

    Attributes:
        same_place: IoU from which a detection speaks of a drawn cell.
        touch: IoU from which a detection of its class is the same cell, badly placed by one of the two.
        usual: IoU of a well-placed box with the detection of its cell; at it, place casts no doubt.
        shy: share of drawn cells that a detector misses all the same, by which `NOTHING` is believed less.
        twice: IoU from which two drawn boxes are one cell.
    """

    same_place: float = 0.5
    touch: float = 0.1
    usual: float = 0.75
    shy: float = 0.2
    twice: float = 0.8


@dataclass(frozen=True, eq=False)
class Doubts:
    """One field.

    Attributes:
        cells: float32 (annotations,), how doubtful each drawn cell is, 0 to 1; 0 for crowds.
        kinds: what is doubtful of each. says: the class that the detector sees there, or "".
        missing: float32 (detections,), how probably each detection is a cell that was not drawn.
    """

    cells: NDArray[np.float32]
    kinds: tuple[Doubt, ...]
    says: tuple[str, ...]
    missing: NDArray[np.float32]


def doubts(
    found: Detections, truth: Annotations, exhaustive: Sequence[str], settings: DoubtSettings | None = None
) -> Doubts:
    """Of every drawn cell, and of every detection that meets none.

    Args:
        found: down to low scores. exhaustive: classes of which every cell is drawn; of others none can be missing.
    """
    s = settings or DoubtSettings()
    overlap = geometry.iou(found.boxes, truth.boxes)
    same = found.labels[:, None] == truth.labels[None, :]
    owner = _owners(overlap, found.scores, s)
    claimed = np.zeros(len(found), bool)
    kinds, says, cells = [], [], np.zeros(len(truth), np.float32)
    twins = geometry.iou(truth.boxes, truth.boxes)
    np.fill_diagonal(twins, 0)
    for j in range(len(truth)):
        if truth.crowd[j]:
            kinds.append(Doubt.LABEL)
            says.append("")
            continue
        free = (owner == -1) | (owner == j)
        value, kind, name = _of(overlap[:, j], same[:, j], free, found, s)
        claimed |= (overlap[:, j] >= s.touch) & free
        if twins[j].max(initial=0) >= s.twice and value < 1:
            other = int(twins[j].argmax())
            if j > other:  # the one drawn first stands
                value, kind, name = float(twins[j, other]), Doubt.TWICE, ""
        cells[j] = value
        kinds.append(kind)
        says.append(name)
    whole = np.array([name in exhaustive for name in found.classes.names], bool)
    unmet = (owner == -1) & ~claimed & ~match(found, truth, s.same_place).ignored
    missing = np.where(whole[found.labels] & unmet, found.scores, 0).astype(np.float32)
    return Doubts(cells, tuple(kinds), tuple(says), _once(found, missing, s))


def _owners(overlap: NDArray[np.float32], scores: NDArray[np.float32], s: DoubtSettings) -> NDArray[np.int64]:
    """The drawn cell that each detection is of: the one it covers most, from `same_place` on; else -1."""
    if not overlap.size:
        return np.full(len(scores), -1, np.int64)
    best = overlap.argmax(axis=1)
    return np.where(overlap.max(axis=1) >= s.same_place, best, -1).astype(np.int64)


def _of(
    overlap: NDArray[np.float32],
    same: NDArray[np.bool_],
    free: NDArray[np.bool_],
    found: Detections,
    s: DoubtSettings,
) -> tuple[float, Doubt, str]:
    """The largest doubt of one drawn cell. overlap, same, free (of no other cell): (detections,)."""
    there = overlap >= s.same_place
    own = float(found.scores[there & same].max(initial=0))
    others = np.where(there & ~same, found.scores, 0)
    other = float(others.max(initial=0))
    says = found.classes.names[int(found.labels[int(others.argmax())])] if other > 0 else ""
    label = other * (1 - own)
    near = np.where((overlap >= s.touch) & same & free, found.scores, 0)
    best = int(near.argmax()) if len(near) else -1
    place = 0.0
    if best >= 0 and near[best] > 0:
        off = (s.usual - float(overlap[best])) / (s.usual - s.same_place)
        place = float(near[best]) * min(1.0, max(0.0, off))
    nothing = (1 - max(own, other, float(near.max(initial=0)))) * (1 - s.shy)
    value, kind = max((label, Doubt.LABEL), (place, Doubt.PLACE), (nothing, Doubt.NOTHING), key=lambda d: d[0])
    return value, kind, says if kind is Doubt.LABEL else ""


def _once(found: Detections, missing: NDArray[np.float32], s: DoubtSettings) -> NDArray[np.float32]:
    """One cell may be found under several classes; it is missing once, under the surest."""
    out = missing.copy()
    taken: list[int] = []
    for i in np.argsort(-missing, kind="stable"):
        if missing[i] <= 0:
            break
        if taken and geometry.iou(found.boxes[i : i + 1], found.boxes[taken]).max() >= s.same_place:
            out[i] = 0
        else:
            taken.append(int(i))
    return out

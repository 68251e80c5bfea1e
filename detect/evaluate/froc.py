"""FROC: the share of cells found against the false positives per field that it costs.

Bunch et al., Proc. SPIE 127 (1977); the mean over seven rates is that of van Ginneken et al., Med. Image Anal. 14
(2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from detect.evaluate.coco_ap import Matched
from detect.evaluate.intervals import Interval, intervals

RATES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, eq=False)
class Froc:
    """One class, matched at IoU 0.5.

    Attributes:
        sensitivity: at each of `rates`, false positives per field.
        mean: of the seven.
        curve: (points, 2), false positives per field and sensitivity, from the highest score down.
    """

    sensitivity: tuple[Interval, ...]
    mean: Interval
    n_cells: int
    curve: NDArray[np.float64] = field(metadata={"told": False})
    rates: tuple[float, ...] = RATES


def froc(c: Matched, groups: Sequence[str], *, rounds: int = 1000, seed: int = 1) -> Froc | None:
    """FROC of one class of which every cell is drawn; None where there is no cell."""
    if not c.truths.sum():
        return None
    got = intervals(lambda w: sensitivities(c, w), groups, rounds=rounds, seed=seed)
    false, found = _curves(c, np.ones((1, len(groups))))
    curve = np.stack([false[0], found[0]], axis=1)
    return Froc(tuple(got[:-1]), got[-1], int(c.truths.sum()), curve)


def sensitivities(c: Matched, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The highest sensitivity at no more than each rate, and their mean: (rounds, fields) to (rounds, 8).

    No line is drawn between thresholds: a rate that the detector cannot have exactly gets what the next stricter
    threshold finds. NaN where no cell is drawn.
    """
    false, found = _curves(c, weights)
    at = np.stack([np.searchsorted(row, RATES, side="right") for row in false]) - 1
    seven = np.take_along_axis(found, at, axis=1)
    return np.concatenate([seven, seven.mean(axis=1, keepdims=True)], axis=1)


def _curves(c: Matched, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False positives per field, and sensitivity, (rounds, thresholds + 1) each, from nothing shown down."""
    # A threshold cannot tell equal scores apart: only the last of them is a point of the curve.
    last = np.flatnonzero(np.append(np.diff(c.scores) != 0, True)) if len(c.scores) else np.zeros(0, np.int64)
    drawn = weights.take(c.fields, axis=1)
    hits = np.cumsum(drawn * c.hit[0], axis=1)[:, last]
    false = np.cumsum(drawn * (c.counted[0] & ~c.hit[0]), axis=1)[:, last]
    n_fields, n_cells = weights.sum(axis=1, keepdims=True), (weights @ c.truths)[:, None]
    found = np.where(n_cells > 0, hits / np.maximum(n_cells, 1), np.nan)
    nothing = np.where(n_cells > 0, 0.0, np.nan)
    return np.pad(false / n_fields, ((0, 0), (1, 0))), np.concatenate([nothing, found], axis=1)

"""What to label next: fields of which the model is unsure, and which are unlike each other.

Greedy: the field taken next is the one with the largest product of its uncertainty and its distance to those already
taken, so that ten shots of one place are not taken for ten lessons (diversity after Sener and Savarese, ICLR 2018).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MOST = 200


def label_next(uncertainty: Sequence[float], features: Sequence[Sequence[float]], most: int = MOST) -> list[int]:
    """Positions of the fields to label, first to last.

    Args:
        uncertainty: of each field, 0 to 1; a field at 0 is never taken. features: (fields, k), scaled here.
    """
    unsure = np.asarray(uncertainty, np.float64)
    if not len(unsure):
        return []
    table = np.asarray(features, np.float64).reshape(len(unsure), -1)
    spread = table.std(axis=0)
    table = (table - table.mean(axis=0)) / np.where(spread > 0, spread, 1)
    nearest = np.full(len(unsure), np.inf)
    left = unsure > 0
    out: list[int] = []
    while left.any() and len(out) < most:
        # The first is the most uncertain; after that a copy of one taken, at distance 0, comes last.
        far = np.ones(len(unsure)) if not out else nearest + 1e-9
        worth = np.where(left, unsure * far, -1)
        chosen = int(worth.argmax())
        out.append(chosen)
        left[chosen] = False
        nearest = np.minimum(nearest, np.linalg.norm(table - table[chosen], axis=1))
    return out

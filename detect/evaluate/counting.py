"""How well cells are counted per field: mean absolute error, bias, and limits of agreement.

Bland and Altman, Lancet 327 (1986): 307-310. Errors of opposite sign cancel within a field, so counting can be right
where finding is not: it is told beside precision and recall, never in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from detect.evaluate.intervals import Z95, Interval, intervals, ratio


@dataclass(frozen=True, eq=False)
class Counting:
    """One class at its threshold, found minus drawn, in cells per field.

    Attributes:
        mae: mean absolute error. bias: mean error.
        lower, upper: the limits of agreement, bias -+ 1.96 standard deviations, between which 95 % of fields lie.
        pairs: int64 (fields, 2), drawn and found.
    """

    mae: Interval
    bias: Interval
    lower: Interval
    upper: Interval
    n_fields: int
    n_drawn: int
    n_found: int
    pairs: NDArray[np.int64] = field(metadata={"told": False})


def counting(
    drawn: NDArray[np.float64],
    found: NDArray[np.float64],
    known: NDArray[np.bool_],
    groups: Sequence[str],
    *,
    rounds: int = 1000,
    seed: int = 1,
) -> Counting | None:
    """Counting error of one class of which every cell is drawn; None where no field is known.

    Args:
        drawn, found: cells per field, (fields,). known: fields whose cells are all drawn one by one: a crowd region
            holds an unknown number.
    """
    if not known.any():
        return None
    groups = [g for g, k in zip(groups, known, strict=True) if k]
    drawn, found = drawn[known], found[known]
    mae, bias, lower, upper = intervals(lambda w: errors(found - drawn, w), groups, rounds=rounds, seed=seed)
    pairs = np.stack([drawn, found], axis=1).astype(np.int64)
    return Counting(mae, bias, lower, upper, len(drawn), int(drawn.sum()), int(found.sum()), pairs)


def errors(difference: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """MAE, bias and limits of agreement of found minus drawn, (rounds, fields) to (rounds, 4).

    The limits are NaN where fewer than two fields were drawn.
    """
    n = weights.sum(axis=1)
    bias = ratio(weights @ difference, n)
    squares = weights @ difference**2 - n * bias**2
    spread = np.sqrt(np.maximum(ratio(squares, np.maximum(n - 1, 0)), 0))
    return np.stack([ratio(weights @ np.abs(difference), n), bias, bias - Z95 * spread, bias + Z95 * spread], axis=1)

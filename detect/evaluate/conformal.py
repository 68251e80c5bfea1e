"""Sets of types that hold the true one as often as asked, for every type by itself.

Split conformal prediction (Vovk, Gammerman and Shafer, 2005) with a calibration of its own for each type (Mondrian;
Sadinle, Lei and Wasserman, 2019): a type belongs to the set of a cell unless its probability is lower than that of
most calibration cells that were of it. The usual rank of n calibration cells overshoots by up to 1 in n; here the limit
lies between the two cells around the asked rank, so that the mean over calibrations is about what was asked (exactly,
where strangeness is spread evenly between the two). A type with too few cells for that rank is never ruled out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detect.evaluate.intervals import Interval, intervals, ratio

Doubles = NDArray[np.float64]


def strangeness(
    probabilities: NDArray[np.floating], truth: NDArray[np.int64], types: int
) -> tuple[NDArray[np.float64], ...]:
    """By type, ascending: 1 less the probability that each cell of that type got for it."""
    return tuple(np.sort(1.0 - probabilities[truth == t, t].astype(np.float64)) for t in range(types))


def limits(strange: Sequence[Sequence[float] | Doubles], error: float) -> Doubles:
    """By type, the most that 1 less its probability may be for it to belong to a set, (types,).

    Args:
        strange: of calibration cells, see `strangeness`. error: share of cells whose set may lack their type.
    """
    return np.array([_limit(np.asarray(s, np.float64), error) for s in strange])


def _limit(ascending: Doubles, error: float) -> float:
    """Between the two cells around rank (n + 1)(1 - error); 1, which takes all, where that is beyond the last cell."""
    rank = (len(ascending) + 1) * (1.0 - error)
    if rank > len(ascending):
        return 1.0
    known = np.concatenate([[0.0], ascending])
    return float(np.interp(rank, np.arange(len(known)), known))


def sets(probabilities: NDArray[np.floating], most: Doubles) -> NDArray[np.bool_]:
    """Which types belong to the set of each cell, (n, types).

    A set may be empty: no type is like the cell. One that is not holds the likeliest type too, whose own limit may rule
    it out: no cell is named after the second likeliest alone. Coverage only gains by it.
    """
    # A probability is a float32, which near 1 has steps of 6e-8.
    told = np.asarray(1.0 - probabilities.astype(np.float64) <= most + 1e-6)
    best = probabilities.argmax(axis=1)[:, None] == np.arange(probabilities.shape[1])
    return np.asarray(told | (best & told.any(axis=1, keepdims=True)))


@dataclass(frozen=True)
class Coverage:
    """How often sets held the true type, over many draws of calibration groups.

    Attributes:
        mean: share of all cells, of all draws together; limits by bootstrap over groups (the chance of which groups
            calibrate is in `spread`). by_type: the same for each type. cells: how many there are of each type. spread:
            standard deviation over draws of the share of all cells.
        single, several, none: shares of cells by how many types their set holds.
    """

    error: float
    draws: int
    mean: Interval
    spread: float
    by_type: dict[str, Interval]
    cells: dict[str, int]
    single: float
    several: float
    none: float
    n_cells: int
    n_groups: int


def coverage(
    types: Sequence[str],
    truth: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    groups: Sequence[str],
    *,
    error: float = 0.1,
    draws: int = 100,
    seed: int = 1,
) -> Coverage:
    """Calibrate on half of the groups and count on the other half, many times.

    Args:
        truth: int64 (n,), indices into `types`. probabilities: (n, types). groups: (n,); never divided.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    held, seen = np.zeros(len(truth)), np.zeros(len(truth))  # draws in which a cell's set held its type, and was made
    shares: list[float] = []
    sizes = np.zeros(3)
    for _ in range(draws):
        first = np.zeros(len(names), bool)
        first[rng.permutation(len(names))[: len(names) // 2]] = True
        calibrate = first[member]
        most = limits(strangeness(probabilities[calibrate], truth[calibrate], len(types)), error)
        told, true = sets(probabilities[~calibrate], most), truth[~calibrate]
        right = told[np.arange(len(true)), true]
        held[~calibrate] += right
        seen[~calibrate] += 1
        shares.append(float(right.mean()))
        many = told.sum(axis=1)
        sizes += [(many == 1).mean(), (many > 1).mean(), (many == 0).mean()]
    of = np.concatenate([np.ones((len(truth), 1), bool), truth[:, None] == np.arange(len(types))], axis=1)

    def figures(weights: Doubles) -> Doubles:
        return ratio(weights @ (held[:, None] * of), weights @ (seen[:, None] * of))

    mean, *each = intervals(figures, list(groups), seed=seed)
    single, several, none = (sizes / draws).tolist()
    return Coverage(
        error, draws, mean, float(np.std(shares, ddof=1)), dict(zip(types, each, strict=True)),
        {t: int((truth == k).sum()) for k, t in enumerate(types)}, single, several, none, len(truth), len(names),
    )  # fmt: skip

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
        mean: over draws, of the share of all cells. by_type: the same for each type. spread: standard deviation over
            draws of the share of all cells.
        single, several, none: shares of cells by how many types their set holds.
    """

    error: float
    draws: int
    mean: float
    spread: float
    by_type: dict[str, float]
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
    held: list[NDArray[np.bool_]] = []
    seen: list[NDArray[np.int64]] = []
    sizes = np.zeros(3)
    for _ in range(draws):
        first = np.zeros(len(names), bool)
        first[rng.permutation(len(names))[: len(names) // 2]] = True
        calibrate = first[member]
        most = limits(strangeness(probabilities[calibrate], truth[calibrate], len(types)), error)
        told, true = sets(probabilities[~calibrate], most), truth[~calibrate]
        held.append(told[np.arange(len(true)), true])
        seen.append(true)
        many = told.sum(axis=1)
        sizes += [(many == 1).mean(), (many > 1).mean(), (many == 0).mean()]
    shares = np.array([h.mean() for h in held])
    by_type = {}
    for t, name in enumerate(types):
        each = [h[s == t].mean() for h, s in zip(held, seen, strict=True) if (s == t).any()]
        by_type[name] = float(np.mean(each)) if each else float("nan")
    single, several, none = (sizes / draws).tolist()
    return Coverage(
        error, draws, float(shares.mean()), float(shares.std(ddof=1)), by_type, single, several, none,
        len(truth), len(names),
    )  # fmt: skip

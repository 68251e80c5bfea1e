"""95 % intervals. No figure leaves the house without one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % limits."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def wilson(hits: int, n: int) -> Interval:
    """A proportion with its Wilson score interval (Wilson, J Am Stat Assoc 22, 1927); NaN where n is 0."""
    if n == 0:
        nan = float("nan")
        return Interval(nan, nan, nan)
    p, z2 = hits / n, Z95 * Z95
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if hits == 0 else max(0.0, center - half)
    high = 1.0 if hits == n else min(1.0, center + half)
    return Interval(p, low, high)


def bootstrap(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    groups: Sequence[Hashable],
    *,
    rounds: int = 1000,
    seed: int = 1,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile limits by drawing whole groups with replacement (the cluster bootstrap: Davison and Hinkley 1997).

    Args:
        statistic: weights per unit, float64 (units,), to figures, float64 (k,); a drawn group's units weigh as
            often as it was drawn.
        groups: the group of each unit.

    Returns:
        2.5 % and 97.5 % limits, (k,) each; rounds in which a figure is undefined are left out of it.
    """
    names, member = np.unique(np.asarray([str(g) for g in groups]), return_inverse=True)
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(rounds):
        drawn = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        rows.append(statistic(drawn[member].astype(np.float64)))
    table = np.stack(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a figure undefined in every round stays NaN
        low, high = np.nanpercentile(table, [2.5, 97.5], axis=0)
    return low, high


def plain_json(values: Mapping[str, Any]) -> str:
    """JSON text in which an undefined figure is null: NaN is no JSON."""
    return json.dumps(_defined(values), indent=1, allow_nan=False)


def _defined(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _defined(v) for k, v in value.items()}
    return [_defined(v) for v in value] if isinstance(value, list | tuple) else value

"""95 % intervals. No figure leaves the house without one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import islice
from math import isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
_BLOCK = 50  # rounds at once: the arrays of one block stay within some tens of megabytes


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % limits."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self:.3f}"

    def __format__(self, spec: str) -> str:
        """The three numbers, each in the format `spec`, three decimals where there is none."""
        spec = spec or ".3f"
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


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


def draws(groups: Sequence[Hashable], rounds: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Whole groups drawn with replacement: per round how often each unit's group was drawn, float64 (units,)."""
    names, member = np.unique(np.asarray([str(g) for g in groups]), return_inverse=True)
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        drawn = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        yield drawn[member].astype(np.float64)


def limits(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """2.5 % and 97.5 % of each column of (rounds, k); rounds in which a figure is undefined are left out of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a figure undefined in every round stays NaN
        low, high = np.nanpercentile(table, [2.5, 97.5], axis=0)
    return low, high


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
    return limits(np.stack([statistic(weights) for weights in draws(groups, rounds, seed)]))


def resampled(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    weights: Iterable[NDArray[np.float64]],
) -> NDArray[np.float64]:
    """A statistic of many rounds at once, float64 (rounds, k).

    Args:
        statistic: weights, float64 (rounds, units), to figures, float64 (rounds, k).
        weights: per round, such as from `draws`; taken in blocks, so that memory does not grow with the rounds.
    """
    rest = iter(weights)
    blocks = []
    while block := list(islice(rest, _BLOCK)):
        blocks.append(statistic(np.stack(block)))
    return np.concatenate(blocks)


def intervals(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    groups: Sequence[Hashable],
    *,
    rounds: int = 1000,
    seed: int = 1,
    normal: bool = False,
) -> list[Interval]:
    """Figures with their bootstrap limits over groups, as `bootstrap`, for a statistic as `resampled` takes it.

    Args:
        normal: limits at 1.96 standard deviations of the rounds, never below 0: for a figure that drawing again makes
            greater, such as a mean of absolute gaps, whose percentile limits could lie wholly above it.
    """
    value = statistic(np.ones((1, len(groups))))[0]
    table = resampled(statistic, draws(groups, rounds, seed))
    low, high = limits(table)
    if normal:
        half = Z95 * np.nanstd(table, axis=0)
        low, high = np.maximum(value - half, 0), value + half
    return [Interval(float(v), float(a), float(b)) for v, a, b in zip(value, low, high, strict=True)]


def ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    """`top / bottom`, NaN where `bottom` is 0: a share of nothing is undefined."""
    shape = np.broadcast_shapes(top.shape, bottom.shape)
    share = np.divide(top, bottom, out=np.full(shape, np.nan), where=np.broadcast_to(bottom != 0, shape))
    return np.asarray(share, np.float64)


def plain_json(values: Mapping[str, Any]) -> str:
    """JSON text of plain values, records and arrays, in which an undefined figure is null: NaN is no JSON."""
    return json.dumps(_defined(values), indent=1, allow_nan=False)


def _defined(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return _defined(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _defined(getattr(value, f.name)) for f in fields(value) if f.metadata.get("told", True)}
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _defined(v) for k, v in value.items()}
    return [_defined(v) for v in value] if isinstance(value, list | tuple) else value

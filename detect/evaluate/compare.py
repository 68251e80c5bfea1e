"""Two detectors, or two classifiers, measured on the same fields: is the difference more than chance?

Paired throughout: each bootstrap round draws the same groups for both (Efron and Tibshirani 1993, 16.4), and the
swap test exchanges the two in whole groups, which is what would change nothing if they were alike (Fisher's
randomisation). Many figures are compared at once: p is of each alone, not corrected for their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.errors import DataError
from detect.evaluate import counting
from detect.evaluate.classification import Answers
from detect.evaluate.coco_ap import Ap, Matched, mean_and_each
from detect.evaluate.detection import above, count, countable, scores_at_thresholds
from detect.evaluate.intervals import Interval, draws, limits, plain_json, ratio, resampled
from detect.evaluate.saved import Saved
from detect.evaluate.tables import table
from detect.types import ClassMap, Dataset, Detections

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Difference:
    """One figure of both.

    Attributes:
        difference: b minus a, with 95 % limits of the paired bootstrap.
        p: two-sided, from that bootstrap. p_swap: two-sided, from exchanging the two in whole groups.
        p_exact: McNemar's, of classifiers' accuracy; else None.
    """

    a: float
    b: float
    difference: Interval
    p: float
    p_swap: float
    p_exact: float | None = None


@dataclass(frozen=True)
class Comparison:
    """All figures. `left_out`: classes that only one of the two has, or of which not every cell is drawn."""

    names: tuple[str, str]
    figures: dict[str, Difference]
    n_units: int
    n_groups: int
    unit: str
    left_out: tuple[str, ...]


def same_data(a: Mapping[str, Any], b: Mapping[str, Any], paths: tuple[Path, Path]) -> None:
    """DataError where two folders were not measured on the same part of the same data."""
    for key in ("data", "split", "part", "fingerprint"):
        if a.get(key) != b.get(key):
            what = f"measured on {key} {b.get(key)!r}, but {paths[0]} on {a.get(key)!r}"
            raise DataError(what, where=str(paths[1]), remedy="measure both on the same part of the same set")


def compare_detectors(a: Saved, b: Saved, *, rounds: int = 1000, seed: int = 1) -> Comparison:
    """Difference of mAP, AP, F1 and counting error, over the classes that both have and of which every cell is drawn.

    Raises:
        DataError: measured on other data, no class in common, or a class that stands for other cells in the two.
    """
    same_data(a.info, b.info, (a.path, b.path))
    names = [n for n in a.dataset.classes if n in b.dataset.exhaustive_for & a.dataset.exhaustive_for]
    if not names:
        what = f"no exhaustive class in common: {list(a.dataset.classes)} and {list(b.dataset.classes)}"
        raise DataError(what, where=str(b.path), remedy="compare detectors of the same cells")
    sides = [_Side.of(_only(s, names)) for s in (a, b)]
    _same_cells(a, b, names)
    groups = [f.field.group or f.field.id for f in a.dataset.fields]
    both = sides[0].beside(sides[1])
    differences = _differences(
        tuple(side.figures for side in sides), both.figures, figure_names(names), groups, rounds, seed
    )
    left_out = tuple(sorted({*a.dataset.classes, *b.dataset.classes} - set(names)))
    return Comparison((a.name, b.name), differences, len(groups), len(set(groups)), "fields", left_out)


def figure_names(names: Sequence[str]) -> list[str]:
    """What `_Side.figures` gives, in its order."""
    ap = [f"{what} {n}" for n in names for what in ("AP50", "AP50-95")]
    return ["mAP50", "mAP50-95", *ap, *(f"F1 {n}" for n in names), *(f"counting MAE {n}" for n in names)]


@dataclass(frozen=True, eq=False)
class _Side:
    """One detector: what was matched per class, counts (fields, 3, classes), fields with known counts."""

    matched: dict[str, Matched]
    counts: NDArray[np.float64]
    known: NDArray[np.bool_]

    @classmethod
    def of(cls, saved: Saved) -> _Side:
        shown = above(saved.found, saved.thresholds)
        ap = Ap(saved.dataset, saved.found, saved.cap)
        return cls(dict(ap.matched), count(saved.dataset, shown), countable(saved.dataset))

    def beside(self, other: _Side) -> _Side:
        """Both over twice the fields, the other's behind."""
        return _Side(
            {n: m.beside(other.matched[n]) for n, m in self.matched.items()},
            np.concatenate([self.counts, other.counts]),
            np.concatenate([self.known, other.known]),
        )

    def figures(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(rounds, fields) to (rounds, figures)."""
        k = self.counts.shape[2]
        f1 = scores_at_thresholds(self.counts, weights)[:, 2 * k :]
        wrong = self.counts[:, 1] - self.counts[:, 0]
        mae = [counting.errors(wrong[:, i], weights * self.known[:, i])[:, :1] for i in range(k)]
        return np.concatenate([mean_and_each(self.matched, weights), f1, *mae], axis=1)


def _only(saved: Saved, names: Sequence[str]) -> Saved:
    """The same under these classes alone."""
    classes = ClassMap(tuple(names))
    number = np.array([names.index(n) if n in names else -1 for n in saved.dataset.classes], np.int64)
    fields = []
    for f in saved.dataset.fields:
        cells = f.annotations.select(number[f.annotations.labels] >= 0)
        fields.append(replace(f, annotations=replace(cells, labels=number[cells.labels])))
    dataset = replace(saved.dataset, classes=classes, fields=tuple(fields), exhaustive_for=frozenset(names))
    return replace(saved, dataset=dataset, found=tuple(_narrow(d, number, classes) for d in saved.found))


def _narrow(d: Detections, number: NDArray[np.int64], classes: ClassMap) -> Detections:
    kept = d.select(number[d.labels] >= 0)
    return replace(kept, labels=number[kept.labels], classes=classes)


def _same_cells(a: Saved, b: Saved, names: Sequence[str]) -> None:
    for name in names:
        for f, g in zip(a.dataset.fields, b.dataset.fields, strict=True):
            mine, theirs = (_boxes(d, cells.annotations, name) for d, cells in ((a.dataset, f), (b.dataset, g)))
            if f.field.id != g.field.id or not np.array_equal(mine, theirs):
                what = f"the drawn cells of '{name}' are not those of {a.path} (field {f.field.id})"
                raise DataError(what, where=str(b.path), remedy="compare detectors whose classes mean the same")


def _boxes(dataset: Dataset, cells: Any, name: str) -> NDArray[np.float32]:
    return np.asarray(cells.boxes[cells.labels == dataset.classes.index(name)])


def _differences(
    sides: tuple[Statistic, ...], both: Statistic, names: Sequence[str], groups: Sequence[str], rounds: int, seed: int
) -> dict[str, Difference]:
    one = np.ones((1, len(groups)))
    a, b = (side(one)[0] for side in sides)
    table = resampled(lambda w: sides[1](w) - sides[0](w), draws(groups, rounds, seed))
    low, high = limits(table)
    swapped = resampled(lambda w: _swapped(both, w), swaps(groups, rounds, seed))
    out = {}
    for i, name in enumerate(names):
        difference = Interval(float(b[i] - a[i]), float(low[i]), float(high[i]))
        p_swap = swap_p(float(b[i] - a[i]), swapped[:, i])
        out[name] = Difference(float(a[i]), float(b[i]), difference, bootstrap_p(table[:, i]), p_swap)
    return out


def swaps(groups: Sequence[str], rounds: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Per round which units are exchanged, whole groups by a coin: 1 or 0, float64 (units,)."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        yield rng.integers(0, 2, len(names))[member].astype(np.float64)


def _swapped(both: Statistic, swap: NDArray[np.float64]) -> NDArray[np.float64]:
    first = np.concatenate([1 - swap, swap], axis=1)
    return both(1 - first) - both(first)


def bootstrap_p(differences: NDArray[np.float64]) -> float:
    """Two-sided: twice the smaller share of rounds on either side of 0, never 0 (Davison and Hinkley 1997, 4.2)."""
    d = differences[~np.isnan(differences)]
    if not len(d):
        return float("nan")
    less = min(int((d <= 0).sum()), int((d >= 0).sum()))
    return min(1.0, 2 * (less + 1) / (len(d) + 1))


def swap_p(difference: float, swapped: NDArray[np.float64]) -> float:
    """Two-sided: the share of exchanges, this one counted in, that differ at least as much."""
    d = swapped[~np.isnan(swapped)]
    if not len(d) or np.isnan(difference):
        return float("nan")
    # Sums in another order differ in the last digits; they must not make equal look smaller.
    return float((1 + (np.abs(d) >= abs(difference) - 1e-12).sum()) / (1 + len(d)))


def compare_classifiers(
    a: tuple[str, Answers], b: tuple[str, Answers], paths: tuple[Path, Path], *, rounds: int = 1000, seed: int = 1
) -> Comparison:
    """Difference of accuracy, macro F1 and F1 per type on the same cells, and McNemar's exact test of accuracy.

    McNemar takes cells as independent; the bootstrap and the swaps take groups.

    Raises:
        DataError: measured on other cells.
    """
    one, two = a[1], b[1]
    same_data(one.info, two.info, paths)
    if (one.cells, one.truth) != (two.cells, two.truth):
        what = f"{len(two.cells)} cells that are not the {len(one.cells)} of {paths[0]}"
        raise DataError(what, where=str(paths[1]), remedy="measure both on the same part of the same sets")
    types = sorted(set(one.truth))
    truth = np.array(one.truth)
    answers = [np.array(side.answers) for side in (one, two)]
    sides = tuple(partial(_answered, types, truth, answer) for answer in answers)
    both = partial(_answered, types, np.concatenate([truth, truth]), np.concatenate(answers))
    names = ["accuracy", "macro F1", *(f"F1 {t}" for t in types)]
    out = _differences(sides, both, names, one.groups, rounds, seed)
    right = [answer == truth for answer in answers]
    exact = mcnemar(int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()))
    out["accuracy"] = replace(out["accuracy"], p_exact=exact)
    return Comparison((a[0], b[0]), out, len(truth), len(set(one.groups)), "cells", ())


def _answered(
    types: Sequence[str], truth: NDArray[np.str_], answer: NDArray[np.str_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Accuracy, macro F1, F1 per type, (rounds, cells) to (rounds, 2 + types)."""
    real, said = (np.stack([column == t for t in types], axis=1).astype(np.float64) for column in (truth, answer))
    f1 = ratio(2 * (weights @ (real * said)), weights @ (real + said))
    accuracy = ratio(weights @ (truth == answer).astype(np.float64), weights.sum(axis=1))
    return np.concatenate([accuracy[:, None], f1.mean(axis=1, keepdims=True), f1], axis=1)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p that of the cells that one alone has right, either is as likely (McNemar, 1947)."""
    n = only_a + only_b
    tail = sum(comb(n, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, float(Fraction(2 * tail, 2**n)))


def markdown(c: Comparison) -> str:
    """A readable table."""
    lines = [
        f"# {c.names[1]} against {c.names[0]}",
        "",
        f"{c.n_units} {c.unit}, {c.n_groups} groups, the same for both. Difference: {c.names[1]} minus {c.names[0]}, "
        "95 % interval and p by paired bootstrap over groups. p of each figure alone, not corrected for their number.",
        "",
        *table(heads(c), rows(c)),
    ]
    if c.left_out:
        lines += ["", f"Left out, since not in both or not exhaustive: {', '.join(c.left_out)}."]
    return "\n".join(lines) + "\n"


def heads(c: Comparison) -> list[str]:
    """Of `rows`."""
    return ["figure", c.names[0], c.names[1], "difference", "p", "p by swapping groups"]


def rows(c: Comparison) -> list[tuple[str, ...]]:
    """One a figure, as text."""
    out: list[tuple[str, ...]] = []
    for name, d in c.figures.items():
        exact = "" if d.p_exact is None else f" (McNemar {d.p_exact:.3f})"
        out.append((name, f"{d.a:.3f}", f"{d.b:.3f}", f"{d.difference:+.3f}", f"{d.p:.3f}", f"{d.p_swap:.3f}{exact}"))
    return out


def write(c: Comparison, out: Path, about: Mapping[str, Any]) -> None:
    """`compare.json` and `compare.md`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "compare.json").write_text(plain_json({**about, "comparison": c}), "utf-8")
    (out / "compare.md").write_text(markdown(c), "utf-8")

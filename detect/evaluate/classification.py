"""A classifier measured on cells of known type: accuracy, macro F1, confusion, coverage, with intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.evaluate.intervals import Interval, bootstrap, plain_json

ANSWERS = "answers.json"


@dataclass(frozen=True, eq=False)
class ClassificationReport:
    """Figures over all cells (no abstaining), and what the bundle's least probability does to them.

    Attributes:
        f1: per type. confusion: rows true, columns answered.
        answered: share of cells whose best probability reaches the bundle's minimum.
        accuracy_answered: share of those that is right.
    """

    types: tuple[str, ...]
    macro_f1: Interval
    accuracy: Interval
    f1: dict[str, Interval]
    answered: Interval
    accuracy_answered: Interval
    confusion: NDArray[np.int64]
    n_cells: int
    n_groups: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "macro_f1": asdict(self.macro_f1),
            "accuracy": asdict(self.accuracy),
            "f1": {name: asdict(v) for name, v in self.f1.items()},
            "answered": asdict(self.answered),
            "accuracy_answered": asdict(self.accuracy_answered),
            "confusion": {"types": list(self.types), "rows_true_columns_answered": self.confusion.tolist()},
            "n_cells": self.n_cells,
            "n_groups": self.n_groups,
        }


def measure(
    types: Sequence[str],
    truth: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    groups: Sequence[str],
    min_probability: float,
    *,
    rounds: int = 1000,
    seed: int = 1,
) -> ClassificationReport:
    """Measure answers.

    Args:
        truth: int64 (n,), indices into `types`. probabilities: (n, types). groups: (n,).
    """
    k = len(types)
    answer = probabilities.argmax(axis=1)
    sure = probabilities.max(axis=1) >= min_probability
    right = answer == truth
    one_true, one_answer = np.eye(k)[truth], np.eye(k)[answer]

    def figures(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        hits = (weights[:, None] * one_true * one_answer).sum(axis=0)
        total = (weights[:, None] * (one_true + one_answer)).sum(axis=0)
        present = (weights[:, None] * one_true).sum(axis=0) > 0
        f1 = np.where(present, 2 * hits / np.maximum(total, 1e-12), np.nan)
        n, n_sure = weights.sum(), (weights * sure).sum()
        with np.errstate(all="ignore"):
            rest = [
                np.nanmean(f1),
                (weights * right).sum() / n,
                n_sure / n,
                (weights * right * sure).sum() / n_sure,
            ]
        return np.concatenate([rest, f1])

    value = figures(np.ones(len(truth)))
    low, high = bootstrap(figures, groups, rounds=rounds, seed=seed)
    got = [Interval(float(v), float(a), float(b)) for v, a, b in zip(value, low, high, strict=True)]
    confusion = np.zeros((k, k), np.int64)
    np.add.at(confusion, (truth, answer), 1)
    per_type = dict(zip(types, got[4:], strict=True))
    return ClassificationReport(
        tuple(types), got[0], got[1], per_type, got[2], got[3], confusion, len(truth), len(set(groups))
    )


def markdown(report: ClassificationReport, title: str) -> str:
    """A readable table."""
    lines = [
        f"# {title}",
        "",
        f"{report.n_cells} cells, {report.n_groups} groups. 95 % intervals by bootstrap over groups.",
        "",
        f"- macro F1 {report.macro_f1}",
        f"- accuracy {report.accuracy}",
        f"- answered {report.answered}, right among them {report.accuracy_answered}",
        "",
        "| type | cells | F1 | " + " | ".join(report.types) + " |",
        "| --- | ---: | --- |" + " ---: |" * len(report.types),
    ]
    for i, name in enumerate(report.types):
        row = " | ".join(map(str, report.confusion[i]))
        lines.append(f"| {name} | {report.confusion[i].sum()} | {report.f1[name]} | {row} |")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, eq=False)
class Answers:
    """What a classifier answered, cell by cell, kept so that two can be compared.

    Attributes:
        cells: id of each cell. groups: its group. truth: its type, by name. answers: the most probable type.
        info: the set and part that this is.
    """

    cells: tuple[str, ...]
    groups: tuple[str, ...]
    truth: tuple[str, ...]
    answers: tuple[str, ...]
    info: Mapping[str, Any]

    def save(self, out: Path) -> None:
        """`answers.json`."""
        out.mkdir(parents=True, exist_ok=True)
        (out / ANSWERS).write_text(json.dumps(asdict(self), indent=0), "utf-8")


def write(report: ClassificationReport, out: Path, title: str, about: Mapping[str, Any]) -> None:
    """`metrics.json` and `metrics.md`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(plain_json({**about, **report.to_json()}), "utf-8")
    (out / "metrics.md").write_text(markdown(report, title), "utf-8")


def temperature(scores: NDArray[np.floating], truth: NDArray[np.int64]) -> float:
    """The temperature of least negative log-likelihood (Guo et al., ICML 2017), searched on a grid of 1 %."""
    grid = np.exp(np.linspace(np.log(0.2), np.log(5.0), 325))
    wide = np.asarray(scores, np.float64)
    losses = []
    for t in grid:
        scaled = wide / t
        top = scaled.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(scaled - top).sum(axis=1)) + top[:, 0]
        losses.append(float((log_sum - scaled[np.arange(len(truth)), truth]).mean()))
    return float(round(grid[int(np.argmin(losses))], 3))


def least_probability(probabilities: NDArray[np.float32], truth: NDArray[np.int64], min_accuracy: float) -> float:
    """The lowest probability, to 0.01, from which on the share of right answers reaches `min_accuracy`.

    1.0, so that nothing is answered, where no probability reaches it.
    """
    best = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    for limit in np.round(np.arange(0, 1.0, 0.01), 2):
        shown = best >= np.float32(limit)
        if shown.any() and right[shown].mean() >= min_accuracy:
            return float(limit)
    return 1.0

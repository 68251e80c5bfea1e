"""A classifier measured on cells of known type: accuracy, per type, ranking, calibration, coverage, with intervals."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.evaluate.intervals import Interval, intervals, plain_json, ratio

ANSWERS = "answers.json"
Doubles = NDArray[np.float64]
BINS = 15  # equal parts of the probability in which calibration is looked at
RATES = ("precision", "recall", "specificity", "F1", "ROC AUC", "PR AUC")
SETS = ("covered", "answered", "unfamiliar")  # what knowing when not to say comes to
PER_TYPE = (*RATES, *SETS)
_WHOLE = ("accuracy", "balanced accuracy", "kappa", "Brier", "accuracy of answered", *SETS)
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class ClassificationReport:
    """Figures over all cells (no abstaining), and what sets of likely types do to them.

    Attributes:
        balanced_accuracy: mean recall of the types that are there. kappa: Cohen's.
        per_type: type to the figures that `PER_TYPE` names; the AUCs are of one type against all others. A figure of a
            type that is not there is NaN. macro: their means over the types that are there.
        ece: expected calibration error of the best probability, 15 equal bins (Guo et al., ICML 2017); its limits are
            normal ones. ece_before: of the probabilities before the temperature, where they were given.
        brier: mean over cells of the squared gaps, summed over types (Brier, 1950).
        confusion: rows true, columns answered.
        answered: share of familiar cells whose set holds one type, of all cells; the others are unidentified.
        accuracy_answered: share of those that is right. covered: share of cells whose set holds their type.
        unfamiliar: share of cells that are flagged as unlike what was learnt.
    """

    types: tuple[str, ...]
    accuracy: Interval
    balanced_accuracy: Interval
    kappa: Interval
    brier: Interval
    ece: Interval
    ece_before: Interval | None
    answered: Interval
    accuracy_answered: Interval
    covered: Interval
    unfamiliar: Interval
    macro: dict[str, Interval]
    per_type: dict[str, dict[str, Interval]]
    confusion: NDArray[np.int64]
    n_cells: int
    n_groups: int

    @property
    def macro_f1(self) -> Interval:
        """Mean F1 of the types that are there."""
        return self.macro["F1"]

    @property
    def f1(self) -> dict[str, Interval]:
        """F1 by type."""
        return {name: figures["F1"] for name, figures in self.per_type.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        whole = ("macro_f1", "accuracy", "balanced_accuracy", "kappa", "brier", "ece")
        sets = ("answered", "accuracy_answered", "covered", "unfamiliar")
        return {
            **{name: asdict(getattr(self, name)) for name in (*whole, *sets)},
            "ece_before": None if self.ece_before is None else asdict(self.ece_before),
            "macro": {name: asdict(v) for name, v in self.macro.items()},
            "f1": {name: asdict(v) for name, v in self.f1.items()},
            "per_type": {t: {name: asdict(v) for name, v in f.items()} for t, f in self.per_type.items()},
            "confusion": {"types": list(self.types), "rows_true_columns_answered": self.confusion.tolist()},
            "n_cells": self.n_cells,
            "n_groups": self.n_groups,
        }


def measure(
    types: Sequence[str],
    truth: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    groups: Sequence[str],
    likely: NDArray[np.bool_] | None = None,
    *,
    unfamiliar: NDArray[np.bool_] | None = None,
    plain: NDArray[np.float32] | None = None,
    scored: Collection[str] | None = None,
    rounds: int = 1000,
    seed: int = 1,
) -> ClassificationReport:
    """Measure answers.

    Args:
        truth: int64 (n,), indices into `types`. probabilities: (n, types). groups: (n,).
        likely: bool (n, types), the set of each cell; its likeliest type by default.
        unfamiliar: bool (n,), cells that get no answer whatever their set.
        plain: the probabilities before the temperature, (n, types).
        scored: types that have figures of their own and count in macro figures; all by default.
    """
    k, n = len(types), len(truth)
    answer = probabilities.argmax(axis=1)
    counts = np.array([scored is None or t in scored for t in types])
    sets = np.eye(k, dtype=bool)[answer] if likely is None else likely
    strange = np.zeros(n, bool) if unfamiliar is None else unfamiliar
    statistic = _statistic(counts, truth, probabilities, sets, strange)
    got = intervals(statistic, groups, rounds=rounds, seed=seed)
    ece, before = (
        None if p is None else intervals(_calibration(p, truth), groups, rounds=rounds, seed=seed, normal=True)[0]
        for p in (probabilities, plain)
    )
    assert ece is not None
    whole, macro = dict(zip(_WHOLE, got, strict=False)), got[len(_WHOLE) : len(_WHOLE) + len(PER_TYPE)]
    rest = iter(got[len(_WHOLE) + len(PER_TYPE) :])
    each = [[next(rest) for _ in types] for _ in PER_TYPE]
    confusion = np.zeros((k, k), np.int64)
    np.add.at(confusion, (truth, answer), 1)
    return ClassificationReport(
        types=tuple(types),
        accuracy=whole["accuracy"],
        balanced_accuracy=whole["balanced accuracy"],
        kappa=whole["kappa"],
        brier=whole["Brier"],
        ece=ece,
        ece_before=before,
        answered=whole["answered"],
        accuracy_answered=whole["accuracy of answered"],
        covered=whole["covered"],
        unfamiliar=whole["unfamiliar"],
        macro=dict(zip(PER_TYPE, macro, strict=True)),
        per_type={t: {name: each[j][i] for j, name in enumerate(PER_TYPE)} for i, t in enumerate(types)},
        confusion=confusion,
        n_cells=n,
        n_groups=len(set(groups)),
    )


def _statistic(
    scored: NDArray[np.bool_],
    truth: NDArray[np.int64],
    told: NDArray[np.float32],
    likely: NDArray[np.bool_],
    unfamiliar: NDArray[np.bool_],
) -> Any:
    """Weights, (rounds, n), to all figures but calibration, (rounds, figures): whole, macro, per type."""
    k, answer = len(scored), told.argmax(axis=1)
    right, sure = answer == truth, (likely.sum(axis=1) == 1) & ~unfamiliar
    covered = likely[np.arange(len(truth)), truth]
    one_true, one_answer = np.eye(k)[truth], np.eye(k)[answer]
    brier = np.square(told.astype(np.float64) - one_true).sum(axis=1)
    ranks = [_Ranking(told[:, t], truth == t) for t in range(k)]

    def figures(weights: Doubles) -> Doubles:
        n = weights.sum(axis=1)
        true, called = weights @ one_true, weights @ one_answer  # (rounds, types)
        hits = weights @ (one_true * one_answer)
        here = (true > 0) & scored
        kept = np.where(here, 1.0, np.nan)
        recall = ratio(hits, true) * kept
        apart = n[:, None] - true
        each = [
            np.where(called > 0, hits / np.maximum(called, _TINY), 0.0) * kept,
            recall,
            ratio(apart - (called - hits), apart) * kept,
            2 * hits / np.maximum(true + called, _TINY) * kept,
            np.stack([r.roc(weights) for r in ranks], axis=1) * kept,
            np.stack([r.precision_recall(weights) for r in ranks], axis=1) * kept,
            *(ratio(weights @ (one_true * yes[:, None]), true) * kept for yes in (covered, sure, unfamiliar)),
        ]
        accuracy = (weights @ right) / n
        chance = (true * called).sum(axis=1) / n**2
        whole = [
            accuracy,
            _mean(recall),
            ratio(accuracy - chance, 1 - chance),
            (weights @ brier) / n,
            ratio(weights @ (covered & sure), weights @ sure.astype(np.float64)),
            *((weights @ yes) / n for yes in (covered, sure, unfamiliar)),
        ]
        return np.concatenate([np.stack(whole + [_mean(e) for e in each], axis=1), *each], axis=1)

    return figures


def _mean(values: Doubles) -> Doubles:
    """Mean of each row over what is defined."""
    there = ~np.isnan(values)
    return ratio(np.where(there, values, 0.0).sum(axis=1), there.sum(axis=1).astype(np.float64))


class _Ranking:
    """How well one type's probability ranks its cells before all others, for many weightings at once.

    Cells of equal probability are one step of the curve, as in scikit-learn.
    """

    def __init__(self, scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._positive = positive[self._order]
        ordered = scores[self._order]
        self._starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))

    def _steps(self, weights: Doubles) -> tuple[Doubles, Doubles]:
        drawn = weights[:, self._order]
        hit = np.add.reduceat(drawn * self._positive, self._starts, axis=1)
        return hit, np.add.reduceat(drawn * ~self._positive, self._starts, axis=1)

    def roc(self, weights: Doubles) -> Doubles:
        """Area under the ROC curve, (rounds,)."""
        hit, false = self._steps(weights)
        behind = false.sum(axis=1, keepdims=True) - np.cumsum(false, axis=1)
        return ratio((hit * (behind + false / 2)).sum(axis=1), hit.sum(axis=1) * false.sum(axis=1))

    def precision_recall(self, weights: Doubles) -> Doubles:
        """Average precision, (rounds,)."""
        hit, false = self._steps(weights)
        found, called = np.cumsum(hit, axis=1), np.cumsum(hit + false, axis=1)
        precision = found / np.maximum(called, _TINY)
        return ratio((hit * precision).sum(axis=1), hit.sum(axis=1))


def _calibration(told: NDArray[np.float32], truth: NDArray[np.int64]) -> Any:
    best = told.max(axis=1).astype(np.float64)
    right = told.argmax(axis=1) == truth
    bins = np.eye(BINS)[np.clip((best * BINS).astype(np.int64), 0, BINS - 1)]

    def figures(weights: Doubles) -> Doubles:
        gaps = np.abs(weights @ (bins * (best - right)[:, None])).sum(axis=1)
        return np.asarray(gaps / weights.sum(axis=1))[:, None]

    return figures


def markdown(report: ClassificationReport, title: str) -> str:
    """A readable table."""
    lines = [
        f"# {title}",
        "",
        f"{report.n_cells} cells, {report.n_groups} groups. 95 % intervals by bootstrap over groups.",
        "",
        f"- macro F1 {report.macro_f1}",
        f"- accuracy {report.accuracy}, balanced {report.balanced_accuracy}, Cohen's kappa {report.kappa}",
        f"- macro ROC AUC {report.macro['ROC AUC']}, PR AUC {report.macro['PR AUC']}",
        f"- expected calibration error {report.ece}"
        + (f" (before the temperature {report.ece_before})" if report.ece_before is not None else "")
        + f", Brier {report.brier}",
        f"- answered {report.answered}, right among them {report.accuracy_answered}; the others are unidentified",
        f"- type among those held likely {report.covered}; flagged as unfamiliar {report.unfamiliar}",
        "",
        "| type | cells | " + " | ".join(PER_TYPE) + " |",
        "| --- | ---: |" + " --- |" * len(PER_TYPE),
    ]
    for i, (name, figures) in enumerate(report.per_type.items()):
        told = " | ".join(str(figures[f]) for f in PER_TYPE)
        lines.append(f"| {name} | {report.confusion[i].sum()} | {told} |")
    lines += ["", "Rows true, columns answered:", "", "| | " + " | ".join(report.types) + " |"]
    lines.append("| --- |" + " ---: |" * len(report.types))
    lines += [f"| {n} | " + " | ".join(map(str, report.confusion[i])) + " |" for i, n in enumerate(report.types)]
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

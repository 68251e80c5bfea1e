"""A table of classifiers: its rows, the answers behind them, and how they are written."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.classify.settings import ZooSettings
from detect.data.typed import TypedCell
from detect.evaluate.classification import PER_TYPE, ClassificationReport
from detect.evaluate.intervals import Interval, plain_json
from detect.evaluate.tables import table


@dataclass(frozen=True, eq=False)
class Row:
    """One line of the table.

    Attributes:
        kind: see `Leg`. report: over the held-out cells of all legs, none of which a model had seen.
        spread: standard deviation of macro F1 over legs; NaN of one. converged: no leg was still getting better on dev.
        ece_before: calibration error without the temperature.
    """

    name: str
    kind: str
    report: ClassificationReport
    spread: float
    parameters: int
    epochs: float
    converged: bool
    minutes: float
    ece_before: Interval

    @property
    def title(self) -> str:
        """Name, and kind where there are several."""
        return f"{self.name} ({self.kind})" if self.kind else self.name


@dataclass(frozen=True, eq=False)
class Answers:
    """What a row answers for one leg: scores before the softmax, float64 (n, types)."""

    truth: NDArray[np.int64]
    groups: list[str]
    scores: NDArray[np.float64]
    about: Mapping[str, Any]


def write_answers(
    path: Path, cells: Sequence[TypedCell], types: Sequence[str], scores: NDArray[np.float64], about: Mapping[str, Any]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        file.write(f"# {json.dumps(about)}\n")
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["cell", "group", "type", *types])
        for cell, row in zip(cells, scores, strict=True):
            out.writerow([cell.id, cell.group, cell.type, *(f"{v:.6g}" for v in row)])
    partial.replace(path)


def read_answers(path: Path, types: Sequence[str]) -> Answers:
    first, *rest = path.read_text("utf-8").splitlines()
    rows = list(csv.DictReader(rest))
    scores = np.array([[float(r[t]) for t in types] for r in rows])
    truth = np.array([types.index(r["type"]) for r in rows], np.int64)
    return Answers(truth, [r["group"] for r in rows], scores, json.loads(first.removeprefix("# ")))


def row_json(row: Row) -> dict[str, Any]:
    """Plain values."""
    about = {f.name: getattr(row, f.name) for f in fields(row) if f.name != "report"}
    return {**about, **row.report.to_json()}


_HEADS = (
    "model", "macro F1", "spread", "balanced accuracy", "accuracy", "kappa", "ROC AUC", "PR AUC", "ECE",
    "ECE before", "Brier", "parameters, M", "epochs", "minutes", "converged",
)  # fmt: skip


def _line(row: Row) -> tuple[object, ...]:
    r = row.report
    return (
        row.title, r.macro_f1, f"{row.spread:.3f}", r.balanced_accuracy, r.accuracy, r.kappa, r.macro["ROC AUC"],
        r.macro["PR AUC"], r.ece, row.ece_before, r.brier, f"{row.parameters / 1e6:.2f}", f"{row.epochs:.0f}",
        f"{row.minutes:.1f}", "yes" if row.converged else "no: not ranked",
    )  # fmt: skip


def write(rows: Sequence[Row], rare: Mapping[str, int], settings: ZooSettings, out: Path) -> None:
    """The table as JSON, CSV and Markdown."""
    told = [row_json(r) for r in rows]
    about = {"settings": settings.model_dump(mode="json"), "not_scored": dict(rare), "rows": told}
    (out / "zoo.json").write_text(plain_json(about), "utf-8")
    with (out / "zoo.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_HEADS)
        writer.writerows(_line(r) for r in rows)
    (out / "zoo.md").write_text(markdown(rows, rare, settings), "utf-8")


def markdown(rows: Sequence[Row], rare: Mapping[str, int], settings: ZooSettings) -> str:
    """The table to read."""
    if not rows:
        return "# No row is done\n"
    one = rows[0].report
    how = {
        "folds": f"{settings.folds} grouped folds",
        "curve": f"{settings.folds} grouped folds, shares of the groups to learn from",
        "holdout": "one part held out by group",
        "sources": "one source after another held out",
    }[settings.protocol]
    lines = [
        f"# {', '.join(settings.data)}: {how}",
        "",
        f"{one.n_cells} cells held out, {one.n_groups} groups. 95 % intervals by bootstrap over groups; spread: "
        "standard deviation of macro F1 over legs. Probabilities at a temperature fitted on dev.",
        "",
    ]
    if settings.leak:
        lines += ["**A leaking split, on purpose: copies of one picture stand on both sides.**", ""]
    if rare:
        told = ", ".join(f"{kind} ({n} groups)" for kind, n in rare.items())
        lines += [f"Not scored, fewer than {settings.min_groups} groups: {told}.", ""]
    lines += table(_HEADS, map(_line, rows))
    lines += ["", "## By type", ""]
    heads = ("model", "type", "cells", *PER_TYPE)
    each = (
        (r.title, t, int(r.report.confusion[i].sum()), *(figures[f] for f in PER_TYPE))
        for r in rows
        for i, (t, figures) in enumerate(r.report.per_type.items())
    )
    return "\n".join([*lines, *table(heads, each)]) + "\n"

"""A table of classifiers: its rows, the answers behind them, and how they are written."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.classify.settings import ZooSettings
from detect.data.files import write_text
from detect.data.typed import TypedCell
from detect.errors import StoreError
from detect.evaluate.classification import RATES, ClassificationReport
from detect.evaluate.intervals import plain_json
from detect.evaluate.tables import table, write_csv

NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Held:
    """What a row answered for the cells that it was held out from: type numbers (n,), and groups.

    Attributes:
        scored: numbers of the types that are scored.
    """

    truth: NDArray[np.int64]
    answer: NDArray[np.int64]
    groups: tuple[str, ...]
    scored: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Row:
    """One line of the table.

    Attributes:
        kind: see `Leg`. report: over the held-out cells of all legs, none of which a model had seen.
        rare: types with too few groups among these to be scored, and how many they have.
        learnt_groups: groups learnt from, mean over legs.
        spread: standard deviation of macro F1 over legs; NaN of one. converged: no leg was still getting better on dev.
        minutes: of fitting all that it is made of. own_minutes: without those parts that are rows themselves.
        machines: on which its legs were fitted. held: its answers. stale: kept though what it rests on has changed.
    """

    name: str
    kind: str
    rare: Mapping[str, int]
    learnt_groups: float
    report: ClassificationReport
    spread: float
    parameters: int
    epochs: float
    converged: bool
    minutes: float
    own_minutes: float
    machines: tuple[str, ...]
    held: Held
    stale: bool = False

    @property
    def learnt(self) -> bool:
        """Whether it is surely better than chance: a network that learnt nothing has come to rest too."""
        return self.report.balanced_accuracy.low > 1 / max(1, len(self.report.types) - len(self.rare))

    @property
    def ranked(self) -> bool:
        """Whether its figures say what it can reach."""
        return self.converged and self.learnt

    @property
    def state(self) -> str:
        """Whether it is ranked, in words."""
        why = "yes" if self.ranked else "no: not ranked" if self.learnt else "no better than chance: not ranked"
        return why + ("; kept though it changed" if self.stale else "")

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
    file = io.StringIO()
    file.write(f"# {json.dumps(about)}\n")
    out = csv.writer(file, lineterminator="\n")
    out.writerow(["cell", *types])
    for cell, row in zip(cells, scores, strict=True):
        out.writerow([cell.id, *(f"{v:.6g}" for v in row)])
    write_text(path, file.getvalue())


def about_answers(path: Path) -> dict[str, Any]:
    """What they rest on."""
    with path.open(encoding="utf-8") as file:
        told: dict[str, Any] = json.loads(file.readline().removeprefix("# "))
    return told


def read_answers(path: Path, cells: Sequence[TypedCell], types: Sequence[str]) -> Answers:
    """Beside what the set says of the same cells; StoreError where they are of others."""
    rows = list(csv.DictReader(path.read_text("utf-8").splitlines()[1:]))
    if [r["cell"] for r in rows] != [c.id for c in cells]:
        raise StoreError("answers for other cells", where=str(path), remedy="delete this file: the leg is made again")
    scores = np.array([[float(r[t]) for t in types] for r in rows])
    truth = np.array([types.index(c.type) for c in cells], np.int64)
    return Answers(truth, [c.group for c in cells], scores, about_answers(path))


def row_json(row: Row) -> dict[str, Any]:
    """Plain values."""
    about = {f.name: getattr(row, f.name) for f in fields(row) if f.name not in ("report", "held")}
    return {**about, **row.report.to_json()}


_HEADS = (
    "model", "cells", "groups", "groups learnt from", "macro F1", "spread", "balanced accuracy", "accuracy", "kappa",
    "ROC AUC", "PR AUC", "ECE", "ECE before", "Brier", "parameters, M", "epochs", "minutes", "converged",
)  # fmt: skip


def _line(row: Row) -> tuple[object, ...]:
    r = row.report
    spread = "-" if np.isnan(row.spread) else f"{row.spread:.3f}"
    return (
        row.title, r.n_cells, r.n_groups, f"{row.learnt_groups:.0f}", r.macro_f1, spread, r.balanced_accuracy,
        r.accuracy, r.kappa, r.macro["ROC AUC"], r.macro["PR AUC"], r.ece, r.ece_before, r.brier,
        f"{row.parameters / 1e6:.2f}", f"{row.epochs:.0f}", f"{row.minutes:.1f}", row.state,
    )  # fmt: skip


def write(
    rows: Sequence[Row], rare: Mapping[str, int], settings: ZooSettings, out: Path, failed: Mapping[str, str]
) -> None:
    """The table as JSON, CSV and Markdown."""
    told = [row_json(r) for r in rows]
    about = {
        "settings": settings.model_dump(mode="json"),
        "not_scored": dict(rare),
        "failed": dict(failed),
        "rows": told,
    }
    table_of = io.StringIO()
    write_csv(table_of, _HEADS, [_line(r) for r in rows])
    texts = {
        "zoo.json": plain_json(about),
        "zoo.csv": table_of.getvalue(),
        "zoo.md": markdown(rows, rare, settings, failed),
    }
    for name, text in texts.items():
        write_text(out / name, text)


def markdown(
    rows: Sequence[Row], rare: Mapping[str, int], settings: ZooSettings, failed: Mapping[str, str] = NONE
) -> str:
    """The table to read."""
    if not rows:
        return "# No row is done\n"
    how = {
        "folds": f"{settings.folds} grouped folds",
        "curve": f"{settings.folds} grouped folds, shares of the groups to learn from",
        "holdout": "one part held out by group",
        "sources": "one source after another held out",
    }[settings.protocol]
    lines = [
        f"# {', '.join(settings.data)}: {how}",
        "",
        "95 % intervals by bootstrap over groups of the cells held out; spread: standard deviation of macro F1 over "
        "legs. Probabilities at a temperature fitted on dev.",
        "",
    ]
    if settings.leak:
        lines += ["**A leaking split, on purpose: copies of one picture stand on both sides.**", ""]
    if rare:
        told = ", ".join(f"{kind} ({n} groups)" for kind, n in rare.items())
        lines += [f"Not scored, fewer than {settings.min_groups} groups: {told}.", ""]
    lines += [f"Not fitted: {name}: {why}." for name, why in failed.items()]
    lines += [""] * bool(failed)
    few = {r.kind: ", ".join(f"{t} ({n} groups)" for t, n in r.rare.items()) for r in rows if r.rare}
    for kind, told in few.items():
        lines += [f"Of {kind} not scored, fewer than {settings.min_groups} groups there: {told}.", ""]
    lines += table(_HEADS, map(_line, rows))
    lines += ["", "## By type", ""]
    heads = ("model", "type", "cells", *RATES)
    each = (
        (r.title, t, int(r.report.confusion[i].sum()), *(figures[f] for f in RATES))
        for r in rows
        for i, (t, figures) in enumerate(r.report.per_type.items())
    )
    return "\n".join([*lines, *table(heads, each)]) + "\n"

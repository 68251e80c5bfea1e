"""`smear evaluate table classifiers`: the whole zoo on grouped folds, and what a leak does to every one of its rows.

OUT/
  main/, by-original/, by-picture/   each as `smear evaluate zoo` writes it
  classifiers.json, .csv, .md, .png
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect import assets
from detect.classify.settings import ZooSettings
from detect.classify.zoo import refuse, zoo
from detect.classify.zoo_table import Held, Row
from detect.config import load, parse
from detect.evaluate.intervals import Interval, intervals, ratio
from detect.evaluate.plots import accuracy_against_cost
from detect.tables.settings import ClassifierTable, Protocol
from detect.tables.trained import chosen
from detect.tables.written import Column, Table, Value, write

NAME = "classifiers"
PARTS = ("main", "by_original", "by_picture")


def classifier_table(
    config: str,
    out: Path,
    *,
    only: Sequence[str] = (),
    device: str = "auto",
    keep_stale: bool = False,
    say: Callable[[str], None] = print,
) -> Table:
    """Make the rows that are not there yet under all three protocols, and write the table.

    Raises:
        ConfigError, DataError, StoreError: as `smear evaluate zoo`; rows that are done stay.
    """
    path = assets.find(config, "configs/tables", ".yaml")
    table = load(ClassifierTable, path)
    names = chosen(only, table.rows, str(path))
    rows: dict[str, list[Row]] = {}
    rare: dict[str, Mapping[str, int]] = {}
    failed: dict[str, str] = {}
    for part in PARTS:
        folder, broken = out / part.replace("_", "-"), dict[str, str]()
        rows[part], rare[part] = zoo(
            zoo_settings(table, getattr(table, part), str(path)), folder, where=f"{path}: {part}", only=names,
            device=device, keep_stale=keep_stale, progress=partial(_say, say, part.replace("_", " ")), failed=broken,
        )  # fmt: skip
        failed |= {f"{name} ({part.replace('_', ' ')})": why for name, why in broken.items()}
        told = _told(table, rows, rare, failed)
        write(told, out)
    _draw(told, out)
    refuse(failed, str(path))
    return told


def _say(say: Callable[[str], None], part: str, name: str, leg: str) -> None:
    say(f"{part}: {name}, {leg}")


def zoo_settings(table: ClassifierTable, protocol: Protocol, where: str) -> ZooSettings:
    """One protocol of a table, as `smear evaluate zoo` takes it."""
    values: dict[str, Any] = protocol.model_dump(mode="json", exclude={"over"})
    values["rows"] = {n: {k: v for k, v in row.items() if k not in protocol.over} for n, row in table.rows.items()}
    values["base"] = {**protocol.base, **protocol.over}
    return parse(ZooSettings, values, where)


def _told(
    table: ClassifierTable,
    rows: Mapping[str, Sequence[Row]],
    rare: Mapping[str, Mapping[str, int]],
    failed: Mapping[str, str],
) -> Table:
    columns = (
        Column("macro F1"), Column("spread"), Column("balanced accuracy"), Column("accuracy"), Column("precision"),
        Column("recall"), Column("specificity"), Column("kappa"), Column("ROC AUC"), Column("PR AUC"), Column("ECE"),
        Column("Brier"), Column("parameters, M", ".2f"), Column("epochs", ".0f"), Column("minutes", ".1f"),
        Column("converged"), Column("macro F1, split by original"), Column("macro F1, split by picture"),
        Column("what the leak adds"), Column("both converged"),
    )  # fmt: skip
    by = {part: {r.name: r for r in found} for part, found in rows.items()}
    lines: dict[str, list[Value]] = {}
    for row in rows["main"]:
        r = row.report
        apart, mixed = (by.get(part, {}).get(row.name) for part in PARTS[1:])
        both = apart is not None and mixed is not None
        macro = ("precision", "recall", "specificity")
        lines[row.name] = [
            r.macro_f1, row.spread, r.balanced_accuracy, r.accuracy, *(r.macro.get(m) for m in macro), r.kappa,
            r.macro["ROC AUC"], r.macro["PR AUC"], r.ece, r.brier, row.parameters / 1e6, row.epochs, row.minutes,
            row.state, apart.report.macro_f1 if apart else None,
            mixed.report.macro_f1 if mixed else None,
            _leak(apart.held, mixed.held) if apart and mixed else None,
            "yes" if both and apart and mixed and apart.ranked and mixed.ranked else "no",
        ]  # fmt: skip
    about = {
        "settings": table.model_dump(mode="json"),
        "not_scored": rare,
        "failed": dict(failed),
        "hours": _hours(rows),
        "machines": {part: {r.name: list(r.machines) for r in found} for part, found in rows.items()},
    }
    return Table(NAME, table.title, _notes(table, rows, rare, failed), columns, lines, about)


def _leak(apart: Held, mixed: Held) -> Interval:
    """Macro F1 of a split by picture less that of a split by original; groups are drawn for both at once."""
    both = (apart, mixed)
    n = len(apart.truth)

    def figures(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        one, other = (_macro(held, w) for held, w in zip(both, (weights[:, :n], weights[:, n:]), strict=True))
        return (other - one)[:, None]

    (found,) = intervals(figures, [*apart.groups, *mixed.groups])
    return found


def _macro(held: Held, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Macro F1 of the scored types that are there, (rounds,)."""
    kinds = np.array(held.scored)
    true, called = held.truth[:, None] == kinds, held.answer[:, None] == kinds
    there = weights @ true
    f1 = ratio(2 * (weights @ (true & called)), there + weights @ called)
    return ratio(np.where(there > 0, np.nan_to_num(f1), 0).sum(axis=1), (there > 0).sum(axis=1).astype(float))


def _notes(
    table: ClassifierTable,
    rows: Mapping[str, Sequence[Row]],
    rare: Mapping[str, Mapping[str, int]],
    failed: Mapping[str, str],
) -> tuple[str, ...]:
    notes = [f"Not fitted: {name}: {why}." for name, why in failed.items()]
    for part in PARTS:
        if not rows.get(part):
            continue
        one, protocol = rows[part][0].report, getattr(table, part)
        few = ", ".join(f"{kind} ({n} groups)" for kind, n in {**rare[part], **rows[part][0].rare}.items())
        notes.append(
            f"{part.replace('_', ' ').capitalize()}: {', '.join(protocol.data)}, {one.n_cells} cells held out in "
            f"{one.n_groups} groups, types {', '.join(one.types)}."
            + (f" Not scored, too few groups: {few}." if few else "")
            + (" Copies of one original stand on both sides, on purpose." if protocol.leak else "")
        )
    machines = sorted({m for found in rows.values() for r in found for m in r.machines})
    notes.append(
        "95 % limits by bootstrap over groups; spread: standard deviation of macro F1 over folds; probabilities at a "
        "temperature fitted on dev. A row whose score on dev still rose when its budget ended is not ranked; one of "
        "few epochs may be at rest because its learning rate had fallen, not because there was no more to learn. "
        f"Minutes of all folds, on {' and '.join(machines)}."
    )
    return tuple(notes)


def _hours(rows: Mapping[str, Sequence[Row]]) -> float:
    return sum(r.own_minutes for found in rows.values() for r in found) / 60


def _draw(told: Table, out: Path) -> None:
    at = [c.head for c in told.columns]
    points = {}
    for name, values in told.lines.items():
        cost, score = values[at.index("minutes")], values[at.index("macro F1")]
        if isinstance(cost, float) and isinstance(score, Interval):
            points[name] = (max(cost, 0.01), score, str(values[at.index("converged")]).startswith("yes"))
    if points:
        accuracy_against_cost(points, out / f"{NAME}.png", "macro F1", "minutes of training, all folds")

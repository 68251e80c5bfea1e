"""A table as it is told: Markdown, CSV, JSON, and a picture of accuracy against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from detect.evaluate.intervals import Interval, plain_json
from detect.evaluate.tables import table, write_csv

Value = Interval | float | int | str | None


@dataclass(frozen=True)
class Column:
    """spec: of a figure in Markdown; JSON and CSV hold it whole."""

    head: str
    spec: str = ".3f"


@dataclass(frozen=True)
class Table:
    """A table whose every figure is known.

    Attributes:
        name: of its files. notes: above it. lines: row title to a value for each column; None where nothing is said.
        about: for JSON only: settings, hashes, what each row rests on.
    """

    name: str
    title: str
    notes: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: Mapping[str, Sequence[Value]]
    about: Mapping[str, Any]


def write(told: Table, out: Path) -> None:
    """`<name>.json`, `.csv` and `.md` below `out`."""
    rows = {
        title: {c.head: asdict(v) if isinstance(v, Interval) else v for c, v in zip(told.columns, values, strict=True)}
        for title, values in told.lines.items()
    }
    json = {"title": told.title, "notes": told.notes, "rows": rows, **told.about}
    (out / f"{told.name}.json").write_text(plain_json(json), "utf-8")
    (out / f"{told.name}.md").write_text(markdown(told), "utf-8")
    with (out / f"{told.name}.csv").open("w", newline="", encoding="utf-8") as file:
        write_csv(file, ("row", *(c.head for c in told.columns)), [(t, *v) for t, v in told.lines.items()])


def markdown(told: Table) -> str:
    """The table to read."""
    lines = [f"# {told.title}", ""]
    for note in told.notes:
        lines += [note, ""]
    heads = ("", *(c.head for c in told.columns))
    rows = (
        (title, *(_text(v, c) for v, c in zip(values, told.columns, strict=True)))
        for title, values in told.lines.items()
    )
    return "\n".join([*lines, *table(heads, rows)]) + "\n"


def _text(value: Value, column: Column) -> str:
    if value is None or (isinstance(value, float) and not isfinite(value)):
        return "-"
    if isinstance(value, Interval):
        return format(value, column.spec) if isfinite(value.value) else "-"
    if isinstance(value, float):
        return format(value, column.spec)
    return f"{value:,}" if isinstance(value, int) else value

"""RESULTS.md from the tables' own JSON: no figure in it is typed by hand.

    .venv/bin/python tools/write_results.py

`results/NAME/` is where `smear evaluate table NAME --out results/NAME` wrote: each row's figures and what it found are
kept there, without its weights, so that the table goes on from a fresh checkout. `results/RESULTS.md.j2` says which
figures stand where; a row that a table lacks is an error, so that the text cannot tell of what was never measured.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import jinja2

from detect.evaluate.intervals import Interval
from detect.evaluate.tables import table

ROOT = Path(__file__).parents[1]
FOLDER, TEMPLATE, TARGET = ROOT / "results", "RESULTS.md.j2", ROOT / "RESULTS.md"


def read(folder: Path) -> dict[str, Any]:
    """Every table below a folder by its name."""
    told = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*/*.json"))}
    return {name: content for name, content in told.items() if "rows" in content and "title" in content}


def text(value: Any, spec: str = ".3f") -> str:
    """A figure as it is told: with its limits where it has some."""
    if isinstance(value, dict):
        return "-" if value["value"] is None else format(Interval(**value), spec)
    if isinstance(value, float):
        return format(value, spec) if isfinite(value) else "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else str(value)


def figure(tables: dict[str, Any], name: str, row: str, column: str, spec: str = ".3f") -> str:
    """One figure of a table; KeyError where there is none."""
    return text(tables[name]["rows"][row][column], spec)


def lines(
    tables: dict[str, Any], name: str, columns: dict[str, str], rows: Sequence[str] | None = None, head: str = ""
) -> str:
    """A table in Markdown.

    Args:
        columns: of the table, each with the format of its figures.
        rows: in this order; all, as the table has them, by default.
    """
    known = tables[name]["rows"]
    chosen = known if rows is None else rows
    body = ([row, *(text(known[row][column], spec) for column, spec in columns.items())] for row in chosen)
    return "\n".join(table((head, *columns), body))


def render(folder: Path = FOLDER) -> str:
    """The page, from the JSON and the template of a folder."""
    tables = read(folder)
    there = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
        autoescape=False, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    there.globals |= {
        "tables": tables,
        "figure": partial(figure, tables),
        "lines": partial(lines, tables),
        "text": text,
    }
    return there.get_template(TEMPLATE).render()


def main() -> None:
    """Write the page."""
    TARGET.write_text(render(), "utf-8")
    print(f"written: {TARGET.name}, from {', '.join(read(FOLDER))}")


if __name__ == "__main__":
    main()

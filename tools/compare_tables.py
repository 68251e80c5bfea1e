"""Two makings of one table, figure by figure: what another run, seed or machine changes.

    .venv/bin/python tools/compare_tables.py A.json B.json [--row NAME ...] [--same]

A and B are what `smear evaluate table` wrote. Rows that stand in both are compared in every column but those of time;
of figures with limits, value and both limits. Told are the columns that differ, the largest difference in a column and
the row that it is in, and its share of the width of that row's limits. --same: end with 1 if anything differs, or
stands in one of the two only, which on one machine and with one seed nothing should.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detect.evaluate.tables import table

TIMES = ("hours", "minutes", "ms a field", "time")  # how such columns begin


def parts(value: Any) -> list[Any]:
    """Value and limits of a figure."""
    return [value[k] for k in ("value", "low", "high")] if isinstance(value, dict) else [value]


def apart(a: Any, b: Any) -> float:
    """Largest difference of two figures; 0 for words that are the same, infinite for those that are not."""
    found = 0.0
    if isinstance(a, dict) != isinstance(b, dict):
        return math.inf
    for x, y in zip(parts(a), parts(b), strict=True):
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in (x, y))
        found = max(found, abs(x - y) if numbers else 0.0 if x == y else math.inf)
    return found


def differences(one: dict[str, Any], other: dict[str, Any], rows: list[str]) -> Iterator[tuple[str, str, float, float]]:
    """Row, column, difference, and that in widths of the figure's limits (NaN without)."""
    for row in rows:
        for column, value in one[row].items():
            if column.startswith(TIMES) or column not in other[row]:
                continue
            change = apart(value, other[row][column])
            limits = (value["low"], value["high"]) if isinstance(value, dict) else (None, None)
            width = limits[1] - limits[0] if None not in limits else 0.0
            yield row, column, change, change / width if width else math.nan


def main() -> None:
    """The comparison."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("a", type=Path)
    options.add_argument("b", type=Path)
    options.add_argument("--row", action="append")
    options.add_argument("--same", action="store_true")
    asked = options.parse_args()
    one, other = (json.loads(path.read_text("utf-8"))["rows"] for path in (asked.a, asked.b))
    rows = asked.row or [row for row in one if row in other]
    missing = [row for row in rows if row not in one or row not in other]
    if missing or not rows:
        sys.exit(f"not in both tables: {', '.join(missing) or 'any row'}")
    alone = sorted(set(one) ^ set(other)) if asked.row is None else []
    alone += sorted({c for row in rows for c in set(one[row]) ^ set(other[row])})
    if alone:
        print(f"in one of the two only: {', '.join(alone)}")
    found = list(differences(one, other, rows))
    print(f"{len(rows)} rows in both, {len(found)} figures compared, {sum(d > 0 for *_, d, _ in found)} differ\n")
    worst: dict[str, tuple[str, str, float, float]] = {}
    for told in found:
        if told[2] > worst.get(told[1], ("", "", 0.0, 0.0))[2]:
            worst[told[1]] = told
    lines = [
        (column, row, f"{change:.6g}", "-" if math.isnan(share) else f"{share:.2f}")
        for column, (row, _, change, share) in worst.items()
    ]
    if lines:
        print("\n".join(table(("column", "row", "largest difference", "of the width of its limits"), lines)))
    if asked.same and (lines or alone):
        sys.exit(1)


if __name__ == "__main__":
    main()

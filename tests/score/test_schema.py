"""The tables of a run as others read them: pandas, polars and DuckDB, and what each column says of itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from detect.score.schema import TABLES, about
from tests.cli.command import Answer, inside

Answered = tuple[Path, Answer]


def test_every_table_of_a_run_is_the_one_that_is_told_and_every_column_says_what_it_is(scored: Answered) -> None:
    found = {p.relative_to(scored[0]).as_posix() for p in scored[0].rglob("*.parquet")}
    assert {name.split("part-")[0] for name in found} == set(TABLES) - {"patterns.parquet"}
    for name in found:
        own = pq.read_schema(scored[0] / name)
        table = TABLES[name.split("part-")[0]]
        assert own.equals(table), name
        assert (about(own), [about(c) for c in own]) == (about(table), [about(c) for c in table]), name
    for name, table in TABLES.items():
        assert about(table), name
        assert all(about(column) for column in table), name


def test_the_command_tells_all_of_it(scored: Answered) -> None:
    told = json.loads(inside("runs", "schema", "--json").out)
    assert {name: [c["name"] for c in t["columns"]] for name, t in told.items()} == {
        name: list(table.names) for name, table in TABLES.items()
    }
    plain = " ".join(inside("runs", "schema").out.split())
    for table in TABLES.values():
        for column in table:
            assert " ".join(f"{column.name} ({column.type}): {about(column)}".split()) in plain


def test_a_process_of_ours_is_spared_pandas_and_may_still_import_it() -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    code = """
import sys
import pyarrow as pa
from detect.score.store import without_pandas
without_pandas()
assert pa.table({"a": [[1.0]]}).num_rows == 1
assert "pandas" not in sys.modules
import pandas
assert pandas.DataFrame({"a": [1]}).shape == (1, 1)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def expected(out: Path) -> tuple[Counter[tuple[str, str]], float, dict[str, int]]:
    """Cells of each slide and label; the widest box; red cells of each field, by pyarrow alone."""
    rows = pa.concat_tables([pq.read_table(p) for p in sorted((out / "cells").glob("*.parquet"))]).to_pylist()
    fields = pa.concat_tables([pq.read_table(p) for p in sorted((out / "fields").glob("*.parquet"))]).to_pylist()
    counts = {f["field"]: dict(f["counts"]).get("RBC", 0) for f in fields}
    return Counter((r["slide"], r["label"]) for r in rows), max(r["x1"] - r["x0"] for r in rows), counts


def by_pandas(out: Path) -> tuple[Any, float, dict[str, int]]:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    cells, fields = pandas.read_parquet(out / "cells"), pandas.read_parquet(out / "fields")
    counts = {f: dict(c).get("RBC", 0) for f, c in zip(fields["field"], fields["counts"], strict=True)}
    return cells.groupby(["slide", "label"]).size().to_dict(), float((cells["x1"] - cells["x0"]).max()), counts


def by_polars(out: Path) -> tuple[Any, float, dict[str, int]]:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    cells, fields = polars.read_parquet(out / "cells" / "*.parquet"), polars.read_parquet(out / "fields" / "*.parquet")
    found = {(slide, label): n for slide, label, n in cells.group_by("slide", "label").len().iter_rows()}
    counts = {f: c.get("RBC", 0) for f, c in fields.select("field", "counts").iter_rows()}  # a map is a dict there
    return found, float(cells.select((polars.col("x1") - polars.col("x0")).max()).item()), counts


def by_duckdb(out: Path) -> tuple[Any, float, dict[str, int]]:
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed")
    ask = duckdb.connect().execute
    cells, fields = f"'{out}/cells/*.parquet'", f"'{out}/fields/*.parquet'"
    found = ask(f"SELECT slide, label, count(*) FROM {cells} GROUP BY slide, label").fetchall()
    widest = ask(f"SELECT max(x1 - x0) FROM {cells}").fetchall()[0][0]
    counts = ask(f"SELECT field, coalesce(counts['RBC'], 0) FROM {fields}").fetchall()
    return {(slide, label): n for slide, label, n in found}, float(widest), dict(counts)


@pytest.mark.parametrize("read", [by_pandas, by_polars, by_duckdb])
def test_others_read_the_same(scored: Answered, read: Any) -> None:
    cells, widest, counts = expected(scored[0])
    told, theirs, red = read(scored[0])
    assert (told, red) == (dict(cells), counts)
    assert theirs == pytest.approx(widest, abs=1e-3)

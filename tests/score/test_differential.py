"""The differential against counting the cells table by hand."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest

from detect.bundles.folder import open_bundle
from detect.score.differential import count, not_seen, write
from detect.score.store import FieldRecord, Store
from detect.types import CellRecord
from tests.cli.command import Answer

Table = Callable[[Path, str], list[dict[str, Any]]]
TYPES = ("Neutrophil", "Lymphocyte", "Eosinophil", "Monocyte")


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of slides.csv."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cell(slide: str, label: str, kind: str | None, number: int = 0) -> CellRecord:
    """One cell."""
    return CellRecord(slide, f"{slide}/f.png", number, (0.0, 0.0, 9.0, 9.0), label, 0.9, kind)


@pytest.fixture
def counted(tmp_path: Path) -> Store:
    """A store of three slides: 20 white cells, none at all, smudges."""
    store = Store.create(tmp_path / "out")
    kinds = ["Neutrophil"] * 12 + ["Lymphocyte"] * 5 + ["unidentified"] * 3
    cells = [cell("a", "WBC", k, i) for i, k in enumerate(kinds)]
    cells += [cell("a", "RBC", None, 20), cell("a", "Platelet", None, 21), cell("a", "RBC", None, 22)]
    cells += [cell("c", "WBC", "Smudge cell"), cell("c", "WBC", None, 1), cell("c", "WBC", "Basophil", 2)]
    fields = [
        FieldRecord("a", "a/1.png", "ok", scale=80.0),
        FieldRecord("a", "a/2.png", "ok", scale=90.0),
        FieldRecord("a", "a/3.png", "failed", "empty file"),
        FieldRecord('b, "old"', "b/1.png", "failed", "empty file"),
        FieldRecord("c", "c/1.png", "ok"),
    ]
    store.write_part(0, fields, cells)
    return store


def test_equals_counting_by_hand(scored: tuple[Path, Answer], table: Table) -> None:
    out, _ = scored
    cells = table(out, "cells")
    rows = read_csv(out / "slides.csv")
    assert {r["slide"] for r in rows} == {"slide-a", "slide-b", "slide-c"}
    types = open_bundle("wbc-types").card.classes
    for slide in ("slide-a", "slide-b", "slide-c"):
        mine = {r["cell"]: r for r in rows if r["slide"] == slide}
        white = [c for c in cells if c["slide"] == slide and c["label"] == "WBC"]
        kinds = Counter(c["type"] for c in white)
        for name in (*types, "unidentified"):
            row = mine[name]
            assert int(row["count"]) == kinds[name]
            assert int(row["white_cells_counted"]) == len(white)
            limits = binomtest(kinds[name], len(white)).proportion_ci(method="wilson")
            assert float(row["share"]) == pytest.approx(kinds[name] / len(white), abs=6e-5)
            assert float(row["low"]) == pytest.approx(limits.low, abs=6e-5)
            assert float(row["high"]) == pytest.approx(limits.high, abs=6e-5)
        others = Counter(c["label"] for c in cells if c["slide"] == slide and c["label"] != "WBC")
        assert {n: int(r["count"]) for n, r in mine.items() if r["share"] == ""} == dict(others)
        assert sum(int(r["count"]) for n, r in mine.items() if r["share"]) == len(white)


def test_csv_and_parquet_say_the_same(scored: tuple[Path, Answer]) -> None:
    out, _ = scored
    ours = pq.read_table(out / "slides.parquet").to_pylist()
    theirs = read_csv(out / "slides.csv")
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in ours] == theirs
    assert len(ours) >= 15


def test_known_limits_of_a_known_count(counted: Store) -> None:
    slide = count(counted, TYPES)[0]
    lines = {line.name: line for line in slide.differential}
    assert slide.white == 20
    assert [line.name for line in slide.differential] == [*TYPES, "unidentified"]
    assert lines["Neutrophil"].share is not None
    assert lines["Neutrophil"].share.value == 0.6
    assert lines["Neutrophil"].share.low == pytest.approx(0.3866, abs=1e-4)
    assert lines["Neutrophil"].share.high == pytest.approx(0.7812, abs=1e-4)
    assert lines["Eosinophil"].count == 0
    assert {line.name: line.count for line in slide.beside} == {"Platelet": 1, "RBC": 2}
    assert (slide.fields_ok, slide.fields_failed, slide.scale) == (2, 1, 85.0)
    assert slide.few


def test_a_slide_that_could_not_be_read_is_shown(counted: Store) -> None:
    slide = count(counted, TYPES)[1]
    assert (slide.name, slide.fields_failed, slide.white) == ('b, "old"', 1, 0)
    assert [line.count for line in slide.differential] == [0] * 5


def test_smudges_stand_beside_and_a_foreign_type_is_kept(counted: Store) -> None:
    slide = count(counted, TYPES)[2]
    lines = {line.name: line.count for line in slide.differential}
    assert slide.white == 2
    assert lines["Basophil"] == 1
    assert lines["unidentified"] == 1
    assert {line.name: line.count for line in slide.beside} == {"Smudge cell": 1}


def test_the_csv_survives_odd_names(counted: Store) -> None:
    write(count(counted, TYPES), counted.out)
    rows = read_csv(counted.out / "slides.csv")
    assert {r["slide"] for r in rows} == {"a", 'b, "old"', "c"}
    empty = [r for r in rows if r["slide"] == 'b, "old"']
    assert all((r["share"], r["low"], r["high"]) == ("", "", "") for r in empty)


def test_what_cannot_be_seen_is_said_blasts_first() -> None:
    card = open_bundle("wbc-types").card
    missing = not_seen(card.classes)
    assert missing[0] == "Blast"
    assert not set(missing) & set(card.classes)
    assert "Neutrophil" in not_seen([])

"""What stands on every row of a run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq

from detect.score import export
from detect.score.store import CELLS, FIELDS, FINISHED, FieldRecord, Store
from detect.types import CellRecord

FORM = {"diameter um": 9.5, "cytoplasm share": 0.1, "nucleus solidity": 0.97}
WORDS = "small, regular nucleus, scanty cytoplasm: L1-like"


def store(tmp_path: Path) -> Store:
    kinds = {"FAB L1": FORM, "Lymphoblast": {}, "Lymphocyte": FORM, None: FORM}
    cells = [
        CellRecord("s", "s/f.png", n, (0.0, 0.0, 9.0, 9.0), "WBC", 0.9, kind, attributes=form)
        for n, (kind, form) in enumerate(kinds.items())
    ]
    out = Store.create(tmp_path / "run")
    out.write_part(0, [FieldRecord("s", "s/f.png", "ok", width=9, height=9)], cells, trained_on="synthetic")
    out.write_part(1, [FieldRecord("s", "s/g.png", "failed", "torn")], [], trained_on="synthetic")
    out.write_run({"state": FINISHED})
    return out


def test_every_row_says_what_its_models_learnt_from_and_lymphoblasts_their_fab_criteria(tmp_path: Path) -> None:
    told = store(tmp_path)
    assert told.fields().column("trained_on").to_pylist() == ["synthetic", "synthetic"]
    assert told.part(0).column("fab").to_pylist() == [WORDS, "", "", ""]
    assert (told.part(0).schema, told.fields().schema) == (CELLS, FIELDS)
    export.to_csv(told.out, tmp_path / "cells.csv")
    with (tmp_path / "cells.csv").open(newline="") as file:
        assert [row["fab"] for row in csv.DictReader(file)] == [WORDS, "", "", ""]
    export.to_coco(told.out, tmp_path / "coco.json")
    found = json.loads((tmp_path / "coco.json").read_text())["annotations"]
    assert [one["attributes"].get("fab") for one in found] == [WORDS, None, None, None]


def test_a_run_of_an_earlier_version_is_still_exported(tmp_path: Path) -> None:
    told = store(tmp_path)
    path = told.file("cells", 0)
    pq.write_table(told.part(0).drop_columns(["fab"]), path)
    assert export.to_csv(told.out, tmp_path / "cells.csv") == 4
    path = told.file("fields", 0)
    pq.write_table(pq.read_table(path).drop_columns(["trained_on"]), path)
    assert told.fields().column("trained_on").to_pylist() == [None, "synthetic"]

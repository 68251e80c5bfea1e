"""A folder of drawn slides through the real command."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detect.bundles.folder import open_bundle
from detect.runtime.base import fast_precisions
from tests import drawn as sample
from tests.cli.command import Answer, inside, smear
from tests.data import encode
from tests.score.conftest import RESULTS

Table = Callable[[Path, str], list[dict[str, Any]]]
Scored = tuple[Path, Answer]


def test_every_field_is_a_row_in_order(scored: Scored, slides: Path, table: Table) -> None:
    rows = table(scored[0], "fields")
    expected = sorted(p.relative_to(slides).as_posix() for p in slides.rglob("*.jpg"))
    assert [r["field"] for r in rows] == expected
    assert len(rows) == 6
    for row in rows:
        assert row["status"] == "ok"
        assert row["reason"] == ""
        assert row["slide"] == row["field"].split("/")[0]
        assert (row["width"], row["height"]) == (sample.WIDTH, sample.HEIGHT)
        assert {k for k, _ in row["quality"]} == {
            "focus",
            "brightness",
            "contrast",
            "clipped",
            "saturation",
            "sharpness",
        }


def test_cells_are_in_the_order_of_the_results(scored: Scored, table: Table) -> None:
    rows = table(scored[0], "cells")
    assert len(rows) > 40
    keys = [(r["field"], -r["score"], r["x0"], r["y0"]) for r in rows]
    assert keys == sorted(keys)
    for field in {r["field"] for r in rows}:
        assert [r["cell"] for r in rows if r["field"] == field] == list(range(sum(r["field"] == field for r in rows)))


def test_cells_lie_in_their_field_and_are_typed_where_routed(scored: Scored, table: Table) -> None:
    types = set(open_bundle("wbc-types").card.classes)
    white = 0
    for row in table(scored[0], "cells"):
        assert 0 <= row["x0"] < row["x1"] <= sample.WIDTH
        assert 0 <= row["y0"] < row["y1"] <= sample.HEIGHT
        at_edge = row["x0"] < 2 or row["y0"] < 2 or row["x1"] > sample.WIDTH - 2 or row["y1"] > sample.HEIGHT - 2
        assert ("border" in row["flags"]) == at_edge
        if row["label"] == "WBC":
            white += 1
            chances = dict(row["probabilities"])
            assert set(chances) == types
            assert sum(chances.values()) == pytest.approx(1, abs=1e-4)
            assert row["type"] in types | {"unidentified"}
            assert row["type_score"] == pytest.approx(max(chances.values()))
        else:
            assert row["type"] is None
            assert row["probabilities"] == []
    assert white > 3


def test_field_counts_are_those_of_the_cells(scored: Scored, table: Table) -> None:
    cells = table(scored[0], "cells")
    for row in table(scored[0], "fields"):
        labels = [c["label"] for c in cells if c["field"] == row["field"]]
        assert dict(row["counts"]) == {name: labels.count(name) for name in sorted(set(labels))}


def test_scale_is_the_median_red_cell(scored: Scored, table: Table) -> None:
    cells = table(scored[0], "cells")
    said = 0
    for row in table(scored[0], "fields"):
        red = [
            np.sqrt((c["x1"] - c["x0"]) * (c["y1"] - c["y0"]))
            for c in cells
            if c["field"] == row["field"] and c["label"] == "RBC" and "border" not in c["flags"]
        ]
        if row["scale"] is not None:
            said += 1
            assert row["scale"] == pytest.approx(np.median(red), abs=0.02)
        else:
            assert len(red) < 5
    assert said


def test_the_run_record_says_what_was_done(scored: Scored, table: Table) -> None:
    record = yaml.safe_load((scored[0] / "run.yaml").read_text("utf-8"))
    assert record["statement"] == "morphology, for research use, not a diagnosis"
    assert record["fields"] == {"found": 6, "ok": 6, "failed": 0, "skipped": 0}
    assert record["cells"] == len(table(scored[0], "cells"))
    hashes = {open_bundle(n).card.name: open_bundle(n).hash for n in ("cells-robust", "wbc-types")}
    assert record["bundles"] == hashes
    fastest = open_bundle("cells-robust").first_offered(fast_precisions("openvino"), "openvino") or "fp32"
    assert (record["engine"]["name"], record["engine"]["precision"]) == ("openvino", fastest)
    assert record["settings"]["batch"] == 16


def test_the_command_says_where_the_report_is_and_what_it_is_not(scored: Scored) -> None:
    out, answer = scored
    assert "6 of 6 fields read" in answer.out
    assert "by openvino" in answer.out
    assert "not a diagnosis" in answer.out
    assert str((out / "report" / "index.html").resolve()) in answer.out
    assert "slide-b: 2 fields" in answer.out


def test_two_runs_give_the_same_bytes(scored: Scored, slides: Path, tmp_path: Path) -> None:
    assert smear("score", slides, "--out", tmp_path / "again").code == 0
    for name in RESULTS:
        assert (scored[0] / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    page = "report/index.html"
    assert (scored[0] / page).read_bytes() == (tmp_path / "again" / page).read_bytes()


def test_two_runs_of_several_workers_give_the_same_bytes(slides: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        assert inside("score", slides, "--out", tmp_path / out, "--workers", 3, "--batch", 1).code == 0
    for name in RESULTS:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_batches_and_workers_change_no_cell(scored: Scored, slides: Path, tmp_path: Path, table: Table) -> None:
    assert inside("score", slides, "--out", tmp_path / "out", "--workers", 1, "--batch", 5).code == 0
    assert (tmp_path / "out" / "slides.csv").read_bytes() == (scored[0] / "slides.csv").read_bytes()
    ours, theirs = table(tmp_path / "out", "cells"), table(scored[0], "cells")
    assert [(r["field"], r["label"], r["type"]) for r in ours] == [(r["field"], r["label"], r["type"]) for r in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert [a[k] for k in ("x0", "y0", "x1", "y1")] == pytest.approx(
            [b[k] for k in ("x0", "y0", "x1", "y1")], abs=0.01
        )
        assert a["score"] == pytest.approx(b["score"], abs=1e-3)


def test_a_lower_score_shows_more_cells(scored: Scored, slides: Path, tmp_path: Path, table: Table) -> None:
    assert inside("score", slides, "--out", tmp_path / "out", "--min-score", 0.03).code == 0
    low = table(tmp_path / "out", "cells")
    assert len(low) > len(table(scored[0], "cells"))
    assert min(r["score"] for r in low) >= np.float32(0.03)
    assert "lowered threshold of 0.03" in (tmp_path / "out" / "report" / "index.html").read_text("utf-8")


def test_without_a_classifier_white_cells_are_unidentified(slides: Path, tmp_path: Path, table: Table) -> None:
    assert inside("score", slides, "--out", tmp_path / "out", "--classifier", "none").code == 0
    cells = table(tmp_path / "out", "cells")
    assert {r["type"] for r in cells} == {None}
    with (tmp_path / "out" / "slides.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(r["count"]) for r in rows if r["cell"] == "unidentified") == sum(r["label"] == "WBC" for r in cells)


def test_slides_may_be_nested_flat_and_loud(slides: Path, tmp_path: Path, table: Table) -> None:
    first, second, third = sorted(slides.rglob("*.jpg"))[:3]
    home = tmp_path / "my slides"
    (home / "Präparat 1" / "scan" / "left").mkdir(parents=True)
    shutil.copy(first, home / "Präparat 1" / "scan" / "left" / "F 1.JPG")
    shutil.copy(first, home / "Präparat 1" / "F 2.Jpeg")
    (home / "b").mkdir()
    shutil.copy(second, home / "b" / "x.jpe")
    (home / "b" / "deep.TIF").write_bytes(encode(sample.field(4, ["Monocyte"])[0], "TIFF"))
    shutil.copy(third, home / "loose.jpg")
    (home / ".hidden").mkdir()
    shutil.copy(third, home / ".hidden" / "thumb.jpg")
    answer = inside("score", home, "--out", tmp_path / "out")
    assert answer.code == 0
    got = {r["field"]: r["slide"] for r in table(tmp_path / "out", "fields")}
    assert got == {
        "Präparat 1/scan/left/F 1.JPG": "Präparat 1",
        "Präparat 1/F 2.Jpeg": "Präparat 1",
        "b/x.jpe": "b",
        "b/deep.TIF": "b",
        "loose.jpg": "my slides",
    }


def test_one_slide_given_by_itself(slides: Path, tmp_path: Path, table: Table) -> None:
    assert inside("score", slides / "slide-b", "--out", tmp_path / "out").code == 0
    rows = table(tmp_path / "out", "fields")
    assert [(r["slide"], r["field"]) for r in rows] == [("slide-b", "field-01.jpg"), ("slide-b", "field-02.jpg")]

"""Tables of labs that are left out: nothing of them is learnt from, and what is told is that of the evaluations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
import yaml

from detect.errors import DataError
from tests.cli.command import inside
from tests.detectors.tiny import write

pytest.importorskip("ultralytics", reason="ultralytics is not installed")

from detect.config import load_yaml
from detect.data.fingerprint import file_hash
from detect.data.splits import EXCLUDED, read_split
from detect.evaluate.intervals import Interval
from detect.tables import labs
from detect.tables.settings import LabTable
from detect.tables.trained import Maker

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def lab_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LabTable:
    """Every other field is some pixels narrower: another lab's."""
    tiny = write(tmp_path)
    monkeypatch.setenv("SMEAR_DATA", str(tmp_path))
    for path in sorted((tiny.home / "images" / "all").glob("*.png"))[::2]:
        pixels = cv2.imread(str(path))
        cv2.imwrite(str(path), pixels[:, :-7])
    whole = read_split(tiny.split)
    rows = tuple(replace(r, group=r.field, hash=file_hash(tiny.home / r.field)) for r in whole.rows)
    replace(whole, rows=rows).write(tiny.split)
    sizes = {f"{s[1]}x{s[0]}" for s in (cv2.imread(str(p)).shape for p in (tiny.home / "images" / "all").glob("*.png"))}
    cut, full = sorted(sizes)
    return LabTable(
        title="Labs", data=str(tiny.card), split=str(tiny.split), part="test", rounds=20,
        labs={"cut": (cut,), "full": (full,)}, rows={"YOLO": {"config": str(tiny.config)}},
    )  # fmt: skip


def test_no_field_of_a_lab_is_learnt_from_when_it_is_left_out(lab_table: LabTable, tmp_path: Path) -> None:
    table = lab_table
    paths = labs.splits_of(table, tmp_path / "splits")
    part = {n: {r.field: r.part for r in read_split(p).rows} for n, p in paths.items()}
    for lab in table.labs:
        measured = {f for f, p in part[f"only-{lab}"].items() if p != EXCLUDED}
        assert measured
        assert all(part["all"][f] == "test" for f in measured)
        assert all(part[f"without-{lab}"][f] == EXCLUDED for f in measured)
        learnt = {f for f, p in part[f"without-{lab}"].items() if p == "train"}
        assert learnt
        other = next(name for name in table.labs if name != lab)
        assert not any(part[f"without-{other}"][f] == "train" for f in learnt)
    with pytest.raises(DataError, match="no lab of the table"):
        labs.splits_of(table.model_copy(update={"labs": {"a": ("1x1",), "b": ("2x2",)}}), tmp_path / "other")


@pytest.mark.long
def test_labs_are_left_out_by_the_real_command(lab_table: LabTable, tmp_path: Path) -> None:
    table = lab_table
    config = tmp_path / "labs.yaml"
    config.write_text(yaml.safe_dump(table.model_dump(mode="json"), sort_keys=False), "utf-8")
    out = tmp_path / "out"
    answer = inside("evaluate", "table", "transfer", "--config", config, "--out", out)
    assert answer.code == 0, answer.err
    told = json.loads((out / "transfer.json").read_text())["rows"]
    assert list(told) == ["cut: YOLO", "full: YOLO"]
    for lab in table.labs:
        left = json.loads((out / "models" / "YOLO" / lab / "seed-1" / f"on-{lab}" / "metrics.json").read_text())
        seen = json.loads((out / "models" / "YOLO" / "all" / "seed-1" / f"on-{lab}" / "metrics.json").read_text())
        row = told[f"{lab}: YOLO"]
        assert row["F1 WBC, lab left out"] == left["classes"]["WBC"]["f1"]
        assert row["F1 WBC, lab learnt from"] == seen["classes"]["WBC"]["f1"]
        assert left["fingerprint"] == seen["fingerprint"]
        assert row["WBC cells"] == left["classes"]["WBC"]["truths"]
    assert cv2.imread(str(out / "transfer.png")).std() > 10


def test_each_row_of_classifiers_is_drawn_beside_the_first_on_every_source(tmp_path: Path) -> None:
    value = {
        ("a", "plain"): 0.8,
        ("a", "Reinhard"): 0.9,
        ("b", "Reinhard"): 0.5,
        ("b", "plain"): 0.6,
        ("c", "Reinhard"): 1.0,
    }
    rows: Any = [
        SimpleNamespace(kind=kind, name=name, report=SimpleNamespace(macro_f1=Interval(v, v - 0.1, v + 0.1)))
        for (kind, name), v in value.items()
    ]
    pairs = labs._beside(rows, "plain")
    assert {title: (a.value, b.value) for title, (a, b) in pairs.items()} == {
        "a: Reinhard": (0.8, 0.9),
        "b: Reinhard": (0.6, 0.5),
    }


def test_a_row_of_classifiers_begins_with_drawn_cells(
    lab_table: LabTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "zoo.yaml"
    config.write_text(yaml.safe_dump({"data": ["bccd"], "rows": {"plain": {"network": "smallnet"}}}), "utf-8")
    start = {"slides": 24, "fields": 2, "size": 320, "seed": 2, "config": "yolov8n"}
    drawn = {"slides": "drawn", "row": "begun", "recipe": {"network": "smallnet", "image_size": 32, "epochs": 1}}
    told = lab_table.model_dump(mode="json") | {"starts": {"drawn": start}, "classifiers": str(config)}
    table = LabTable.model_validate(told | {"drawn_types": drawn})
    settings, _, begun = labs._classifiers(table, Maker(table, "t.yaml", tmp_path / "out", "cpu", False, print))
    assert settings is not None
    assert set(settings.rows) == {"plain", "begun"}
    assert settings.rows["begun"] == {"network": "smallnet"}
    weights = begun["begun"].weights()
    assert "Segmented neutrophil" in load_yaml(weights.with_name("run.yaml"))["types"]
    monkeypatch.setattr(labs, "train", lambda *_, **__: pytest.fail("trained anew"))
    other = Maker(table, "t.yaml", tmp_path / "out", "cpu", False, print)
    again, _, same = labs._classifiers(table, other)
    assert again == settings
    assert (same["begun"].key, same["begun"].weights()) == (begun["begun"].key, weights)
    for change, words in (({"slides": "other"}, "no start 'other'"), ({"row": 3}, "row")):
        with pytest.raises(ValueError, match=words):
            LabTable.model_validate(told | {"drawn_types": drawn | change})


DRAWN = {"slides": "drawn", "row": "begun", "recipe": {"network": "lenet"}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": {"a": {"bundle": "classical"}}}, "may have seen the lab"),
        ({"rows": {"a": {"config": "yolov8n-robust"}}}, "may have seen the lab"),
        ({"rows": {"a": {"config": "yolov8n", "seeds": [1, 2]}}}, "one seed"),
        ({"of": "Blast"}, "one that is drawn everywhere: WBC, RBC, Platelet"),
        ({"labs": {"all": ["1x1"], "b": ["2x2"]}}, "name it otherwise"),
        ({"drawn_types": DRAWN | {"row": "drawn"}}, "one that is taken"),
        ({"drawn_types": DRAWN | {"row": "as it is"}}, "one that is taken"),
        ({"drawn_types": DRAWN | {"recipe": {"network": "lenet", "epoch": 3}}}, "did you mean 'epochs'"),
        ({"drawn_types": DRAWN | {"recipe": {"members": ["a", "b"], "rule": "mean"}}}, "no single network"),
    ],
)
def test_a_wrong_table_of_labs_is_refused_before_hours_of_training(
    lab_table: LabTable, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    config = tmp_path / "labs.yaml"
    told = lab_table.model_dump(mode="json")
    if "drawn_types" in changes:
        told |= {"starts": {"drawn": {"config": "yolov8n"}}, "classifiers": "wbc-types-labs"}
    config.write_text(yaml.safe_dump(told | changes, sort_keys=False), "utf-8")
    answer = inside("evaluate", "table", "transfer", "--config", config, "--out", tmp_path / "out")
    assert answer.code == 2
    assert words in answer.err.replace("\n", " ")
    assert not (tmp_path / "out").exists()

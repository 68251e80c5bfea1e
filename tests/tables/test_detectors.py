"""Tables of detectors: figures are those of the evaluations, rows go on where they stopped, what changed is remade."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from detect.errors import ConfigError, StoreError
from tests.cli.command import inside
from tests.detectors.tiny import Tiny, write, write_config

pytest.importorskip("ultralytics", reason="ultralytics is not installed")

from detect import assets
from detect.config import load, load_yaml
from detect.data.splits import read_split
from detect.evaluate.saved import read_saved
from detect.tables import detectors as room
from detect.tables import keys, measured, trained
from detect.tables.settings import DetectorTable, LabTable
from detect.tables.trained import Maker


@pytest.fixture(autouse=True, scope="module")
def _one_core(one_thread: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_LEAST", 0.01)
        yield


def table_of(tiny: Tiny, path: Path, **changes: Any) -> Path:
    """A table of one training of two seeds and one bundle."""
    values: dict[str, Any] = {
        "title": "Tiny",
        "data": str(tiny.card),
        "split": str(tiny.split),
        "part": "test",
        "rounds": 20,
        "changes": {"epochs": 1},
        "rows": {
            "YOLO": {"config": str(tiny.config), "seeds": [1, 2], "changes": {"hyperparameters": {"close_mosaic": 0}}},
            "classical": {"bundle": "classical"},
        },
    }
    path.write_text(yaml.safe_dump(values | changes, sort_keys=False), "utf-8")
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    made = write(tmp_path_factory.mktemp("tables"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMEAR_DATA", str(made.home.parent))
        yield made


@pytest.fixture(scope="module")
def made(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A whole table by the real command."""
    home = tmp_path_factory.mktemp("made")
    config = table_of(tiny, home / "t.yaml")
    answer = inside("evaluate", "table", "detectors", "--config", config, "--out", home / "out")
    assert answer.code == 0, answer.err
    return home, answer.out.splitlines()


@pytest.fixture
def copied(made: tuple[Path, list[str]], tmp_path: Path) -> tuple[str, Path]:
    """The table's settings, and a copy of it to change."""
    return str(made[0] / "t.yaml"), shutil.copytree(made[0] / "out", tmp_path / "out")


def test_every_figure_is_that_of_its_evaluation(made: tuple[Path, list[str]]) -> None:
    out = made[0] / "out"
    told = json.loads((out / "detectors.json").read_text())
    assert set(told["rows"]) == {"YOLO", "classical"}
    for name, place in (("YOLO", "seed-1"), ("classical", "as-it-is")):
        row = told["rows"][name]
        figures = json.loads((out / "models" / name / place / "evaluation" / "metrics.json").read_text())
        assert row["mAP50-95"] == figures["map50_95"]
        assert row["AP50 RBC"] == figures["per_class_ap"]["RBC"]["ap50"]
        assert row["F1 WBC"] == figures["classes"]["WBC"]["f1"]
        assert row["counting error RBC"] == figures["counting"]["RBC"]["mae"]
        assert row["ms a field"] > 0
        assert row["time, of cells-yolov8n's"] > 0
    assert told["rows"]["YOLO"]["images seen"] == 8
    assert told["rows"]["YOLO"]["seeds"] == 2
    assert told["rows"]["YOLO"]["spread"] >= 0
    assert told["rows"]["YOLO"]["converged"] == "no: not ranked"  # one epoch tells nothing
    assert told["rows"]["classical"]["converged"] == "learns nothing here"
    assert next(iter(told["rows"])) == "classical"  # what is not ranked stands last
    assert told["rows"]["YOLO"]["less than the best"]["value"] == pytest.approx(
        told["rows"]["YOLO"]["mAP50-95"]["value"] - told["rows"]["classical"]["mAP50-95"]["value"]
    )
    lines = list(csv.DictReader((out / "detectors.csv").read_text().splitlines()))
    assert [line["row"] for line in lines] == list(told["rows"])
    assert float(lines[0]["mAP50, low"]) == told["rows"]["classical"]["mAP50"]["low"]
    assert "2 fields in" in (out / "detectors.md").read_text()
    assert (out / "detectors.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.glob("models/*/*/run/train"))  # checkpoints


def test_rows_that_are_done_are_taken_and_what_changed_is_made_anew(
    copied: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = copied
    said: list[str] = []
    before = {p: p.stat().st_mtime_ns for p in out.glob("models/*/*/bundle/*")}
    assert before
    room.detector_table(config, out, say=said.append)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert not any("seed" in s or "timing" in s for s in said)
    monkeypatch.setattr(trained, "train", lambda *_, **__: pytest.fail("nothing is to be trained"))
    real = keys.training_key
    monkeypatch.setattr(keys, "training_key", lambda *a, **named: real(*a, **named) | {"code": "another"})
    kept = room.detector_table(config, out, keep_stale=True, say=said.append)
    assert set(kept.lines) == {"YOLO", "classical"}
    told = json.loads((out / "detectors.json").read_text())["rows"]
    assert told["YOLO"]["converged"] == "no: not ranked; kept though its code changed"
    others = room.detector_table(config, out, only=["classical"], say=said.append)
    assert set(others.lines) == {"classical"}  # nothing is made that was not asked for
    with pytest.raises(pytest.fail.Exception, match="nothing is to be trained"):
        room.detector_table(config, out, say=said.append)
    assert any("made anew, its code changed" in s for s in said)


def test_rows_stand_by_their_figures_when_their_bundles_are_gone(
    copied: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = copied
    said: list[str] = []
    monkeypatch.setattr(trained, "train", lambda *_, **__: pytest.fail("trained anew"))
    first = room.detector_table(config, out, say=said.append)
    for kind in ("bundle", "run"):
        for path in list(out.glob(f"models/*/*/{kind}")):
            shutil.rmtree(path)
    moved = out.rename(tmp_path / "elsewhere")
    before = {p: p.read_bytes() for p in moved.glob("models/YOLO/*/evaluation/truth.json.gz")}
    assert len(before) == 2
    for path in before:  # the set's own labels are not kept
        path.unlink()
    assert room.detector_table(config, moved, say=said.append).lines == first.lines
    assert {p: p.read_bytes() for p in before} == before
    for seed in (1, 2):  # what it found is compared with another row's: it is there, packed
        told = read_saved(moved / "models" / "YOLO" / f"seed-{seed}" / "evaluation")
        assert len(told.found) == len(told.dataset.fields) == 2
    real = keys.measuring_key
    monkeypatch.setattr(keys, "measuring_key", lambda *a, **named: real(*a, **named) | {"code": "another"})
    kept = room.detector_table(config, moved, keep_stale=True, say=said.append)
    assert any("kept though its measurement changed" in str(v) for v in kept.lines["YOLO"])
    with pytest.raises(pytest.fail.Exception, match="trained anew"):
        room.detector_table(config, moved, say=said.append)


def test_a_training_that_was_stopped_goes_on(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"YOLO": {"config": str(write_config(tmp_path / "two.yaml", epochs=2))}}
    config = table_of(tiny, tmp_path / "t.yaml", rows=rows, changes={})
    out = tmp_path / "out"

    def stopped(name: str, before: bool) -> None:
        """End the program before or after it calls one of what makes a row."""
        module = measured if name == "evaluate" else trained
        theirs = getattr(module, name)

        def end(*args: Any, **kwargs: Any) -> Any:
            if not before:
                theirs(*args, **kwargs)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(module, name, end)
            with pytest.raises(KeyboardInterrupt):
                room.detector_table(str(config), out, say=lambda _: None)

    def half(*args: Any, **kwargs: Any) -> None:
        args[2].mkdir(parents=True)
        (args[2] / "settings.yaml").write_text("half: written")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trained, "train", half)
        with pytest.raises(KeyboardInterrupt):
            room.detector_table(str(config), out, say=lambda _: None)
    stopped("train", before=False)
    (out / "models" / "YOLO" / "seed-1" / "bundle.partial").mkdir()
    (out / "models" / "YOLO" / "seed-1" / "bundle.partial" / "weights.safetensors").write_text("half")
    for name, before in (("export", True), ("export", False), ("evaluate", True), ("evaluate", False)):
        stopped(name, before)
    (out / "models" / "YOLO" / "seed-1" / "evaluation.partial" / "metrics.json").write_text("{}")
    told = room.detector_table(str(config), out, say=lambda _: None)
    assert list(told.lines) == ["YOLO"]
    line = dict(zip((c.head for c in told.columns), told.lines["YOLO"], strict=True))
    assert line["epochs"] == 2
    assert line["images seen"] == 16
    assert 0 < float(str(line["hours"])) < 1
    (out / "models" / "YOLO" / "seed-1" / "key.json").write_text("{torn")
    with pytest.raises(StoreError, match="not made by a table"):
        room.detector_table(str(config), out, say=lambda _: None)


@pytest.mark.long
def test_drawn_slides_are_begun_with_and_learnt_from_beside_the_set(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = {"slides": 10, "fields": 1, "size": 320, "config": str(tiny.config)}
    rows = {n: {"config": str(tiny.config), "start": "drawn", "beside": n == "both"} for n in ("start alone", "both")}
    config = table_of(tiny, tmp_path / "t.yaml", starts={"drawn": start}, rows=rows)
    out = tmp_path / "out"
    room.detector_table(str(config), out, say=lambda _: None)
    told = {n: load_yaml(out / "models" / n / "seed-1" / "run" / "run.yaml") for n in rows}
    drawn = load_yaml(out / "starts" / "drawn" / "run" / "run.yaml")
    assert len(told["start alone"]["data"]) == 1
    assert told["both"]["fields"]["train"] == told["start alone"]["fields"]["train"] + drawn["fields"]["train"]
    assert told["both"]["fields"]["dev"] == told["start alone"]["fields"]["dev"]  # chosen on the set alone
    assert all(t["trained_on"] == "real and synthetic" for t in told.values())
    rows["both"]["beside"] = False
    table_of(tiny, tmp_path / "t.yaml", starts={"drawn": start}, rows=rows)
    monkeypatch.setattr(trained, "train", lambda *_, **__: pytest.fail("trained anew"))
    with pytest.raises(pytest.fail.Exception, match="trained anew"):
        room.detector_table(str(config), out, say=lambda _: None)


def test_figures_are_made_anew_where_what_they_are_of_has_changed(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = write(tmp_path)
    monkeypatch.setenv("SMEAR_DATA", str(tmp_path))
    rows = {"classical": {"bundle": "classical"}}
    config, out, said = str(table_of(home, tmp_path / "t.yaml", rows=rows)), tmp_path / "out", []
    first = room.detector_table(config, out, say=said.append)
    keys._learnt.cache_clear()
    held = next(r for r in read_split(home.split).rows if r.part == "test")
    label = home.home / "labels" / "all" / f"{Path(held.field).stem}.txt"
    label.write_text("\n".join(label.read_text().splitlines()[:3]) + "\n")
    said.clear()
    second = room.detector_table(config, out, say=said.append)
    assert any("measuring" in s for s in said)
    assert first.lines["classical"][0] != second.lines["classical"][0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": {"a": {}}}, "either 'config' or 'bundle'"),
        ({"rows": {"a": {"config": "yolov8n", "bundle": "classical"}}}, "either 'config' or 'bundle'"),
        ({"rows": {"a": {"bundle": "classical", "seeds": [1, 2]}}}, "measured as it is"),
        ({"rows": {"a": {"config": "yolov8n", "start": "drawn"}}}, "no start 'drawn'"),
        ({"rows": {"a": {"config": "yolov8n", "beside": True}}}, "name a 'start'"),
        ({"rows": {"a": {"config": "yolov9n"}}}, "yolov9n"),
        ({"rows": {"../a": {"config": "yolov8n"}}}, "no name of a row"),
        ({"rows": {"All": {"config": "yolov8n"}}}, "no name of a row"),
        ({"rows": {"a": {"config": "yolov8n", "changes": {"family": "darknet"}}}}, "no detector family 'darknet'"),
        ({"rows": {"a": {"config": "yolov8n", "changes": {"epoch": 3}}}}, "did you mean 'epochs'"),
    ],
)
def test_a_wrong_table_is_refused_before_anything_is_made(
    tiny: Tiny, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    config = table_of(tiny, tmp_path / "t.yaml", **changes)
    answer = inside("evaluate", "table", "detectors", "--config", config, "--out", tmp_path / "out")
    assert answer.code == 2
    assert words in answer.err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_folders_of_something_else_and_unknown_rows_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    config = str(table_of(tiny, tmp_path / "t.yaml"))
    with pytest.raises(ConfigError, match="no row 'SSD'"):
        room.detector_table(config, tmp_path / "out", only=["SSD"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "slide.png").write_text("mine")
    with pytest.raises(StoreError, match="no table"):
        room.detector_table(config, tmp_path / "mine")
    assert inside("evaluate", "table", "detector", "--out", tmp_path / "out").code == 2


@pytest.mark.parametrize("name", ["detectors", "transfer"])
def test_packaged_tables_name_what_there_is(name: str, tmp_path: Path) -> None:
    model = DetectorTable if name == "detectors" else LabTable
    path = assets.ROOT / "configs" / "tables" / f"{name}.yaml"
    table = load(model, path)
    settings = Maker(table, str(path), tmp_path, "cpu", False, print).settings
    assert set(settings) == {n for n, r in table.rows.items() if r.bundle is None}

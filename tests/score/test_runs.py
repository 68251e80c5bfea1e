"""`smear runs` and `smear watch`: how far a run is, runs made one, cells for other programs, slides as they come."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pycocotools.coco import COCO

from tests.cli.command import SCRIPT, inside
from tests.score.test_resume import SMALL, begun, events, results

Table = Callable[[Path, str], list[dict[str, Any]]]
Answered = tuple[Path, Any]

# What QuPath 0.4 and later take as detection objects, within what RFC 7946 says of polygons.
_POINT = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_RING = {"type": "array", "items": _POINT, "minItems": 4}
QUPATH = {
    "type": "object",
    "required": ["type", "features"],
    "properties": {
        "type": {"const": "FeatureCollection"},
        "features": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "geometry", "properties"],
                "properties": {
                    "type": {"const": "Feature"},
                    "id": {"type": "string", "format": "uuid"},
                    "geometry": {
                        "type": "object",
                        "required": ["type", "coordinates"],
                        "properties": {
                            "type": {"const": "Polygon"},
                            "coordinates": {"type": "array", "items": _RING, "minItems": 1},
                        },
                        "additionalProperties": False,
                    },
                    "properties": {
                        "type": "object",
                        "required": ["objectType"],
                        "properties": {
                            "objectType": {"const": "detection"},
                            "name": {"type": "string"},
                            "isLocked": {"type": "boolean"},
                            "classification": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {
                                    "name": {"type": "string", "minLength": 1},
                                    "color": {
                                        "type": "array",
                                        "items": {"type": "integer", "minimum": 0, "maximum": 255},
                                        "minItems": 3,
                                        "maxItems": 3,
                                    },
                                },
                                "additionalProperties": False,
                            },
                            "measurements": {"type": "object", "additionalProperties": {"type": "number"}},
                            "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                        },
                        "additionalProperties": False,
                    },
                },
                "additionalProperties": False,
            },
        },
    },
}


def test_status_of_a_run_that_is_killed_and_finished(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for process in begun(out, slides, 1):
        process.send_signal(signal.SIGSTOP)
        running = inside("runs", "status", out, "--json")
    told = json.loads(running.out)
    assert running.code == 0
    assert (told["state"], told["fields"]) == ("running", 6)
    stopped = inside("runs", "status", out)
    assert stopped.code == 1
    assert "stopped: " in stopped.out
    assert "--resume" in stopped.out
    assert inside("score", slides, "--out", out, "--resume").code == 0
    finished = inside("runs", "status", out, "--json")
    told = json.loads(finished.out)
    assert finished.code == 0
    assert (told["state"], told["scored"], told["done"]) == ("finished", 6, {"ok": 6})
    assert inside("runs", "status", tmp_path / "nowhere").code == 2


@pytest.mark.long
def test_runs_of_parts_of_a_folder_are_made_one(slides: Path, scored: Answered, tmp_path: Path, table: Table) -> None:
    home = tmp_path / "slides"
    shutil.copytree(slides, home)
    whole = tmp_path / "whole"
    assert inside("score", home, "--out", whole).code == 0
    for name in ("slide-a", "slide-b", "slide-c"):
        (home / name).rename(tmp_path / name)
    for name in ("slide-a", "slide-b", "slide-c"):
        (tmp_path / name).rename(home / name)
        assert inside("score", home, "--out", tmp_path / f"run-{name}").code == 0
        (home / name).rename(tmp_path / name)
    for name in ("slide-a", "slide-b", "slide-c"):
        (tmp_path / name).rename(home / name)
    runs = [tmp_path / f"run-slide-{x}" for x in "abc"]
    answer = inside("runs", "merge", *runs, "--out", tmp_path / "one")
    assert answer.code == 0, answer.err
    for name in ("cells", "fields"):
        assert table(tmp_path / "one", name) == table(whole, name)
    assert (tmp_path / "one" / "slides.csv").read_bytes() == (whole / "slides.csv").read_bytes()
    assert yaml.safe_load((tmp_path / "one" / "run.yaml").read_text())["state"] == "finished"
    again = inside("runs", "merge", runs[0], runs[0], "--out", tmp_path / "two")
    assert again.code == 2
    assert "is in" in again.err
    assert not (tmp_path / "two").exists()
    assert inside("score", home, "--out", tmp_path / "other", "--min-score", "0.9").code == 0
    unlike = inside("runs", "merge", runs[0], tmp_path / "other", "--out", tmp_path / "two")
    assert unlike.code == 2
    assert "settings differ" in unlike.err


def test_cells_for_other_programs(scored: Answered, tmp_path: Path, table: Table) -> None:
    run = tmp_path / "run"
    shutil.copytree(scored[0], run)
    for form in ("csv", "coco", "geojson"):
        answer = inside("runs", "export", run, "--to", form)
        assert answer.code == 0, answer.err
    cells = table(run, "cells")
    lines = (run / "cells.csv").read_text().splitlines()
    assert len(lines) == len(cells) + 1
    held = COCO(run / "coco.json")
    assert len(held.anns) == len(cells)
    assert {i["file_name"] for i in held.imgs.values()} == {r["field"] for r in table(run, "fields")}
    for one, cell in zip(held.anns.values(), cells, strict=True):
        assert held.imgs[one["image_id"]]["file_name"] == cell["field"]
        assert held.cats[one["category_id"]]["name"] == (cell["type"] or cell["label"])
        x, y, w, h = one["bbox"]
        assert (x, y, x + w, y + h) == pytest.approx([cell[k] for k in ("x0", "y0", "x1", "y1")], abs=0.002)
    features = [f for p in sorted((run / "geojson").glob("*.geojson")) for f in json.loads(p.read_text())["features"]]
    assert len(features) == len(cells)
    for path in (run / "geojson").glob("*.geojson"):
        jsonschema.validate(json.loads(path.read_text()), QUPATH)
    for feature in features:
        assert all(ring[0] == ring[-1] for ring in feature["geometry"]["coordinates"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"type": "FeatureCollection", "features": [{**features[0], "geometry": None}]}, QUPATH)
    assert inside("runs", "export", run, "--to", "excel").code == 2
    assert inside("score", tmp_path, "--out", run, "--overwrite").code == 2  # the slides would be written over


def test_lines_of_json_and_figures_for_prometheus(slides: Path, tmp_path: Path) -> None:
    figures = tmp_path / "smear.prom"
    answer = inside("score", slides, "--out", tmp_path / "out", "--log", "json", "--metrics", figures)
    assert answer.code == 0
    told = [json.loads(line)["event"] for line in answer.err.splitlines() if line.strip()]
    assert told[0] == "begun"
    assert told[-1] == "finished"
    lines = [line for line in figures.read_text().splitlines() if not line.startswith("#")]
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
    own = f'run="{tmp_path / "out"}"'
    assert values[f"smear_fields_planned{{{own}}}"] == 6
    assert values[f'smear_fields_done{{{own},status="ok"}}'] == 6
    assert values[f'smear_run_state{{{own},state="finished"}}'] == 1


def deliver(slides: Path, target: Path, pause: float) -> None:
    """Slides as a scanner may write them: in turns, out of order, each file in pieces."""
    files = sorted((p for p in slides.rglob("*.jpg")), key=lambda p: p.name, reverse=True)
    for path in files:
        place = target / path.relative_to(slides)
        place.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        for start in range(0, len(data), len(data) // 3):
            with place.open("ab") as file:
                file.write(data[start : start + len(data) // 3])
            time.sleep(pause)


@pytest.mark.long
def test_slides_are_scored_once_each_as_they_come(slides: Path, tmp_path: Path, table: Table) -> None:
    scanner, out = tmp_path / "scanner", tmp_path / "runs"
    scanner.mkdir()
    command = [SCRIPT, "watch", scanner, "--out", out, "--settle", "4", "--every", "0.5"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    writer = threading.Thread(target=deliver, args=(slides, scanner, 0.2))
    writer.start()
    try:
        deadline = time.monotonic() + 200
        names = ("slide-a", "slide-b", "slide-c")
        while time.monotonic() < deadline:
            done = [
                n
                for n in names
                if (out / n / "run.yaml").is_file()
                and yaml.safe_load((out / n / "run.yaml").read_text())["state"] == "finished"
            ]
            if len(done) == 3:
                break
            time.sleep(0.5)
        writer.join()
        time.sleep(6)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert sorted(line.split(":")[0] for line in said.splitlines()) == list(names)
    for name in names:
        assert events(out / name).count("begun") == 1
        rows = table(out / name, "fields")
        assert [(r["field"], r["status"]) for r in rows] == [
            (f"{name}/field-01.jpg", "ok"),
            (f"{name}/field-02.jpg", "ok"),
        ]
    one = inside("runs", "merge", *(out / n for n in names), "--out", tmp_path / "all")
    assert one.code == 0, one.err
    assert len(table(tmp_path / "all", "fields")) == 6


@pytest.mark.long
def test_a_watch_waits_for_the_mark_and_goes_on_with_what_was_stopped(slides: Path, tmp_path: Path) -> None:
    scanner, out = tmp_path / "scanner", tmp_path / "runs"
    shutil.copytree(slides, scanner)
    (scanner / "slide-a" / "done").touch()
    (scanner / "slide-b" / "done").touch()
    (scanner / "slide-c").rename(tmp_path / "slide-c")
    # slide-a: its run was killed before the plan was written
    assert inside("score", scanner, "--out", out / "slide-a", *SMALL).code == 0
    record = yaml.safe_load((out / "slide-a" / "run.yaml").read_text())
    shutil.rmtree(out / "slide-a")
    words = ("watch", scanner, "--out", out, "--mark", "done", "--every", "0.1", "--once")
    assert inside(*words).code == 0
    assert sorted(p.name for p in out.iterdir()) == ["slide-a", "slide-b"]
    before = {name: results(out / name) for name in ("slide-a", "slide-b")}
    assert record["state"] == "finished"
    told = yaml.safe_load((out / "slide-a" / "run.yaml").read_text())
    (out / "slide-a" / "run.yaml").write_text(yaml.safe_dump(told | {"state": "begun"}))
    (out / "slide-a" / "cells" / "part-00000.parquet").unlink()
    shutil.copy(slides / "slide-a" / "field-01.jpg", scanner / "slide-b" / "late.jpg")
    answer = inside(*words)
    assert answer.code == 3
    assert answer.out.splitlines()[0].startswith("slide-a: 2 fields")
    assert len(answer.out.splitlines()) == 1
    assert "slide-b: came after it was scored, and not counted: 1 fields" in answer.err
    assert {name: results(out / name) for name in ("slide-a", "slide-b")} == before


def test_a_slide_without_pictures_is_said_and_the_others_are_scored(slides: Path, tmp_path: Path) -> None:
    scanner = tmp_path / "scanner"
    shutil.copytree(slides / "slide-a", scanner / "slide-b")
    (scanner / "slide-a").mkdir()
    (scanner / "slide-a" / "notes.txt").write_text("empty")
    words = ("watch", scanner, "--out", tmp_path / "runs", "--settle", "0", "--every", "0.1", "--once")
    answer = inside(*words)
    assert answer.code == 3
    assert "slide-a" in answer.err
    assert "no images in it" in answer.err
    assert "slide-b: 2 fields" in answer.out


def test_a_slide_is_scored_alone_and_merged_with_the_others(slides: Path, scored: Answered, tmp_path: Path) -> None:
    names = sorted(p.name for p in slides.iterdir() if p.is_dir())
    for k, chosen in enumerate((names[:1], names[1:])):
        words = [word for name in chosen for word in ("--slide", name)]
        answer = inside("score", slides, "--out", tmp_path / f"{k}", *SMALL, *words)
        assert answer.code == 0, answer.err
    assert inside("runs", "merge", tmp_path / "0", tmp_path / "1", "--out", tmp_path / "all").code == 0
    whole = inside("score", slides, "--out", tmp_path / "whole", *SMALL)
    assert whole.code == 0, whole.err
    assert (tmp_path / "all" / "slides.csv").read_bytes() == (tmp_path / "whole" / "slides.csv").read_bytes()
    wrong = inside("score", slides, "--out", tmp_path / "none", "--slide", names[0][:-1] + "x")
    assert wrong.code == 2
    assert "no slide 'slide-x'" in wrong.err
    assert "did you mean 'slide-" in wrong.err
    other = inside("score", slides, "--out", tmp_path / "0", "--resume", "--slide", names[1])
    assert other.code == 2
    assert f"begun with {names[0]}, not {names[1]}" in other.err.replace("\n", " ")


def test_a_run_with_exports_beside_it_is_replaced(slides: Path, tmp_path: Path) -> None:
    words = ("score", slides, "--out", tmp_path / "out", *SMALL, "--slide", "slide-a")
    assert inside(*words).code == 0
    for kind in ("csv", "coco", "geojson"):
        assert inside("runs", "export", tmp_path / "out", "--to", kind).code == 0
    assert inside(*words, "--overwrite").code == 0
    assert not (tmp_path / "out" / "cells.csv").exists()

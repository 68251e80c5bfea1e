"""`smear data check`, `stats` and `convert`: planted faults are found, and the exit code says so."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detect.data import check, sources
from detect.formats.tally import Tally
from detect.types import Annotations, ClassMap, Dataset, Detections, Field, LabelledField
from tests import data
from tests.cli.command import inside

CLASSES = ClassMap(("WBC", "RBC", "Platelet"))
GOOD = "1 0.25 0.25 0.1 0.1\n1 0.75 0.75 0.1 0.1\n"


def yolo_set(folder: Path, **labels: str | None) -> Path:
    """A YOLO set: picture to the text of its labels, None for no file. Names are WBC, RBC, Platelet."""
    fields = data.fields_in(folder / "images" / "train", [*labels], 200, 160)
    (folder / "labels" / "train").mkdir(parents=True)
    for field, text in zip(fields, labels.values(), strict=True):
        if text is not None:
            (folder / "labels" / "train" / f"{field.path.stem}.txt").write_text(text)
    (folder / "data.yaml").write_text("train: images/train\nnames: [WBC, RBC, Platelet]\n")
    return folder


def coco_set(folder: Path, annotations: list[dict[str, Any]], **changed: Any) -> Path:
    """A COCO set of two pictures of 100 x 80, with ids 5 and 9."""
    data.fields_in(folder / "images", ["a", "b"])
    size = {"width": 100, "height": 80}
    content = {
        "images": [{"id": 5, "file_name": "a.png", **size}, {"id": 9, "file_name": "b.png", **size}],
        "categories": [{"id": 3, "name": "WBC"}, {"id": 4, "name": "RBC"}],
        "annotations": annotations,
    }
    (folder / "labels.json").write_text(json.dumps({**content, **changed}))
    return folder


def faults(place: Path, **options: Any) -> list[check.Fault]:
    """What `smear data check` finds, but for the look of a detector."""
    tally = Tally()
    parts = sources.read(place, tally, **options)
    return check.check(parts, tally) + check.readable(parts)[1]


def kinds(found: list[check.Fault]) -> dict[str, int]:
    return dict(Counter(f"{f.severity}: {f.kind}" for f in found))


def test_a_good_set_has_no_fault(tmp_path: Path) -> None:
    assert faults(yolo_set(tmp_path, a=GOOD, b=GOOD)) == []


YOLO_FAULTS = {
    "repeated": (GOOD + GOOD.splitlines()[0], "error: repeated box"),
    "two labels": (GOOD + "0 0.75 0.75 0.1 0.1\n", "warning: one cell under two labels"),
    "twice": (GOOD + "1 0.75 0.751 0.1 0.1\n", "warning: one cell boxed twice"),
    "no area": (GOOD + "1 0.5 0.5 0 0.1\n", "error: box without area"),
    "outside": (GOOD + "1 1.5 0.5 0.1 0.1\n", "error: box outside the field"),
    "over the border": (GOOD + "1 0.99 0.5 0.1 0.1\n", "warning: box oversteps the field"),
    "class": (GOOD + "7 0.5 0.5 0.1 0.1\n", "error: unknown class number"),
    "values": (GOOD + "1 0.5 0.5 0.1\n", "error: wrong number of values"),
    "word": (GOOD + "1 0.5 0.5 0.1 ten\n", "error: not a number"),
    "empty": ("", "warning: field without a cell"),
    "unlabelled": (None, "warning: unlabelled image"),
}


@pytest.mark.parametrize(("text", "kind"), YOLO_FAULTS.values(), ids=[*YOLO_FAULTS])
def test_a_planted_fault_is_found(tmp_path: Path, text: str | None, kind: str) -> None:
    found = faults(yolo_set(tmp_path, good=GOOD, bad=text))
    assert kinds(found) == {kind: 1}
    assert "bad." in found[0].where


def test_a_label_file_without_a_picture_is_an_error(tmp_path: Path) -> None:
    yolo_set(tmp_path, a=GOOD)
    (tmp_path / "labels" / "train" / "orphan.txt").write_text(GOOD)
    found = faults(tmp_path)
    assert kinds(found) == {"error: label file without an image": 1}
    assert "orphan.txt" in found[0].where


@pytest.mark.parametrize("how", ["header", "pixels"])
def test_a_picture_that_is_cut_off_is_an_error(tmp_path: Path, how: str) -> None:
    yolo_set(tmp_path, a=GOOD, b=GOOD)
    path = tmp_path / "images" / "train" / "b.png"
    path.write_bytes(path.read_bytes()[: 20 if how == "header" else -200])
    found = [f for f in faults(tmp_path) if f.kind == "image cannot be read"]
    assert [f.severity for f in found] == ["error"]
    assert "b.png" in found[0].where


def crowd_of_cells(size: int, odd: str = "") -> str:
    """60 cells of about one size, and an odd one."""
    rng = np.random.default_rng(size)
    rows = []
    for _ in range(60):
        x, y = rng.uniform(0.2, 0.8, 2)
        side = 0.05 * (1 + 0.1 * rng.standard_normal(2)) if size else np.full(2, 0.05)
        rows.append(f"1 {x:.6f} {y:.6f} {side[0]:.6f} {side[1]:.6f}\n")
    return "".join(rows) + odd


@pytest.mark.parametrize(
    ("odd", "kind"),
    [
        ("1 0.5 0.5 0.55 0.5\n", "unlikely size of a box"),
        ("1 0.5 0.5 0.005 0.005\n", "unlikely size of a box"),
        ("1 0.5 0.5 0.3 0.009\n", "unlikely shape of a box"),
    ],
)
def test_a_box_of_an_unlikely_size_among_many_is_found(tmp_path: Path, odd: str, kind: str) -> None:
    found = [f for f in faults(yolo_set(tmp_path, a=crowd_of_cells(1, odd))) if f.kind == kind]
    assert [f.severity for f in found] == ["warning"]
    assert found[0].where.endswith("a.png: 61")
    assert "RBC" in found[0].detail


@pytest.mark.parametrize("size", [0, 1], ids=["all of one size", "about one size"])
def test_cells_of_the_usual_size_are_not_unlikely(tmp_path: Path, size: int) -> None:
    assert not [f for f in faults(yolo_set(tmp_path, a=crowd_of_cells(size))) if "unlikely" in f.kind]


def test_few_cells_say_nothing_of_sizes(tmp_path: Path) -> None:
    assert faults(yolo_set(tmp_path, a=GOOD + "1 0.5 0.5 0.4 0.4\n")) == []


COCO_FAULTS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "id twice": ([data.coco_row(1), data.coco_row(1, 9)], {}, "error: annotation id used twice"),
    "image id twice": (
        [data.coco_row(1), data.coco_row(2, 9)],
        {
            "images": [
                {"id": i, "file_name": f"{n}.png", "width": 100, "height": 80}
                for i, n in ((5, "a"), (9, "b"), (5, "b"))
            ]
        },
        "error: image id used twice",
    ),
    "no image": (
        [data.coco_row(1), data.coco_row(2, 9), data.coco_row(3, 7)],
        {},
        "error: annotation without an image",
    ),
    "category": ([data.coco_row(1), data.coco_row(2, 9), data.coco_row(3, 5, 8)], {}, "error: unknown category"),
    "variants": (
        [data.coco_row(1), data.coco_row(2, 9)],
        {"categories": [{"id": 3, "name": "WBC"}, {"id": 4, "name": "wbc"}]},
        "error: case variant of a label",
    ),
    "stranger": (
        [data.coco_row(1), data.coco_row(2, 9)],
        {"categories": [{"id": 3, "name": "WBC"}, {"id": 4, "name": "Gremlin"}]},
        "warning: label that the taxonomy does not know",
    ),
    "size": (
        [data.coco_row(1), data.coco_row(2, 9)],
        {
            "images": [
                {"id": i, "file_name": f"{n}.png", "width": w, "height": 80}
                for i, n, w in ((5, "a", 200), (9, "b", 100))
            ]
        },
        "error: wrong size",
    ),
    "name twice": (
        [data.coco_row(1), data.coco_row(2, 9, 4)],
        {"categories": [{"id": 3, "name": "WBC"}, {"id": 4, "name": "WBC"}]},
        "error: category name used twice",
    ),
    "mask": (
        [data.coco_row(1, segmentation={"size": [80, 100], "counts": "1>2"}), data.coco_row(2, 9)],
        {},
        "warning: mask cannot be read",
    ),
    "repeated": ([data.coco_row(1), data.coco_row(2), data.coco_row(3, 9)], {}, "warning: one cell boxed twice"),
    "over the border": (
        [data.coco_row(1), data.coco_row(2, 9, box=[90, 10, 30, 30])],
        {},
        "warning: box oversteps the field",
    ),
    "no area": (
        [data.coco_row(1), data.coco_row(2, 9), data.coco_row(3, box=[1, 2, 0, 9])],
        {},
        "error: box without area",
    ),
}


@pytest.mark.parametrize(("rows", "changed", "kind"), COCO_FAULTS.values(), ids=[*COCO_FAULTS])
def test_a_fault_planted_in_coco_is_found(
    tmp_path: Path, rows: list[dict[str, Any]], changed: dict[str, Any], kind: str
) -> None:
    assert kinds(faults(coco_set(tmp_path, rows, **changed))) == {kind: 1}


def test_a_missing_picture_is_an_error(tmp_path: Path) -> None:
    coco_set(tmp_path, [data.coco_row(1), data.coco_row(2, 9)])
    (tmp_path / "images" / "b.png").unlink()
    found = [f for f in faults(tmp_path) if f.kind == "missing file"]
    assert [f.severity for f in found] == ["error"]
    assert "b.png" in found[0].detail


def test_two_entries_for_one_picture_are_named(tmp_path: Path) -> None:
    size = {"width": 100, "height": 80}
    images = [{"id": 5, "file_name": "a.png", **size}, {"id": 9, "file_name": "a.png", **size}]
    found = faults(coco_set(tmp_path, [data.coco_row(1), data.coco_row(2, 9)], images=images))
    assert any("a.png" in f.where + f.detail for f in found)


def turned(folder: Path) -> Path:
    """A picture of 96 x 64, stored as 64 x 96 with the EXIF orientation that sets it upright."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "a.jpg"
    path.write_bytes(data.jpeg(data.smear(), orientation=6))
    return path


def test_labels_that_ignore_exif_are_found_in_coco(tmp_path: Path) -> None:
    turned(tmp_path / "images")
    image = {"id": 5, "file_name": "a.jpg", "width": data.HEIGHT, "height": data.WIDTH}
    content = {"images": [image], "categories": [{"id": 3, "name": "WBC"}], "annotations": [data.coco_row(1)]}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    errors = [f for f in faults(tmp_path) if f.severity == "error"]
    assert kinds(errors) == {"error: labels ignore the EXIF rotation": 1}


def test_labels_that_ignore_exif_are_found_in_voc(tmp_path: Path) -> None:
    turned(tmp_path / "JPEGImages")
    (tmp_path / "Annotations").mkdir()
    cell = data.voc_object("WBC", 10, 10, 30, 40)
    data.voc_file(tmp_path / "Annotations" / "a.xml", cell, size=(data.HEIGHT, data.WIDTH))
    errors = [f for f in faults(tmp_path) if f.severity == "error"]
    assert kinds(errors) == {"error: labels ignore the EXIF rotation": 1}


def test_a_wrong_size_is_found_in_voc(tmp_path: Path) -> None:
    data.fields_in(tmp_path / "JPEGImages", ["a"])
    (tmp_path / "Annotations").mkdir()
    data.voc_file(tmp_path / "Annotations" / "a.xml", data.voc_object("WBC", 10, 10, 30, 40), size=(300, 80))
    assert kinds(faults(tmp_path)) == {"error: wrong size": 1}


@pytest.mark.parametrize(("size", "kind"), [("300,80", "wrong size"), ("80,100", "labels ignore the EXIF rotation")])
def test_a_wrong_size_is_found_in_csv(tmp_path: Path, size: str, kind: str) -> None:
    data.fields_in(tmp_path / "images", ["a", "b"])
    rows = f"a.png,{size},WBC,10,10,30,40\na.png,{size},WBC,50,10,70,40\nb.png,100,80,WBC,10,10,30,40\n"
    (tmp_path / "labels.csv").write_text(f"filename,width,height,class,xmin,ymin,xmax,ymax\n{rows}")
    found = faults(tmp_path / "labels.csv")
    assert kinds(found) == {f"error: {kind}": 1}
    assert "labels.csv:2" in found[0].where
    assert "image is 100 x 80" in found[0].detail


def test_cells_without_a_box() -> None:
    field = LabelledField(Field("a.png", ".", Path("a.png"), 200, 160), Annotations.of([[10, 10, 50, 50]], [1]))
    drawn = Dataset("tiny", Path(), CLASSES, (field,), frozenset({"WBC", "RBC"}))
    boxes = [[12, 12, 52, 52], [100, 100, 140, 140], [60, 60, 90, 90], [150, 10, 180, 40], [10, 100, 20, 110]]
    found = Detections(
        np.array(boxes, np.float32), np.array([0.9, 0.8, 0.5, 0.95, 0.75]), np.array([1, 0, 0, 2, 1]), CLASSES
    )
    missed = check.without_a_box(drawn, [found])
    # The first has its box, the third is unsure, the fourth is of a class that nobody drew in full.
    assert [(f.severity, f.kind, f.where) for f in missed] == [
        ("warning", "cell that probably has no box", "a.png")
    ] * 2
    assert [f.detail for f in missed] == [
        "WBC near 100, 100, 140, 140, score 0.80",
        "RBC near 10, 100, 20, 110, score 0.75",
    ]
    assert len(check.without_a_box(drawn, [found], min_score=0.4)) == 3
    assert check.without_a_box(drawn, [Detections.empty(CLASSES)]) == []


def test_exit_codes_of_check(tmp_path: Path) -> None:
    good = inside("data", "check", yolo_set(tmp_path / "good", a=GOOD), "--detector", "none")
    warned = inside("data", "check", yolo_set(tmp_path / "warned", a=GOOD, b=""), "--detector", "none")
    wrong = inside("data", "check", yolo_set(tmp_path / "wrong", a=YOLO_FAULTS["no area"][0]), "--detector", "none")
    assert (good.code, warned.code, wrong.code) == (0, 0, 1)
    assert "field without a cell" in warned.out
    assert "a.txt:3: box without area" in wrong.out
    assert inside("data", "check", tmp_path / "nowhere", "--detector", "none").code == 2


def test_check_shows_no_more_of_a_kind_than_asked(tmp_path: Path) -> None:
    place = yolo_set(tmp_path, a=GOOD + "7 0.5 0.5 0.1 0.1\n8 0.5 0.5 0.1 0.1\n9 0.5 0.5 0.1 0.1\n")
    answer = inside("data", "check", place, "--detector", "none", "--most", 2)
    assert answer.out.count("a.txt:") == 2
    assert answer.code == 1


def test_stats_count_fields_and_cells(tmp_path: Path) -> None:
    place = yolo_set(tmp_path, a=GOOD + "0 0.5 0.5 0.3 0.3\n", b="")
    answer = inside("data", "stats", place)
    assert answer.code == 0
    assert "2 fields, 3 cells, 0 to 3 a field" in answer.out
    assert "200 x 160 (2)" in answer.out
    found = check.statistics(sources.read(place, Tally()))["train"]
    assert found["classes"]["RBC"]["cells"] == 2
    assert found["classes"]["WBC"]["side_px"] == [53.7] * 3
    assert found["classes"]["Platelet"] == {"cells": 0, "fields": 0, "side_px": None}


def test_convert_says_what_was_dropped_and_strict_stops(tmp_path: Path) -> None:
    place = yolo_set(tmp_path / "in", a=GOOD + "7 0.5 0.5 0.1 0.1\n")
    answer = inside("data", "convert", place, tmp_path / "out", "--to", "coco")
    assert answer.code == 0
    assert "1 fields, 2 cells" in answer.out
    assert "a.txt:3: unknown class number" in answer.err
    strict = inside("data", "convert", place, tmp_path / "strict", "--to", "coco", "--strict")
    assert strict.code == 2
    assert "a.txt:3: unknown class number" in strict.err
    assert not (tmp_path / "strict").exists()


def test_defects_of_txl_pbc_are_found(shared_data: Path) -> None:
    tally = Tally()
    found = Counter(f.kind for f in check.check(sources.read("txl-pbc", tally, images=shared_data / "txl-pbc"), tally))
    assert found["repeated box"] == 2
    named = [f for f in check.check({}, tally) if f.kind in ("not a label file", "class name differs")]
    assert {Path(f.where.split(":")[0]).name for f in named} == {"classes.txt"}
    assert any("'PC'" in f.detail and "Platelets" in f.detail for f in named)


def test_defects_of_bccd_are_found(shared_data: Path) -> None:
    found = faults(shared_data / "bccd")
    assert [f.severity for f in found if f.kind == "box without area"] == ["error", "error"]

"""YOLO text labels: faults counted, round trips within half a pixel, files that ultralytics reads."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as rle

from detect.errors import FormatError
from detect.formats import yolo
from detect.formats.tally import Tally
from detect.types import Annotations, ClassMap, Dataset, Field, LabelledField
from tests import data

CLASSES = ClassMap(("WBC", "RBC", "Platelet"))
SAME = {name: name for name in CLASSES}


def read(faulty: data.Faulty, tally: Tally) -> list[LabelledField]:
    classes = ClassMap(faulty.classes)
    return yolo.read(faulty.fields, faulty.labels, dict(enumerate(faulty.names)), faulty.class_map, classes, tally)


def read_lines(folder: Path, text: str, tally: Tally | None = None, size: tuple[int, int] = (100, 80)) -> Annotations:
    """The annotations of one field with these label lines."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.txt").write_text(text)
    field = Field("a.jpg", "s", folder / "a.jpg", *size)
    return yolo.read([field], folder, dict(enumerate(CLASSES.names)), SAME, CLASSES, tally or Tally())[0].annotations


def dataset(*fields: LabelledField) -> Dataset:
    return Dataset("tiny", Path(), CLASSES, fields, frozenset(CLASSES.names))


def test_every_fault_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    faulty = data.faulty_yolo(tmp_path)
    tally = Tally()
    records = read(faulty, tally)
    assert tally.counts() == faulty.expected
    assert tally.read == {"fields": 4, "cells": faulty.cells}
    assert [r.field.path.stem for r in records] == ["faults", "good", "none", "binary"]
    assert [len(r.annotations) for r in records] == [4, 1, 0, 0]
    cells = records[0].annotations
    np.testing.assert_allclose(cells.boxes[0], [40, 30, 60, 50])
    assert cells.ids == (1, 11, 12, 13)
    assert cells.labels.tolist() == [0, 1, 2, 1]


def test_each_problem_names_its_file_and_line(tmp_path: Path) -> None:
    faulty = data.faulty_yolo(tmp_path)
    tally = Tally()
    read(faulty, tally)
    lines = {p.kind: p.where for p in tally.problems}
    assert lines["repeated box"] == f"{faulty.labels / 'faults.txt'}:2"
    assert lines["not a number"] == f"{faulty.labels / 'faults.txt'}:3"
    assert lines["class name differs"] == f"{faulty.labels / 'classes.txt'}:3"


def test_strict_stops_at_the_first_drop(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"faults\.txt:2: repeated box"):
        read(data.faulty_yolo(tmp_path), Tally(strict=True))


def test_a_box_over_the_border_is_cut(tmp_path: Path) -> None:
    cells = read_lines(tmp_path, "1 0.98 0.5 0.2 0.25\n")
    np.testing.assert_allclose(cells.boxes, [[88, 30, 100, 50]], atol=1e-4)


def test_rounding_at_the_border_is_no_problem(tmp_path: Path) -> None:
    tally = Tally()
    cells = read_lines(tmp_path, "1 0.9501 0.5 0.1 1.0\n", tally)
    assert cells.boxes[0, 2] == 100
    assert tally.counts() == {}


def test_a_polygon_becomes_a_box_and_a_mask(tmp_path: Path) -> None:
    cells = read_lines(tmp_path, "0 0.1 0.1 0.4 0.1 0.4 0.5 0.1 0.5\n")
    np.testing.assert_allclose(cells.boxes, [[10, 8, 40, 40]], atol=1e-4)
    drawn = rle.decode(cells.masks[0])
    assert drawn.shape == (80, 100)
    assert drawn.sum() == 30 * 32
    assert drawn[8:40, 10:40].all()


def test_no_folder_of_labels_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such folder of labels"):
        yolo.read([], tmp_path / "none", dict(enumerate(CLASSES.names)), SAME, CLASSES, Tally())


def test_names_of_several_words_are_compared_whole(tmp_path: Path) -> None:
    classes = ClassMap(("Segmented neutrophil", "Smudge cell"))
    (tmp_path / "classes.txt").write_text("Segmented neutrophil\nSmudge cell\n")
    tally = Tally()
    yolo.read([], tmp_path, dict(enumerate(classes.names)), {n: n for n in classes}, classes, tally)
    assert tally.counts() == {"not a label file, noted": 1}


@pytest.mark.parametrize("name", ["classes.txt", "Classes.txt", "README.txt"])
def test_what_is_no_label_file_is_not_dropped_as_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("\n".join(CLASSES.names))
    tally = Tally(strict=True)
    yolo.read([], tmp_path, dict(enumerate(CLASSES.names)), SAME, CLASSES, tally)
    assert tally.counts() == {"not a label file, noted": 1}


SIZES = st.tuples(st.integers(20, 4000), st.integers(20, 4000))
CORNERS = st.lists(st.tuples(*[st.floats(0, 1)] * 4, st.integers(0, 2)), max_size=8)


@given(size=SIZES, cells=CORNERS)
def test_round_trip_within_half_a_pixel(
    tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int], cells: list[tuple[float, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("yolo")
    image = folder / "a.jpg"
    image.write_bytes(b"")
    boxes, labels = [], []
    for x, y, w, h, label in cells:
        x0, y0 = x * (size[0] - 2), y * (size[1] - 2)
        box = (x0, y0, x0 + 1 + w * (size[0] - 1 - x0), y0 + 1 + h * (size[1] - 1 - y0))
        if box not in boxes:  # a repeated box is dropped, which is tested above
            boxes.append(box)
            labels.append(int(label))
    field = Field("slide 1/a.jpg", "slide 1", image, *size)
    made = dataset(LabelledField(field, Annotations.of(np.array(boxes).reshape(-1, 4), labels)))
    yolo.write(made, folder / "out", {"train": made.fields})
    tally = Tally()
    (written,) = (folder / "out" / "images" / "train").iterdir()
    again = Field("a", "s", written, *size)
    back = yolo.read([again], folder / "out" / "labels" / "train", dict(enumerate(CLASSES.names)), SAME, CLASSES, tally)
    assert tally.counts() in ({}, {"repeated box, dropped": len(boxes) - len(back[0].annotations)})
    if not tally.problems:
        assert back[0].annotations.labels.tolist() == labels
        np.testing.assert_allclose(back[0].annotations.boxes, made.fields[0].annotations.boxes, atol=0.5)


def written(folder: Path) -> tuple[Path, tuple[Field, ...]]:
    """A small set as YOLO: the path of `data.yaml`, and its fields."""
    fields = data.fields_in(folder / "slide", ["one", "two", "three"])
    made = dataset(
        LabelledField(fields[0], Annotations.of([[10, 10, 50, 60], [0, 0, 100, 80]], [0, 1])),
        LabelledField(fields[1], Annotations.of([], [])),
        LabelledField(fields[2], Annotations.of([[1, 2, 3, 4]], [2])),
    )
    return yolo.write(made, folder / "out", {"train": made.fields[:2], "val": made.fields[2:]}), fields


def test_the_written_folder_is_whole(tmp_path: Path) -> None:
    path, fields = written(tmp_path)
    content = yaml.safe_load(path.read_text())
    assert content["names"] == {0: "WBC", 1: "RBC", 2: "Platelet"}
    assert (path.parent / content["train"]).is_dir()
    assert (path.parent / content["val"]).is_dir()
    images = sorted((tmp_path / "out" / "images").rglob("*.png"))
    labels = sorted((tmp_path / "out" / "labels").rglob("*.txt"))
    assert [p.stem for p in images] == [p.stem for p in labels] == ["slide__one", "slide__two", "slide__three"]
    assert images[0].read_bytes() == fields[0].path.read_bytes()
    assert [len(p.read_text().splitlines()) for p in labels] == [2, 0, 1]


def test_writing_twice_gives_the_same(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    first = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
    made_again, _ = written(tmp_path)
    assert made_again == path
    assert {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()} == first


def test_ultralytics_reads_what_we_write(tmp_path: Path) -> None:
    if find_spec("ultralytics") is None:
        pytest.skip("needs ultralytics")
    path, _ = written(tmp_path)
    # In a process of its own, because ultralytics alters Pillow and OpenCV when it is imported.
    program = (
        "import json, sys\n"
        "from ultralytics.data.utils import check_det_dataset\n"
        "from ultralytics.data.dataset import YOLODataset\n"
        "found = check_det_dataset(sys.argv[1], autodownload=False)\n"
        "for part in ('train', 'val'):\n"
        "    labels = YOLODataset(img_path=found[part], data=found, augment=False).labels\n"
        "    rows = sorted((l['im_file'], l['cls'].ravel().tolist(), l['bboxes'].tolist()) for l in labels)\n"
        "    print('FOUND' + json.dumps(rows))\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    train, val = (json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("FOUND"))
    assert [row[1] for row in train] == [[0, 1], []]
    np.testing.assert_allclose(train[0][2], [[0.3, 0.4375, 0.4, 0.625], [0.5, 0.5, 1, 1]], atol=1e-6)
    assert val[0][1] == [2]


def test_two_fields_of_one_stem_do_not_share_labels(tmp_path: Path) -> None:
    folder = tmp_path / "slide"
    (png,) = data.fields_in(folder, ["one"])
    copy = folder / "one.jpg"
    copy.write_bytes(data.jpeg(data.smear()))
    jpg = Field("slide/one.jpg", "slide", copy, data.WIDTH, data.HEIGHT)
    made = dataset(
        LabelledField(png, Annotations.of([[10, 10, 50, 60]], [0])),
        LabelledField(jpg, Annotations.of([[1, 2, 30, 40], [5, 5, 9, 9]], [1, 2])),
    )
    refused = False
    try:
        yolo.write(made, tmp_path / "out", {"train": made.fields})
    except FormatError:
        refused = True
    lines = sum(len(p.read_text().splitlines()) for p in (tmp_path / "out").rglob("*.txt"))
    assert refused or lines == 3  # refusing is fine; losing the labels of one field without a word is not

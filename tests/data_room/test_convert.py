"""Whole sets from format to format: nothing lost in silence, nothing of the user's touched."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PilImage
from pycocotools import mask as rle
from pycocotools.coco import COCO

from detect.data import sources
from detect.data.convert import WRITERS, convert, to_taxonomy
from detect.errors import ConfigError, SmearError, StoreError
from detect.formats import coco
from detect.formats.tally import Tally
from detect.types import Annotations, ClassMap, Dataset, Field, LabelledField
from tests import data
from tests.cli.command import inside

CLASSES = ClassMap(("WBC", "RBC", "Platelet"))
BOXED = ("coco", "yolo", "voc", "csv", "geojson")  # formats that hold boxes and their names


def dataset(*fields: LabelledField, classes: ClassMap = CLASSES) -> Dataset:
    return Dataset("tiny", Path(), classes, fields, frozenset(classes.names))


def made(folder: Path, *ids: str, cells: Annotations | None = None) -> Dataset:
    """Pictures of those ids below `folder`, each with the same cells."""
    out = []
    for n, identity in enumerate(ids):
        path = folder / identity
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode(data.smear(100, 80, n), "PNG"))
        drawn = cells if cells is not None else Annotations.of([[10, 10, 50, 60], [60, 20, 70, 30]], [n % 3, 1])
        out.append(LabelledField(Field(identity, Path(identity).parent.as_posix(), path, 100, 80), drawn))
    return dataset(*out)


def cells_of(parts: dict[str, Dataset]) -> list[tuple[bytes, list[list[float]], list[str]]]:
    """The picture's bytes, the boxes and the names of every field."""
    rows = []
    for d in parts.values():
        for f in d.fields:
            names = [d.classes.names[k] for k in f.annotations.labels.tolist()]
            rows.append((f.field.path.read_bytes(), f.annotations.boxes.round(2).tolist(), names))
    return sorted(rows)


CELL = st.tuples(*[st.integers(0, 60_000)] * 2, *[st.integers(600, 19_000)] * 2, st.integers(0, 2))


@given(cells=st.lists(st.lists(CELL, max_size=6), min_size=1, max_size=3), to=st.sampled_from(BOXED))
def test_there_and_back_within_half_a_pixel(
    tmp_path_factory: pytest.TempPathFactory, cells: list[list[tuple[int, ...]]], to: str
) -> None:
    folder = tmp_path_factory.mktemp("convert")
    fields = []
    for n, mine in enumerate(cells):
        unique = list({(c[4], *c[:4]): c for c in mine}.values())
        boxes = [[x / 1000, y / 1000, (x + w) / 1000, (y + h) / 1000] for x, y, w, h, _ in unique]
        drawn = Annotations.of(boxes, [c[4] for c in unique])
        fields += made(folder / "in", f"{n}.png", cells=drawn).fields
    convert({"train": dataset(*fields)}, folder / "out", to)
    tally = Tally()
    (back,) = sources.read(folder / "out", tally, format=to).values()
    assert tally.counts() == {}
    assert sum(map(len, cells)) >= sum(len(f.annotations) for f in back.fields)
    for one, other in zip(back.fields, fields, strict=True):
        assert one.field.path.read_bytes() == other.field.path.read_bytes()
        assert [back.classes.names[k] for k in one.annotations.labels] == [
            CLASSES.names[k] for k in other.annotations.labels
        ]
        np.testing.assert_allclose(one.annotations.boxes, other.annotations.boxes, atol=0.5)


@pytest.mark.parametrize("to", BOXED)
@pytest.mark.parametrize("place", ["link", "copy"])
def test_fields_in_folders_keep_their_labels(tmp_path: Path, to: str, place: Any) -> None:
    parts = {"train": made(tmp_path / "in", "slide 1/a.png", "slide 2/a.png", "b.png")}
    convert(parts, tmp_path / "out", to, place)
    tally = Tally()
    assert cells_of(sources.read(tmp_path / "out", tally, format=to)) == cells_of(parts)
    assert tally.counts() == {}
    assert not (place == "copy" and any(p.is_symlink() for p in (tmp_path / "out").rglob("*")))


@pytest.mark.parametrize("to", BOXED)
def test_fields_of_one_stem_are_refused_or_kept_apart(tmp_path: Path, to: str) -> None:
    parts = {"train": made(tmp_path / "in", "a/b.png", "a__b.png", "a.png", "a.PNG")}
    refused = ""
    try:
        convert(parts, tmp_path / "out", to)
    except SmearError as error:
        refused = str(error)
    assert "a__b" in refused or cells_of(sources.read(tmp_path / "out", Tally(), format=to)) == cells_of(parts)


@pytest.mark.parametrize("to", BOXED)
def test_parts_with_pictures_of_one_name_are_refused_or_kept_apart(tmp_path: Path, to: str) -> None:
    one = made(tmp_path / "one", "a.png", cells=Annotations.of([[10, 10, 50, 60]], [0]))
    (field,) = made(tmp_path / "two", "x.png", "a.png").fields[1:]  # another picture
    parts = {"train": one, "val": dataset(field)}
    refused = ""
    try:
        convert(parts, tmp_path / "out", to)
    except SmearError as error:
        refused = str(error)
    assert "a.png" in refused or cells_of(sources.read(tmp_path / "out", Tally(), format=to)) == cells_of(parts)


@pytest.mark.parametrize("to", BOXED)
def test_parts_that_number_their_classes_differently_keep_their_names(tmp_path: Path, to: str) -> None:
    drawn = Annotations.of([[10, 10, 50, 60], [60, 20, 70, 30]], [0, 1])
    one = dataset(*made(tmp_path / "in", "a.png", cells=drawn).fields, classes=ClassMap(("WBC", "RBC")))
    two = dataset(*made(tmp_path / "in", "c.png", "b.png", cells=drawn).fields[1:], classes=ClassMap(("RBC", "WBC")))
    parts = {"train": one, "val": two}
    convert(parts, tmp_path / "out", to)
    assert cells_of(sources.read(tmp_path / "out", Tally(), format=to)) == cells_of(parts)


@pytest.mark.parametrize("to", BOXED)
@pytest.mark.parametrize("place", ["link", "copy"])
def test_pictures_named_by_absolute_paths_stay_where_they_are(tmp_path: Path, to: str, place: Any) -> None:
    (field,) = made(tmp_path / "in", "a.png").fields
    content = coco.to_dict(dataset(field))
    content["images"][0]["file_name"] = str(field.field.path)
    (tmp_path / "labels.json").write_text(json.dumps(content))
    before = field.field.path.read_bytes()
    refused = ""
    try:
        convert(sources.read(tmp_path / "labels.json", Tally()), tmp_path / "out", to, place)
    except SmearError as error:
        refused = str(error)
    assert not field.field.path.is_symlink()
    assert field.field.path.read_bytes() == before
    assert "a.png" in refused or len(
        sources.read(tmp_path / "out", Tally(), format=to)["train" if to == "yolo" else "all"]
    )


@pytest.mark.parametrize("to", [*WRITERS])
def test_nothing_is_written_outside_the_folder(tmp_path: Path, to: str) -> None:
    (field,) = made(tmp_path / "in", "a.png").fields
    away = LabelledField(Field("../../away/a.png", "away", field.field.path, 100, 80), field.annotations, field.extra)
    refused = False
    try:
        convert({"train": dataset(away)}, tmp_path / "out", to)
    except SmearError:
        refused = True
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and not p.is_relative_to(tmp_path / "out")]
    assert outside == [field.field.path]
    assert refused or any((tmp_path / "out").rglob("*"))


@pytest.mark.parametrize("to", [*WRITERS])
@pytest.mark.parametrize("place", ["link", "copy", "none"])
def test_a_picture_that_is_missing_is_no_crash(tmp_path: Path, to: str, place: Any) -> None:
    parts = {"train": made(tmp_path / "in", "a.png", "b.png")}
    (tmp_path / "in" / "b.png").unlink()
    refused = ""
    try:
        convert(parts, tmp_path / "out", to, place)
    except SmearError as error:
        refused = str(error)
    assert "b.png" in refused or any((tmp_path / "out").iterdir())


def test_an_output_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match="not empty"):
        convert({"train": made(tmp_path / "in", "a.png")}, tmp_path / "out", "coco")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_a_format_that_we_do_not_write_lists_ours(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="coco, yolo, voc"):
        convert({"train": made(tmp_path / "in", "a.png")}, tmp_path / "out", "tfrecord")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["yolo", "voc", "csv", "geojson"])
def test_what_a_format_cannot_hold_is_said(tmp_path: Path, to: str) -> None:
    drawn = np.zeros((80, 100), np.uint8, order="F")
    drawn[10:60, 10:50] = np.tri(50, 40)  # no rectangle, which GeoJSON would give back as a box
    cells = Annotations.of(
        [[10, 10, 50, 60]], [0], crowd=[True], masks=[rle.encode(drawn)], extra=[{"attributes": {"stage": "blast"}}]
    )
    lost = " ".join(convert({"train": made(tmp_path / "in", "a.png", cells=cells)}, tmp_path / "out", to))
    (back,) = sources.read(tmp_path / "out", Tally(), format=to).values()
    annotations = back.fields[0].annotations
    assert annotations.masks[0] is not None or "1 masks" in lost
    assert annotations.crowd.any() or "1 crowd" in lost
    assert "blast" in str(annotations.extra) or "1 further fields" in lost


def test_parts_that_become_one_are_said(tmp_path: Path) -> None:
    parts = {name: made(tmp_path / "in", f"{name}.png") for name in ("train", "val")}
    assert "2 parts, which are one now" in convert(parts, tmp_path / "out", "voc")


def test_instances_of_masks_go_there_and_back(tmp_path: Path) -> None:
    cells = Annotations.of([[10, 10, 50, 60], [60, 20, 70, 30]], [0, 0])
    convert({"train": made(tmp_path / "in", "s 1/a.png", "s 2/a.png", cells=cells)}, tmp_path / "out", "masks")
    tally = Tally()
    (back,) = sources.read(tmp_path / "out", tally).values()
    assert [f.annotations.boxes.tolist() for f in back.fields] == [cells.boxes.tolist()] * 2
    assert tally.counts() == {}


def test_coco_holds_everything(tmp_path: Path) -> None:
    cells = Annotations.of([[10, 10, 50, 60]], [0], ids=[77], crowd=[True], extra=[{"attributes": {"stage": "blast"}}])
    assert convert({"train": made(tmp_path / "in", "a.png", cells=cells)}, tmp_path / "out", "coco") == []
    (back,) = sources.read(tmp_path / "out", Tally()).values()
    assert back.fields[0].annotations.extra == cells.extra
    assert back.fields[0].annotations.ids == (77,)


@pytest.mark.parametrize("key", ["cell type", "2nd reader", "a<b", "name", "µ"])
def test_columns_of_any_name_go_into_voc_and_back(tmp_path: Path, key: str) -> None:
    cells = Annotations.of([[10, 10, 50, 60]], [0], extra=[{key: "blast\x0b & more"}])
    lost = convert({"train": made(tmp_path / "in", "a.png", cells=cells)}, tmp_path / "out", "voc")
    tally = Tally()
    back = sources.read(tmp_path / "out", tally, format="voc")
    assert tally.counts() == {}
    assert [row[1:] for row in cells_of(back)] == [([[10, 10, 50, 60]], ["WBC"])]
    assert "blast" in str(back["all"].fields[0].annotations.extra) or "1 further fields" in " ".join(lost)


def test_pycocotools_counts_what_we_wrote(tmp_path: Path) -> None:
    parts = {"train": made(tmp_path / "in", "a.png", "b.png", "c.png"), "val": made(tmp_path / "in", "d.png")}
    convert(parts, tmp_path / "out", "coco")
    for part, n in (("train", 3), ("val", 1)):
        theirs = COCO(str(tmp_path / "out" / "annotations" / f"instances_{part}.json"))
        assert (len(theirs.getImgIds()), len(theirs.getAnnIds())) == (n, 2 * n)
        assert all(
            (tmp_path / "out" / "images" / i["file_name"]).is_file() for i in theirs.loadImgs(theirs.getImgIds())
        )


PROGRAM = (
    "import sys\n"
    "from ultralytics.data.utils import check_det_dataset\n"
    "from ultralytics.data.dataset import YOLODataset\n"
    "found = check_det_dataset(sys.argv[1], autodownload=False)\n"
    "for part in sys.argv[2:]:\n"
    "    labels = YOLODataset(img_path=found[part], data=found, augment=False).labels\n"
    "    print('FOUND', part, len(labels), sum(len(l['cls']) for l in labels))\n"
)


@pytest.mark.parametrize("names", [("train", "val"), ("all",)], ids=["two parts", "one part"])
def test_ultralytics_counts_what_we_wrote(tmp_path: Path, names: tuple[str, ...]) -> None:
    if find_spec("ultralytics") is None:
        pytest.skip("needs ultralytics")
    over = Annotations.of([[-8, 10, 50, 60], [60, 20, 120, 30]], [0, 1])  # COCO may leave the field, YOLO may not
    kept = [made(tmp_path / name, f"{name}.png", f"{name}-over.png", cells=over) for name in names]
    content = {name: coco.to_dict(d) for name, d in zip(names, kept, strict=True)}
    for name, said in content.items():
        (tmp_path / "in" / "annotations").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / "annotations" / f"instances_{name}.json").write_text(json.dumps(said))
        for field in kept[names.index(name)].fields:
            (tmp_path / "in" / "images").mkdir(exist_ok=True)
            (tmp_path / "in" / "images" / field.field.id).write_bytes(field.field.path.read_bytes())
    convert(sources.read(tmp_path / "in", Tally()), tmp_path / "out", "yolo")
    read = names if "train" in names else ("train",)
    # In a process of its own, because ultralytics alters Pillow and OpenCV when it is imported.
    command = [sys.executable, "-c", PROGRAM, tmp_path / "out" / "data.yaml", *read]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in done.stdout.splitlines() if line.startswith("FOUND")] == [f"FOUND {p} 2 4" for p in read]


def test_labels_take_the_names_of_the_taxonomy(tmp_path: Path) -> None:
    drawn = Annotations.of([[10, 10, 50, 60], [60, 20, 70, 30], [1, 1, 9, 9]], [0, 1, 2])
    classes = ClassMap(("Platelets", "platelet", "Gremlin"))
    parts = {"train": dataset(*made(tmp_path / "in", "a.png", cells=drawn).fields, classes=classes)}
    renamed, names = to_taxonomy(parts)
    assert names == {"Platelets": "Platelet", "platelet": "Platelet", "Gremlin": None}
    assert renamed["train"].classes.names == ("Platelet", "Gremlin")
    assert renamed["train"].fields[0].annotations.labels.tolist() == [0, 0, 1]


def test_the_written_data_yaml_names_every_part(tmp_path: Path) -> None:
    parts = {name: made(tmp_path / "in", f"{name}.png") for name in ("train", "val", "test")}
    convert(parts, tmp_path / "out", "yolo", "copy")
    content = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert [content[part] for part in parts] == [f"images/{part}" for part in parts]
    assert {p: len(d) for p, d in sources.read(tmp_path / "out", Tally()).items()} == dict.fromkeys(parts, 1)


def test_masks_come_back_under_their_labels(tmp_path: Path) -> None:
    cells = Annotations.of([[2, 3, 20, 22], [30, 5, 44, 19]], [1, 0])
    _picture(tmp_path / "set" / "a" / "f.png")
    field = Field("a/f.png", "a", tmp_path / "set" / "a" / "f.png", 64, 48)
    made = Dataset("set", tmp_path, ClassMap(("WBC", 'odd, "name"')), (LabelledField(field, cells),), frozenset())
    convert({"all": made}, tmp_path / "out", "masks")
    tally = Tally()
    back = sources.read(tmp_path / "out", tally)["all"]
    names = [back.classes.names[k] for k in back.fields[0].annotations.labels]
    assert names == ['odd, "name"', "WBC"]
    assert tally.problems == []
    np.testing.assert_array_equal(back.fields[0].annotations.boxes, cells.boxes)


def test_a_class_folder_stays_within_the_output(tmp_path: Path) -> None:
    _picture(tmp_path / "f.png")
    field = Field("f.png", ".", tmp_path / "f.png", 64, 48)
    cells = Annotations.of([[2, 3, 20, 22], [30, 5, 44, 19]], [0, 1])
    made = Dataset("set", tmp_path, ClassMap(("../../escaped", "..")), (LabelledField(field, cells),), frozenset())
    convert({"all": made}, tmp_path / "home" / "out", "folders")
    written = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*__*.png")]
    assert len(written) == 2
    assert all(p.startswith("home/out/") for p in written)


def _picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PilImage.fromarray(np.full((48, 64, 3), 200, np.uint8)).save(path)


def _coco_file(path: Path, part: str, categories: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A COCO file of one picture that has a cell of the first category."""
    data.fields_in(path.parent / "images", [part])
    content: dict[str, Any] = {
        "info": {"description": part, "year": 2024},
        "licenses": [{"id": 2, "name": "CC0", "url": ""}],
        "x-tool": [1, {"a": None}],
        "images": [{"id": 31, "file_name": f"{part}.png", "width": 100, "height": 80, "license": 2}],
        "annotations": [data.coco_row(17, image=31, category=categories[0]["id"], area=12.5, iscrowd=0)],
        "categories": categories,
        **more,
    }
    path.write_text(json.dumps(content))
    return content


def test_coco_to_coco_changes_nothing(tmp_path: Path) -> None:
    outline = [[10.5, 10, 30, 10, 30, 40]]
    categories = [
        {"id": 41, "name": "RBC", "supercategory": "blood", "color": "#ff0000"},
        {"id": 7, "name": "wbc", "supercategory": ""},
        {"id": 9, "name": "Never drawn", "keypoints": ["nucleus"]},
    ]
    row = data.coco_row(17, image=31, category=41, area=12.5, iscrowd=0, segmentation=outline)
    content = _coco_file(tmp_path / "in.json", "a", categories, annotations=[row])
    answer = inside("data", "convert", tmp_path / "in.json", tmp_path / "out", "--to", "coco")
    assert answer.code == 0
    assert "cannot hold" not in answer.out
    assert json.loads((tmp_path / "out" / "annotations" / "instances_all.json").read_text()) == content


def test_each_part_of_coco_keeps_what_it_says(tmp_path: Path) -> None:
    said = {
        "train": _coco_file(tmp_path / "train.json", "train", [{"id": 4, "name": "WBC", "supercategory": "x"}]),
        "val": _coco_file(tmp_path / "val.json", "val", [{"id": 9, "name": "RBC"}, {"id": 4, "name": "Platelet"}]),
    }
    assert convert(sources.read(tmp_path, Tally()), tmp_path / "out", "coco") == []
    for part, content in said.items():
        written = json.loads((tmp_path / "out" / "annotations" / f"instances_{part}.json").read_text())
        assert written == content


def test_names_of_the_taxonomy_leave_ids_and_the_rest_as_they_are(tmp_path: Path) -> None:
    categories = [{"id": 8, "name": "Platelets", "supercategory": "blood"}, {"id": 3, "name": "Gremlin"}]
    content = _coco_file(tmp_path / "in.json", "a", categories)
    parts, _ = to_taxonomy(sources.read(tmp_path / "in.json", Tally()))
    written = coco.to_dict(parts["all"])
    assert written["categories"] == [{"id": 8, "name": "Platelet", "supercategory": "blood"}, categories[1]]
    assert {k: written[k] for k in ("info", "licenses", "x-tool")} == {
        k: content[k] for k in ("info", "licenses", "x-tool")
    }
    _coco_file(tmp_path / "two.json", "b", [*categories, {"id": 20, "name": "platelet", "supercategory": "blood"}])
    merged, _ = to_taxonomy(sources.read(tmp_path / "two.json", Tally()))
    assert coco.to_dict(merged["all"])["categories"] == [
        {"id": 4, "supercategory": "blood", "name": "Platelet"},
        categories[1],
    ]


@pytest.mark.parametrize("to", [*WRITERS])
def test_what_the_file_says_of_the_set_is_kept_or_said_to_be_lost(tmp_path: Path, to: str) -> None:
    _coco_file(tmp_path / "in.json", "a", [{"id": 8, "name": "WBC", "supercategory": "blood", "color": "red"}])
    lost = convert(sources.read(tmp_path / "in.json", Tally()), tmp_path / "out", to)
    told = {f"1 further fields of the set, '{key}'" for key in ("info", "licenses", "x-tool")}
    told.add("2 further fields of a class")
    assert told & {*lost} == (set() if to == "coco" else told)

"""Whole sets in the shapes that CVAT, Label Studio and we write: seen for what they are, read in full."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detect.data import sources
from detect.data.convert import convert
from detect.data.sources import merge
from detect.errors import ConfigError, DataError, FormatError
from detect.formats.tally import Tally
from detect.types import Annotations, ClassMap, Dataset, Field, LabelledField
from tests import data

NAMES = ("WBC", "RBC", "Platelet")
LINES = "0 0.200000 0.250000 0.200000 0.250000\n2 0.500000 0.500000 0.100000 0.100000\n"


def found(parts: dict[str, Dataset]) -> dict[str, list[str]]:
    """File name to the names of its cells."""
    return {
        f.field.path.name: [d.classes.names[k] for k in f.annotations.labels.tolist()]
        for d in parts.values()
        for f in d.fields
    }


EXPECTED = {"a.png": ["WBC", "Platelet"], "b.png": []}


def cvat_row(number: int, image: int, category: int, box: list[float], **more: Any) -> dict[str, Any]:
    """An annotation as CVAT's "COCO 1.0" has it."""
    attributes = {"occluded": False, "rotation": 0.0, "stage": "blast"}
    row = {"id": number, "image_id": image, "category_id": category, "segmentation": [], "area": box[2] * box[3]}
    return {**row, "bbox": box, "iscrowd": 0, "attributes": attributes, **more}


def cvat_coco(folder: Path, images: str = "images") -> None:
    """CVAT, "COCO 1.0": `annotations/instances_default.json` beside `images`, or `images/<subset>`."""
    data.fields_in(folder / images, ["a", "b"])
    rest = {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
    content = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""},
        "categories": [{"id": i, "name": n, "supercategory": ""} for i, n in enumerate(NAMES, 1)],
        "images": [
            {"id": i, "width": 100, "height": 80, "file_name": f"{n}.png", **rest} for i, n in enumerate("ab", 1)
        ],
        "annotations": [
            cvat_row(1, 1, 1, [10.0, 10.0, 20.0, 20.0]),
            cvat_row(2, 1, 3, [45.0, 36.0, 10.0, 8.0], segmentation=[[45.0, 36.0, 55.0, 36.0, 55.0, 44.0, 45.0, 44.0]]),
        ],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_default.json").write_text(json.dumps(content))


def cvat_coco_subset(folder: Path) -> None:
    """The same, pictures below the name of their subset."""
    cvat_coco(folder, "images/default")


def cvat_yolo(folder: Path, start: str = "data/obj_train_data/") -> None:
    """CVAT, "YOLO 1.1": labels beside their pictures."""
    home = folder / "obj_train_data"
    data.fields_in(home, ["a", "b"])
    (home / "a.txt").write_text(LINES)
    (home / "b.txt").write_text("")
    (folder / "obj.data").write_text("classes = 3\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    (folder / "obj.names").write_text("\n".join(NAMES) + "\n")
    (folder / "train.txt").write_text(f"{start}a.png\n{start}b.png\n")


def cvat_ultralytics(folder: Path, start: str = "images/train/") -> None:
    """CVAT, "Ultralytics YOLO Detection 1.0"."""
    data.fields_in(folder / "images" / "train", ["a", "b"])
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "labels" / "train" / "a.txt").write_text(LINES)
    (folder / "labels" / "train" / "b.txt").write_text("")
    names = "".join(f"  {i}: {n}\n" for i, n in enumerate(NAMES))
    (folder / "data.yaml").write_text(f"names:\n{names}path: .\ntrain: train.txt\n")
    (folder / "train.txt").write_text(f"{start}a.png\n{start}b.png\n")


def cvat_ultralytics_data(folder: Path) -> None:
    """The same, with the `data/` that Datumaro sets before the listed paths."""
    cvat_ultralytics(folder, "data/images/train/")


def studio_coco(folder: Path) -> None:
    """Label Studio on Windows, COCO: `result.json`, ids from 0, backslashes."""
    data.fields_in(folder / "images", ["3f1c2a9b-a", "77aa10ce-b"])
    square = [[45.0, 36.0, 55.0, 36.0, 55.0, 44.0, 45.0, 44.0]]
    rest = {"iscrowd": 0, "ignore": 0}
    content = {
        "images": [
            {"width": 100, "height": 80, "id": 0, "file_name": "images\\3f1c2a9b-a.png"},
            {"width": 100, "height": 80, "id": 1, "file_name": "images\\77aa10ce-b.png"},
        ],
        "categories": [{"id": i, "name": n} for i, n in enumerate(NAMES)],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 0, "segmentation": [], "bbox": [10, 10, 20, 20], "area": 400}
            | rest,
            {"id": 1, "image_id": 0, "category_id": 2, "segmentation": square, "bbox": [45, 36, 10, 8], "area": 80}
            | rest,
        ],
        "info": {"year": 2025, "version": "1.0", "contributor": "Label Studio", "date_created": "2025-01-07 10:00:00"},
    }
    (folder / "result.json").write_text(json.dumps(content, indent=2))


def studio_yolo(folder: Path) -> None:
    """Label Studio, YOLO: `classes.txt`, `notes.json`, `images`, `labels`."""
    data.fields_in(folder / "images", ["3f1c2a9b-a", "77aa10ce-b"])
    (folder / "labels").mkdir()
    (folder / "labels" / "3f1c2a9b-a.txt").write_text(LINES)
    (folder / "labels" / "77aa10ce-b.txt").write_text("")
    (folder / "classes.txt").write_text("\n".join(NAMES) + "\n")
    notes = {
        "categories": [{"id": i, "name": n} for i, n in enumerate(NAMES)],
        "info": {"year": 2025, "version": "1.0"},
    }
    (folder / "notes.json").write_text(json.dumps(notes))


EXPORTS = [cvat_coco, cvat_coco_subset, cvat_yolo, cvat_ultralytics, cvat_ultralytics_data, studio_coco, studio_yolo]


@pytest.mark.parametrize("write", EXPORTS, ids=[e.__name__ for e in EXPORTS])
def test_what_the_tools_export_is_read_in_full(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path)
    tally = Tally()
    parts = sources.read(tmp_path, tally)
    assert {name.rpartition("-")[2]: cells for name, cells in found(parts).items()} == EXPECTED
    boxes = next(f.annotations.boxes for d in parts.values() for f in d.fields if len(f.annotations))
    assert boxes.round(3).tolist() == [[10, 10, 30, 30], [45, 36, 55, 44]]
    assert tally.counts() == {}


def test_what_cvat_says_of_a_cell_is_kept(tmp_path: Path) -> None:
    cvat_coco(tmp_path)
    (dataset,) = sources.read(tmp_path, Tally()).values()
    said = [e["attributes"] for e in dataset.fields[0].annotations.extra]
    assert said == [{"occluded": False, "rotation": 0.0, "stage": "blast"}] * 2
    assert dataset.fields[0].extra["license"] == 0


def test_cvat_yolo_below_a_folder_named_images(tmp_path: Path) -> None:
    home = tmp_path / "images" / "export"
    home.mkdir(parents=True)
    cvat_yolo(home)
    assert found(sources.read(home, Tally())) == EXPECTED


@pytest.mark.parametrize("to", ["coco", "yolo", "voc", "csv", "geojson"])
def test_what_we_write_is_seen_for_what_it_is(tmp_path: Path, to: str) -> None:
    (tmp_path / "in").mkdir()
    cvat_coco(tmp_path / "in")
    convert(sources.read(tmp_path / "in", Tally()), tmp_path / "out", to)
    assert sources.sniff(tmp_path / "out") == to
    tally = Tally()
    assert found(sources.read(tmp_path / "out", tally)) == EXPECTED
    assert tally.counts() == {}


def test_one_missing_picture_does_not_hide_the_others(tmp_path: Path) -> None:
    cvat_coco(tmp_path)
    (tmp_path / "images" / "a.png").unlink()  # the first of the file
    tally = Tally()
    sources.read(tmp_path, tally)
    assert [(p.kind, p.detail.split(":")[0]) for p in tally.problems] == [("missing file", "a.png")]


def test_two_files_of_labels_are_two_parts(tmp_path: Path) -> None:
    cvat_coco(tmp_path)
    default = tmp_path / "annotations" / "instances_default.json"
    (tmp_path / "annotations" / "instances_val.json").write_bytes(default.read_bytes())
    assert {part: len(d) for part, d in sources.read(tmp_path, Tally()).items()} == {"default": 2, "val": 2}


def test_a_file_that_is_cut_off_is_not_passed_over(tmp_path: Path) -> None:
    cvat_coco(tmp_path)
    good = (tmp_path / "annotations" / "instances_default.json").read_text()
    content = json.loads(good)
    cut = json.dumps({"images": content["images"], "annotations": content["annotations"]})[:-9]
    (tmp_path / "annotations" / "instances_val.json").write_text(cut)
    with pytest.raises(FormatError, match=r"instances_val\.json"):
        sources.read(tmp_path, Tally())


def test_two_files_of_one_part_lose_neither(tmp_path: Path) -> None:
    cvat_coco(tmp_path)
    default = tmp_path / "annotations" / "instances_default.json"
    (tmp_path / "default.json").write_bytes(default.read_bytes())
    fields, refused = 0, ""
    try:
        fields = sum(len(d) for d in sources.read(tmp_path, Tally()).values())
    except (FormatError, DataError) as error:
        refused = str(error)
    assert fields == 4 or "default.json" in refused


def test_one_folder_a_class(tmp_path: Path) -> None:
    for name in ("EOSINOPHIL", "MONOCYTE"):
        data.fields_in(tmp_path / name, [f"{name[0]}1", f"{name[0]}2"])
    (dataset,) = sources.read(tmp_path, Tally()).values()
    assert dataset.classes.names == ("EOSINOPHIL", "MONOCYTE")
    assert [f.annotations.boxes.tolist() for f in dataset.fields] == [[[0, 0, 100, 80]]] * 4
    assert [f.field.id for f in dataset.fields][:2] == ["EOSINOPHIL/E1.png", "EOSINOPHIL/E2.png"]


@pytest.mark.parametrize("format", [*sources.READERS])
def test_a_place_that_is_not_there_is_named(tmp_path: Path, format: str) -> None:  # noqa: A002
    with pytest.raises((ConfigError, FormatError, DataError), match="nowhere"):
        sources.read(tmp_path / "nowhere", Tally(), format=format)


@pytest.mark.parametrize("format", [None, *sources.READERS])
def test_an_empty_folder_is_named(tmp_path: Path, format: str | None) -> None:  # noqa: A002
    home = tmp_path / "hollow"
    home.mkdir()
    with pytest.raises((ConfigError, FormatError, DataError), match="hollow"):
        sources.read(home, Tally(), format=format)


def test_a_format_that_we_do_not_know_lists_ours(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="coco, yolo, voc"):
        sources.read(tmp_path, Tally(), format="tfrecord")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"\n\n"], ids=["empty", "binary", "blank"])
def test_a_list_of_names_that_holds_none_is_named(tmp_path: Path, content: bytes) -> None:
    studio_yolo(tmp_path)
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises((ConfigError, FormatError, DataError), match=r"classes\.txt"):
        sources.read(tmp_path, Tally())


def test_a_blank_line_among_the_names_does_not_move_the_others_up_in_silence(tmp_path: Path) -> None:
    studio_yolo(tmp_path)
    (tmp_path / "classes.txt").write_text("WBC\n\nPlatelet\n")
    tally = Tally()
    parts = sources.read(tmp_path, tally)
    assert found(parts)["3f1c2a9b-a.png"] == ["WBC", "Platelet"] or tally.problems


def test_a_name_with_no_end_is_a_missing_file(tmp_path: Path) -> None:
    for name in ("x" * 300 + ".png", "a\0.png", "\ud800.png"):
        content = {
            "images": [{"id": 1, "file_name": name, "width": 100, "height": 80}],
            "categories": [{"id": 1, "name": "WBC"}],
            "annotations": [],
        }
        (tmp_path / "a.json").write_text(json.dumps(content))
        tally = Tally()
        sources.read(tmp_path / "a.json", tally)
        assert [p.kind for p in tally.problems] == ["missing file"], ascii(name[:5])


def test_a_yaml_beside_coco_does_not_make_it_yolo(tmp_path: Path) -> None:
    cvat_coco(tmp_path)
    (tmp_path / "experiment.yaml").write_text("learning_rate: 0.01\n")
    assert found(sources.read(tmp_path, Tally())) == EXPECTED


def test_merged_parts_keep_what_they_say_alike(tmp_path: Path) -> None:
    size = {"width": 100, "height": 80}
    for n, part in enumerate(("train", "val")):
        content = {
            "info": {"part": part},
            "licenses": [{"id": 1, "name": "CC0"}],
            "images": [{"id": 1, "file_name": f"{part}.png", **size}],
            "categories": [{"id": 3, "name": "WBC"}],
            "annotations": [data.coco_row(n, image=1)],
        }
        (tmp_path / f"{part}.json").write_text(json.dumps(content))
    merged = sources.merge(sources.read(tmp_path, Tally()))
    assert len(merged) == 2
    assert merged.extra == {"licenses": [{"id": 1, "name": "CC0"}], "categories": [{"id": 3, "name": "WBC"}]}


def test_parts_that_list_their_classes_in_other_orders_keep_their_names(tmp_path: Path) -> None:
    def part(names: tuple[str, ...], labels: list[int]) -> Dataset:
        field = Field(f"{names[0]}.png", "s", tmp_path / "x.png", 100, 100)
        cells = Annotations.of([[1, 1, 9, 9]] * len(labels), labels)
        return Dataset("set", tmp_path, ClassMap(names), (LabelledField(field, cells),), frozenset(names))

    one = merge({"a": part(("WBC", "RBC"), [0, 1]), "b": part(("RBC", "Platelet", "WBC"), [0, 1, 2])})
    assert one.classes.names == ("WBC", "RBC", "Platelet")
    assert [[one.classes.names[k] for k in f.annotations.labels] for f in one.fields] == [
        ["WBC", "RBC"],
        ["RBC", "Platelet", "WBC"],
    ]

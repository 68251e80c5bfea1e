"""Label sets that are wrong on purpose, each with what a reader must say of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detect.types import Field
from tests.pictures import encode, smear


@dataclass(frozen=True)
class Faulty:
    """A label set with deliberate faults.

    Attributes:
        fields: its fields, with images that exist. labels: the folder or file of its labels.
        names, class_map, classes: as a card gives them.
        expected: what `Tally.counts` must say. cells: annotations that must be left.
    """

    fields: tuple[Field, ...]
    labels: Path
    names: tuple[str, ...]
    class_map: dict[str, str]
    classes: tuple[str, ...]
    expected: dict[str, int]
    cells: int


def fields_in(folder: Path, stems: list[str], width: int = 100, height: int = 80) -> tuple[Field, ...]:
    """Small pictures that exist, as fields."""
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for seed, stem in enumerate(stems):
        path = folder / f"{stem}.png"
        path.write_bytes(encode(smear(width, height, seed), "PNG"))
        out.append(Field(f"{folder.name}/{path.name}", folder.name, path, width, height))
    return tuple(out)


def faulty_yolo(folder: Path) -> Faulty:
    """YOLO labels: one fault a line or file."""
    fields = fields_in(folder / "images", ["faults", "good", "none", "unlabelled", "binary"])
    labels = folder / "labels"
    labels.mkdir()
    lines = [
        "0 0.5 0.5 0.2 0.25",
        "0  0.5 0.5 0.2 0.25",  # a repeat, but for the spaces
        "0 x 0.5 0.2 0.25",
        "0 nan 0.5 0.2 0.25",
        "0 0.5 0.5 0.2 0.25 0.9",
        "7 0.5 0.5 0.2 0.25",
        "0.5 0.5 0.5 0.2 0.25",
        "3 0.5 0.5 0.2 0.25",  # a name that the card does not map
        "0 0.5 0.5 0 0.25",
        "0 1.5 0.5 0.2 0.25",
        "1 0.98 0.5 0.2 0.25",  # oversteps the right border
        "2 0.3 0.3 0.1 0.1",  # 'platelets', where the card says 'Platelets'
        "1 0.1 0.1 0.4 0.1 0.4 0.5 0.1 0.5",  # a polygon
    ]
    (labels / "faults.txt").write_text("\n".join(lines))
    (labels / "good.txt").write_bytes(b"\xef\xbb\xbf1 0.5 0.5 0.5 0.5\r\n\r\n")
    (labels / "none.txt").write_text("")
    (labels / "binary.txt").write_bytes(b"\xff\xfe\x00\x81")
    (labels / "orphan.txt").write_text("0 0.5 0.5 0.2 0.25\n")
    (labels / "classes.txt").write_text("WBC\nRBC\nPC\nGhost\n")
    expected = {
        "repeated box, dropped": 1,
        "not a number, dropped": 1,
        "not a finite number, dropped": 1,
        "wrong number of values, dropped": 1,
        "unknown class number, dropped": 2,
        "unknown label, dropped": 1,
        "box without area, dropped": 1,
        "box outside the field, dropped": 1,
        "box oversteps the field, repaired": 1,
        "case variant of a label, repaired": 1,
        "unlabelled image, noted": 1,
        "label file is not text, dropped": 1,
        "label file without an image, dropped": 1,
        "not a label file, noted": 1,
        "class name differs, noted": 1,
    }
    class_map = {"WBC": "WBC", "RBC": "RBC", "Platelets": "Platelet"}
    names = ("WBC", "RBC", "platelets", "Ghost")
    return Faulty(fields, labels, names, class_map, ("WBC", "RBC", "Platelet"), expected, 5)


def voc_object(name: str, *corners: object, more: str = "") -> str:
    """One object of a VOC file."""
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, corners, strict=False))
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def voc_file(path: Path, *objects: str, size: tuple[int, int] | None = (100, 80), head: str = "") -> None:
    """A VOC file for a field of `size`."""
    said = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    path.write_text(f"{head}<annotation>{said}{''.join(objects)}</annotation>", "utf-8")


def faulty_voc(folder: Path) -> Faulty:
    """VOC labels: one fault an object or file."""
    fields = fields_in(folder / "images", ["faults", "sizeless", "double", "broken", "unlabelled", "none"])
    labels = folder / "labels"
    labels.mkdir()
    objects = [
        voc_object("WBC", 10, 10, 50, 60, more="<difficult>1</difficult>"),
        voc_object("WBC", 10, 10, 50, 60),
        voc_object("wbc ", 20, 20, 60, 70),
        voc_object("RBC", 10, 10, 10, 60),
        voc_object("RBC", 200, 10, 250, 60),
        voc_object("RBC", 80, 10, 140, 60),
        voc_object("Ghost", 10, 10, 50, 60),
        voc_object("RBC", "left", 10, 50, 60),
        voc_object("RBC", 10, 10, 50),
    ]
    voc_file(labels / "faults.xml", *objects)
    voc_file(labels / "sizeless.xml", voc_object("RBC", 1, 2, 3, 4), size=None)
    voc_file(labels / "double.xml", voc_object("RBC", 20, 40, 60, 80), size=(200, 160))
    voc_file(labels / "none.xml")
    voc_file(labels / "orphan.xml")
    (labels / "broken.xml").write_text("<annotation>\n<object>\n</annotation>")
    expected = {
        "repeated box, dropped": 1,
        "case variant of a label, repaired": 1,
        "box without area, dropped": 1,
        "box outside the field, dropped": 1,
        "box oversteps the field, repaired": 1,
        "unknown label, dropped": 1,
        "not a number, dropped": 2,
        "no size, noted": 1,
        "wrong size, repaired": 1,
        "not valid XML, dropped": 1,
        "unlabelled image, noted": 1,
        "label file without an image, dropped": 1,
    }
    return Faulty(fields, labels, (), {"WBC": "WBC", "RBC": "RBC"}, ("WBC", "RBC"), expected, 5)


def coco_row(
    number: object, image: object = 5, category: object = 3, box: object = None, **more: Any
) -> dict[str, Any]:
    """One annotation of a COCO file."""
    return {"id": number, "image_id": image, "category_id": category, "bbox": box or [10, 10, 20, 30], **more}


def faulty_coco(folder: Path) -> Faulty:
    """A COCO file: one fault an entry. Ids have gaps."""
    fields = fields_in(folder / "images", ["a", "b"])
    square = [10, 10, 30, 10, 30, 40, 10, 40]
    size = {"width": 100, "height": 80}
    content = {
        "images": [
            {"id": 5, "file_name": "a.png", **size, "stain": "Giemsa"},
            {"id": 9, "file_name": "b.png", **size},
            {"id": 5, "file_name": "again.png", **size},
            {"id": 6, "file_name": "", **size},
            {"id": 7, "file_name": "c.png", "width": 100},
        ],
        "categories": [
            {"id": 3, "name": "WBC"},
            {"id": 8, "name": "rbc"},
            {"id": 4, "name": "Ghost"},
            {"id": 3, "name": "X"},
        ],
        "annotations": [
            coco_row(11, segmentation=[square], reader="A"),
            coco_row(12, category=8, iscrowd=1, segmentation={"size": [80, 100], "counts": [100, 50, 7850]}),
            coco_row(12, image=9),
            coco_row(14, image=77),
            coco_row(15, category=2),
            coco_row(16, category=4),
            coco_row(17, box=[10, 10, 0, 5]),
            coco_row(18, box=[300, 10, 5, 5]),
            coco_row(19, box=[1, 2, 3]),
            coco_row(20, box=[1, 2, float("nan"), 3]),
            coco_row(21, image=9, box=[1, 2, 3, 4], segmentation=[[1, 2]]),
        ],
    }
    path = folder / "labels.json"
    path.write_text(json.dumps(content))
    expected = {
        "image id used twice, dropped": 1,
        "image without a file name, dropped": 1,
        "image without a size, dropped": 1,
        "category id used twice, dropped": 1,
        "annotation id used twice, repaired": 1,
        "annotation without an image, dropped": 1,
        "unknown category, dropped": 1,
        "unknown label, dropped": 1,
        "case variant of a label, repaired": 1,
        "box without area, dropped": 1,
        "box outside the field, dropped": 1,
        "not a box, dropped": 2,
        "mask cannot be read, dropped": 1,
    }
    return Faulty(fields, path, (), {"WBC": "WBC", "RBC": "RBC"}, ("WBC", "RBC"), expected, 4)

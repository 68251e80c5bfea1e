"""Pascal VOC: one XML file a field. Its size can be trusted, its path cannot: fields are found by the file's stem."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detect import geometry
from detect.errors import FormatError
from detect.formats.labels import ClassNames, Labels, box_fault, label_file, size_fault, stem_of
from detect.formats.tally import Tally
from detect.types import Annotations, ClassMap, Field, LabelledField

_TAG = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
_NO_TEXT = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def holds(key: str, value: object) -> bool:
    """Whether an object's element can be called `key` and hold `value`: XML knows no names with spaces."""
    plain = isinstance(value, str | int | float) and not _NO_TEXT.search(str(value))
    return plain and key not in ("name", "bndbox") and _TAG.fullmatch(key) is not None


def write(fields: Sequence[LabelledField], classes: ClassMap, folder: Path) -> None:
    """One XML file a field, named by its id with '/' as '__'. Numbers count from 0, as they are read."""
    folder.mkdir(parents=True, exist_ok=True)
    for labelled in fields:
        owner, cells = labelled.field, labelled.annotations
        root = ET.Element("annotation")
        ET.SubElement(root, "filename").text = owner.id
        size = ET.SubElement(root, "size")
        for name, value in (("width", owner.width), ("height", owner.height), ("depth", 3)):
            ET.SubElement(size, name).text = str(value)
        for i in range(len(cells)):
            element = ET.SubElement(root, "object")
            ET.SubElement(element, "name").text = classes.names[cells.labels[i]]
            for key, value in cells.extra[i].items():
                if holds(key, value):
                    ET.SubElement(element, key).text = str(value)
            box = ET.SubElement(element, "bndbox")
            for name, number in zip(("xmin", "ymin", "xmax", "ymax"), cells.boxes[i], strict=True):
                ET.SubElement(box, name).text = f"{float(number):.3f}".rstrip("0").rstrip(".")
        ET.indent(root)
        ET.ElementTree(root).write(folder / f"{stem_of(owner.id)}.xml", encoding="utf-8")


def read(
    fields: Sequence[Field], labels_dir: Path, class_map: ClassNames, classes: ClassMap, tally: Tally
) -> list[LabelledField]:
    """Labels of `fields` (with known width and height), found by the field's id with '/' as '__', or by its stem.

    VOC counts pixels from 1 and its boxes include their last pixel, but the tools that wrote the sets at hand
    count from 0, so numbers are taken as they stand.
    """
    if not labels_dir.is_dir():
        raise FormatError("no such folder of labels", where=str(labels_dir), remedy="check the card's layout")
    labels = Labels(classes, class_map, tally)
    out = []
    known = set()
    for field in fields:
        path = label_file(labels_dir, field, ".xml")
        known.add(path.name)
        if not path.is_file():
            tally.add("unlabelled image", str(field.path), f"no {path.name}", "noted")
            continue
        annotations = _read_file(path, field, labels, tally)
        if annotations is not None:
            out.append(LabelledField(field, annotations))
    for path in sorted(labels_dir.glob("*.xml")):
        if path.name not in known:
            tally.add("label file without an image", str(path), "no image of that name", "dropped")
    tally.read["fields"] += len(out)
    tally.read["cells"] += sum(len(f.annotations) for f in out)
    return out


def labels_in(labels_dir: Path, tally: Tally) -> list[str]:
    """Label names in the order in which the files, by name, first use them."""
    names: dict[str, None] = {}
    for path in sorted(labels_dir.glob("*.xml")):
        root = _parse(path, tally, again=True)
        if root is not None:
            names |= dict.fromkeys((e.findtext("name") or "").strip() for e in root.iter("object"))
    return [n for n in names if n]


def _parse(path: Path, tally: Tally, *, again: bool = False) -> ET.Element | None:
    """The root of a file; None where it is no XML, which is tallied unless it will be read `again`."""
    try:
        return ET.fromstring(path.read_bytes())
    except (ET.ParseError, ValueError, LookupError) as error:  # the last two: an encoding that Python does not know
        line = error.position[0] if isinstance(error, ET.ParseError) else 1
        if not again:
            tally.add("not valid XML", f"{path}:{line}", str(error), "dropped")
        return None


def _read_file(path: Path, field: Field, labels: Labels, tally: Tally) -> Annotations | None:
    root = _parse(path, tally)
    if root is None:
        return None
    scale = _scale(root, path, field, tally)
    boxes: list[list[float]] = []
    indices: list[int] = []
    ids: list[int] = []
    extra: list[dict[str, str]] = []
    seen: dict[tuple[object, ...], int] = {}
    for number, element in enumerate(root.iter("object"), 1):
        where = f"{path}: object {number}"
        name = (element.findtext("name") or "").strip()
        try:
            corners = [float(element.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax")]
        except ValueError:
            tally.add("not a number", where, f"the box of '{name}'", "dropped")
            continue
        if not np.isfinite(corners).all():
            tally.add("not a finite number", where, f"the box of '{name}'", "dropped")
            continue
        key = (name, *corners)
        if key in seen:
            tally.add("repeated box", where, f"the same as object {seen[key]}", "dropped")
            continue
        seen[key] = number
        corners = [c * s for c, s in zip(corners, scale * 2, strict=True)]
        fault = box_fault(corners[0], corners[1], corners[2], corners[3], field.width, field.height)
        if fault is not None:
            tally.add(fault, where, f"'{name}' {corners}", "dropped")
            continue
        label = labels.get(name, where)
        if label is None:
            continue
        if max(corners[2] - field.width, corners[3] - field.height, -corners[0], -corners[1]) > 1:
            tally.add("box oversteps the field", where, str(corners), "repaired")
        boxes.append(corners)
        indices.append(label)
        ids.append(number)
        extra.append({c.tag: c.text or "" for c in element if c.tag not in ("name", "bndbox")})
    clipped = geometry.clip(np.array(boxes, np.float32).reshape(-1, 4), field.width, field.height)
    return Annotations.of(clipped, indices, ids=ids, extra=extra)


def _scale(root: ET.Element, path: Path, field: Field, tally: Tally) -> tuple[float, float]:
    try:
        width, height = int(root.findtext("size/width") or ""), int(root.findtext("size/height") or "")
    except ValueError:
        tally.add("no size", str(path), "the image's own is used", "noted")
        return 1.0, 1.0
    fault = size_fault(width, height, field)
    if fault is None or width <= 0 or height <= 0:
        return 1.0, 1.0
    detail = f"labels for {width} x {height}, image is {field.width} x {field.height}"
    if fault != "wrong size":  # which way it was turned is not known here
        tally.add(fault, str(path), detail, "noted")
        return 1.0, 1.0
    tally.add(fault, str(path), detail, "repaired")
    return field.width / width, field.height / height

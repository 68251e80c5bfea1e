"""CSV: one row a cell, a header that names the columns. Ours and the two shapes that are found in the field.

Ours: field, width, height, id, label, x0, y0, x1, y1, crowd, and any further columns as they come. TensorFlow's:
filename, width, height, class, xmin, ymin, xmax, ymax. BCCD's: image, xmin, ymin, xmax, ymax, label.
A field without cells is a row with an empty label and no box.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from detect import geometry
from detect.errors import FormatError
from detect.formats.labels import ClassNames, Labels, box_fault, is_finite, size_fault
from detect.formats.tally import Tally
from detect.types import Annotations, ClassMap, Dataset, Field, LabelledField

_COLUMNS = ("field", "width", "height", "id", "label", "x0", "y0", "x1", "y1", "crowd")
_ALIASES = {
    "field": ("field", "filename", "file_name", "image", "image_path", "img"),
    "label": ("label", "class", "name", "cell_type", "category"),
    "x0": ("x0", "xmin", "x_min", "left"),
    "y0": ("y0", "ymin", "y_min", "top"),
    "x1": ("x1", "xmax", "x_max", "right"),
    "y1": ("y1", "ymax", "y_max", "bottom"),
    "id": ("id",),
    "crowd": ("crowd", "iscrowd"),
    "width": ("width",),
    "height": ("height",),
}
_OPTIONAL = ("id", "crowd", "width", "height")


@dataclass(frozen=True)
class Row:
    """One row of a file, by column. `surplus`: it holds more values than the header names."""

    line: int
    values: Mapping[str, str]
    surplus: bool


@dataclass
class _Rows:
    boxes: list[list[float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    extra: list[dict[str, str]] = field(default_factory=list)
    seen: dict[tuple[str, ...], int] = field(default_factory=dict)


def read_rows(path: Path) -> tuple[list[Row], dict[str, str]]:
    """All rows of a CSV file, and which of its columns says what (ours to theirs).

    Raises:
        FormatError: no text, no header, or a column that is needed is missing.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the path") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"not UTF-8 text: {error}", where=str(path), remedy="save it as UTF-8") from error
    sample = next(iter(text.splitlines()), "")
    delimiter = ";" if sample.count(";") > sample.count(",") else "\t" if "\t" in sample and "," not in sample else ","
    reader = csv.DictReader(io.StringIO(text, newline=None), delimiter=delimiter)
    try:
        header = [h.strip() for h in reader.fieldnames or []]
        rows = [_row(row, reader.line_num) for row in reader]
    except csv.Error as error:
        where = f"{path}:{reader.line_num + 1}"
        raise FormatError(f"not valid CSV: {error}", where=where, remedy="close its quotes, save it again") from error
    if not header:
        raise FormatError("empty file", where=str(path), remedy=f"start it with the header {','.join(_COLUMNS)}")
    folded = {h.casefold(): h for h in header}
    columns = {}
    for ours, names in _ALIASES.items():
        found = next((folded[n] for n in names if n in folded), None)
        if found is None and ours not in _OPTIONAL:
            what = f"no column for '{ours}', the columns are {', '.join(header)}"
            raise FormatError(what, where=f"{path}:1", remedy=f"name one of them {' or '.join(names)}")
        if found is not None:
            columns[ours] = found
    return rows, columns


def _row(row: Mapping[Any, Any], line: int) -> Row:
    surplus = any(str(v).strip() for v in row.get(None) or ())
    return Row(line, {k.strip(): v.strip() for k, v in row.items() if k and isinstance(v, str)}, surplus)


def labels_in(rows: Sequence[Row], columns: Mapping[str, str]) -> list[str]:
    """Label names in the order of their first row."""
    named = [r.values.get(columns["label"]) for r in rows if not r.surplus]
    return list(dict.fromkeys(name for name in named if name))


def read(
    path: Path, fields: Mapping[str, Field], class_map: ClassNames, classes: ClassMap, tally: Tally
) -> list[LabelledField]:
    """Labels of a CSV file.

    Args:
        fields: by the names that the file uses, with known width and height.
    """
    rows, columns = read_rows(path)
    labels = Labels(classes, class_map, tally)
    found: dict[str, _Rows] = {}
    numbers: dict[tuple[str, str], int] = {}  # ids are counted within a field: other formats number them so
    sizes: set[tuple[str, ...]] = set()
    for full in rows:
        line, row = full.line, full.values
        where = f"{path}:{line}"
        name = row.get(columns["field"], "").replace("\\", "/")
        if name not in fields:
            tally.add("annotation without an image", where, f"'{name}'", "dropped")
            continue
        here = found.setdefault(name, _Rows())
        if full.surplus:
            tally.add("wrong number of values", where, f"more than the {len(row)} of the header", "dropped")
            continue
        size = tuple(row.get(columns.get(k, ""), "") for k in ("width", "height"))
        if (name, *size) not in sizes:  # once a field, not once a cell
            sizes.add((name, *size))
            _check_size(size, fields[name], where, tally)
        number = row.get(columns.get("id", ""), "")
        if number and numbers.setdefault((name, number), line) != line:
            tally.add("annotation id used twice", where, f"{number}, as in line {numbers[name, number]}", "noted")
        if row.get(columns["label"]) or row.get(columns["x0"]):
            _take(here, row, columns, fields[name], line, where, labels, tally)
    out = []
    for name, labelled in fields.items():
        if name not in found:
            tally.add("unlabelled image", str(labelled.path), f"no row in {path.name}", "noted")
            continue
        r = found[name]
        boxes = geometry.clip(np.array(r.boxes, np.float32).reshape(-1, 4), labelled.width, labelled.height)
        out.append(LabelledField(labelled, Annotations.of(boxes, r.labels, ids=r.ids, crowd=r.crowd, extra=r.extra)))
    tally.read["fields"] += len(out)
    tally.read["cells"] += sum(len(f.annotations) for f in out)
    return out


def _check_size(texts: Sequence[str], owner: Field, where: str, tally: Tally) -> None:
    """Boxes are taken as they stand whatever the size: in a file of unknown make it may be that of something else."""
    if not any(texts):
        return
    try:
        width, height = (int(float(t)) for t in texts)
    except (ValueError, OverflowError):
        tally.add("no size", where, f"{owner.id}: '{' x '.join(texts)}', the image's own is used", "noted")
        return
    fault = size_fault(width, height, owner)
    if fault is not None and width > 0 and height > 0:
        what = f"{owner.id}: labels for {width} x {height}, image is {owner.width} x {owner.height}"
        tally.add(fault, where, what, "noted")


def _take(
    here: _Rows,
    row: Mapping[str, str],
    columns: Mapping[str, str],
    owner: Field,
    line: int,
    where: str,
    labels: Labels,
    tally: Tally,
) -> None:
    texts = [row.get(columns[k], "") for k in ("x0", "y0", "x1", "y1")]
    try:
        corners = [float(t) for t in texts]
    except ValueError:
        tally.add("not a number", where, ", ".join(texts), "dropped")
        return
    if not all(map(is_finite, corners)):
        tally.add("not a finite number", where, ", ".join(texts), "dropped")
        return
    key = (row.get(columns["label"], ""), *texts)
    if key in here.seen:
        tally.add("repeated box", where, f"the same as line {here.seen[key]}", "dropped")
        return
    here.seen[key] = line
    fault = box_fault(corners[0], corners[1], corners[2], corners[3], owner.width, owner.height)
    if fault is not None:
        tally.add(fault, where, ", ".join(texts), "dropped")
        return
    label = labels.get(row.get(columns["label"], ""), where)
    if label is None:
        return
    if min(corners) < -1 or corners[2] > owner.width + 1 or corners[3] > owner.height + 1:
        tally.add("box oversteps the field", where, ", ".join(texts), "repaired")
    number = row.get(columns.get("id", ""), "")
    here.boxes.append(corners)
    here.labels.append(label)
    here.ids.append(_whole(number, line))
    here.crowd.append(row.get(columns.get("crowd", ""), "0").casefold() in ("1", "true", "yes"))
    used = {*columns.values()}
    here.extra.append({k: v for k, v in row.items() if k and k not in used})


def _whole(text: str, otherwise: int) -> int:
    try:
        return int(text)
    except ValueError:
        return otherwise


def holds(key: str, value: object) -> bool:
    """Whether a column can be called `key` and hold `value`: our own columns are taken."""
    return isinstance(value, str | int | float) and key.strip().casefold() not in _COLUMNS


def write(dataset: Dataset, path: Path) -> None:
    """Records as our CSV; what else the source said of a cell follows in columns of its own."""
    extra = sorted({k for f in dataset.fields for e in f.annotations.extra for k in e if holds(k, e[k])})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow([*_COLUMNS, *extra])
        for labelled in dataset.fields:
            owner, cells = labelled.field, labelled.annotations
            if not len(cells):
                out.writerow([owner.id, owner.width, owner.height] + [""] * (len(_COLUMNS) - 3 + len(extra)))
            for i in range(len(cells)):
                name = dataset.classes.names[cells.labels[i]]
                box = [round(float(v), 3) for v in cells.boxes[i]]
                said = cells.extra[i]
                rest = [said[k] if k in said and holds(k, said[k]) else "" for k in extra]
                out.writerow(
                    [owner.id, owner.width, owner.height, cells.ids[i], name, *box, int(cells.crowd[i]), *rest]
                )

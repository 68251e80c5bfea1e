"""A dataset card and a user's files to records."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from detect.data.cards import Card, MaskFolder, Part, Pictures
from detect.errors import DataError, ImageError
from detect.formats import coco, masks, voc, yolo
from detect.formats.labels import Labels
from detect.formats.tally import Tally
from detect.images import decode
from detect.taxonomy import taxonomy
from detect.types import Annotations, ClassMap, Dataset, Field, LabelledField


def find_root(card: Card, root: Path | None = None) -> Path:
    """The folder of a set: `root` where given, else `$SMEAR_DATA`, `data` or `../shared/data` plus its name."""
    if root is not None:
        if root.is_dir():
            return root
        raise DataError("no such folder", where=str(root), remedy=f"give the folder of {card.name}")
    homes = [Path(p) for p in (os.environ.get("SMEAR_DATA"), "data", "../shared/data") if p]
    for home in homes:
        if (home / card.folder).is_dir():
            return home / card.folder
    looked = ", ".join(str(home / card.folder) for home in homes)
    raise DataError(
        f"the images of {card.name} are not here (looked for {looked})",
        remedy=f"{card.how_to_get}; then set SMEAR_DATA to the folder that holds '{card.folder}', or give --root",
    )


def load_dataset(card: Card, tally: Tally, root: Path | None = None) -> dict[str, Dataset]:
    """The published parts of a set as records. Field ids are paths relative to the set's folder."""
    if card.unavailable is not None:
        raise DataError(f"{card.name} cannot be read: {card.unavailable}", remedy=card.how_to_get)
    home = find_root(card, root)
    if card.pictures is not None:
        return _load_pictures(card, card.pictures, home, tally)
    if card.mask_folders:
        return {folder.folder: _load_masks(card, folder, home, tally) for folder in card.mask_folders}
    if card.layout is None:
        raise DataError(f"{card.name} has no boxed fields", remedy="use a card with a layout")
    classes = ClassMap(card.classes)
    out = {}
    for name, part in card.layout.parts.items():
        if card.layout.format == "coco":
            read = coco.read(home / part.labels, home / part.images, card.class_map, tally, classes=classes)
            out[name] = replace(read, name=card.name, exhaustive_for=frozenset(card.exhaustive_for))
            continue
        fields = _fields(home, part, tally)
        if card.layout.format == "yolo":
            names = dict(enumerate(card.layout.names))
            records = yolo.read(fields, home / part.labels, names, card.class_map, classes, tally)
        else:
            records = voc.read(fields, home / part.labels, card.class_map, classes, tally)
        out[name] = Dataset(card.name, home, classes, tuple(records), frozenset(card.exhaustive_for))
    types = field_types(card, home, tally) if card.types_table is not None else {}
    return {name: _with_types(_with_patients(card, dataset, tally), types) for name, dataset in out.items()}


def _rows(path: Path, *columns: str) -> Iterator[tuple[int, list[str]]]:
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the card") from error
    reader = csv.DictReader(text.splitlines())
    missing = [c for c in columns if c not in (reader.fieldnames or [])]
    if missing:
        what = f"no column '{missing[0]}', the columns are {reader.fieldnames}"
        raise DataError(what, where=f"{path}:1", remedy="correct the card")
    for number, row in enumerate(reader, 2):
        yield number, [(row[c] or "").strip() for c in columns]


def field_types(card: Card, home: Path, tally: Tally) -> dict[str, str]:
    """Field id to the WBC type that the card's table gives it; fields with none or with several are tallied."""
    table = card.types_table
    if table is None:
        return {}
    path = home / table.file
    if path.is_file() and path.read_text("utf-8-sig").startswith(","):
        tally.add("column without a name", f"{path}:1", "the first", "noted")
    types: dict[str, str] = {}
    for line, (number, words) in _rows(path, table.field_column, table.type_column):
        where = f"{path}:{line}"
        name = taxonomy().resolve(words) if words else None
        if not words:
            tally.add("blank type", where, f"field {number}", "dropped")
        elif "," in words:
            tally.add("several types", where, f"field {number}: '{words}'", "dropped")
        elif name is None or not taxonomy().is_a(name, "WBC"):
            tally.add("unknown type", where, f"'{words}'", "dropped")
        elif not number.isdigit():
            tally.add("not a field number", where, f"'{number}'", "dropped")
        else:
            types[table.field_pattern.format(number=int(number))] = name
    return types


def _with_types(dataset: Dataset, types: Mapping[str, str]) -> Dataset:
    fields = tuple(
        replace(f, extra={**f.extra, "wbc_type": types[f.field.id]}) if f.field.id in types else f
        for f in dataset.fields
    )
    return replace(dataset, fields=fields)


def _load_masks(card: Card, folder: MaskFolder, home: Path, tally: Tally) -> Dataset:
    """Single cells with their masks. A type that the card leaves out, or a missing file, is tallied."""
    classes = ClassMap(card.classes)
    table = home / folder.table
    records = []
    for line, (number, word) in _rows(table, folder.id_column, folder.type_column):
        where = f"{table}:{line}"
        if word not in folder.types or not number.isdigit():
            tally.add("unknown type", where, f"'{word}'", "dropped")
            continue
        path = home / folder.folder / f"{int(number):03d}.bmp"
        mask = path.with_suffix(".png")
        if not path.is_file() or not mask.is_file():
            tally.add("missing file", where, str(path if not path.is_file() else mask), "dropped")
            continue
        try:
            width, height = decode.size(path)
            pixels = decode.levels(mask)
        except ImageError as error:
            tally.add("image cannot be read", error.where or str(path), error.problem, "dropped")
            continue
        if pixels.shape != (height, width):
            what = f"mask {pixels.shape[1]} x {pixels.shape[0]}, image {width} x {height}"
            tally.add("wrong size", str(mask), what, "dropped")
            continue
        cell = masks.from_levels(pixels, folder.levels, classes.index(folder.types[word]), str(mask), tally)
        field = Field(path.relative_to(home).as_posix(), folder.folder, path, width, height)
        records.append(LabelledField(field, cell))
    tally.read["fields"] += len(records)
    tally.read["cells"] += sum(len(r.annotations) for r in records)
    return Dataset(card.name, home, classes, tuple(records), frozenset(card.exhaustive_for))


def _with_patients(card: Card, dataset: Dataset, tally: Tally) -> Dataset:
    if card.grouping.pattern is None:
        return dataset
    pattern = re.compile(card.grouping.pattern)
    fields = []
    for labelled in dataset.fields:
        found = pattern.search(labelled.field.id)
        if found is None:
            tally.add("no patient in the name", str(labelled.field.path), card.grouping.pattern, "noted")
            fields.append(labelled)
        else:
            patient = found["patient"]
            fields.append(replace(labelled, field=replace(labelled.field, patient=patient, group=patient)))
    return replace(dataset, fields=tuple(fields))


def _load_pictures(card: Card, pictures: Pictures, home: Path, tally: Tally) -> dict[str, Dataset]:
    """Pictures by their paths. A cell's box is its whole picture; a field's label goes into `extra`."""
    classes = ClassMap(card.classes)
    labels = Labels(classes, card.class_map, tally)
    pattern = re.compile(pictures.pattern)
    parts: dict[str, list[LabelledField]] = {}
    strangers = 0
    for path in sorted(p for p in home.rglob("*") if p.suffix.lower() in decode.SUFFIXES):
        identity = path.relative_to(home).as_posix()
        if any(piece.startswith((".", "__MACOSX")) for piece in identity.split("/")):
            continue
        found = pattern.fullmatch(identity)
        if found is None:
            strangers += 1
            tally.add("picture outside the published layout", str(path), identity, "dropped")
            continue
        said = {k: v for k, v in found.groupdict().items() if v is not None}
        label = labels.get(said["label"], str(path))
        if label is None:
            continue
        try:
            width, height = decode.size(path)
        except ImageError as error:
            tally.add("image cannot be read", str(path), error.problem, "dropped")
            continue
        part = said.get("part", "all")
        slide = said.get("slide") or Path(identity).parent.as_posix()
        field = Field(identity, slide, path, width, height, said.get("patient"), said.get("patient"))
        if pictures.shows == "cell":
            kept = [{"published_label": said["label"]}]
            record = LabelledField(field, Annotations.of([[0, 0, width, height]], [label], extra=kept))
        else:
            kept_of_field = {"label": classes.names[label], "published_label": said["label"]}
            record = LabelledField(field, Annotations.of([], []), kept_of_field)
        parts.setdefault(part, []).append(record)
    tally.read["pictures"] += sum(map(len, parts.values()))
    if not parts:
        what = f"no picture of the published layout ({strangers} others)"
        raise DataError(what, where=str(home), remedy=f"expected paths such as {pictures.examples[0]}")
    whole = frozenset[str]()
    return {part: Dataset(card.name, home, classes, tuple(records), whole) for part, records in sorted(parts.items())}


def _fields(home: Path, part: Part, tally: Tally) -> list[Field]:
    folder = home / part.images
    if not folder.is_dir():
        raise DataError("no such folder of images", where=str(folder), remedy="check the card's layout")
    fields = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in decode.SUFFIXES):
        try:
            width, height = decode.size(path)
        except ImageError as error:
            tally.add("image cannot be read", str(path), error.problem, "dropped")
            continue
        fields.append(Field(path.relative_to(home).as_posix(), part.images, path, width, height))
    return fields


def with_groups(dataset: Dataset, groups: Mapping[str, str]) -> Dataset:
    """The same fields, each with the group of its id."""
    fields = tuple(
        replace(f, field=replace(f.field, group=groups.get(f.field.id, f.field.group))) for f in dataset.fields
    )
    return replace(dataset, fields=fields)

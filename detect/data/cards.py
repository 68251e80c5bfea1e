"""A dataset card: what a public set is, how it is laid out, and its labels in our terms. Cards lie in `datasets/`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field as Key
from pydantic import model_validator

from detect import assets
from detect.config import Settings, load
from detect.errors import DataError, ImageError
from detect.formats import voc, yolo
from detect.formats.tally import Tally
from detect.images import decode
from detect.taxonomy import taxonomy
from detect.types import ClassMap, Dataset, Field


class Part(Settings):
    """Folders of one published part, relative to the set's folder."""

    images: str
    labels: str


class Layout(Settings):
    """How a set is published. `names`: class names by number, for formats that write numbers."""

    format: Literal["yolo", "voc"]
    parts: dict[str, Part]
    names: tuple[str, ...] = ()


class TypesTable(Settings):
    """A table that gives the WBC type of each field.

    Attributes:
        field_column, type_column: its columns; the field column holds a number.
        field_pattern: the field's file name, with `{number}` in it.
    """

    file: str
    field_column: str
    type_column: str
    field_pattern: str


class MaskFolder(Settings):
    """Single cells, each an image and a mask of the same name, and a table of their types."""

    folder: str
    table: str
    id_column: str
    type_column: str
    types: dict[str, str]


class Grouping(Settings):
    """Who is the same source. `patient: unknown` unless the publisher tells."""

    key: Literal["near-copies", "field", "patient", "slide"]
    patient: str = "unknown"


class Card(Settings):
    """One public dataset."""

    name: str
    title: str
    licence: str
    citation: str
    source: str
    how_to_get: str
    folder: str
    classes: tuple[str, ...]
    class_map: dict[str, str]
    exhaustive_for: tuple[str, ...]
    grouping: Grouping
    layout: Layout | None = None
    types_table: TypesTable | None = None
    mask_folders: tuple[MaskFolder, ...] = ()
    split: str | None = None
    defects: tuple[str, ...] = Key(default=())

    @model_validator(mode="after")
    def _labels_are_ours(self) -> Card:
        known = taxonomy()
        for name in self.classes:
            if name not in known:
                raise ValueError(f"classes: '{name}' is no label of annotations/taxonomy.yaml")
        for name in self.exhaustive_for:
            if name not in self.classes:
                raise ValueError(f"exhaustive_for: '{name}' is not among the classes")
        for published, name in self.class_map.items():
            if name not in self.classes:
                raise ValueError(f"class_map: '{published}' goes to '{name}', which is not among the classes")
        return self


def load_card(given: str | Path) -> Card:
    """A card by path, or a packaged one by name."""
    return load(Card, assets.find(given, "datasets", ".yaml"))


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
    if card.layout is None:
        raise DataError(f"{card.name} has no boxed fields", remedy="use a card with a layout")
    home = find_root(card, root)
    classes = ClassMap(card.classes)
    out = {}
    for name, part in card.layout.parts.items():
        fields = _fields(home, part, tally)
        if card.layout.format == "yolo":
            names = dict(enumerate(card.layout.names))
            records = yolo.read(fields, home / part.labels, names, card.class_map, classes, tally)
        else:
            records = voc.read(fields, home / part.labels, card.class_map, classes, tally)
        out[name] = Dataset(card.name, home, classes, tuple(records), frozenset(card.exhaustive_for))
    return out


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

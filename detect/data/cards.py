"""A dataset card: what a public set is, how it is laid out, and its labels in our terms. Cards lie in `datasets/`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field as Key
from pydantic import model_validator

from detect import assets
from detect.config import Settings, load
from detect.errors import DataError, ImageError
from detect.formats import coco, voc, yolo
from detect.formats.labels import Labels
from detect.formats.tally import Tally
from detect.images import decode
from detect.taxonomy import taxonomy
from detect.types import Annotations, ClassMap, Dataset, Field, LabelledField


class Part(Settings):
    """Folders of one published part, relative to the set's folder."""

    images: str
    labels: str


class Layout(Settings):
    """How a set with boxes is published. `names`: class names by number, for formats that write numbers."""

    format: Literal["yolo", "voc", "coco"]
    parts: dict[str, Part]
    names: tuple[str, ...] = ()


class Pictures(Settings):
    """A set in which the path of a picture says all there is to know of it.

    Attributes:
        pattern: a regular expression for paths below the set's folder, with `/`. Its named groups say what they hold:
            `label` (needed), `patient`, `slide`, `part`, and `original`, of which other pictures are copies within
            their part and label.
        shows: "cell", one cell that fills the picture; or "field", a whole field under one label, of whose cells
            nothing is known.
        examples: paths as published, for tests and for people.
    """

    pattern: str
    shows: Literal["cell", "field"]
    examples: tuple[str, ...]

    @model_validator(mode="after")
    def _pattern_works(self) -> Pictures:
        try:
            compiled = re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern: {error}") from error
        if "label" not in compiled.groupindex:
            raise ValueError("pattern: no group named 'label'")
        unknown = set(compiled.groupindex) - {"label", "patient", "slide", "part", "original"}
        if unknown:
            raise ValueError(f"pattern: groups that mean nothing here: {sorted(unknown)}")
        for example in self.examples:
            if compiled.fullmatch(example) is None:
                raise ValueError(f"examples: '{example}' does not fit the pattern")
        return self


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
    """Who is the same source. `patient: unknown` unless the publisher tells.

    Attributes:
        pattern: for sets with boxes, a regular expression that finds a group named `patient` in a field's id.
    """

    pattern: str | None = None
    key: Literal["near-copies", "field", "patient", "slide", "original"]
    patient: str = "unknown"


class Card(Settings):
    """One public dataset.

    Attributes:
        unavailable: why there is nothing to read, where a set is private or has no layout of its own.
        checked_on: what its reading was tested on.
    """

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
    pictures: Pictures | None = None
    unavailable: str | None = None
    checked_on: Literal["real files", "a replica of the layout", "nothing"] = "nothing"
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
    if card.unavailable is not None:
        raise DataError(f"{card.name} cannot be read: {card.unavailable}", remedy=card.how_to_get)
    home = find_root(card, root)
    if card.pictures is not None:
        return _load_pictures(card, card.pictures, home, tally)
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
    return {name: _with_patients(card, dataset, tally) for name, dataset in out.items()}


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
        group = f"{part}/{said['label']}/{said['original']}" if "original" in said else said.get("patient")
        slide = said.get("slide") or Path(identity).parent.as_posix()
        field = Field(identity, slide, path, width, height, said.get("patient"), group)
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

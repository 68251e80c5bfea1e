"""A dataset card: what a public set is, how it is laid out, and its labels in our terms. Cards lie in `datasets/`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field as Key
from pydantic import model_validator

from detect import assets
from detect.config import Settings, load
from detect.taxonomy import taxonomy


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
            `label` (needed), `patient`, `slide`, `part`.
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
        unknown = set(compiled.groupindex) - {"label", "patient", "slide", "part"}
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
    """Single cells, each an image and a mask of the same name, and a table of their types.

    Attributes:
        levels: part of the cell to its grey level in the masks.
    """

    folder: str
    levels: dict[str, int] = Key(default={"nucleus": 255, "cytoplasm": 128})
    table: str
    id_column: str
    type_column: str
    types: dict[str, str]


class Grouping(Settings):
    """Who is the same source. `patient: unknown` unless the publisher tells.

    `set`: copies are known to be there and cannot be told apart, so the whole set is one group and is never split.

    Attributes:
        pattern: for sets with boxes, a regular expression that finds a group named `patient` in a field's id.
    """

    pattern: str | None = None
    key: Literal["near-copies", "field", "patient", "slide", "set"]
    patient: str = "unknown"


class Card(Settings):
    """One public dataset.

    Attributes:
        class_map: published label to one of the classes; null leaves its cells out on purpose: they are ground.
        labs: of its parts, where these are of several: each lab may be held out as a source of its own.
        synthetic: its cells were drawn by a program; what learns from such sets alone says so on its card.
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
    class_map: dict[str, str | None]
    exhaustive_for: tuple[str, ...]
    grouping: Grouping
    layout: Layout | None = None
    pictures: Pictures | None = None
    labs: dict[str, str] = {}
    synthetic: bool = False
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
        for published, target in self.class_map.items():
            if target is not None and target not in self.classes:
                raise ValueError(f"class_map: '{published}' goes to '{target}', which is not among the classes")
        return self


def load_card(given: str | Path) -> Card:
    """A card by path, or a packaged one by name.

    A card whose folder begins with '.', as `smear review pull` writes it, lies with its set: folder and split start
    from where the card lies.
    """
    path = assets.find(given, "datasets", ".yaml")
    card = load(Card, path)
    if not card.folder.startswith("."):
        return card
    home = path.resolve().parent
    split = str(home / card.split) if card.split and (home / card.split).is_file() else card.split
    return card.model_copy(update={"folder": str((home / card.folder).resolve()), "split": split})

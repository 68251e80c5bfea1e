"""A named snapshot of a labelled set: what every annotator's copy is made from, and what their edits are found against.

REVIEWS/<name>/
  snapshot.yaml    where it came from, when, its classes and categories, how many fields and cells, a hash
  fields.jsonl     one line a field: its part, path and COCO image, and its COCO annotations

One line a field, so that neither opening nor pulling holds more than one field in memory.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from detect import __version__
from detect.config import load_yaml
from detect.data.sources import Parts, merge
from detect.formats import coco
from detect.formats.labels import stem_of
from detect.formats.tally import Tally
from detect.review.database import ReviewError, home
from detect.taxonomy import taxonomy

Row = dict[str, Any]
_MIXED = "mixed"
# Names that FiftyOne, or we, give to other things.
_TAKEN = {
    "id", "label", "bounding_box", "mask", "mask_path", "confidence", "index", "tags", "attributes", "instance", "cell",
    "machine", "made_as", "crowd", "doubt", "doubt_of", "seen_as", "size_px", "error", "smear", "smear_id", "smear_iou",
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Entry:
    """One field of a snapshot.

    Attributes:
        path: where its pixels lie. image, cells: as COCO has them; a cell is known by its id within the field.
    """

    field: str
    part: str
    path: Path
    slide: str
    group: str | None
    image: Row
    cells: tuple[Row, ...]


@dataclass(frozen=True)
class Snapshot:
    """A snapshot on disk.

    Attributes:
        categories: per part, as COCO has them. rest: per part, what else its source says.
        about: the whole of `snapshot.yaml`.
    """

    folder: Path
    about: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.name

    @property
    def hash(self) -> str:
        """SHA-256 of all its fields and labels."""
        return str(self.about["hash"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Of all parts."""
        return tuple(self.about["classes"])

    @property
    def exhaustive_for(self) -> frozenset[str]:
        """Classes of which every cell is drawn."""
        return frozenset(self.about["exhaustive_for"])

    @property
    def attributes(self) -> dict[str, type]:
        """What is said of cells besides their names, and its type: that of the taxonomy, and what the labels hold."""
        kinds: dict[str, type] = {"bool": bool, "str": str, "float": float}
        return {name: kinds[kind] for name, kind in self.about["attributes"].items()}

    def names(self, part: str) -> dict[int, str]:
        """Category id to class of one part."""
        return {c["id"]: str(c["name"]) for c in self.about["parts"][part]["categories"]}

    def entries(self) -> Iterator[Entry]:
        """Field by field, in order."""
        with (self.folder / "fields.jsonl").open(encoding="utf-8") as file:
            for line in file:
                yield entry_of(line)


def entry_of(line: str) -> Entry:
    """One line of `fields.jsonl`."""
    told = json.loads(line)
    cells = tuple(told["cells"])
    return Entry(told["field"], told["part"], Path(told["path"]), told["slide"], told["group"], told["image"], cells)


def line_of(entry: Entry) -> str:
    """The line of an entry, keys sorted: equal entries are equal bytes."""
    told = {**vars(entry), "path": str(entry.path)}
    return json.dumps(told, sort_keys=True, separators=(",", ":"), default=coco.as_text) + "\n"


def check_name(name: str, what: str) -> str:
    """A name that is good for a folder and a dataset."""
    if not _NAME.fullmatch(name) or name.endswith(".partial"):
        raise ReviewError(f"{what} '{name}'", remedy="use letters, digits, '.', '_' and '-', a letter or digit first")
    return name


def take(name: str, parts: Parts, source: str, tally: Tally) -> Snapshot:
    """The snapshot of a set as it is now; one of that name is used again if the labels are still the same.

    Raises:
        ReviewError: a snapshot of that name is of other labels.
    """
    folder = home() / check_name(name, "not a name for a snapshot:")
    partial = folder.with_name(f".{name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    digest, counts = hashlib.sha256(), {"fields": 0, "cells": 0}
    said: dict[str, str] = {a.name: "bool" if a.kind == "flag" else "str" for a in taxonomy().attributes}
    highest = dict.fromkeys(parts, 0)
    with (partial / "fields.jsonl").open("w", encoding="utf-8") as file:
        for entry in _entries(parts):
            line = line_of(entry)
            # Labels alone: the same labels may lie elsewhere, or have been grouped since.
            digest.update(line_of(replace(entry, path=Path(), group=None, image=_ungrouped(entry.image))).encode())
            file.write(line)
            counts["fields"] += 1
            counts["cells"] += len(entry.cells)
            highest[entry.part] = max([highest[entry.part], *(cell["id"] for cell in entry.cells)])
            for cell in entry.cells:
                _note(cell.get("attributes"), said)
    if (folder / "snapshot.yaml").is_file():
        shutil.rmtree(partial)
        before = open_snapshot(name)
        if before.hash != digest.hexdigest():
            raise ReviewError(
                f"the snapshot '{name}' of {before.about['created']} was taken of other labels than {source} holds now",
                where=str(folder),
                remedy="name a new one with --name; the old one, and what was edited in it, stays as it is",
            )
        return before
    whole = merge(parts)
    about = {
        "smear_detect": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": str(Path(source).resolve()) if Path(source).exists() else source,
        "hash": digest.hexdigest(),
        "classes": list(whole.classes.names),
        "exhaustive_for": sorted(whole.exhaustive_for),
        "counts": counts,
        "attributes": {name: kind for name, kind in said.items() if kind != _MIXED},
        "problems": tally.counts(),
        "parts": {
            part: {
                "categories": coco.categories_of(dataset),
                "rest": coco.rest_of(dataset),
                "highest_id": highest[part],
            }
            for part, dataset in parts.items()
        },
    }
    text = yaml.safe_dump(json.loads(json.dumps(about, default=coco.as_text)), sort_keys=False, allow_unicode=True)
    (partial / "snapshot.yaml").write_text(text, "utf-8")
    partial.rename(folder)
    return Snapshot(folder, about)


def _ungrouped(image: Row) -> Row:
    return {k: v for k, v in image.items() if k not in ("group", "patient")}


def _note(attributes: Any, said: dict[str, str]) -> None:
    """The type of each attribute of a cell; one that has several types, or a name that FiftyOne needs, is not shown."""
    for name, value in (attributes if isinstance(attributes, dict) else {}).items():
        if value is None:
            continue
        if said.get(name) == "bool" and value in (0, 1):
            continue  # tools without flags write them as numbers
        kind = "bool" if isinstance(value, bool) else "str" if isinstance(value, str) else _MIXED
        kind = "float" if isinstance(value, int | float) and kind == _MIXED else kind
        if name in _TAKEN or not name.isidentifier():
            kind = _MIXED
        if said.setdefault(name, kind) != kind:
            said[name] = _MIXED


def open_snapshot(name: str) -> Snapshot:
    """A snapshot by name; ReviewError lists those there are."""
    folder = home() / name
    if not (folder / "snapshot.yaml").is_file():
        known = sorted(p.parent.name for p in home().glob("*/snapshot.yaml"))
        raise ReviewError(
            f"no snapshot '{name}' in {home()}",
            remedy=f"there are: {', '.join(known) or 'none'}; take one with 'smear review open'",
        )
    return Snapshot(folder, load_yaml(folder / "snapshot.yaml"))


def _entries(parts: Parts) -> Iterable[Entry]:
    seen: set[str] = set()
    for part, dataset in parts.items():
        stems: dict[str, str] = {}
        for labelled, (image, cells) in zip(dataset.fields, coco.rows(dataset), strict=True):
            field = labelled.field
            if field.id in seen:
                raise ReviewError(f"the field '{field.id}' stands in two parts", remedy="leave one of the two out")
            seen.add(field.id)
            if Path(field.id).is_absolute() or ".." in Path(field.id).parts:
                what = f"the field '{field.id}' does not lie below the folder of the images"
                raise ReviewError(what, remedy="give file names relative to that folder, or name it with --images")
            other = stems.setdefault(stem_of(field.id), field.id)
            if other != field.id:
                what = f"'{other}' and '{field.id}' would share one YOLO label file"
                raise ReviewError(what, remedy="rename one of the two")
            told = {"group": field.group, "patient": field.patient}
            image = {**{k: v for k, v in told.items() if v is not None}, **image}
            yield Entry(field.id, part, field.path.absolute(), field.slide, field.group, image, tuple(cells))

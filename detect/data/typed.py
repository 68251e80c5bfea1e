"""Single cells of known type, from cards with a type per field or per cell image: what a classifier learns from."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from detect.data import copies
from detect.data.cards import Card, MaskFolder, TypesTable, find_root, load_dataset
from detect.errors import DataError
from detect.formats.tally import Tally
from detect.images import decode
from detect.taxonomy import taxonomy


@dataclass(frozen=True)
class TypedCell:
    """One cell of known type.

    Attributes:
        id: `<set>/<path>`. box: xyxy in pixels of the image. source: the set, or the lab within it.
        group: near copies share one.
    """

    id: str
    path: Path
    box: tuple[float, float, float, float]
    type: str
    source: str
    group: str = ""


def load_typed(cards: Sequence[Card], tally: Tally, roots: dict[str, Path] | None = None) -> list[TypedCell]:
    """Typed cells of the cards, near copies grouped, in the order of their ids."""
    cells: list[TypedCell] = []
    for card in cards:
        home = find_root(card, (roots or {}).get(card.name))
        found: list[TypedCell] = []
        if card.types_table is not None:
            found += _grouped(_from_table(card, card.types_table, home, tally), copies.MAX_DIFFERENCE)
        for folder in card.mask_folders:
            found += _grouped(_from_masks(card, folder, home, tally), copies.MAX_DIFFERENCE_ONE_CELL)
        if not found:
            raise DataError(f"{card.name} gives no types of single cells", remedy="name a card with types")
        cells += found
    tally.read["typed cells"] += len(cells)
    return sorted(cells, key=lambda c: c.id)


def _grouped(cells: Iterable[TypedCell], max_difference: int) -> list[TypedCell]:
    ordered = sorted(cells, key=lambda c: c.id)
    numbers = copies.groups([copies.signs(decode.read(c.path)) for c in ordered], max_difference)
    return [replace(c, group=ordered[n].id) for c, n in zip(ordered, numbers, strict=True)]


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


def _from_table(card: Card, table: TypesTable, home: Path, tally: Tally) -> Iterator[TypedCell]:
    """Fields with one WBC and one type: only there does the field's type belong to a known cell."""
    path = home / table.file
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
    for dataset in load_dataset(card, tally, home).values():
        wbc = dataset.classes.index("WBC")
        for labelled in dataset.fields:
            boxes = labelled.annotations.boxes[labelled.annotations.labels == wbc]
            kind = types.get(labelled.field.id)
            if kind is not None and len(boxes) == 1:
                box = tuple(float(v) for v in boxes[0])
                yield TypedCell(f"{card.name}/{labelled.field.id}", labelled.field.path, box, kind, card.name)  # type: ignore[arg-type]


def _from_masks(card: Card, folder: MaskFolder, home: Path, tally: Tally) -> Iterator[TypedCell]:
    table = home / folder.table
    for line, (number, word) in _rows(table, folder.id_column, folder.type_column):
        where = f"{table}:{line}"
        if word not in folder.types or not number.isdigit():
            tally.add("unknown type", where, f"'{word}'", "dropped")
            continue
        path = home / folder.folder / f"{int(number):03d}.bmp"
        mask_path = path.with_suffix(".png")
        if not path.is_file() or not mask_path.is_file():
            tally.add("missing file", where, str(path if not path.is_file() else mask_path), "dropped")
            continue
        inside = decode.read(mask_path)[:, :, 0] >= 64
        if not inside.any():
            tally.add("empty mask", str(mask_path), "no cell", "dropped")
            continue
        x, y, w, h = cv2.boundingRect(inside.astype(np.uint8))
        box = (float(x), float(y), float(x + w), float(y + h))
        identity = f"{card.name}/{folder.folder}/{path.name}"
        yield TypedCell(identity, path, box, folder.types[word], f"{card.name}/{folder.folder}")

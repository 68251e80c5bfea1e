"""Single cells of known type, from cards with a type per field or per cell image: what a classifier learns from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from dataclasses import field as made
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.data import copies
from detect.data.cards import Card
from detect.data.files import write_text
from detect.data.fingerprint import code_fingerprint, file_hash
from detect.data.joined import Groups
from detect.data.load import load_dataset
from detect.errors import DataError
from detect.formats.tally import Tally
from detect.types import Dataset, Rle


@dataclass(frozen=True)
class TypedCell:
    """One cell of known type.

    Attributes:
        id: `<set>/<path>`, with `#<annotation>` where a field has several.
        box: xyxy in pixels of the image. source: the set, or the lab within it. group: near copies share one.
        outline, nucleus: masks of the cell and of its nucleus, RLE in pixels of the image, where the set has them.
        number: of its annotation, where its field has several cells.
    """

    id: str
    path: Path
    box: tuple[float, float, float, float]
    type: str
    source: str
    group: str = ""
    outline: Rle | None = made(default=None, compare=False)
    nucleus: Rle | None = made(default=None, compare=False)
    number: int | None = made(default=None, compare=False)

    @property
    def field(self) -> str:
        """Id of its field, as its set names it."""
        path = self.id.partition("/")[2]
        return path if self.number is None else path.removesuffix(f"#{self.number}")


def load_typed(
    cards: Sequence[Card],
    tally: Tally,
    roots: dict[str, Path] | None = None,
    *,
    groups: Mapping[str, str] | None = None,
    kept: Path | None = None,
) -> list[TypedCell]:
    """Typed cells of the cards, in the order of their ids; near copies, and cells of one patient, share a group.

    Args:
        groups: group by cell id, in place of looking for copies, which takes minutes for ten thousand pictures.
        kept: file of what copies were found before, taken while the pictures are the same.
    """
    cells: list[TypedCell] = []
    for card in cards:
        parts = load_dataset(card, tally, (roots or {}).get(card.name))
        own = _reading(card)
        found = [
            replace(cell, source=f"{card.name}/{card.labs[part]}" if part in card.labs else card.name)
            for part, dataset in parts.items()
            for cell in own(dataset)
        ]
        if not found:
            raise DataError(f"{card.name} gives no types of single cells", remedy="name a card with types")
        cells += found
    tally.read["typed cells"] += len(cells)
    return _grouped(cells, groups, {card.name for card in cards if card.synthetic}, kept)


def _reading(card: Card) -> Callable[[Dataset], Iterator[TypedCell]]:
    """How a set tells the types of cells."""
    if card.pictures is not None:
        return _from_pictures
    if card.mask_folders:
        return _from_masks
    if card.types_table is not None:
        return _from_fields
    return partial(_from_boxes, by_slide=card.grouping.key == "slide")


def _grouped(
    cells: Iterable[TypedCell], given: Mapping[str, str] | None, drawn: Set[str], kept: Path | None
) -> list[TypedCell]:
    """With the groups that are given, or else of near copies, slides and patients (a cell's group, so far).

    Args:
        drawn: sets of drawings, among which no copies are looked for.
    """
    ordered = sorted(cells, key=lambda c: c.id)
    if given is not None:
        missing = next((c.id for c in ordered if c.id not in given), None)
        if missing is not None:
            raise DataError(f"no group for '{missing}'", remedy="audit these sets again")
        return [replace(c, group=given[c.id]) for c in ordered]
    pictures = sorted({c.path for c in ordered if c.source.split("/")[0] not in drawn})
    alike = dict(zip(pictures, _alike(pictures, kept), strict=True)) if pictures else {}
    joined = Groups(len(ordered))
    first: dict[str | int, int] = {}
    for i, cell in enumerate(ordered):
        if cell.path in alike:
            joined.join(i, first.setdefault(alike[cell.path], i))
        if cell.group:
            joined.join(i, first.setdefault(cell.group, i))
    return [replace(c, group=ordered[joined.of(i)].id) for i, c in enumerate(ordered)]


def _alike(pictures: Sequence[Path], kept: Path | None) -> list[int]:
    """A number for each picture, the same for near copies."""
    if kept is None:
        return copies.groups(pictures)
    told_by = code_fingerprint([copies.__name__])
    of = hashlib.sha256("".join([told_by, *map(file_hash, pictures)]).encode()).hexdigest()
    if kept.is_file():
        told = json.loads(kept.read_text("utf-8"))
        if told["pictures"] == of:
            return list(told["groups"])
    found = copies.groups(pictures)
    write_text(kept, json.dumps({"pictures": of, "groups": [int(g) for g in found]}))
    return found


def _from_pictures(dataset: Dataset) -> Iterator[TypedCell]:
    """Pictures with one label: of a cell, or of a field, which is then taken whole."""
    for labelled in dataset.fields:
        field, cells = labelled.field, labelled.annotations
        whole = (0.0, 0.0, float(field.width), float(field.height))
        kind = dataset.classes.names[cells.labels[0]] if len(cells) == 1 else labelled.extra.get("label")
        if kind is not None:
            box = _corners(cells.boxes[0]) if len(cells) == 1 else whole
            patient = f"{dataset.name}/{field.patient}" if field.patient else ""
            yield TypedCell(f"{dataset.name}/{field.id}", field.path, box, str(kind), dataset.name, patient)


def _from_fields(dataset: Dataset) -> Iterator[TypedCell]:
    """Fields with one WBC and one type: only there does the field's type belong to a known cell."""
    if "WBC" not in dataset.classes.names:
        return
    wbc = dataset.classes.index("WBC")
    for labelled in dataset.fields:
        boxes = labelled.annotations.boxes[labelled.annotations.labels == wbc]
        kind = labelled.extra.get("wbc_type")
        if kind is not None and len(boxes) == 1:
            identity = f"{dataset.name}/{labelled.field.id}"
            yield TypedCell(identity, labelled.field.path, _corners(boxes[0]), str(kind), dataset.name)


_GENERAL = ("Cell", "WBC", "RBC", "Platelet", "Platelet clump")  # labels that name no type of white cell


def _from_boxes(dataset: Dataset, *, by_slide: bool) -> Iterator[TypedCell]:
    """Fields in which every cell has a type of its own."""
    for labelled in dataset.fields:
        field, cells = labelled.field, labelled.annotations
        whose = field.patient or field.group or (field.slide if by_slide else "")
        for i in range(len(cells)):
            kind = dataset.classes.names[cells.labels[i]]
            if kind not in _GENERAL and not cells.crowd[i]:
                identity = f"{dataset.name}/{field.id}#{cells.ids[i]}"
                group = f"{dataset.name}/{whose}" if whose else ""
                place, nucleus = _corners(cells.boxes[i]), _run(cells.extra[i].get("nucleus"))
                parts = cells.masks[i], nucleus, cells.ids[i]
                yield TypedCell(identity, field.path, place, kind, dataset.name, group, *parts)


def _from_masks(dataset: Dataset) -> Iterator[TypedCell]:
    """Cells of their own pictures."""
    for labelled in dataset.fields:
        cells = labelled.annotations
        if len(cells) == 1:
            kind = dataset.classes.names[cells.labels[0]]
            identity = f"{dataset.name}/{labelled.field.id}"
            box = _corners(cells.boxes[0])
            parts = cells.masks[0], cells.extra[0].get("nucleus_mask")
            yield TypedCell(identity, labelled.field.path, box, kind, dataset.name, "", *parts)


def _run(told: Any) -> Rle | None:
    """A mask as a JSON file keeps it, or None."""
    if not isinstance(told, Mapping) or "counts" not in told:
        return None
    counts = told["counts"]
    return {"size": list(told["size"]), "counts": counts.encode("ascii") if isinstance(counts, str) else counts}


def _corners(box: NDArray[np.float32]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box.tolist()
    return x0, y0, x1, y1

"""Kinds of fields that AP is told for: by source, and by magnification. One name per field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detect.taxonomy import taxonomy
from detect.types import Dataset, LabelledField

UNKNOWN = "unknown"
_PARTS = {"all", "train", "dev", "val", "valid", "test", "images", "JPEGImages"}
_MOST_SIZES = 12  # pictures cut to any size tell nothing of where they come from
# Diameters of a red cell in pixels, in steps of the square root of 2: half a step of a microscope's usual objectives.
_DIAMETERS = (0, 32, 45, 64, 91, 128, 181)


def by_source(dataset: Dataset) -> tuple[str, list[str]]:
    """How the sources of a set are known, and the source of each field.

    What its reader says (`extra["source"]`); else the first folder of the field ids, unless all are in one or the
    folders are parts such as `train`; else the size of the picture, since pictures of one lab usually share one.
    """
    fields = dataset.fields
    if any("source" in f.extra for f in fields):
        return "as the set tells", [str(f.extra.get("source", UNKNOWN)) for f in fields]
    folders = [f.field.id.split("/")[0] if "/" in f.field.id else "" for f in fields]
    if len(set(folders)) > 1 and not set(folders) <= _PARTS | {""}:
        return "first folder of the fields", [name or UNKNOWN for name in folders]
    sizes = [f"{f.field.width} x {f.field.height} px" for f in fields]
    if len(set(sizes)) <= _MOST_SIZES:
        return "size of the picture: the set names no sources", sizes
    return "unknown: the set names no sources, and its pictures have many sizes", [UNKNOWN] * len(fields)


def by_magnification(dataset: Dataset) -> list[str]:
    """Range that the median diameter of a field's drawn red cells falls into, in pixels.

    A red cell is 7 to 8 micrometres in any field, so it stands for the scale where none is written down. `unknown`
    where a field has no red cell.
    """
    names = dataset.classes.names
    red = [k for k, name in enumerate(names) if name in taxonomy() and taxonomy().is_a(name, "RBC")]
    return [_range(red_diameter(f, red)) for f in dataset.fields]


def red_diameter(labelled: LabelledField, red: list[int]) -> float | None:
    """Median of the square root of box area, in pixels, over the cells of the labels `red`; None without any.

    Cells cut off by the border of the field are left out as long as there are others.
    """
    cells, field = labelled.annotations, labelled.field
    boxes = cells.boxes[np.isin(cells.labels, red) & ~cells.crowd]
    if not len(boxes):
        return None
    whole = (boxes[:, :2] > 1).all(axis=1) & (boxes[:, 2] < field.width - 1) & (boxes[:, 3] < field.height - 1)
    boxes = boxes[whole] if whole.any() else boxes
    return float(np.median(np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))))


def _range(diameter: float | None) -> str:
    if diameter is None:
        return UNKNOWN
    step = int(np.searchsorted(_DIAMETERS, diameter, side="right")) - 1
    last = step + 1 == len(_DIAMETERS)
    return f"{_DIAMETERS[step]} px and more" if last else f"{_DIAMETERS[step]} to {_DIAMETERS[step + 1]} px"


@dataclass(frozen=True)
class Strata:
    """The kind of each field, in the order of a set's fields.

    Attributes:
        source_rule: how the sources are known.
    """

    source_rule: str
    sources: tuple[str, ...]
    magnifications: tuple[str, ...]


def strata(dataset: Dataset) -> Strata:
    """Of a set under its own classes: those of a model may leave the red cells out."""
    rule, sources = by_source(dataset)
    return Strata(rule, tuple(sources), tuple(by_magnification(dataset)))

"""Mask images to records and back: one instance a grey level, or one cell in levels of nucleus and cytoplasm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from detect.formats.labels import is_finite
from detect.formats.tally import Tally
from detect.types import Annotations, Rle

_FARTHEST = 1e6  # pixels; pycocotools takes memory for every pixel of an edge, and a longer one ends the process


def encode(inside: NDArray[np.bool_]) -> Rle:
    """A binary picture, (h, w), as COCO compressed RLE."""
    return dict(rle.encode(np.asfortranarray(inside.astype(np.uint8))))


def from_polygons(rings: Any, width: int, height: int) -> Rle:
    """Outlines, each a list x, y, x, y, ..., as one mask. ValueError where they are no outlines, or vast."""
    for ring in rings:
        if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2 or not all(map(is_finite, ring)):
            raise ValueError(f"no outline: {str(ring)[:40]}")
        if max(map(abs, ring)) > _FARTHEST:
            raise ValueError(f"outline that leaves the field by more than {_FARTHEST:.0f} pixels")
    return dict(rle.merge(rle.frPyObjects(rings, height, width)))


def box_of(inside: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """The tightest box, xyxy, half-open, around the true pixels of a picture that has some."""
    columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def from_instances(pixels: NDArray[np.integer], label: int) -> Annotations:
    """Cells of a picture whose grey levels number them; 0 is background. The level becomes the id.

    Args:
        pixels: integers (h, w), of any depth.
        label: the class of every cell.
    """
    levels = [int(v) for v in np.unique(pixels) if v != 0]
    inside = [pixels == level for level in levels]
    boxes = np.array([box_of(i) for i in inside], np.float32).reshape(-1, 4)
    return Annotations.of(boxes, [label] * len(levels), ids=levels, masks=[encode(i) for i in inside])


def from_levels(
    pixels: NDArray[np.integer], levels: Mapping[str, int], label: int, where: str, tally: Tally
) -> Annotations:
    """One cell from a picture in few grey levels, such as nucleus 255, cytoplasm 128, rest 0.

    A level that lies between the named ones (a recompressed mask) goes to the nearest and is noted. The mask of the
    whole cell is the record's; that of each named part is kept in `extra` as `<part>_mask`.
    """
    names = [*levels]
    values = np.array([0, *(levels[n] for n in names)])
    nearest = np.abs(pixels[..., None].astype(np.int64) - values).argmin(axis=-1)
    strange = int((values[nearest] != pixels).sum())
    if strange:
        tally.add("grey level between the named ones", where, f"{strange} pixels", "repaired")
    if not (nearest > 0).any():
        tally.add("empty mask", where, "no cell", "dropped")
        return Annotations.of([], [])
    parts = {f"{n}_mask": encode(nearest == i) for i, n in enumerate(names, 1)}
    inside = nearest > 0
    return Annotations.of([box_of(inside)], [label], extra=[parts], masks=[encode(inside)])


def to_instances(annotations: Annotations, width: int, height: int) -> tuple[NDArray[np.uint16], int]:
    """Cells as a picture whose grey levels number them, 1 to n, uint16 (h, w). A cell without a mask is its box.

    Later cells lie on top.

    Returns:
        The picture, and the number of cells of which nothing is left to see.
    """
    canvas = np.zeros((height, width), np.uint16)
    for i in range(len(annotations)):
        mask = annotations.masks[i]
        if mask is not None:
            canvas[rle.decode(mask).astype(bool)] = i + 1
        else:
            # A box over the border would count from the far side.
            x0, y0, x1, y1 = np.clip(np.round(annotations.boxes[i]), 0, [width, height, width, height]).astype(int)
            canvas[y0:y1, x0:x1] = i + 1
    return canvas, len(annotations) - len(np.unique(canvas[canvas > 0]))

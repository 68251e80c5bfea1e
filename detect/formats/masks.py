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
_LONGEST_RUN = 7  # bytes of five bits, which hold what pycocotools can: 32 bits


def encode(inside: NDArray[np.bool_]) -> Rle:
    """A binary picture, (h, w), as COCO compressed RLE."""
    return dict(rle.encode(np.asfortranarray(inside.astype(np.uint8))))


def encode_at(inside: NDArray[np.bool_], x: int, y: int, width: int, height: int) -> Rle:
    """RLE of a mask that lies at (x, y) in a field, without a picture of the whole field."""
    edges = np.diff(np.pad(inside.T.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    columns, rows = np.nonzero(edges)
    turns = (x + columns) * height + y + rows
    # A run that ends at the foot of a column where the next begins goes on: both turns fall away.
    again = np.flatnonzero(turns[1:] == turns[:-1])
    turns = np.delete(turns, np.concatenate([again, again + 1]))
    counts = np.diff(np.concatenate([[0], turns, [width * height]]))
    if counts[-1] == 0:
        counts = counts[:-1]
    return dict(rle.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width))


def from_polygons(rings: Any, width: int, height: int) -> Rle:
    """Outlines, each a list x, y, x, y, ..., as one mask. ValueError where they are no outlines, or vast."""
    for ring in rings:
        if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2 or not all(map(is_finite, ring)):
            raise ValueError(f"no outline: {str(ring)[:40]}")
        if max(map(abs, ring)) > _FARTHEST:
            raise ValueError(f"outline that leaves the field by more than {_FARTHEST:.0f} pixels")
    return dict(rle.merge(rle.frPyObjects(rings, height, width)))


def from_runs(counts: Any, width: int, height: int) -> Rle:
    """Runs of COCO, a list of numbers or compressed text, as a mask. ValueError where they do not fill the field.

    pycocotools does not ask: it fills up what is missing, and reads or writes beyond what is too long.
    """
    if isinstance(counts, list):
        if not all(isinstance(n, int) and 0 <= n <= width * height for n in counts):
            raise ValueError(f"no runs: {str(counts)[:40]}")
        runs = np.array(counts, np.int64)
    elif isinstance(counts, str):
        runs = run_lengths(counts.encode("ascii"))
    else:
        raise ValueError(f"no runs: {str(counts)[:40]}")
    if runs.min(initial=0) < 0 or runs.sum() != width * height:
        raise ValueError(f"runs of {runs.sum()} pixels, on a field of {width} x {height}")
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts.encode("ascii")}
    return dict(rle.frPyObjects({"size": [height, width], "counts": counts}, height, width))


def run_lengths(counts: bytes) -> NDArray[np.int64]:
    """The runs of compressed text. ValueError where it is none.

    Each byte holds five bits, least first, a mark whether more follow, and in the last of a number its sign. From the
    fourth on, a number is the difference to the one before the last (rleFrString of pycocotools).
    """
    digits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((digits & 32) == 0)
    if ((digits < 0) | (digits > 63)).any() or (len(digits) and (not len(ends) or ends[-1] != len(digits) - 1)):
        raise ValueError("no compressed runs, or cut off")
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)]
    lengths = ends - starts + 1
    if (lengths > _LONGEST_RUN).any():
        raise ValueError("a run that no picture can hold")
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((digits & 31) << (5 * places), starts) if len(ends) else digits
    runs = np.where(digits[ends] & 16, runs - (1 << (5 * lengths)), runs)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return np.asarray(runs, np.int64)


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


def mirrored(mask: Rle, *, across: bool, down: bool) -> Rle:
    """A mask as it lies in the mirror image of its field: from left to right, from top to bottom, or both."""
    inside = rle.decode(dict(mask))
    return dict(rle.encode(np.asfortranarray(inside[:: -1 if down else 1, :: -1 if across else 1])))

"""Cells to learn from: each with enough of its field around it, in memory, to be cut out anew each time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detect.classify.crops import MaskOut, crop, on_white, resize
from detect.classify.settings import CropSettings
from detect.data.typed import TypedCell
from detect.errors import DataError
from detect.geometry import iou
from detect.images import decode, preprocess
from detect.taxonomy import taxonomy
from detect.types import Detections, Image

Box = tuple[float, float, float, float]
_SLACK = 2.0  # pixels more than the farthest crop reaches, for rounding


@dataclass(frozen=True, eq=False)
class Cells:
    """Typed cells, cut out wide.

    Attributes:
        pictures: uint8 RGB, a part of its field around each cell with room for every crop of it.
        boxes: of each, xyxy in its picture: the true box first, then those that a detector gives.
        labels: int64 (n,), indices into `types`. groups, ids: of each.
        mask_out: how crops are masked, see `crops.crop`; outlines are masked already.
    """

    types: tuple[str, ...]
    pictures: tuple[Image, ...]
    boxes: tuple[tuple[Box, ...], ...]
    labels: NDArray[np.int64]
    groups: tuple[str, ...]
    ids: tuple[str, ...]
    mask_out: MaskOut = "none"

    def __len__(self) -> int:
        return len(self.pictures)

    def crops(self, size: int, margin: float) -> NDArray[np.uint8]:
        """Every cell by its true box, as a bundle sees it: uint8 (n, size, size, 3)."""
        found = np.empty((len(self), size, size, 3), np.uint8)
        for i, (picture, boxes) in enumerate(zip(self.pictures, self.boxes, strict=True)):
            found[i] = resize(crop(picture, boxes[0], margin, self.mask_out).pixels, size)
        return found

    def drawn(self, i: int, size: int, margin: float, jitter: float, rng: np.random.Generator) -> NDArray[np.uint8]:
        """One cell by a box that is moved and scaled at random, half of the time one that a detector gave."""
        boxes = self.boxes[i]
        x0, y0, x1, y1 = boxes[0] if len(boxes) == 1 or rng.random() < 0.5 else boxes[int(rng.integers(1, len(boxes)))]
        side = max(x1 - x0, y1 - y0)
        dx, dy, grow = rng.uniform(-jitter, jitter, 3) * side
        box = (x0 + dx - grow / 2, y0 + dy - grow / 2, x1 + dx + grow / 2, y1 + dy + grow / 2)
        return resize(crop(self.pictures[i], box, margin, self.mask_out).pixels, size)


def keep(
    cells: Sequence[TypedCell],
    types: Sequence[str],
    settings: CropSettings,
    *,
    jitter: float = 0.0,
    detected_by: str | None = None,
) -> Cells:
    """Read and cut.

    Args:
        types: the order of labels; a cell of another type is a DataError.
        jitter: how far boxes will be moved. detected_by: a detector's bundle, for boxes as it gives them.
    """
    unknown = sorted({c.type for c in cells} - set(types))
    if unknown:
        raise DataError(f"cells of types that are not learnt: {unknown}", remedy="use a split without them")

    @lru_cache(maxsize=4)  # a field's cells follow one another
    def ready(path: Path) -> Image:
        return preprocess.apply(decode.read(path), settings.preprocess)

    given = _detected(cells, detected_by) if detected_by is not None else [()] * len(cells)
    pictures, boxes = [], []
    for cell, more in zip(cells, given, strict=True):
        field = ready(cell.path)
        if settings.mask_out == "outline":
            if cell.outline is None:
                what = f"mask_out: {cell.id} has no outline"
                raise DataError(what, where=str(cell.path), remedy="use a set with masks, or mask_out: ellipse")
            field = on_white(field, cell.outline)
        picture, moved = _wide(field, (cell.box, *more), settings.margin, jitter)
        pictures.append(picture)
        boxes.append(moved)
    labels = np.array([types.index(c.type) for c in cells], np.int64)
    names = tuple(c.group for c in cells), tuple(c.id for c in cells)
    masked: MaskOut = "ellipse" if settings.mask_out == "ellipse" else "none"
    return Cells(tuple(types), tuple(pictures), tuple(boxes), labels, *names, masked)


def _wide(field: Image, boxes: Sequence[Box], margin: float, jitter: float) -> tuple[Image, tuple[Box, ...]]:
    """The part of a field that holds every crop of these boxes, and the boxes in it."""
    x0, y0, x1, y1 = (f(b[k] for b in boxes) for k, f in ((0, min), (1, min), (2, max), (3, max)))
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    half = 0.0
    for a0, b0, a1, b1 in boxes:
        side = max(a1 - a0, b1 - b0)
        reach = side * (1 + jitter) * (0.5 + margin) + side * jitter
        half = max(half, reach + max(abs((a0 + a1) / 2 - cx), abs((b0 + b1) / 2 - cy)))
    # Cut at whole pixels, and not beyond the field: a crop of the part has the same pixels as a crop of the field.
    height, width = field.shape[:2]
    left, top = max(0, math.floor(cx - half - _SLACK)), max(0, math.floor(cy - half - _SLACK))
    left, top = min(left, width - 1), min(top, height - 1)
    right, bottom = math.ceil(cx + half + _SLACK), math.ceil(cy + half + _SLACK)
    part = np.ascontiguousarray(field[top : max(top + 1, bottom), left : max(left + 1, right)])
    return part, tuple((a - left, b - top, c - left, d - top) for a, b, c, d in boxes)


_LEAST_IOU = 0.5  # with the true box, for a detection to be of that cell


def _detected(cells: Sequence[TypedCell], name: str) -> list[tuple[Box, ...]]:
    """By cell, the box that a detector gives it, where it finds it and calls it what it is, or something above that."""
    from detect.bundles.folder import open_bundle
    from detect.detectors.opened import open_detector
    from detect.runtime.base import EngineSettings

    detector = open_detector(open_bundle(name, "detector"), EngineSettings())

    @cache  # boxes are small
    def found_in(path: Path) -> Detections:
        return detector.predict([decode.read(path)])[0]

    out: list[tuple[Box, ...]] = []
    for cell in cells:
        found = found_in(cell.path)
        called = [found.classes.names[label] for label in found.labels]
        found = found.select(np.array([taxonomy().is_a(cell.type, name) for name in called], bool))
        overlap = iou(np.array([cell.box], np.float32), found.boxes)[0] if len(found) else np.zeros(0)
        if len(overlap) and overlap.max() >= _LEAST_IOU:
            a, b, c, d = found.boxes[int(overlap.argmax())].tolist()
            out.append(((a, b, c, d),))
        else:
            out.append(())
    return out

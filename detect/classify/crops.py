"""A cell cut out of its field with a margin, from the field's own pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from detect.types import CellCrop, Image

WHITE = 255  # grey level of what is masked out
BORDER = 2.0  # pixels: a box this near to the border of its field may have been cut by it


MaskOut = Literal["none", "ellipse", "outline"]
Box = tuple[float, float, float, float]


def crop(
    field: Image, box: Box, margin: float, mask_out: MaskOut = "none", outline: Mapping[str, Any] | None = None
) -> CellCrop:
    """A square around the centre of `box`, `margin` times its longer side wider on each side.

    Where the square leaves the field, the field's last pixels are repeated.

    Args:
        mask_out: what lies outside the ellipse that fills the box, or outside `outline`, is white.
        outline: the cell's mask, RLE in field coordinates.
    """
    height, width = field.shape[:2]
    x0, y0, x1, y1 = box
    half = max(x1 - x0, y1 - y0) * (0.5 + margin)
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    side = max(1, _whole(2 * half))
    # At least one pixel of the square lies in the field, however little of the box does.
    left = min(max(_whole(cx - half), 1 - side), width - 1)
    top = min(max(_whole(cy - half), 1 - side), height - 1)
    right, bottom = left + side, top + side
    if mask_out == "outline" and outline is not None:
        field = on_white(field, outline)
    inside = field[max(0, top) : min(height, bottom), max(0, left) : min(width, right)]
    if inside.shape[:2] != (side, side):
        over = (max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width))
        inside = cv2.copyMakeBorder(inside, *over, cv2.BORDER_REPLICATE)
    if mask_out == "ellipse":
        inside = np.where(_ellipse(box, left, top, side)[:, :, None], inside, np.uint8(WHITE))
    return CellCrop(np.ascontiguousarray(inside), box, at_border(box, width, height), left, top)


def _whole(value: float) -> int:
    """The nearest integer, halves upwards: moving a picture by whole pixels moves its crops by as many."""
    return math.floor(value + 0.5)


def _ellipse(box: Box, left: int, top: int, side: int) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = box
    x = (np.arange(side) + left + 0.5 - (x0 + x1) / 2) / max((x1 - x0) / 2, 0.5)
    y = (np.arange(side) + top + 0.5 - (y0 + y1) / 2) / max((y1 - y0) / 2, 0.5)
    return np.asarray(np.square(x)[None, :] + np.square(y)[:, None] <= 1)


def on_white(field: Image, outline: Mapping[str, Any]) -> Image:
    """The field with everything white but one cell."""
    return np.where(rle.decode(outline).astype(bool)[:, :, None], field, np.uint8(WHITE))


def at_border(box: Box, width: int, height: int) -> bool:
    """Whether the border of the field may have cut the cell."""
    x0, y0, x1, y1 = box
    return x0 < BORDER or y0 < BORDER or x1 > width - BORDER or y1 > height - BORDER


def resize(pixels: Image, size: int) -> NDArray[np.uint8]:
    """A crop at the size of a model's input; shrunk by area, so that detail is averaged and not skipped."""
    if pixels.shape[:2] == (size, size):
        return pixels
    how = cv2.INTER_AREA if pixels.shape[0] > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (size, size), interpolation=how), dtype=np.uint8)

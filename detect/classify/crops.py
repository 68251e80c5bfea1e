"""A cell cut out of its field with a margin, from the field's own pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from detect.types import CellCrop, Image

WHITE = 255  # grey level of what is masked out
BORDER = 2.0  # pixels: a box this near to the border of its field may have been cut by it


def crop(field: Image, box: tuple[float, float, float, float], margin: float) -> CellCrop:
    """A square around the centre of `box`, `margin` times its longer side wider on each side.

    Where the square leaves the field, the field's last pixels are repeated.
    """
    height, width = field.shape[:2]
    x0, y0, x1, y1 = box
    half = max(x1 - x0, y1 - y0) * (0.5 + margin)
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    side = max(1, round(2 * half))
    # At least one pixel of the square lies in the field, however little of the box does.
    left = min(max(round(cx - half), 1 - side), width - 1)
    top = min(max(round(cy - half), 1 - side), height - 1)
    right, bottom = left + side, top + side
    inside = field[max(0, top) : min(height, bottom), max(0, left) : min(width, right)]
    if inside.shape[:2] != (side, side):
        over = (max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width))
        inside = cv2.copyMakeBorder(inside, *over, cv2.BORDER_REPLICATE)
    return CellCrop(np.ascontiguousarray(inside), box, at_border(box, width, height))


def mask_out(field: Image, box: tuple[float, float, float, float], outline: Mapping[str, Any] | None) -> Image:
    """The field with everything white but one cell.

    Args:
        outline: the cell's mask, RLE in field coordinates; None takes the ellipse that fills its box.
    """
    if outline is not None:
        inside = rle.decode(outline).astype(bool)
    else:
        height, width = field.shape[:2]
        x0, y0, x1, y1 = box
        x = (np.arange(width) + 0.5 - (x0 + x1) / 2) / max((x1 - x0) / 2, 0.5)
        y = (np.arange(height) + 0.5 - (y0 + y1) / 2) / max((y1 - y0) / 2, 0.5)
        inside = np.square(x)[None, :] + np.square(y)[:, None] <= 1
    return np.where(inside[:, :, None], field, np.uint8(WHITE))


def at_border(box: tuple[float, float, float, float], width: int, height: int) -> bool:
    """Whether the border of the field may have cut the cell."""
    x0, y0, x1, y1 = box
    return x0 < BORDER or y0 < BORDER or x1 > width - BORDER or y1 > height - BORDER


def resize(pixels: Image, size: int) -> NDArray[np.uint8]:
    """A crop at the size of a model's input; shrunk by area, so that detail is averaged and not skipped."""
    if pixels.shape[:2] == (size, size):
        return pixels
    how = cv2.INTER_AREA if pixels.shape[0] > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (size, size), interpolation=how), dtype=np.uint8)

"""A field resized to a model's input: longer side to a fixed length, centred on grey up to a multiple of the stride."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from detect import geometry
from detect.types import Image


@dataclass(frozen=True)
class Letterbox:
    """How a field of one size lies in the input.

    Attributes:
        width, height: of the input, pixels.
        scale_x, scale_y: input pixels per field pixel.
        left, top: where the field begins in the input.
        inner: (width, height) of the resized field.
    """

    width: int
    height: int
    scale_x: float
    scale_y: float
    left: int
    top: int
    inner: tuple[int, int]

    def back(self, boxes: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
        """Boxes of the input in pixels of the field, clipped to it."""
        return geometry.clip(self.back_unclipped(boxes), width, height)

    def back_unclipped(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes of the input in pixels of the field."""
        offset = np.array([self.left, self.top, self.left, self.top], np.float32)
        scale = np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y], np.float32)
        return np.asarray((boxes - offset) / scale, np.float32)


def plan(width: int, height: int, size: int, stride: int, *, square: bool = False) -> Letterbox:
    """Where a field of `width` x `height` pixels goes in an input whose longer side is `size`."""
    ratio = size / max(width, height)
    return scaled(width, height, (ratio, ratio), stride, square=size if square else None)


def scaled(width: int, height: int, scale: tuple[float, float], stride: int, *, square: int | None = None) -> Letterbox:
    """Where a field of `width` x `height` pixels goes when it is resized by `scale`, across and down.

    Args:
        square: side of the input of a network that knows one shape only; the resized field must fit into it.
    """
    inner = (max(1, round(width * scale[0])), max(1, round(height * scale[1])))
    full = (square, square) if square else tuple(-(-side // stride) * stride for side in inner)
    # The library that trains rounds half pixels of padding this way; a box must not move between the two.
    left, top = (round((f - i) / 2 - 0.1) for f, i in zip(full, inner, strict=True))
    return Letterbox(full[0], full[1], *scale, left, top, inner)


def place(pixels: Image, box: Letterbox, pad: int, out: Image) -> None:
    """Resize a field into `out`, uint8 (box.height, box.width, 3)."""
    out[...] = pad
    w, h = box.inner
    target = out[box.top : box.top + h, box.left : box.left + w]
    if pixels.shape[:2] == (h, w):
        target[...] = pixels
    else:
        target[...] = cv2.resize(pixels, (w, h), interpolation=cv2.INTER_LINEAR)

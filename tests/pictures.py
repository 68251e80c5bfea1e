"""Small pictures made from a seed, and their encoding."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from detect.types import Image

WIDTH, HEIGHT = 96, 64
_ORIENTATION = 0x0112
_Array = NDArray[Any]
# What was done to the upright picture before it was stored under each EXIF orientation.
STORED: dict[int, Callable[[_Array], _Array]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def smear(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> Image:
    """A plausible field: pale ground, pink discs with a pale middle, two large cells with a dark nucleus."""
    rng = np.random.default_rng(seed)
    field = np.full((height, width, 3), (235, 225, 220), np.uint8)
    short = min(width, height)
    for _ in range(14):
        middle = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        radius = int(rng.integers(max(1, short // 16), max(2, short // 8)))
        cv2.circle(field, middle, radius, (220, int(rng.integers(130, 170)), 150), -1)
        cv2.circle(field, middle, radius // 3, (232, 200, 195), -1)
    for _ in range(2):
        middle = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        cv2.circle(field, middle, short // 6, (190, 160, 210), -1)
        cv2.circle(field, middle, short // 9, (90, 50, 140), -1)
    return np.ascontiguousarray(cv2.GaussianBlur(field, (5, 5), 0))


def deep(pixels: Image) -> NDArray[np.uint16]:
    """The same picture with 16 bits a sample; black and white are in it, so that its whole depth is used."""
    out = pixels.astype(np.uint16) * 257
    out[0, 0], out[-1, -1] = 65535, 0
    return out


def encode(pixels: _Array, kind: str, orientation: int | None = None, **options: Any) -> bytes:
    """A picture as a file of Pillow's `kind`, stored so that its EXIF orientation sets it upright."""
    if orientation is not None:
        exif = PilImage.Exif()
        exif[_ORIENTATION] = orientation
        options["exif"] = exif
        pixels = STORED[orientation](pixels)
    out = io.BytesIO()
    PilImage.fromarray(np.ascontiguousarray(pixels)).save(out, kind, **options)
    return out.getvalue()


def jpeg(pixels: _Array, **options: Any) -> bytes:
    """A good JPEG, colours at full resolution."""
    return encode(pixels, "JPEG", **{"quality": 95, "subsampling": 0, **options})

"""A cell as it was drawn, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as made

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Drawn:
    """One cell on its own grid of pixels, which may leave the field.

    Attributes:
        left, top: of the grid in the field, pixels. density: dye to float32 (h, w), how much of it lies on each pixel.
        cell, nucleus: bool (h, w); nucleus None where there is none.
        attributes: of the whole cell, before the border cuts it.
    """

    name: str
    left: int
    top: int
    density: Mapping[str, Floats]
    cell: Mask
    nucleus: Mask | None = None
    attributes: Mapping[str, float | bool] = made(default_factory=dict)


def circularity(mask: Mask) -> float:
    """4 pi area / perimeter squared of the largest outline: 1 for a disc, less for any other shape (Cox, 1927).

    The perimeter is that of Vossepoel and Smeulders (1982), who weigh straight and slanting steps and corners so that a
    drawn disc comes out as round as it is.
    """
    outline = _largest(mask)
    if outline is None or len(outline) < 3:
        return 0.0
    steps = np.diff(outline, axis=0, append=outline[:1])
    slanting = int(np.count_nonzero(steps[:, 0] * steps[:, 1]))
    ways = 3 * steps[:, 0] + steps[:, 1]
    corners = int(np.count_nonzero(np.diff(ways, append=ways[:1])))
    along = 0.980 * (len(steps) - slanting) + 1.406 * slanting - 0.091 * corners
    area = cv2.contourArea(outline) + 0.5 * along  # outlines run through the centres of border pixels
    return round(min(1.0, float(4 * np.pi * area / (along + np.pi) ** 2)), 3)


def solidity(mask: Mask) -> float:
    """Area of the largest outline by that of its convex hull: 1 where nothing is dented."""
    outline = _largest(mask)
    if outline is None:
        return 0.0
    return round(float(cv2.contourArea(outline) / max(cv2.contourArea(cv2.convexHull(outline)), 1.0)), 3)


def _largest(mask: Mask) -> NDArray[np.int32] | None:
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(max(outlines, key=len)[:, 0], np.int32) if outlines else None


def diameter(mask: Mask, px_per_um: float) -> float:
    """Micrometres, of a circle of the same area."""
    return round(2 * float(np.sqrt(np.count_nonzero(mask) / np.pi)) / px_per_um, 2)

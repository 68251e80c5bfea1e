"""Where a large field is cut, so that a model can look at it piece by piece."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """A piece of a field, pixels of the field, half-open.

    Attributes:
        cut: which of its sides (left, top, right, bottom) lie within the field, so that cells are cut there.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    cut: tuple[bool, bool, bool, bool] = (False, False, False, False)

    @property
    def width(self) -> int:
        """Pixels."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Pixels."""
        return self.y1 - self.y0


def plan(width: int, height: int, side: tuple[float, float], overlap: tuple[float, float]) -> tuple[Tile, ...]:
    """Tiles that cover a field, row by row. All are of one size, and neighbours share at least `overlap`.

    Every tile is as small as their number allows, so that no two overlap more than they must.

    Args:
        side: greatest width and height of a tile, pixels of the field. overlap: along each, less than the side.
    """
    # Whole pixels: a tile must not be larger than what it goes into by the rounding of its side.
    columns = _cuts(width, math.floor(side[0]), overlap[0])
    rows = _cuts(height, math.floor(side[1]), overlap[1])
    return tuple(
        Tile(x0, y0, x1, y1, (x0 > 0, y0 > 0, x1 < width, y1 < height)) for y0, y1 in rows for x0, x1 in columns
    )


def _cuts(size: int, side: int, overlap: float) -> list[tuple[int, int]]:
    """Beginnings and ends along one direction."""
    if size <= side:
        return [(0, size)]
    if overlap >= side:
        raise ValueError(f"tiles of {side} pixels cannot overlap by {overlap}")
    count = math.ceil((size - overlap) / (side - overlap))
    length = min(size, math.ceil((size + (count - 1) * overlap) / count))
    return [(start, start + length) for start in (round(i * (size - length) / (count - 1)) for i in range(count))]

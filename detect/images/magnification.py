"""How large things are: the scale of a slide in its pixels, by the diameter of a red cell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

RED_CELL_UM = 7.5  # diameter of a red cell, as dried and stained

# How a field comes to a detector's input: auto, its red cells in the size that was trained, in tiles where the field is
# then larger than the input; fit, its longer side resized to the input's.
Looking = Literal["auto", "fit"]


@dataclass(frozen=True)
class Scale:
    """The size of a red cell in a slide's pixels.

    Attributes:
        width_px, height_px: median over the cells; they differ where a picture was squeezed.
        spread: half the distance between the quartiles of their diameters, as a part of the median.
        cells: how many told it; 0 where a person did.
        how: "cells", "given" (the diameter) or "mpp" (micrometres a pixel).
        mixed: the cells are of several sizes: fields at several magnifications under one name.
        sure: enough cells, of one size, and alike by both ways of measuring.
    """

    width_px: float
    height_px: float
    spread: float = 0.0
    cells: int = 0
    how: Literal["cells", "given", "mpp"] = "cells"
    mixed: bool = False
    sure: bool = True

    @property
    def diameter_px(self) -> float:
        """Pixels."""
        return math.sqrt(self.width_px * self.height_px)

    @property
    def um_per_px(self) -> float:
        """Micrometres a pixel, if red cells are as wide as they usually are."""
        return RED_CELL_UM / self.diameter_px


def given(*, diameter_px: float | None = None, mpp: float | None = None) -> Scale | None:
    """What a person says of the scale: a red cell's diameter in pixels, or micrometres a pixel."""
    if diameter_px is not None:
        return Scale(diameter_px, diameter_px, how="given")
    if mpp is not None:
        return Scale(RED_CELL_UM / mpp, RED_CELL_UM / mpp, how="mpp")
    return None

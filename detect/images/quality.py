"""How good a field's picture is, in plain numbers, and what is worth a second look."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.types import Image

_SIDE = 320  # pixels of the shorter side that quality is measured at, so that sizes compare
_ROWS = 4  # of them one is looked at for colour: over so many pixels means and shares are no other for it
_UNIT = 20.0  # pixels of a red cell at which sharpness is measured, so that magnifications compare

_MIDDLE = 2400  # pixels of the middle of a field at which sharpness is measured

# Flags of a field, and when it gets them. The limit of sharpness was chosen on part dev of TXL-PBC (146 fields): 1 % of
# them lie below 0.045, and 99 % of the same fields blurred by 0.08 red cell diameters below 0.042.
BLURRED, DARK, CLIPPED, FLAT, EMPTY = "blurred", "dark", "clipped", "hardly any contrast", "no cells"
FLAGS = (BLURRED, DARK, CLIPPED, FLAT, EMPTY)
_SHARP, _DARK, _CLIPPED, _FLAT = 0.04, 60.0, 0.25, 6.0


def quality(pixels: Image, red_cell_px: float | None = None) -> dict[str, float]:
    """Numbers of one field.

    Args:
        red_cell_px: diameter of its red cells; without it there is no sharpness.

    Returns:
        focus: variance of the Laplacian of the grey picture (Pech-Pacheco et al., ICPR 2000), higher is sharper.
        brightness: mean grey, 0 to 255. contrast: standard deviation of grey.
        clipped: share of pixels at 0 or 255 in any channel.
        saturation: mean of HSV, 0 to 255: how strongly the picture is coloured.
        sharpness: focus over the variance of grey, both where red cells are 20 pixels wide: it compares over
            magnifications and stains.
    """
    step = max(1, min(pixels.shape[:2]) // _SIDE)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = np.ascontiguousarray(grey[::step, ::step])
    mean, deviation = cv2.meanStdDev(small)
    _, edge = cv2.meanStdDev(cv2.Laplacian(small, cv2.CV_16S))
    few = np.ascontiguousarray(pixels[:: _ROWS * step, ::step])
    values = few.reshape(len(few), -1)
    clipped = values.size - cv2.countNonZero(values) + cv2.countNonZero(cv2.inRange(values, 255, 255))
    found = {
        "focus": round(float(edge[0, 0]) ** 2, 2),
        "brightness": round(float(mean[0, 0]), 2),
        "contrast": round(float(deviation[0, 0]), 2),
        "clipped": round(clipped / values.size, 4),
        "saturation": round(_saturation(few), 2),
    }
    if red_cell_px is not None:
        found["sharpness"] = round(_sharpness(grey, red_cell_px), 4)
    return found


def _saturation(pixels: Image) -> float:
    return float(cv2.mean(cv2.extractChannel(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV), 1))[0])


def _sharpness(grey: NDArray[np.uint8], red_cell_px: float) -> float:
    rows, columns = ((max(0, n - _MIDDLE) // 2, min(n, _MIDDLE)) for n in grey.shape)
    grey = grey[rows[0] : rows[0] + rows[1], columns[0] : columns[0] + columns[1]]
    factor = min(1.0, _UNIT / red_cell_px)  # what is small already is not made sharper
    size = (max(8, round(grey.shape[1] * factor)), max(8, round(grey.shape[0] * factor)))
    grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    _, spread = cv2.meanStdDev(grey)
    _, edge = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    return float(edge[0, 0]) ** 2 / max(float(spread[0, 0]) ** 2, 1.0)


def flags(measured: Mapping[str, float], cells: int) -> tuple[str, ...]:
    """What is worth a second look of a field with these numbers."""
    out = [BLURRED] if measured.get("sharpness", _SHARP) < _SHARP else []
    out += [DARK] if measured["brightness"] < _DARK else []
    out += [CLIPPED] if measured["clipped"] > _CLIPPED else []
    out += [FLAT] if measured["contrast"] < _FLAT else []
    out += [] if cells else [EMPTY]
    return tuple(out)

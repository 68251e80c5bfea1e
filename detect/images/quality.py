"""How good a field's picture is, in plain numbers; judged by whoever reads them."""

from __future__ import annotations

import cv2
import numpy as np

from detect.types import Image

_SIDE = 320  # pixels of the shorter side that quality is measured at, so that sizes compare


def quality(pixels: Image) -> dict[str, float]:
    """Numbers of one field.

    Returns:
        focus: variance of the Laplacian of the grey picture (Pech-Pacheco et al., ICPR 2000), higher is sharper.
        brightness: mean grey, 0 to 255. contrast: standard deviation of grey.
        clipped: share of pixels at 0 or 255 in any channel.
    """
    step = max(1, min(pixels.shape[:2]) // _SIDE)
    small = np.ascontiguousarray(pixels[::step, ::step])
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(grey)
    _, edge = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    clipped = np.count_nonzero((small == 0) | (small == 255)) / small.size
    return {
        "focus": round(float(edge[0, 0]) ** 2, 2),
        "brightness": round(float(mean[0, 0]), 2),
        "contrast": round(float(deviation[0, 0]), 2),
        "clipped": round(clipped, 4),
    }

"""Small masks of boxes, as networks give them, pasted into the field."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.formats.masks import encode_at
from detect.types import Rle


def paste(small: NDArray[Any], box: NDArray[Any], width: int, height: int) -> Rle:
    """A mask of s x s places within a box as the mask of the field.

    Each pixel's centre is looked up between the centres of the places, linearly, beyond the outermost against 0; what
    reaches one half is inside (He et al., "Mask R-CNN", ICCV 2017).

    Args:
        small: (s, s), from 0 to 1. box: (4,), xyxy in pixels of the field, which it may leave.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    left, top = max(0, int(np.floor(x0))), max(0, int(np.floor(y0)))
    right, bottom = min(width, int(np.ceil(x1))), min(height, int(np.ceil(y1)))
    if right <= left or bottom <= top:
        return encode_at(np.zeros((1, 1), bool), 0, 0, width, height)
    across, down = small.shape[1] / max(x1 - x0, 1e-6), small.shape[0] / max(y1 - y0, 1e-6)
    places = np.array([[across, 0, (left + 0.5 - x0) * across - 0.5], [0, down, (top + 0.5 - y0) * down - 0.5]])
    grown = cv2.warpAffine(
        np.ascontiguousarray(small, np.float32),
        places,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    )
    return encode_at(grown >= 0.5, left, top, width, height)

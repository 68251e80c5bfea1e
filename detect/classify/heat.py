"""Maps of where a classifier looks: how they are drawn, and one that needs no training framework.

Occlusion: Zeiler and Fergus, ECCV 2014. A patch of the crop is blurred, and what the answer's probability loses by it
is how much it hangs on that patch. It asks the bundle's own graph, so it explains whatever runs.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.classify.bundled import BundleClassifier
from detect.types import CellCrop, Image

Map = NDArray[np.float32]  # (s, s), from 0 to 1
_PLACES = 9  # patches a side
_WIDE = 0.22  # of the crop's side: a patch, so that neighbours overlap


def occlusion(classifier: BundleClassifier, crop: CellCrop, answer: int) -> Map:
    """What the probability of a type loses where the crop is blurred, from none (0) to the most (1), (h, w).

    All 0 where nothing lowers it.

    Args:
        answer: index of the type among the classifier's.
    """
    pixels, side = crop.pixels, crop.pixels.shape[0]
    blurred = cv2.GaussianBlur(pixels, (0, 0), max(side / 8, 1))
    middles = (np.arange(_PLACES) + 0.5) * side / _PLACES
    half = max(1.0, _WIDE * side / 2)
    hidden = []
    for y in middles:
        for x in middles:
            shown = pixels.copy()
            rows, columns = (slice(max(0, round(m - half)), round(m + half)) for m in (y, x))
            shown[rows, columns] = blurred[rows, columns]
            hidden.append(replace(crop, pixels=shown))
    told = classifier.predict([crop, *hidden])[:, answer]
    lost = np.maximum(told[0] - told[1:], 0).reshape(_PLACES, _PLACES).astype(np.float32)
    if not lost.max() > 0:
        return np.zeros((side, side), np.float32)
    grown = cv2.resize(lost / lost.max(), (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(grown, 0, 1), np.float32)


def over(crop: Image, found: Map) -> Image:
    """A map over its crop: what it marks glows, the rest is dim and grey."""
    colour = cv2.cvtColor(cv2.applyColorMap(np.uint8(found * 255), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    grey = np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    weight = 0.65 * found[..., None]
    return np.asarray(np.rint((1 - weight) * grey + weight * colour), np.uint8)

"""A detector that needs no training: colour separation, watershed, region growing. Baseline, pre-annotator, fallback.

The chain of the literature: nuclei by Otsu's threshold or k-means of the stain; the white cell grown from its nucleus
up to the ground and to its neighbours; touching red cells split by a watershed from markers, the markers found by the
distance transform and by radial symmetry; covered outlines completed by an ellipse. Every length is in diameters of
the field's own red cells, measured first, so that one setting serves any magnification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from detect import geometry
from detect.detectors.classical_cells import (
    PLATELET,
    Cell,
    ClassicalSettings,
    enlarged,
    platelets,
    red_cells,
    scene_of,
    stain_of,
    white_cells,
)
from detect.formats.masks import encode_at
from detect.images import segment
from detect.images.magnification import Scale
from detect.images.segment import Labels
from detect.types import ClassMap, Detections, Image

CLASSES = ClassMap(("WBC", "RBC", "Platelet"))
NUCLEUS, CYTOPLASM = 255, 128  # grey levels, those of the public set wbc-masks
_LOOK_LEAST = 14.0  # pixels; red cells narrower than this are too small to be measured


class ClassicalDetector:
    """A `Detector` with masks and no weights. An empty field has no cells; the same field gives the same cells.

    Args:
        thresholds: least score per class; none where not given.
        max_detections: most cells of one field, in place of that of the settings.
    """

    def __init__(
        self,
        settings: ClassicalSettings | None = None,
        *,
        thresholds: Mapping[str, float] | None = None,
        max_detections: int | None = None,
    ) -> None:
        self.settings = settings or ClassicalSettings()
        self.classes = CLASSES
        self._most = max_detections or self.settings.max_detections
        self._least = [(thresholds or {}).get(name, 0.0) for name in CLASSES]

    red_cell_px: float | None = None

    def shape(self, width: int, height: int, scale: Scale | None = None) -> tuple[int, int]:
        """See `Detector.shape`: fields are looked at one by one, so any of them share a batch."""
        del width, height, scale
        return 0, 0

    def ratio(self, width: int, height: int, scale: Scale | None = None) -> float | None:
        """See `Detector.ratio`."""
        del width, height, scale
        return None

    def predict(
        self,
        fields: Sequence[Image],
        scales: Sequence[Scale | None] | None = None,
        *,
        least: float | None = None,
    ) -> list[Detections]:
        """Cells of each field, uint8 RGB (h, w, 3); masks show the whole cell. See `Detector.predict`."""
        known = scales or [None] * len(fields)
        limits = self._least if least is None else [least] * len(self.classes)
        return [self._field(pixels, scale, limits) for pixels, scale in zip(fields, known, strict=True)]

    def _field(self, pixels: Image, scale_told: Scale | None, least: Sequence[float]) -> Detections:
        height, width = pixels.shape[:2]
        unit = scale_told.diameter_px if scale_told else red_cell_diameter(pixels, self.settings)
        if unit is None:
            return _none()
        scale = min(1.0, self.settings.work / unit, float(np.sqrt(self.settings.most_pixels / (height * width))))
        small = segment.shrunk(pixels, scale)
        stain = stain_of(small, self.settings, self.settings.body_part)
        scene = scene_of(stain, unit * scale, self.settings, self.settings.rim, self.settings.neck)
        cells = [*white_cells(scene), *red_cells(scene, self.settings), *platelets(scene, self.settings)]
        cells = sorted((c for c in cells if c.score >= least[c.label]), key=lambda c: -c.score)
        capped = len(cells) > self._most
        return self._detections(cells[: self._most], small, pixels, unit, capped)

    def _detections(self, cells: list[Cell], small: Image, pixels: Image, unit: float, capped: bool) -> Detections:
        (height, width), (rows, columns) = pixels.shape[:2], small.shape[:2]
        boxes, scores, labels, masks = [], [], [], []
        for cell in cells:
            swell = 0 if cell.label == PLATELET else self.settings.swell
            x, y, inside = enlarged(cell, width / columns, height / rows, swell * unit, width, height)
            if inside.any():
                boxes.append((x, y, x + inside.shape[1], y + inside.shape[0]))
                masks.append(encode_at(inside, x, y, width, height))
                scores.append(cell.score)
                labels.append(cell.label)
        if not boxes:
            return _none()
        found = Detections(
            np.array(boxes, np.float32),
            np.array(scores, np.float32),
            np.array(labels, np.int64),
            self.classes,
            tuple(masks),
            capped,
        )
        kept = geometry.nms(found.boxes, found.scores, found.labels, self.settings.nms_iou)
        return found.select(kept).ordered()


def nucleus_and_cytoplasm(
    pixels: Image, box: Sequence[float] | None = None, settings: ClassicalSettings | None = None
) -> NDArray[np.uint8]:
    """The parts of one white cell.

    Args:
        pixels: uint8 RGB (h, w, 3), a picture of one white cell, or a field where `box` is given.
        box: xyxy in pixels of the field; nothing outside it is marked.

    Returns:
        uint8 (h, w): 255 nucleus, 128 cytoplasm, 0 the rest; all 0 where no nucleus is seen.
    """
    settings = settings or ClassicalSettings()
    if box is None:
        return _parts(pixels, settings)
    height, width = pixels.shape[:2]
    out = np.zeros((height, width), np.uint8)
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    x0, y0, x1, y1 = max(0, x0), max(0, y0), min(width, x1), min(height, y1)
    if x1 <= x0 or y1 <= y0:
        return out
    # The ground is judged by what lies around the cell; a tight box may hold none.
    left, top = max(0, x0 - (x1 - x0) // 5), max(0, y0 - (y1 - y0) // 5)
    crop = pixels[top : y1 + (y1 - y0) // 5, left : x1 + (x1 - x0) // 5]
    out[y0:y1, x0:x1] = _parts(crop, settings)[y0 - top : y1 - top, x0 - left : x1 - left]
    return out


def _parts(pixels: Image, settings: ClassicalSettings) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    out = np.zeros((height, width), np.uint8)
    small = segment.shrunk(pixels, min(1.0, settings.single_side / max(height, width)))
    stain = stain_of(small, settings, settings.single_body_part)
    unit = settings.single_red * float(np.sqrt(4 / np.pi * stain.nucleus.sum()))
    if unit < 6:
        return out
    scene = scene_of(stain, unit, settings, settings.single_rim, settings.single_neck)
    best = _most_central(scene.nuclei)
    if best == 0:
        return out
    cell = scene.white == best
    nucleus = segment.fill_holes(scene.nuclei == best, 0.02 * unit**2) & cell
    for part, level in ((cell, CYTOPLASM), (nucleus, NUCLEUS)):
        large = cv2.resize(part.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        out[large > 0.5] = level
    return out


def _most_central(nuclei: Labels) -> int:
    """The nucleus with most area, area in the middle counting most; 0 where there is none."""
    height, width = nuclei.shape
    y, x = np.arange(height)[:, None], np.arange(width)[None]
    away = (x - (width - 1) / 2) ** 2 + (y - (height - 1) / 2) ** 2
    weight = np.exp(-away / (2 * (0.25 * max(height, width)) ** 2))
    mass = np.bincount(nuclei.ravel(), weight.ravel())
    return 1 + int(mass[1:].argmax()) if len(mass) > 1 else 0


def _none() -> Detections:
    empty = Detections.empty(CLASSES)
    return Detections(empty.boxes, empty.scores, empty.labels, CLASSES, ())


def red_cell_diameter(pixels: Image, settings: ClassicalSettings | None = None) -> float | None:
    """The diameter of a red cell of the field in its pixels, or what a nucleus lets expect; None without either."""
    settings = settings or ClassicalSettings()
    side = settings.look
    while True:
        scale = min(1.0, side / max(pixels.shape[:2]))
        stain = stain_of(segment.shrunk(pixels, scale), settings, settings.body_part)
        unit = segment.red_diameter(stain)
        if scale == 1 or (unit is not None and unit >= _LOOK_LEAST) or side > 4 * settings.look:
            break
        side *= 2
    _, stats = segment.components(stain.nucleus)
    nucleus = float(np.sqrt(4 / np.pi * stats[1:, 4].max())) if len(stats) > 1 else 0.0
    # The largest nucleus of a field is at most about twice as wide as a red cell.
    unit = max(unit or 0.0, 0.5 * nucleus if unit else nucleus)
    return unit / scale if unit >= 4 else None

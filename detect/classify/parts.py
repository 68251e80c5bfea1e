"""The parts of a white cell, nucleus and cytoplasm: by a segmenter's bundle, a detector's masks, or classically."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from detect.bundles.folder import Bundle, open_bundle
from detect.classify.crops import Box, crop, resize
from detect.detectors.classical import CYTOPLASM as CLASSICAL_CYTOPLASM
from detect.detectors.classical import NUCLEUS as CLASSICAL_NUCLEUS
from detect.detectors.classical import nucleus_and_cytoplasm
from detect.detectors.opened import open_detector
from detect.errors import BundleError
from detect.geometry import iou
from detect.images import segment
from detect.images.magnification import Scale
from detect.runtime.base import EngineSettings, open_graph
from detect.taxonomy import taxonomy
from detect.types import CellCrop, Detections, Image

GROUND, CYTOPLASM, NUCLEUS = 0, 1, 2
CLASSICAL = "classical"
_BATCH = 32
_SAME = 0.5  # overlap of a detection with the box whose cell it is, at least


@dataclass(frozen=True, eq=False)
class Parts:
    """One cell: uint8 (h, w) of `GROUND`, `CYTOPLASM` and `NUCLEUS`, whose first pixel is (left, top) of the field.

    Attributes:
        pixels: the field there, uint8 RGB (h, w, 3).
    """

    left: int
    top: int
    labels: NDArray[np.uint8]
    pixels: Image

    @property
    def cell(self) -> NDArray[np.bool_]:
        """Nucleus and cytoplasm."""
        return np.asarray(self.labels != GROUND)

    @property
    def nucleus(self) -> NDArray[np.bool_]:
        """The nucleus."""
        return np.asarray(self.labels == NUCLEUS)


class Segmenter(Protocol):
    """Whatever finds the parts of cells."""

    name: str

    def parts(self, field: Image, boxes: Sequence[Box], scale: Scale | None = None) -> list[Parts]:
        """Of each box of a field. scale: how large cells are there, see `Detector.predict`."""


def open_segmenter(given: str, engine: EngineSettings) -> Segmenter:
    """The segmenter of a bundle, the masks of a detector's, or the classical one by its name."""
    return ClassicalSegmenter() if given == CLASSICAL else segmenter_of(open_bundle(given), engine)


def segmenter_of(bundle: Bundle, engine: EngineSettings) -> MaskSegmenter | BundleSegmenter:
    """What draws parts of cells with a bundle: a segmenter's graph, or a detector's masks."""
    check_segments(bundle)
    return MaskSegmenter(bundle, engine) if bundle.card.detector is not None else BundleSegmenter(bundle, engine)


def check_segments(bundle: Bundle) -> None:
    """BundleError where a bundle draws no parts of cells."""
    remedy = "name a segmenter bundle, or a detector with masks"
    if bundle.card.detector is None and bundle.card.segmenter is None:
        raise BundleError(f"this is a {bundle.card.task}, not a segmenter", where=str(bundle.path), remedy=remedy)
    if bundle.card.detector is not None and not bundle.detector.masks:
        raise BundleError("a detector that draws no masks", where=str(bundle.path), remedy=remedy)


class ClassicalSegmenter:
    """Colour, watershed and shape, with no training."""

    name = CLASSICAL

    def parts(self, field: Image, boxes: Sequence[Box], scale: Scale | None = None) -> list[Parts]:
        """See `Segmenter`."""
        return [self._one(field, box) for box in boxes]

    def _one(self, field: Image, box: Box) -> Parts:
        height, width = field.shape[:2]
        x0, y0 = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
        x1, y1 = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
        x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
        # A window with its surroundings: the whole field again for every cell would take too long.
        left, top = max(0, x0 - (x1 - x0) // 2), max(0, y0 - (y1 - y0) // 2)
        window = np.ascontiguousarray(field[top : y1 + (y1 - y0) // 2, left : x1 + (x1 - x0) // 2])
        found = nucleus_and_cytoplasm(window, (x0 - left, y0 - top, x1 - left, y1 - top))
        inside = found[y0 - top : y1 - top, x0 - left : x1 - left]
        labels = np.zeros(inside.shape, np.uint8)
        labels[inside == CLASSICAL_CYTOPLASM], labels[inside == CLASSICAL_NUCLEUS] = CYTOPLASM, NUCLEUS
        return Parts(x0, y0, labels, np.ascontiguousarray(field[y0:y1, x0:x1]))


class MaskSegmenter:
    """The masks that a detector draws, and within them the nucleus that the classical method sees.

    Where the detector finds no cell in a box, the classical method has both.
    """

    def __init__(self, bundle: Bundle, engine: EngineSettings) -> None:
        self.name = bundle.card.name
        self._detector = open_detector(bundle, engine)
        self._classical = ClassicalSegmenter()
        self._seen: tuple[Image, Detections] | None = None  # of the last field: its cells are asked for in turn

    def take(self, field: Image, found: Detections) -> None:
        """What the same detector has found in a field already."""
        white = [taxonomy().is_a(found.classes.names[label], "WBC") for label in found.labels]
        self._seen = field, found.select(np.array(white, bool))

    def parts(self, field: Image, boxes: Sequence[Box], scale: Scale | None = None) -> list[Parts]:
        """See `Segmenter`."""
        if self._seen is None or self._seen[0] is not field:
            self.take(field, self._detector.predict([field], [scale])[0])
        assert self._seen is not None
        found = self._seen[1]
        overlap = iou(np.asarray(boxes, np.float32).reshape(-1, 4), found.boxes)
        out = self._classical.parts(field, boxes)
        for i, one in enumerate(out):
            best = int(overlap[i].argmax()) if len(found) else -1
            if best < 0 or overlap[i, best] < _SAME or found.masks is None or (mask := found.masks[best]) is None:
                continue
            height, width = one.labels.shape
            cell = rle.decode(dict(mask))[one.top : one.top + height, one.left : one.left + width].astype(bool)
            labels = np.where(cell, np.uint8(CYTOPLASM), np.uint8(GROUND))
            labels[cell & one.nucleus] = NUCLEUS
            out[i] = Parts(one.left, one.top, labels, one.pixels)
        return out


class BundleSegmenter:
    """A bundle's graph."""

    def __init__(self, bundle: Bundle, engine: EngineSettings) -> None:
        assert bundle.card.segmenter is not None
        self.name = bundle.card.name
        self._settings = bundle.card.segmenter
        self._graph = open_graph(bundle.graph, engine)

    def parts(self, field: Image, boxes: Sequence[Box], scale: Scale | None = None) -> list[Parts]:
        """See `Segmenter`."""
        size, margin = self._settings.image_size, self._settings.margin
        crops = [crop(field, box, margin) for box in boxes]
        out: list[Parts] = []
        for start in range(0, len(crops), _BATCH):
            some = crops[start : start + _BATCH]
            (shares,) = self._graph.run(np.stack([resize(c.pixels, size) for c in some]))
            for cut, share in zip(some, shares, strict=True):
                labels = labels_of(share, cut.pixels.shape[0])
                out.append(_inside(field, cut, labels))
        return out


def labels_of(shares: NDArray[np.float32], side: int) -> NDArray[np.uint8]:
    """Shares of ground, cytoplasm and nucleus, (3, s, s), as parts of a crop of `side` pixels; one cell only.

    The cell is the connected piece that has most of the middle; the nucleus lies inside it.
    """
    grown = np.stack([cv2.resize(s, (side, side), interpolation=cv2.INTER_LINEAR) for s in shares])
    cell = grown[GROUND] < 0.5
    pieces, stats = segment.components(cell)
    if len(stats) > 2:
        y, x = np.mgrid[:side, :side] + 0.5
        near = np.exp(-((x - side / 2) ** 2 + (y - side / 2) ** 2) / (2 * (0.2 * side) ** 2))
        weight = np.bincount(pieces.ravel(), weights=near.ravel())
        weight[0] = 0
        cell = pieces == int(weight.argmax())
    labels = np.where(cell, np.uint8(CYTOPLASM), np.uint8(GROUND))
    labels[cell & (grown[NUCLEUS] > grown[CYTOPLASM])] = NUCLEUS
    return labels


def _inside(field: Image, cut: CellCrop, labels: NDArray[np.uint8]) -> Parts:
    """Without what the crop's margin has beyond the field."""
    height, width = field.shape[:2]
    side = labels.shape[0]
    a, b = max(0, -cut.left), max(0, -cut.top)
    c, d = min(side, width - cut.left), min(side, height - cut.top)
    return Parts(cut.left + a, cut.top + b, labels[b:d, a:c], np.ascontiguousarray(cut.pixels[b:d, a:c]))

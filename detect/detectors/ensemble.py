"""Several detectors, or one that looks several times, as one: their boxes fused into weighted means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Key

from detect import geometry
from detect.config import Settings
from detect.detectors.base import Detector
from detect.errors import ConfigError, MissingExtraError
from detect.formats.masks import mirrored
from detect.images.magnification import Scale
from detect.types import ClassMap, Detections, Image

FUSE_IOU = 0.6
FLOOR = 0.05  # members let through from this score on: what several see weakly may be a cell

Views = Literal["none", "flips"]
View = tuple[bool, bool]  # mirrored from left to right, from top to bottom
_VIEWS: dict[Views, tuple[View, ...]] = {
    "none": ((False, False),),
    "flips": ((False, False), (True, False), (False, True), (True, True)),
}


def chosen_views(name: str) -> Views:
    """Views by name; ConfigError lists the choices."""
    for known in _VIEWS:
        if name == known:
            return known
    raise ConfigError(f"no views '{name}'", remedy=f"the choices are: {', '.join(_VIEWS)}")


class EnsembleSettings(Settings):
    """How detectors are made one.

    Attributes:
        members: names of the folders of their bundles. beside: these lie beside the bundle, not in it.
        weights: how much each counts; equal where none are given.
        views: none looks at a field once; flips also at its three mirror images (test-time augmentation).
        fuse_iou: boxes of one class that overlap more than this are one cell.
    """

    members: tuple[str, ...] = Key(min_length=1)
    weights: tuple[float, ...] = ()
    views: Views = "none"
    fuse_iou: float = Key(FUSE_IOU, gt=0, lt=1)
    beside: bool = False


class EnsembleDetector:
    """A `Detector` that asks several, and fuses their boxes (Solovyev, Wang and Gabruseva, "Weighted boxes fusion",
    Image and Vision Computing 107, 2021; the package `ensemble-boxes`).

    The score of a fused box is the mean over all that could have seen it: the members that know its class, times the
    views. Where every member draws masks, a cell has the mask of the member that was surest of it.

    Args:
        thresholds: least score per class, after the fusion. Members let everything through from `FLOOR` on, and have
            their own caps: where one reaches it, that is told.

    Raises:
        MissingExtraError: the package is not installed.
    """

    def __init__(
        self,
        members: Sequence[Detector],
        settings: EnsembleSettings,
        *,
        thresholds: Mapping[str, float],
    ) -> None:
        if find_spec("ensemble_boxes") is None:
            raise MissingExtraError("fusing detectors", "ensemble")
        self._members = members
        self._weights = settings.weights or (1.0,) * len(members)
        self._views = _VIEWS[settings.views]
        self._iou = settings.fuse_iou
        self.classes = ClassMap(tuple(dict.fromkeys(n for m in members for n in m.classes.names)))
        self._least = np.array([thresholds[n] for n in self.classes.names], np.float32)

    @property
    def red_cell_px(self) -> float | None:
        """See `Detector.red_cell_px`: of the first member that has one; each looks at a field in its own."""
        return next((m.red_cell_px for m in self._members if m.red_cell_px is not None), None)

    def shape(self, width: int, height: int, scale: Scale | None = None) -> tuple[int, int]:
        """See `Detector.shape`: that of the first member."""
        return self._members[0].shape(width, height, scale)

    def ratio(self, width: int, height: int, scale: Scale | None = None) -> float | None:
        """See `Detector.ratio`: the largest of its members'."""
        each = [member.ratio(width, height, scale) for member in self._members]
        known = [ratio for ratio in each if ratio is not None]
        return max(known) if len(known) == len(each) else None

    def predict(
        self,
        fields: Sequence[Image],
        scales: Sequence[Scale | None] | None = None,
        *,
        least: float | None = None,
    ) -> list[Detections]:
        """See `Detector.predict`."""
        thresholds = self._least if least is None else np.full_like(self._least, least)
        seen: list[list[Detections]] = [[] for _ in fields]
        for view in self._views:
            pictures = [_mirror(pixels, view) for pixels in fields]
            for member in self._members:
                results = member.predict(pictures, scales, least=FLOOR)
                for row, pixels, found in zip(seen, fields, results, strict=True):
                    row.append(_back(self._once(found), view, pixels.shape[1], pixels.shape[0]))
        weights = self._weights * len(self._views)
        sizes = [(pixels.shape[1], pixels.shape[0]) for pixels in fields]
        return [self._fused(row, weights, thresholds, *size) for row, size in zip(seen, sizes, strict=True)]

    def _once(self, found: Detections) -> Detections:
        """One box a cell: the fusion takes the mean over boxes, so a second one would speak as another member."""
        return found.select(geometry.nms(found.boxes, found.scores, found.labels, self._iou))

    def _fused(
        self,
        seen: Sequence[Detections],
        weights: Sequence[float],
        thresholds: NDArray[np.float32],
        width: int,
        height: int,
    ) -> Detections:
        boxes, scores, labels = [], [], []
        for k, name in enumerate(self.classes.names):
            able = [i for i, found in enumerate(seen) if name in found.classes.names]
            own = [seen[i].select(seen[i].labels == seen[i].classes.index(name)) for i in able]
            fused = _fuse(own, [weights[i] for i in able], self._iou, width, height)
            kept = fused[1] >= thresholds[k]
            boxes.append(fused[0][kept])
            scores.append(fused[1][kept])
            labels.append(np.full(int(kept.sum()), k, np.int64))
        out = Detections(np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels), self.classes).ordered()
        capped = any(found.capped for found in seen)
        return Detections(out.boxes, out.scores, out.labels, self.classes, _masks(out, seen), capped)


def _fuse(
    own: Sequence[Detections], weights: Sequence[float], iou: float, width: int, height: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fused boxes and scores of one class."""
    if not any(len(found) for found in own):
        return np.empty((0, 4), np.float32), np.empty(0, np.float32)
    from ensemble_boxes import weighted_boxes_fusion

    size = np.array([width, height, width, height], np.float64)
    boxes, scores, _ = weighted_boxes_fusion(
        [(found.boxes / size).tolist() for found in own],
        [found.scores.tolist() for found in own],
        [[0] * len(found) for found in own],
        weights=list(weights),
        iou_thr=iou,
    )
    fused = geometry.clip((boxes * size).astype(np.float32), width, height)
    return fused, np.clip(scores, 0, 1).astype(np.float32)


def _masks(out: Detections, seen: Sequence[Detections]) -> tuple[Mapping[str, object], ...] | None:
    """For each fused box the mask of the surest box of its class that it was made of."""
    if any(found.masks is None for found in seen):
        return None
    chosen = []
    for box, label in zip(out.boxes, out.labels, strict=True):
        best: tuple[float, Mapping[str, object]] | None = None
        for found in seen:
            name = out.classes.names[label]
            if name not in found.classes.names or not len(found) or found.masks is None:
                continue
            worth = geometry.iou(box[None], found.boxes)[0] * (found.labels == found.classes.index(name))
            k = int((worth * found.scores).argmax())
            if best is None or worth[k] * found.scores[k] > best[0]:
                best = float(worth[k] * found.scores[k]), found.masks[k]
        if best is None:
            raise AssertionError("a fused box without a box that it was made of")
        chosen.append(best[1])
    return tuple(chosen)


def _mirror(pixels: Image, view: View) -> Image:
    across, down = view
    return np.ascontiguousarray(pixels[:: -1 if down else 1, :: -1 if across else 1])


def _back(found: Detections, view: View, width: int, height: int) -> Detections:
    """What was found in a mirror image, in the field itself."""
    across, down = view
    if not (across or down):
        return found
    boxes = found.boxes.copy()
    if across:
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    if down:
        boxes[:, [1, 3]] = height - boxes[:, [3, 1]]
    masks = None if found.masks is None else tuple(mirrored(m, across=across, down=down) for m in found.masks)
    return Detections(boxes, found.scores, found.labels, found.classes, masks, found.capped)

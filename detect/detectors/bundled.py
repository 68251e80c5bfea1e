"""A detector bundle, run by an engine: what scoring and evaluation use. No training framework is needed, unless the
engine asked for is that framework itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect import geometry
from detect.bundles.card import DetectorGraph
from detect.bundles.folder import Bundle
from detect.detectors.base import Architecture, family
from detect.detectors.classical import ClassicalDetector, ClassicalSettings
from detect.detectors.masks import paste
from detect.images import preprocess
from detect.images.letterbox import Letterbox, place, plan
from detect.runtime.base import FRAMEWORK, EngineSettings, open_graph
from detect.types import ClassMap, Detections, Image

# uint8 (n, h, w, 3) to boxes (n, m, 4), xyxy in input pixels, scores (n, m, classes), and where the bundle draws masks
# (n, m, s, s), how likely each of s x s places within the box belongs to the cell
Graph = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], ...]]


class BundleDetector:
    """A `Detector` from a bundle.

    Args:
        thresholds: least score per class, in place of the bundle's own.
        max_detections: most cells of one field, in place of the bundle's own.
        graph: something else that runs the bundle's graph, for tests.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: EngineSettings | None = None,
        *,
        thresholds: Mapping[str, float] | None = None,
        max_detections: int | None = None,
        graph: Graph | None = None,
    ) -> None:
        self.settings: DetectorGraph = bundle.detector
        self._most = max_detections or self.settings.max_detections
        self.classes = ClassMap(bundle.card.classes)
        chosen = dict(self.settings.thresholds) | dict(thresholds or {})
        self._thresholds = np.array([chosen[name] for name in self.classes.names], np.float32)
        self._run: Graph = graph or _graph(bundle, engine or EngineSettings())

    def shape(self, width: int, height: int) -> tuple[int, int]:
        """See `Detector.shape`."""
        box = self.letterbox(width, height)
        return box.height, box.width

    def letterbox(self, width: int, height: int) -> Letterbox:
        """How a field of that size goes into the graph."""
        return plan(width, height, self.settings.image_size, self.settings.stride, square=self.settings.square)

    def predict(self, fields: Sequence[Image]) -> list[Detections]:
        """See `Detector.predict`. Fields of any size; those of one letterbox size run as one batch."""
        if self.settings.preprocess:
            fields = [preprocess.apply(pixels, self.settings.preprocess) for pixels in fields]
        boxes = [self.letterbox(pixels.shape[1], pixels.shape[0]) for pixels in fields]
        found: dict[int, Detections] = {}
        for shape in dict.fromkeys((b.height, b.width) for b in boxes):
            rows = [i for i, b in enumerate(boxes) if (b.height, b.width) == shape]
            step = 1 if self.settings.one_by_one else len(rows)
            for part in (rows[k : k + step] for k in range(0, len(rows), step)):
                batch = np.empty((len(part), *shape, 3), np.uint8)
                for slot, i in enumerate(part):
                    place(fields[i], boxes[i], self.settings.pad, batch[slot])
                out = self._run(batch)
                for slot, i in enumerate(part):
                    height, width = fields[i].shape[:2]
                    found[i] = self._decode([o[slot] for o in out], boxes[i], width, height)
        return [found[i] for i in range(len(fields))]

    def _decode(self, out: Sequence[NDArray[Any]], box: Letterbox, width: int, height: int) -> Detections:
        """Thresholds, suppression within a class, cap, back to the field.

        Classes are judged apart: a place that looks like two of them may give two cells, as in the library that
        trains. On dev of the first release this found more platelets than taking the best class of each place
        (AP50 0.928 against 0.917), and above the thresholds it doubles no cell.
        """
        boxes, scores = out[:2]
        rows, labels = np.nonzero(scores >= self._thresholds)
        best = np.clip(scores[rows, labels], 0, 1).astype(np.float32)
        if len(rows) > self.settings.candidates:
            top = np.argsort(-best, kind="stable")[: self.settings.candidates]
            rows, labels, best = rows[top], labels[top], best[top]
        inside = box.back(boxes[rows], width, height)
        real = geometry.area(inside) > 0
        inside, labels, best, rows = inside[real], labels[real], best[real], rows[real]
        order = geometry.nms(inside, best, labels, self.settings.nms_iou)
        capped = len(order) > self._most
        order = order[: self._most]
        masks = None
        if self.settings.masks:
            # Pasted from the box as the graph gives it: clipping to the field must not squeeze the mask.
            whole = box.back_unclipped(boxes[rows[order]])
            masks = tuple(paste(m, b, width, height) for m, b in zip(out[2][rows[order]], whole, strict=True))
        return Detections(inside[order], best[order], labels[order], self.classes, masks, capped).ordered()


def _graph(bundle: Bundle, engine: EngineSettings) -> Graph:
    chosen = engine.resolved()
    if chosen.name != FRAMEWORK:
        return open_graph(bundle.graph, chosen).run
    architecture = Architecture(**bundle.card.architecture)
    run: Graph = family(architecture.family).reference(
        architecture, bundle.weights, device=chosen.device, precision=chosen.precision
    )
    return run


def open_detector(
    bundle: Bundle,
    engine: EngineSettings | None = None,
    *,
    thresholds: Mapping[str, float] | None = None,
    max_detections: int | None = None,
) -> BundleDetector | ClassicalDetector:
    """The detector of a bundle: a graph in an engine, or the classical method with the card's settings."""
    if bundle.card.architecture.get("family") != "classical":
        return BundleDetector(bundle, engine, thresholds=thresholds, max_detections=max_detections)
    settings = ClassicalSettings.model_validate(bundle.card.architecture["config"])
    least = dict(bundle.detector.thresholds) | dict(thresholds or {})
    return ClassicalDetector(settings, thresholds=least, max_detections=max_detections)

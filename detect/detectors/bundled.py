"""A detector bundle, run by an engine: what scoring and evaluation use. No training framework is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect import geometry
from detect.bundles.card import DetectorGraph
from detect.bundles.folder import Bundle
from detect.errors import BundleError
from detect.images.letterbox import Letterbox, place, plan
from detect.runtime.base import EngineSettings, open_graph
from detect.types import ClassMap, Detections, Image

# uint8 (n, h, w, 3) to boxes (n, m, 4), xyxy in input pixels, and scores (n, m, classes)
Graph = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], ...]]


class BundleDetector:
    """A `Detector` from a bundle.

    Args:
        thresholds: least score per class, in place of the bundle's own.
        max_detections: most cells of one field, in place of the bundle's own.
        graph: something else that runs the bundle's graph, such as the training framework, for parity.
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
        if bundle.card.detector is None:
            raise BundleError("not a detector", where=str(bundle.path), remedy="name a detector bundle")
        self.settings: DetectorGraph = bundle.card.detector
        self._most = max_detections or self.settings.max_detections
        self.classes = ClassMap(bundle.card.classes)
        chosen = dict(self.settings.thresholds) | dict(thresholds or {})
        self._thresholds = np.array([chosen[name] for name in self.classes.names], np.float32)
        self._run: Graph = graph or open_graph(bundle.graph, engine or EngineSettings()).run

    def letterbox(self, width: int, height: int) -> Letterbox:
        """How a field of that size goes into the graph; fields of equal letterbox size can share a batch."""
        return plan(width, height, self.settings.image_size, self.settings.stride)

    def predict(self, fields: Sequence[Image]) -> list[Detections]:
        """See `Detector.predict`. Fields of any size; those of one letterbox size run as one batch."""
        boxes = [self.letterbox(pixels.shape[1], pixels.shape[0]) for pixels in fields]
        found: dict[int, Detections] = {}
        for shape in dict.fromkeys((b.height, b.width) for b in boxes):
            rows = [i for i, b in enumerate(boxes) if (b.height, b.width) == shape]
            batch = np.empty((len(rows), *shape, 3), np.uint8)
            for slot, i in enumerate(rows):
                place(fields[i], boxes[i], self.settings.pad, batch[slot])
            out_boxes, out_scores = self._run(batch)
            for slot, i in enumerate(rows):
                height, width = fields[i].shape[:2]
                found[i] = self._decode(out_boxes[slot], out_scores[slot], boxes[i], width, height)
        return [found[i] for i in range(len(fields))]

    def _decode(self, boxes: NDArray[Any], scores: NDArray[Any], box: Letterbox, width: int, height: int) -> Detections:
        """Thresholds, suppression within a class, cap, back to the field.

        Classes are judged apart: a place that looks like two of them may give two cells, as in the library that
        trains. On dev of the first release this found more platelets than taking the best class of each place
        (AP50 0.928 against 0.917), and above the thresholds it doubles no cell.
        """
        rows, labels = np.nonzero(scores >= self._thresholds)
        best = np.clip(scores[rows, labels], 0, 1).astype(np.float32)
        if len(rows) > self.settings.candidates:
            top = np.argsort(-best, kind="stable")[: self.settings.candidates]
            rows, labels, best = rows[top], labels[top], best[top]
        inside = box.back(boxes[rows], width, height)
        real = geometry.area(inside) > 0
        inside, labels, best = inside[real], labels[real], best[real]
        order = geometry.nms(inside, best, labels, self.settings.nms_iou)
        capped = len(order) > self._most
        order = order[: self._most]
        return Detections(inside[order], best[order], labels[order], self.classes, capped=capped).ordered()

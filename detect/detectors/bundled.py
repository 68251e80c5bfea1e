"""A detector bundle, run by an engine: what scoring and evaluation use. No training framework is needed, unless the
engine asked for is that framework itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect import geometry
from detect.bundles.card import DetectorGraph
from detect.bundles.folder import Bundle
from detect.detectors import seams
from detect.detectors.base import Architecture, family
from detect.detectors.masks import paste
from detect.images import preprocess, tiles
from detect.images.letterbox import Letterbox, place, plan, scaled
from detect.images.magnification import Scale
from detect.images.tiles import Tile
from detect.runtime.base import FRAMEWORK, EngineSettings, open_graph
from detect.types import ClassMap, Detections, Image

# uint8 (n, h, w, 3) to boxes (n, m, 4), xyxy in input pixels, scores (n, m, classes), and where the bundle draws masks
# (n, m, s, s), how likely each of s x s places within the box belongs to the cell
Graph = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], ...]]


_TILE = 1024
_OVERLAP = 3.0  # red cell diameters that neighbouring tiles share: more than the largest white cell
_ENLARGED = 8.0  # times that a field is enlarged at most: red cells of ten pixels become those that were trained
_EDGE = 3.0  # pixels of the input; a box this near to where a tile was cut ends there
_BATCH_PIXELS = 600_000  # of the input in one call of the graph: more are slower, they leave the processor's cache


@dataclass(frozen=True)
class _Window:
    """A piece of a field, and how it lies in the input."""

    tile: Tile
    box: Letterbox


class BundleDetector:
    """A `Detector` from a bundle.

    Args:
        thresholds: least score per class, in place of the bundle's own.
        max_detections: most cells of one field, or of one tile of a larger one, in place of the bundle's own.
        tile: pixels of the input, a side: a field larger than that at its scale is cut into tiles.
        overlap: pixels of the input that neighbouring tiles share; else more than the largest white cell.
        graph: something else that runs the bundle's graph, for tests.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: EngineSettings | None = None,
        *,
        thresholds: Mapping[str, float] | None = None,
        max_detections: int | None = None,
        tile: int = _TILE,
        overlap: float | None = None,
        graph: Graph | None = None,
    ) -> None:
        self._tile, self._overlap = tile, overlap
        self.settings: DetectorGraph = bundle.detector
        self._most = max_detections or self.settings.max_detections
        self.classes = ClassMap(bundle.names)
        chosen = bundle.thresholds | dict(thresholds or {})
        self._thresholds = np.array([chosen[name] for name in bundle.names], np.float32)
        self._run: Graph = graph or _graph(bundle, engine or EngineSettings())

    @property
    def red_cell_px(self) -> float | None:
        """Diameter of a red cell in the input that the bundle was trained with, pixels; None where it has none."""
        return self.settings.red_cell_px

    def shape(self, width: int, height: int, scale: Scale | None = None) -> tuple[int, int]:
        """See `Detector.shape`."""
        box = self._windows(width, height, scale)[0].box
        return box.height, box.width

    def ratio(self, width: int, height: int, scale: Scale | None = None) -> float | None:
        """See `Detector.ratio`. Masks are pasted into the field's own pixels, preprocessing was fitted to them."""
        if self.settings.masks or self.settings.preprocess:
            return None
        box = self._windows(width, height, scale)[0].box
        return max(box.scale_x, box.scale_y)

    def predict(
        self,
        fields: Sequence[Image],
        scales: Sequence[Scale | None] | None = None,
        *,
        least: float | None = None,
    ) -> list[Detections]:
        """See `Detector.predict`. Fields of any size; windows of one shape run as one batch, whosesoever they are."""
        thresholds = self._thresholds if least is None else np.full_like(self._thresholds, least)
        if self.settings.preprocess:
            fields = [preprocess.apply(pixels, self.settings.preprocess) for pixels in fields]
        wanted = scales or [None] * len(fields)
        plans = [self._windows(p.shape[1], p.shape[0], s) for p, s in zip(fields, wanted, strict=True)]
        places = [(i, k) for i, windows in enumerate(plans) for k in range(len(windows))]
        found: dict[tuple[int, int], Detections] = {}
        shapes = {(i, k): _shape(plans[i][k].box) for i, k in places}
        for shape in dict.fromkeys(shapes.values()):
            same = [spot for spot in places if shapes[spot] == shape]
            step = 1 if self.settings.one_by_one else max(1, _BATCH_PIXELS // (shape[0] * shape[1]))
            for part in (same[n : n + step] for n in range(0, len(same), step)):
                batch = np.empty((len(part), *shape, 3), np.uint8)
                for slot, (i, k) in enumerate(part):
                    tile, box = plans[i][k].tile, plans[i][k].box
                    place(fields[i][tile.y0 : tile.y1, tile.x0 : tile.x1], box, self.settings.pad, batch[slot])
                out = self._run(batch)
                for slot, (i, k) in enumerate(part):
                    found[i, k] = self._decode([o[slot] for o in out], plans[i][k], fields[i].shape[:2], thresholds)
        return [self._field(windows, [found[i, k] for k in range(len(windows))]) for i, windows in enumerate(plans)]

    def _windows(self, width: int, height: int, scale: Scale | None) -> list[_Window]:
        """What of a field goes into the graph: all of it, or tiles of it where it is larger than that at its scale."""
        settings = self.settings
        if scale is None or settings.red_cell_px is None:
            box = plan(width, height, settings.image_size, settings.stride, square=settings.square)
            return [_Window(Tile(0, 0, width, height), box)]
        wanted = (settings.red_cell_px / scale.width_px, settings.red_cell_px / scale.height_px)
        # What is blurred is not made clear by more pixels, and their number must have an end.
        less = min(1.0, _ENLARGED / max(wanted))
        factor = (wanted[0] * less, wanted[1] * less)
        most = settings.image_size if settings.square else self._tile
        side = (most / factor[0], most / factor[1])
        overlap = self._overlap or min(_OVERLAP * settings.red_cell_px, most / 2)
        pieces = tiles.plan(width, height, side, (overlap / factor[0], overlap / factor[1]))
        square = settings.image_size if settings.square else None
        return [_Window(t, scaled(t.width, t.height, factor, settings.stride, square=square)) for t in pieces]

    def _field(self, windows: Sequence[_Window], found: Sequence[Detections]) -> Detections:
        """The cells of a field from those of its windows."""
        if len(windows) == 1:
            return found[0]
        box = windows[0].box
        return seams.join([w.tile for w in windows], found, (_EDGE / box.scale_x, _EDGE / box.scale_y))

    def _decode(
        self, out: Sequence[NDArray[Any]], window: _Window, field: tuple[int, ...], thresholds: NDArray[np.float32]
    ) -> Detections:
        """Thresholds, suppression within a class, cap, back to the field, whose (height, width) is given.

        Classes are judged apart: a place that looks like two of them may give two cells, as in the library that
        trains. On dev of the first release this found more platelets than taking the best class of each place
        (AP50 0.928 against 0.917), and above the thresholds it doubles no cell.
        """
        boxes, scores = out[:2]
        tile, box = window.tile, window.box
        corner = np.array([tile.x0, tile.y0, tile.x0, tile.y0], np.float32)
        rows, labels = np.nonzero(scores >= thresholds)
        best = np.clip(scores[rows, labels], 0, 1).astype(np.float32)
        if len(rows) > self.settings.candidates:
            top = np.argsort(-best, kind="stable")[: self.settings.candidates]
            rows, labels, best = rows[top], labels[top], best[top]
        inside = box.back(boxes[rows], tile.width, tile.height)
        real = geometry.area(inside) > 0
        inside, labels, best, rows = inside[real], labels[real], best[real], rows[real]
        order = geometry.nms(inside, best, labels, self.settings.nms_iou)
        capped = len(order) > self._most
        order = order[: self._most]
        masks = None
        if self.settings.masks:
            # Pasted from the box as the graph gives it: clipping to the field must not squeeze the mask.
            whole = box.back_unclipped(boxes[rows[order]]) + corner
            masks = tuple(paste(m, b, field[1], field[0]) for m, b in zip(out[2][rows[order]], whole, strict=True))
        return Detections(inside[order] + corner, best[order], labels[order], self.classes, masks, capped).ordered()


def _shape(box: Letterbox) -> tuple[int, int]:
    return box.height, box.width


def _graph(bundle: Bundle, engine: EngineSettings) -> Graph:
    chosen = engine.resolved()
    if chosen.name != FRAMEWORK:
        return open_graph(bundle.graph_in(chosen.precision), chosen).run
    architecture = Architecture(**bundle.card.architecture)
    run: Graph = family(architecture.family).reference(
        architecture, bundle.weights, device=chosen.device, precision=chosen.precision
    )
    return run

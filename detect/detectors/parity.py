"""Whether a detector's graph in an engine gives what its weights give in the training framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detect import geometry
from detect.bundles.card import WEIGHTS
from detect.bundles.folder import Bundle
from detect.detectors.base import Architecture, family
from detect.detectors.bundled import BundleDetector
from detect.detectors.measure import MIN_SCORE
from detect.runtime.base import EngineSettings, open_graph
from detect.types import Image

SCORE, IOU = 0.01, 0.99  # scores may differ by so much, and boxes overlap by no less
FEW = 0.005  # of the cells: of two nearly equal ones either may be taken


@dataclass(frozen=True)
class Parity:
    """How far a graph in an engine is from the model in its framework, at the bundle's thresholds.

    Attributes:
        cells: found by the framework. unmatched: found by one of the two only. apart: found by both, and otherwise:
            boxes overlap by less than `IOU`, or scores differ by more than `SCORE`.
        box_pixels, score: largest difference among those found by both.
    """

    engine: str
    fields: int
    cells: int
    unmatched: int
    apart: int
    box_pixels: float
    score: float

    @property
    def holds(self) -> bool:
        """Every cell in both, and hardly any otherwise."""
        return self.unmatched == 0 and self.close

    @property
    def close(self) -> bool:
        """At least 199 cells of 200 in both, with the same boxes and scores."""
        return self.unmatched + self.apart <= FEW * self.cells


def parity(bundle: Bundle, fields: Sequence[Image], engine: EngineSettings) -> Parity:
    """Compare a bundle's graph in an engine with its weights in the training framework.

    Where the bundle holds only the graph, with that in ONNX Runtime.
    """
    if WEIGHTS in bundle.card.files:
        architecture = Architecture(**bundle.card.architecture)
        reference = family(architecture.family).reference(architecture, bundle.weights)
    else:
        reference = open_graph(bundle.graph, EngineSettings("onnxruntime", "fp32")).run
    least = bundle.thresholds
    expected = BundleDetector(bundle, graph=reference).predict(fields)
    if not any(len(e) for e in expected):  # nothing above the thresholds would compare nothing
        least = dict.fromkeys(bundle.names, MIN_SCORE)
    # A cell at its threshold may fall on either side of it: its partner is sought as far below as scores may differ.
    below = {name: max(value - SCORE, MIN_SCORE) for name, value in least.items()}
    expected = BundleDetector(bundle, thresholds=below, graph=reference).predict(fields)
    got = BundleDetector(bundle, engine, thresholds=below).predict(fields)
    floor = np.array([least[name] for name in bundle.names], np.float32)
    unmatched, apart, box_pixels, score, cells = 0, 0, 0.0, 0.0, 0
    for a, b in zip(expected, got, strict=True):
        counted, other = a.scores >= floor[a.labels], b.scores >= floor[b.labels]
        cells += int(counted.sum())
        if not len(a) or not len(b):
            unmatched += int(counted.sum()) + int(other.sum())
            continue
        overlap = geometry.iou(a.boxes, b.boxes) * (a.labels[:, None] == b.labels[None, :])
        partner = overlap.argmax(axis=1)
        same = (overlap.max(axis=1) > 0.5) & (overlap.argmax(axis=0)[partner] == np.arange(len(a)))
        alone = np.ones(len(b), bool)
        alone[partner[same]] = False
        unmatched += int((counted & ~same).sum()) + int((other & alone).sum())
        both = same & (counted | other[partner])
        if both.any():
            gaps = np.abs(a.scores[both] - b.scores[partner[both]])
            apart += int(((overlap.max(axis=1)[both] < IOU) | (gaps > SCORE)).sum())
            box_pixels = max(box_pixels, float(np.abs(a.boxes[both] - b.boxes[partner[both]]).max()))
            score = max(score, float(gaps.max()))
    resolved = engine.resolved()
    return Parity(f"{resolved.name} {resolved.precision}", len(fields), cells, unmatched, apart, box_pixels, score)

"""A batch of fields to cells: detect, crop, route down the taxonomy, classify, abstain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from detect.bundles.folder import Bundle
from detect.classify.bundled import BundleClassifier
from detect.classify.crops import at_border
from detect.detectors.opened import open_detector
from detect.errors import ConfigError
from detect.images.magnification import Scale
from detect.runtime.base import EngineSettings
from detect.taxonomy import UNIDENTIFIED
from detect.types import CellCrop, CellRecord, Detections, Image


@dataclass(frozen=True)
class Cells:
    """The cells of one field, in the order of the results, and whether the cap was reached."""

    records: tuple[CellRecord, ...]
    capped: bool


class Pipeline:
    """One detector, and the classifiers that its classes are routed to.

    Args:
        detector: a detector bundle.
        classifiers: classifier bundles; each takes the cells of the detector classes in its `routed_from`, the
            first that wants a class gets it.
        min_score: in place of every threshold of the detector's, for evaluation.
        thresholds: in place of those of some classes.
    """

    def __init__(
        self,
        detector: Bundle,
        classifiers: Sequence[Bundle],
        engine: EngineSettings,
        *,
        min_score: float | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        for name in thresholds or {}:
            if name not in detector.card.classes:
                known = ", ".join(detector.card.classes)
                raise ConfigError(f"threshold {name}: no class of {detector.card.name}", remedy=f"one of: {known}")
        detector.check_offered(engine.precision)
        chosen = {} if min_score is None else dict.fromkeys(detector.card.classes, min_score)
        self.detector = open_detector(detector, engine, thresholds=chosen | dict(thresholds or {}))
        routes: dict[int, BundleClassifier] = {}
        # Detectors have int8 graphs, classifiers have none: theirs is a small part of the work.
        plain = replace(engine, precision="fp32") if engine.precision == "int8" else engine
        for bundle in classifiers:
            classifier = BundleClassifier(bundle, plain)
            for name in classifier.settings.routed_from:
                if name in self.detector.classes.names:
                    routes.setdefault(self.detector.classes.index(name), classifier)
        self._routes: Mapping[int, BundleClassifier] = routes

    def run(
        self,
        fields: Sequence[Image],
        names: Sequence[tuple[str, str]],
        scales: Sequence[Scale | None] | None = None,
    ) -> list[Cells]:
        """Cells of each field.

        Args:
            fields: pictures; those of one shape in the detector run as one batch.
            names: (slide, field id) of each. scales: how large cells are in each, see `Detector.predict`.
        """
        found = self.detector.predict(fields, scales)
        answers = self._classify(fields, found)
        return [
            Cells(self._records(slide, field, pixels, detections, answers[i]), detections.capped)
            for i, ((slide, field), pixels, detections) in enumerate(zip(names, fields, found, strict=True))
        ]

    def _classify(
        self, fields: Sequence[Image], found: Sequence[Detections]
    ) -> list[dict[int, tuple[str, float, dict[str, float]]]]:
        """Per field: cell position to (type, its probability, all probabilities). Crops of all fields share batches."""
        out: list[dict[int, tuple[str, float, dict[str, float]]]] = [{} for _ in fields]
        for classifier in dict.fromkeys(self._routes.values()):
            wanted = [label for label, c in self._routes.items() if c is classifier]
            places: list[tuple[int, int]] = []
            crops: list[CellCrop] = []
            for i, detections in enumerate(found):
                cells = np.flatnonzero(np.isin(detections.labels, wanted)).tolist()
                pixels = classifier.ready(fields[i]) if cells else fields[i]
                places += [(i, j) for j in cells]
                masks = detections.masks or (None,) * len(detections)
                crops += [classifier.cut(pixels, _box(detections, j), masks[j]) for j in cells]
            types = classifier.classes.names
            for (i, cell), row in zip(places, classifier.predict(crops), strict=True):
                best = int(row.argmax())
                name = types[best] if row[best] >= classifier.settings.min_probability else UNIDENTIFIED
                out[i][cell] = (name, float(row[best]), {t: float(p) for t, p in zip(types, row, strict=True)})
        return out

    def _records(
        self,
        slide: str,
        field: str,
        pixels: Image,
        found: Detections,
        answers: Mapping[int, tuple[str, float, dict[str, float]]],
    ) -> tuple[CellRecord, ...]:
        height, width = pixels.shape[:2]
        records = []
        for j in range(len(found)):
            box = _box(found, j)
            kind, sure, probabilities = answers.get(j, (None, None, {}))
            flags = ("border",) if at_border(box, width, height) else ()
            records.append(
                CellRecord(
                    slide=slide,
                    field=field,
                    cell=j,
                    box=box,
                    label=self.detector.classes.names[found.labels[j]],
                    score=float(found.scores[j]),
                    type=kind,
                    type_score=sure,
                    probabilities=probabilities,
                    flags=flags,
                    mask=found.masks[j] if found.masks is not None else None,
                )
            )
        return tuple(records)


def _box(found: Detections, j: int) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = found.boxes[j].tolist()
    return x0, y0, x1, y1

"""A detector run over a labelled set, for the best epoch, thresholds, evaluation and parity."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from detect import geometry
from detect.bundles.card import Card, DetectorGraph
from detect.bundles.draft import INTENDED_USE
from detect.bundles.folder import Bundle
from detect.detectors.base import Architecture, Detector, DetectorSettings, TrainingJob, Traits
from detect.detectors.bundled import BundleDetector, Graph
from detect.detectors.scale import RED_CELL, estimate
from detect.evaluate.coco_ap import Ap, mean_and_each
from detect.images import decode
from detect.types import Dataset, Detections, Image

MIN_SCORE = 0.001  # AP needs the whole curve
PAD = 114  # grey around a field
_FEW = 20  # red cells; fewer do not say how large they usually are


def predict_all(
    detector: Detector,
    dataset: Dataset,
    *,
    batch: int = 16,
    measured: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[Detections]:
    """Predictions for every field of a set, in its order. Fields are decoded in a thread ahead of the detector.

    Args:
        measured: each field is looked at in the scale that its own red cells tell, where the detector knows what to
            do with it; else it is fitted to the detector's input. Public sets tell of no slides to measure together.
        progress: called with the number of fields done since the last call.
    """
    out: list[Detections] = []
    measured = measured and detector.red_cell_px is not None
    for fields in _batches(dataset, batch):
        out += detector.predict(fields, [estimate(detector, [f]) for f in fields] if measured else None)
        if progress is not None:
            progress(len(fields))
    return out


def _batches(dataset: Dataset, size: int) -> Iterator[list[Image]]:
    paths = [f.field.path for f in dataset.fields]
    with ThreadPoolExecutor(1) as reader:
        ahead = [reader.submit(decode.read, p) for p in paths[: 2 * size]]
        for start in range(0, len(paths), size):
            ready = [future.result() for future in ahead[:size]]
            following = paths[start + 2 * size : start + 3 * size]
            ahead = ahead[size:] + [reader.submit(decode.read, p) for p in following]
            yield ready


def on_dev(job: TrainingJob, architecture: Architecture, traits: Traits, graph: Graph) -> tuple[float, float]:
    """mAP50 and mAP50-95 on part dev, for choosing; nothing found counts as 0."""
    detector = BundleDetector(_draft(job, architecture, traits), graph=graph)
    found = predict_all(detector, job.dev, batch=job.settings.batch)
    matched = Ap(job.dev, found, job.settings.max_detections).matched
    ap50, ap = (float(v) for v in mean_and_each(matched, np.ones((1, len(job.dev))))[0, :2])
    return (0.0 if math.isnan(ap50) else ap50), (0.0 if math.isnan(ap) else ap)


def red_cell_px(dataset: Dataset, image_size: int) -> float | None:
    """Median diameter of the whole red cells of a set whose fields are resized to `image_size`, in its pixels; None
    where too few are drawn."""
    if RED_CELL not in dataset.classes.names:
        return None
    label, sides = dataset.classes.index(RED_CELL), []
    for one in dataset.fields:
        width, height = one.field.width, one.field.height
        boxes = one.annotations.boxes[one.annotations.labels == label]
        inner = (boxes[:, :2] > 1).all(1) & (boxes[:, 2:] < [width - 1, height - 1]).all(1)
        sides.append(np.sqrt(geometry.area(boxes[inner])) * image_size / max(width, height))
    every = np.concatenate(sides) if sides else np.empty(0)
    return round(float(np.median(every)), 1) if len(every) >= _FEW else None


def graph_section(
    settings: DetectorSettings, traits: Traits, classes: Sequence[str], red_cell_px: float | None = None
) -> DetectorGraph:
    """How fields go into a trained model; its thresholds let everything through until they are chosen on dev."""
    return DetectorGraph(
        image_size=settings.image_size,
        red_cell_px=red_cell_px,
        preprocess=settings.preprocess,
        stride=traits.stride,
        pad=PAD,
        square=traits.square,
        one_by_one=traits.one_by_one,
        masks=traits.masks,
        thresholds=dict.fromkeys(classes, MIN_SCORE),
        threshold_choice="",
        nms_iou=settings.nms_iou,
        max_detections=settings.max_detections,
    )


def _draft(job: TrainingJob, architecture: Architecture, traits: Traits) -> Bundle:
    """A bundle that is not on disk, so that dev is measured by the very code that will run the real one."""
    names = job.train.classes.names
    card = Card(
        name=architecture.name,
        task="detector",
        title="",
        licence="",
        intended_use=INTENDED_USE,
        classes=names,
        architecture={},
        detector=graph_section(job.settings, traits, names),
    )
    return Bundle(card, job.out, "")

"""A detector run over a labelled set, for the best epoch, thresholds, evaluation and parity."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from detect.bundles.card import Card, DetectorGraph
from detect.bundles.draft import INTENDED_USE
from detect.bundles.folder import Bundle
from detect.detectors.base import Architecture, Detector, DetectorSettings, TrainingJob, Traits
from detect.detectors.bundled import BundleDetector, Graph
from detect.evaluate.coco_ap import Ap, mean_and_each
from detect.images import decode
from detect.types import Dataset, Detections, Image

MIN_SCORE = 0.001  # AP needs the whole curve
PAD = 114  # grey around a field


def predict_all(
    detector: Detector, dataset: Dataset, *, batch: int = 16, progress: Callable[[int], None] | None = None
) -> list[Detections]:
    """Predictions for every field of a set, in its order. Fields are decoded in a thread ahead of the detector.

    Args:
        progress: called with the number of fields done since the last call.
    """
    out: list[Detections] = []
    for fields in _batches(dataset, batch):
        out += detector.predict(fields)
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


def graph_section(settings: DetectorSettings, traits: Traits, classes: Sequence[str]) -> DetectorGraph:
    """How fields go into a trained model; its thresholds let everything through until they are chosen on dev."""
    return DetectorGraph(
        image_size=settings.image_size,
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

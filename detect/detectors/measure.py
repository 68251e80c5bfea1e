"""A detector bundle run over a labelled set, for thresholds, evaluation and parity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from detect.detectors.base import Detector
from detect.images import decode
from detect.types import Dataset, Detections, Image

MIN_SCORE = 0.001  # AP needs the whole curve


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

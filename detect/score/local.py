"""The engine of one machine: fields decoded in threads, batches of equal shape worked on side by side.

Each worker computes on one core, so while one is in Python another is in the graph. What goes into which batch
depends only on the order of the fields and their sizes, and results are taken in that order: the same inputs give
the same bytes, whatever the timing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from detect.errors import ImageError
from detect.images import decode
from detect.images.magnification import Scale
from detect.images.quality import quality
from detect.pipeline.run import Cells, Pipeline
from detect.score.scales import Looked
from detect.score.store import CAPPED, UNSURE_SCALE, FieldRecord
from detect.types import CellRecord, Field, Image

_HELD_PIXELS = 24_000_000  # most pixels that wait for a batch: huge fields make small batches, so memory stays flat
_WHOLE_RED_CELLS = 5  # fewer say nothing of a field's scale

Row = tuple[FieldRecord, tuple[CellRecord, ...]]


@dataclass
class _Bucket:
    """Fields of one shape in the detector that wait for their batch."""

    slots: list[int]
    pixels: list[Image]
    area: int = 0


def score_fields(
    pipeline: Pipeline,
    fields: Sequence[Field],
    scales: Mapping[str, Looked],
    *,
    batch: int,
    workers: int,
    progress: Callable[[int], None] | None = None,
) -> list[Row]:
    """Score fields; every one of them comes back, in order, as a row.

    Args:
        scales: how each slide is looked at.
        workers: batches at once; the pipeline's engine was opened for as many.
        progress: called with the number of fields done since the last call.
    """
    rows: list[Row | None] = [None] * len(fields)
    with ThreadPoolExecutor(workers) as pool, ThreadPoolExecutor(1) as readers:
        running: deque[tuple[list[int], Future[list[Row]]]] = deque()

        def settle(keep: int) -> None:
            while len(running) > keep:
                slots, future = running.popleft()
                for slot, row in zip(slots, future.result(), strict=True):
                    rows[slot] = row
                if progress is not None:
                    progress(len(slots))

        for slots, pixels in _batches(pipeline, fields, scales, batch, readers, rows, progress):
            names = [fields[i] for i in slots]
            running.append((slots, pool.submit(_work, pipeline, names, pixels, scales)))
            settle(workers + 1)
        settle(0)
    return [row for row in rows if row is not None]


def _batches(
    pipeline: Pipeline,
    fields: Sequence[Field],
    scales: Mapping[str, Looked],
    size: int,
    readers: ThreadPoolExecutor,
    rows: list[Row | None],
    progress: Callable[[int], None] | None,
) -> Iterator[tuple[list[int], list[Image]]]:
    """Batches of one shape in the detector; a field that cannot be read becomes its row at once."""
    buckets: dict[tuple[int, int], _Bucket] = {}
    for slot, result in enumerate(_decoded(fields, readers, ahead=2 * size)):
        if isinstance(result, ImageError):
            field = fields[slot]
            rows[slot] = (FieldRecord(field.slide, field.id, "failed", result.problem), ())
            if progress is not None:
                progress(1)
            continue
        height, width = result.shape[:2]
        key = pipeline.detector.shape(width, height, scales[fields[slot].slide].scale)
        bucket = buckets.setdefault(key, _Bucket([], []))
        bucket.slots.append(slot)
        bucket.pixels.append(result)
        bucket.area += result.shape[0] * result.shape[1]
        if len(bucket.slots) >= size:
            yield bucket.slots, bucket.pixels
            del buckets[key]
        while sum(b.area for b in buckets.values()) >= _HELD_PIXELS:
            fullest = max(buckets, key=lambda k: buckets[k].area)
            yield buckets[fullest].slots, buckets[fullest].pixels
            del buckets[fullest]
    for bucket in buckets.values():
        yield bucket.slots, bucket.pixels


def _decoded(fields: Sequence[Field], readers: ThreadPoolExecutor, ahead: int) -> Iterator[Image | ImageError]:
    """Decoded fields in order, read ahead by a number that grows while they are small."""
    waiting: deque[Future[Image | ImageError]] = deque()
    position = 0
    allowed = 1
    while position < len(fields) or waiting:
        while position < len(fields) and len(waiting) < allowed:
            waiting.append(readers.submit(_read, fields[position]))
            position += 1
        result = waiting.popleft().result()
        if not isinstance(result, ImageError):
            fitting = _HELD_PIXELS // max(1, result.shape[0] * result.shape[1])
            allowed = max(1, min(ahead, fitting, 2 * allowed))
        yield result


def _read(field: Field) -> Image | ImageError:
    try:
        return decode.read(field.path)
    except ImageError as error:
        return error
    except MemoryError:
        return ImageError("too large for this machine's memory")


def _work(pipeline: Pipeline, fields: Sequence[Field], pixels: list[Image], slides: Mapping[str, Looked]) -> list[Row]:
    cv2.setNumThreads(1)
    scales = [slides[f.slide].of(pipeline.detector, p) for f, p in zip(fields, pixels, strict=True)]
    failed = [slides[f.slide].failed for f in fields]
    results = pipeline.run(pixels, [(f.slide, f.id) for f in fields], scales)
    return [
        (
            _field_record(field, picture, cells, scale, unsure=bad or (scale is not None and not scale.sure)),
            cells.records,
        )
        for field, picture, cells, scale, bad in zip(fields, pixels, results, scales, failed, strict=True)
    ]


def _field_record(field: Field, pixels: Image, cells: Cells, scale: Scale | None, *, unsure: bool) -> FieldRecord:
    counts: dict[str, int] = {}
    for record in cells.records:
        counts[record.label] = counts.get(record.label, 0) + 1
    height, width = pixels.shape[:2]
    return FieldRecord(
        field.slide,
        field.id,
        "ok",
        width=width,
        height=height,
        quality=quality(pixels),
        scale=_red_cell_diameter(cells.records),
        counts=dict(sorted(counts.items())),
        scale_used=None if scale is None else round(scale.diameter_px, 2),
        flags=(*((CAPPED,) if cells.capped else ()), *((UNSURE_SCALE,) if unsure and cells.records else ())),
    )


def _red_cell_diameter(cells: Sequence[CellRecord]) -> float | None:
    """Median of the geometric mean side of red cells that the border did not cut, pixels."""
    sides = [
        float(np.sqrt((c.box[2] - c.box[0]) * (c.box[3] - c.box[1])))
        for c in cells
        if c.label == "RBC" and "border" not in c.flags
    ]
    return round(float(np.median(sides)), 2) if len(sides) >= _WHOLE_RED_CELLS else None

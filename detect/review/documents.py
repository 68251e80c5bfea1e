"""Fields and cells as the documents that FiftyOne keeps. The only file that knows how these look.

Documents are written and read as they are: FiftyOne's own `Sample` and `Detection` objects cost 30 ms a field of fifty
cells, these 0.3 ms. `tests/review/test_round_trip.py` holds them equal to what FiftyOne itself writes.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from detect.review.database import ReviewError
from detect.review.snapshot import Entry, Row

TRUTH, FOUND = "ground_truth", "predictions"
KEY = "smear"  # of our evaluation: `smear`, `smear_id` and `smear_iou` on cells, `smear_tp` and so on on fields
_BATCH = 500
_TRIES = 10  # of writing to a field that somebody edits
EMPTY = (None, False, "")  # what an attribute says that nobody set
CONFIRMED = "confirmed"  # the tag by which a person takes over what a machine made
T = TypeVar("T")

# Field of a cell to its type. An annotator edits the label, the box, the mask, tags and the snapshot's attributes.
# `made_as` is what a machine-made cell was when it was made, so that an edit of it is seen.
CELL = {
    "cell": str, "machine": bool, "made_as": str, "crowd": bool, "size_px": float,
    "doubt": float, "doubt_of": str, "seen_as": str,
}  # fmt: skip
EVALUATED = {"error": str, KEY: str, f"{KEY}_id": str, f"{KEY}_iou": float}
PREDICTED = {"type": str, "type_score": float, "candidates": str, "flags": str, "unsure": bool}
PREDICTED |= {"meets": str, "size_px": float, "doubt": float}
FIELD = {
    "field": str, "part": str, "slide": str, "group": str, "doubt": float, "uncertainty": float, "label_next": int,
    "scale_px": float, "prelabelled": str,
    "missed": int, "false": int, f"{KEY}_tp": int, f"{KEY}_fp": int, f"{KEY}_fn": int,
}  # fmt: skip


def declare(dataset: Any, attributes: Mapping[str, type]) -> None:
    """Give a FiftyOne dataset all fields that our documents have."""
    import fiftyone as fo

    kinds = {str: fo.StringField, bool: fo.BooleanField, float: fo.FloatField, int: fo.IntField}
    for name, kind in FIELD.items():
        dataset.add_sample_field(name, kinds[kind])
    for name, more in ((TRUTH, CELL | dict(attributes)), (FOUND, PREDICTED)):
        dataset.add_sample_field(name, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
        for key, kind in (more | EVALUATED).items():
            dataset.add_sample_field(f"{name}.detections.{key}", kinds[kind])


def sample(dataset: Any, entry: Entry, cells: list[Row]) -> Row:
    """A field with its drawn cells."""
    from bson import ObjectId

    now = datetime.now(UTC)
    size = {"width": int(entry.image["width"]), "height": int(entry.image["height"])}
    return {
        "_id": ObjectId(),
        "filepath": str(entry.path),
        "tags": [entry.part, *(t for t in entry.image.get("tags") or () if isinstance(t, str))],
        "metadata": {"_cls": "ImageMetadata", **size},
        "_media_type": "image",
        "_rand": random.random(),
        "field": entry.field,
        "part": entry.part,
        "slide": entry.slide,
        "group": entry.group,
        TRUTH: {"_cls": "Detections", "detections": cells},
        FOUND: {"_cls": "Detections", "detections": []},
        "_dataset_id": dataset._doc.id,
        "created_at": now,
        "last_modified_at": now,
    }


def cell(label: str, box: Sequence[float], width: int, height: int, mask: Mapping[str, Any] | None = None) -> Row:
    """A detection; box is xywh in pixels. The mask is cut to the box, as FiftyOne wants it."""
    from bson import ObjectId

    x, y, w, h = (float(v) for v in box)
    row: Row = {
        "_id": ObjectId(),
        "_cls": "Detection",
        "attributes": {},
        "tags": [],
        "label": label,
        "bounding_box": [x / width, y / height, w / width, h / height],
        "size_px": round(max(w, h), 1),
    }
    if mask is not None:
        row["mask"] = _packed(_cut(mask, x, y, w, h))
    return row


def _cut(mask: Mapping[str, Any], x: float, y: float, w: float, h: float) -> NDArray[np.bool_]:
    whole = rle.decode(mask).astype(bool)
    x0, y0 = max(0, round(x)), max(0, round(y))
    return np.ascontiguousarray(whole[y0 : max(y0 + 1, round(y + h)), x0 : max(x0 + 1, round(x + w))])


def _packed(array: NDArray[np.bool_]) -> bytes:
    """An array as FiftyOne keeps it in a document."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return zlib.compress(file.getvalue())


def _unpacked(data: bytes) -> NDArray[Any]:
    return np.asarray(np.load(io.BytesIO(zlib.decompress(data)), allow_pickle=False))


def mask_of(row: Row, width: int, height: int) -> dict[str, Any] | None:
    """The mask of a detection in the whole field, as run lengths with text; None where it has none."""
    if row.get("mask") is None:
        return None
    part = _unpacked(row["mask"]).astype(np.uint8)
    x, y, w, h = pixels(row, width, height)
    x0, y0 = min(max(0, round(x)), width - 1), min(max(0, round(y)), height - 1)
    x1, y1 = min(width, max(x0 + 1, round(x + w))), min(height, max(y0 + 1, round(y + h)))
    whole = np.zeros((height, width), np.uint8, order="F")
    whole[y0:y1, x0:x1] = cv2.resize(part, (x1 - x0, y1 - y0), interpolation=cv2.INTER_NEAREST)
    made = rle.encode(np.asfortranarray(whole))
    return {"size": [int(v) for v in made["size"]], "counts": made["counts"].decode("ascii")}


def pixels(row: Row, width: int, height: int) -> tuple[float, float, float, float]:
    """The box of a detection, xywh in pixels."""
    x, y, w, h = row["bounding_box"]
    return x * width, y * height, w * width, h * height


def truth_cell(told: Row, label: str, width: int, height: int, attributes: Mapping[str, type]) -> Row:
    """A drawn cell from its COCO annotation. attributes: those that are shown."""
    row = cell(label, told["bbox"], width, height, runs(told.get("segmentation"), width, height))
    row |= {"cell": str(told["id"]), "machine": False, "crowd": bool(told.get("iscrowd", 0))}
    tags = told.get("tags")
    row["tags"] = [t for t in tags if isinstance(t, str)] if isinstance(tags, list) else []
    said = told.get("attributes")
    for name, value in (said if isinstance(said, dict) else {}).items():
        if name in attributes:  # others stay in the snapshot
            row[name] = attributes[name](value) if value is not None else None
    return row


def runs(segmentation: Any, width: int, height: int) -> Any:
    """A COCO segmentation as run lengths; None where there is none."""
    if not segmentation:
        return None
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        return {**segmentation, "counts": segmentation["counts"].encode("ascii")}
    parts = rle.frPyObjects(segmentation, height, width)
    return rle.merge(parts) if isinstance(parts, list) else parts


def insert(dataset: Any, made: Iterable[Row]) -> int:
    """Write documents, some at a time; how many."""
    count, batch = 0, []
    for document in made:
        batch.append(document)
        if len(batch) == _BATCH:
            dataset._sample_collection.insert_many(batch)
            count, batch = count + len(batch), []
    if batch:
        dataset._sample_collection.insert_many(batch)
    return count + len(batch)


def heads(dataset: Any) -> list[Row]:
    """What identifies each field, without its cells, in the order in which they were written."""
    wanted = dict.fromkeys(("field", "part", "filepath", "slide", "group"), 1)
    return list(dataset._sample_collection.find({}, wanted).sort("_id", 1))


def rewrite(dataset: Any, ids: Sequence[Any], make: Callable[[Row], tuple[Row, T]]) -> Iterator[T]:
    """Set keys of some documents to what `make` says of each, unless somebody edits it meanwhile: then it is asked
    again with the document as it is now. Yields what else `make` says, once a document.

    The time of the last edit stays as it is: this is no edit.
    """
    from pymongo import UpdateOne

    samples = dataset._sample_collection
    left = list(ids)
    for _ in range(_TRIES):
        rows = list(samples.find({"_id": {"$in": left}}))
        made = {row["_id"]: (row["last_modified_at"], *make(row)) for row in rows}
        if not made:
            return
        samples.bulk_write(
            [UpdateOne({"_id": i, "last_modified_at": at}, {"$set": values}) for i, (at, values, _) in made.items()],
            ordered=False,
        )
        now = {
            row["_id"]: row["last_modified_at"] for row in samples.find({"_id": {"$in": left}}, {"last_modified_at": 1})
        }
        written = [i for i, (at, *_) in made.items() if now.get(i) == at]
        yield from (made[i][2] for i in written)
        left = [i for i in made if i in now and i not in set(written)]
        if not left:
            return
    raise ReviewError(f"{len(left)} fields are edited all the time", remedy="open again once the App is at rest")


def cells_of(row: Row) -> list[Row]:
    """The drawn cells of a document; none where somebody emptied the field."""
    return list((row.get(TRUTH) or {}).get("detections") or ())


def unconfirmed(cell: Row, attributes: Mapping[str, type]) -> bool:
    """Made by a machine, and neither tagged `confirmed` nor edited by anyone."""
    if not cell.get("machine") or CONFIRMED in (cell.get("tags") or ()):
        return False
    return cell.get("made_as") in (None, as_made(cell, attributes))


def as_made(cell: Row, attributes: Mapping[str, type]) -> str:
    """All of a machine-made cell that a person may edit, as it is now."""
    said = {k: cell[k] for k in sorted(attributes) if cell.get(k) not in EMPTY}
    mask = hashlib.sha1(cell["mask"]).hexdigest() if cell.get("mask") else ""
    box = [round(float(v), 5) for v in cell["bounding_box"]]
    return json.dumps([cell["label"], box, sorted(cell.get("tags") or ()), said, mask])


def update(dataset: Any, changes: Iterable[tuple[Any, Row]]) -> None:
    """Set keys of documents by `_id`, some at a time. The time of their last edit stays: this is no edit."""
    from pymongo import UpdateOne

    batch = []
    for identity, values in changes:
        batch.append(UpdateOne({"_id": identity}, {"$set": values}))
        if len(batch) == _BATCH:
            dataset._sample_collection.bulk_write(batch, ordered=False)
            batch = []
    if batch:
        dataset._sample_collection.bulk_write(batch, ordered=False)

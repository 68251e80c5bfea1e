"""What was drawn and found, kept in COCO format in the folder of `smear evaluate detector`, and read back.

truth.json         fields with their groups, cells, classes; under `info` what set and part this is
predictions.json   COCO results, down to low scores: pycocotools reads it against truth.json

Either may be packed: `truth.json.gz`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detect import geometry
from detect.errors import DataError
from detect.evaluate.classification import ANSWERS, Answers
from detect.types import Annotations, ClassMap, Dataset, Detections, Field, LabelledField, Rle

METRICS, TRUTH, PREDICTIONS = "metrics.json", "truth.json", "predictions.json"
AGAIN = "measure again with 'smear evaluate ... --out FOLDER'"


@dataclass(frozen=True, eq=False)
class Saved:
    """A folder read back: enough to measure again without the model or the pictures.

    Attributes:
        info: data, split, part, fingerprint of the set. metrics: what `metrics.json` says.
    """

    path: Path
    dataset: Dataset
    found: tuple[Detections, ...]
    info: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The bundle."""
        return str(self.metrics["bundle"])

    @property
    def thresholds(self) -> dict[str, float]:
        """Per class."""
        return {name: float(c["threshold"]) for name, c in self.metrics["classes"].items()}

    @property
    def cap(self) -> int:
        """Most detections of a field."""
        return int(self.metrics["max_detections"])


def save(dataset: Dataset, found: Sequence[Detections], out: Path, info: Mapping[str, Any]) -> None:
    """`truth.json` and `predictions.json`; every figure can be had again from them."""
    save_truth(dataset, out, info)
    results = [row for i, d in enumerate(found, 1) for row in _rows(i, d.boxes, d.labels, d.masks, d.scores)]
    _write(out / PREDICTIONS, results)


def save_truth(dataset: Dataset, out: Path, info: Mapping[str, Any]) -> None:
    """`truth.json` alone: what the set says, where only what was found is kept."""
    out.mkdir(parents=True, exist_ok=True)
    kept = {**info, "classes": list(dataset.classes), "exhaustive_for": sorted(dataset.exhaustive_for)}
    images = [
        {"id": i, "file_name": f.field.id, "width": f.field.width, "height": f.field.height, "group": f.field.group}
        for i, f in enumerate(dataset.fields, 1)
    ]
    cells: list[dict[str, Any]] = []
    for i, labelled in enumerate(dataset.fields, 1):
        cells += _cells(i, labelled.annotations, len(cells) + 1)
    categories = [{"id": k, "name": name} for k, name in enumerate(dataset.classes, 1)]
    truth = {"info": kept, "images": images, "annotations": cells, "categories": categories}
    _write(out / TRUTH, truth)


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, separators=(",", ":"), allow_nan=False), "utf-8")


def _cells(image: int, cells: Annotations, first: int) -> Iterator[dict[str, Any]]:
    rows = _rows(image, cells.boxes, cells.labels, cells.masks)
    for number, (row, crowd) in enumerate(zip(rows, cells.crowd, strict=True), first):
        yield {"id": number, **row, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": int(crowd)}


def _rows(
    image: int, boxes: Any, labels: Any, masks: Sequence[Rle | None] | None, scores: Any = None
) -> Iterator[dict[str, Any]]:
    for i, box in enumerate(geometry.to_xywh(boxes)):
        row = {"image_id": image, "category_id": int(labels[i]) + 1, "bbox": box.tolist()}
        mask = masks[i] if masks is not None else None
        if mask is not None:
            counts = mask["counts"]
            text = counts.decode("ascii") if isinstance(counts, bytes) else counts
            row["segmentation"] = {"size": [int(v) for v in mask["size"]], "counts": text}
        yield row if scores is None else row | {"score": float(scores[i])}


def read_saved(folder: Path) -> Saved:
    """A folder of `smear evaluate detector`.

    Raises:
        DataError: a file of it is missing, or not what we wrote.
    """
    metrics, truth, results = (load_json(folder / name) for name in (METRICS, TRUTH, PREDICTIONS))
    try:
        classes = ClassMap(tuple(truth["info"]["classes"]))
        cells, found = (_by_image(truth["images"], rows) for rows in (truth["annotations"], results))
        fields = tuple(_field(image, cells[image["id"]]) for image in truth["images"])
        exhaustive = frozenset(truth["info"]["exhaustive_for"])
        dataset = Dataset(str(truth["info"]["data"]), folder, classes, fields, exhaustive)
        # A detector that draws masks draws one per detection; where nothing was found at all there are none either.
        drawn = bool(results) and all("segmentation" in row for row in results)
        detections = tuple(_detections(found[image["id"]], classes, drawn) for image in truth["images"])
        return Saved(folder, dataset, detections, truth["info"], metrics)
    except (KeyError, TypeError) as error:
        raise DataError(f"not as it was written: {error}", where=str(folder), remedy=AGAIN) from error


def load_json(path: Path) -> Any:
    """The content of a file of ours, or of what it was packed to; DataError with a remedy where it cannot be had."""
    packed = _packed(path)
    try:
        return json.loads(path.read_bytes() if path.is_file() or not packed.is_file() else _unpacked(packed))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path), remedy=AGAIN) from error
    except ValueError as error:
        raise DataError(f"no JSON: {error}", where=str(path), remedy=AGAIN) from error


def pack(folder: Path) -> None:
    """Make cells and predictions of a folder a quarter as large; the same content is always the same bytes."""
    for path in (p for name in (TRUTH, PREDICTIONS) if (p := folder / name).is_file()):
        _packed(path).write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path.unlink()


def has(folder: Path, name: str) -> bool:
    """Whether a file of ours is there, packed or not."""
    return (folder / name).is_file() or _packed(folder / name).is_file()


def _packed(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")


def _unpacked(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, zlib.error) as error:
        raise DataError(f"cannot be unpacked: {error}", where=str(path), remedy=AGAIN) from error


def _by_image(images: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> dict[int, list[Any]]:
    out: dict[int, list[Any]] = {image["id"]: [] for image in images}
    for row in rows:
        out[row["image_id"]].append(row)
    return out


def _field(image: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> LabelledField:
    cells = Annotations.of(
        _boxes(rows),
        [r["category_id"] - 1 for r in rows],
        ids=[r["id"] for r in rows],
        crowd=[bool(r["iscrowd"]) for r in rows],
        masks=[r.get("segmentation") for r in rows],
    )
    name = image["file_name"]
    return LabelledField(Field(name, "", Path(name), image["width"], image["height"], group=image["group"]), cells)


def _detections(rows: Sequence[Mapping[str, Any]], classes: ClassMap, masks: bool) -> Detections:
    return Detections(
        _boxes(rows),
        np.array([r["score"] for r in rows], np.float32),
        np.array([r["category_id"] - 1 for r in rows], np.int64),
        classes,
        tuple(r["segmentation"] for r in rows) if masks else None,
    )


def _boxes(rows: Sequence[Mapping[str, Any]]) -> Any:
    return geometry.from_xywh(np.array([r["bbox"] for r in rows], np.float64))


def read_answers(folder: Path) -> tuple[str, Answers]:
    """Bundle and answers of a folder of `smear evaluate classifier`; DataError as for `read_saved`."""
    metrics, content = load_json(folder / METRICS), load_json(folder / ANSWERS)
    try:
        cells, groups, truth, answers = (
            tuple(map(str, content[name])) for name in ("cells", "groups", "truth", "answers")
        )
        return str(metrics["bundle"]), Answers(cells, groups, truth, answers, content["info"])
    except (KeyError, TypeError) as error:
        raise DataError(f"not as it was written: {error}", where=str(folder), remedy=AGAIN) from error


def task_of(folder: Path) -> str:
    """ "detector" or "classifier": what a folder of `smear evaluate` is of."""
    for task, name in (("detector", TRUTH), ("classifier", ANSWERS)):
        if (folder / name).is_file():
            return task
    raise DataError(f"holds neither {TRUTH} nor {ANSWERS}", where=str(folder), remedy=AGAIN)

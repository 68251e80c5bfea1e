"""What a model found, field by field, from a scoring run, an evaluation or a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as made
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from detect.bundles.folder import open_bundle
from detect.errors import ImageError
from detect.evaluate.saved import METRICS, read_saved
from detect.images import decode
from detect.pipeline.run import Opened, Pipeline, asked
from detect.review.database import ReviewError
from detect.review.snapshot import Entry
from detect.runtime.base import EngineSettings
from detect.score.scales import look
from detect.score.settings import ScoreSettings
from detect.score.store import Store, rle_of
from detect.taxonomy import UNIDENTIFIED, taxonomy
from detect.types import CellRecord, ClassMap, Detections, Field, Rle

FLOOR = 0.05  # score below which a detection says nothing, not even of a doubtful label
_BATCH = 16


@dataclass(frozen=True, eq=False)
class Found:
    """The cells found in one field, aligned to the classes of the labels.

    Attributes:
        names: class of each: that of the labels where the model's answer is or stands below one, else the model's.
        shown: bool (n,), at or above the model's own threshold; the others only cast doubt on labels.
        types, probabilities, candidates, flags: of the second stage, None and empty where there was none.
        quality: of the field, such as its sharpness. scale: median diameter of its red cells, pixels.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    names: tuple[str, ...]
    shown: NDArray[np.bool_]
    types: tuple[str | None, ...] = ()
    type_scores: tuple[float | None, ...] = ()
    probabilities: tuple[Mapping[str, float], ...] = ()
    attributes: tuple[Mapping[str, float], ...] = ()
    masks: tuple[Rle | None, ...] = ()
    quality: Mapping[str, float] = made(default_factory=dict)
    scale: float | None = None
    candidates: tuple[tuple[str, ...], ...] = ()
    flags: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.boxes)

    def detections(self, classes: ClassMap) -> Detections:
        """As records; classes holds every name."""
        labels = np.array([classes.index(n) for n in self.names], np.int64)
        return Detections(self.boxes, self.scores, labels, classes)


NOTHING = Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), (), np.zeros(0, bool))


class Predictions(Protocol):
    """Where predictions come from."""

    @property
    def name(self) -> str:
        """For people: the run or the bundle."""

    def of(self, entries: Sequence[Entry]) -> Iterator[Found | None]:
        """What was found in each of some fields, in their order; None for a field that was not looked at."""


def open_predictions(given: str, classes: Sequence[str], classifier: str | None = None) -> Predictions:
    """A scoring run or an evaluation by folder, or a bundle by folder or released name.

    Args:
        classes: of the labels. classifier: a classifier bundle that types the white cells a detector bundle finds.
    """
    folder = Path(given)
    if (folder / METRICS).is_file():
        return _Evaluation(folder, classes)
    if (folder / "cells").is_dir() and (folder / "fields").is_dir():
        return _Run(folder, classes)
    return _Bundle(given, classes, classifier)


def aligned(label: str, kind: str | None, classes: Sequence[str]) -> str:
    """The class of the labels that a model's answer is, its type before its label; the label itself where none is."""
    tree = taxonomy()
    for said in (kind, label):
        if said and said != UNIDENTIFIED and said in tree and (target := tree.common(said, classes)):
            return target
    return label


def _found(records: Sequence[CellRecord], classes: Sequence[str], thresholds: Mapping[str, float] | None) -> Found:
    if not records:
        return NOTHING
    least = [thresholds[r.label] if thresholds else 0.0 for r in records]
    return Found(
        np.array([r.box for r in records], np.float32).reshape(-1, 4),
        np.array([r.score for r in records], np.float32),
        tuple(aligned(r.label, r.type, classes) for r in records),
        np.array([r.score >= t for r, t in zip(records, least, strict=True)], bool),
        tuple(r.type for r in records),
        tuple(r.type_score for r in records),
        tuple(r.probabilities for r in records),
        tuple(r.attributes for r in records),
        tuple(r.mask for r in records),
        candidates=tuple(r.candidates for r in records),
        flags=tuple(r.flags for r in records),
    )


class _Run:
    """A folder of `smear score`. Its field ids start from the folder that was scored, perhaps below that of the set."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.name, self._classes, self._store = str(folder), classes, Store(folder)
        told = self._store.fields().select(["field", "status", "quality", "scale"]).to_pylist()
        self._fields = {row["field"]: row for row in told if row["status"] == "ok"}
        if not self._fields:
            raise ReviewError("the run scored no field", where=str(folder), remedy="name another run")
        self._ends: dict[str, list[str]] = {}
        for field in self._fields:
            self._ends.setdefault(field.rsplit("/", 1)[-1], []).append(field)
        self._part: Any = None
        self._here: dict[str, list[CellRecord]] = {}
        self._parts = self._numbered()
        self._above: str | None = None

    def _numbered(self) -> dict[str, int]:
        """Which part file holds the cells of each field."""
        out = {}
        for number, table in enumerate(self._store.cells(["field"])):
            out.update(dict.fromkeys(table["field"].unique().to_pylist(), number))
        return out

    def of(self, entries: Sequence[Entry]) -> Iterator[Found | None]:
        for entry in entries:
            field = self._field(entry.field)
            if field is None:
                yield None
                continue
            told = self._fields[field]
            found = _found(self._cells(field), self._classes, None)
            quality = dict(told["quality"] or ())
            yield Found(**{**vars(found), "quality": quality, "scale": told["scale"]})

    def _field(self, name: str) -> str | None:
        if name in self._fields:
            return name
        # The run began in a folder below that of the set: one and the same for all fields, or a field of one slide
        # would get the cells of another's.
        for field in self._ends.get(name.rsplit("/", 1)[-1], ()):
            if name.endswith("/" + field):
                above = name[: -len(field)]
                if self._above is None:
                    self._above = above
                if self._above == above:
                    return field
        return None

    def _cells(self, field: str) -> list[CellRecord]:
        number = self._parts.get(field)
        if number is None:
            return []
        if number != self._part:
            self._part, self._here = number, {}
            for row in self._store.part(number).to_pylist():
                self._here.setdefault(row["field"], []).append(_record(row))
        return self._here.get(field, [])


def _record(row: Mapping[str, Any]) -> CellRecord:
    return CellRecord(
        row["slide"],
        row["field"],
        row["cell"],
        (row["x0"], row["y0"], row["x1"], row["y1"]),
        row["label"],
        row["score"],
        row["type"],
        row["type_score"],
        dict(row["probabilities"] or ()),
        tuple(row.get("candidates") or ()),  # a run of before had none
        dict(row["attributes"] or ()),
        tuple(row["flags"] or ()),
        rle_of(row["mask"]) if row["mask"] else None,
    )


class _Evaluation:
    """A folder of `smear evaluate detector`: predictions down to low scores, and the thresholds."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        saved = read_saved(folder)
        self.name, self._classes, self._thresholds = saved.name, classes, saved.thresholds
        names = [f.field.id for f in saved.dataset.fields]
        self._found = dict(zip(names, saved.found, strict=True))

    def of(self, entries: Sequence[Entry]) -> Iterator[Found | None]:
        for entry in entries:
            found = self._found.get(entry.field)
            if found is None:
                yield None
                continue
            kept = found.select(found.scores >= FLOOR)
            yield _found([*_records(entry, kept)], self._classes, self._thresholds)


def _records(entry: Entry, found: Detections) -> Iterator[CellRecord]:
    for i, box in enumerate(found.boxes.tolist()):
        name, score = found.classes.names[int(found.labels[i])], float(found.scores[i])
        mask = found.masks[i] if found.masks is not None else None
        yield CellRecord(entry.slide, entry.field, i, (box[0], box[1], box[2], box[3]), name, score, mask=mask)


class _Bundle:
    """A detector bundle, run now, field by field; the cells it is sure of are typed by a classifier bundle."""

    def __init__(self, given: str, classes: Sequence[str], classifier: str | None) -> None:
        detector = open_bundle(given, "detector")
        self.name, self._classes = detector.card.name, classes
        self._thresholds = detector.thresholds
        nodes = (asked(open_bundle(classifier, "classifier")),) if classifier else ()
        self._pipeline = Pipeline(Opened(detector, nodes), EngineSettings(), min_score=FLOOR)

    def of(self, entries: Sequence[Entry]) -> Iterator[Found | None]:
        # As scoring looks at them: each slide at the scale that its red cells tell.
        fields = [Field(entry.field, entry.slide, entry.path) for entry in entries]
        slides = {
            slide: look(self._pipeline.detector, [f for f in fields if f.slide == slide], ScoreSettings())
            for slide in dict.fromkeys(f.slide for f in fields)
        }
        for start in range(0, len(entries), _BATCH):
            some = entries[start : start + _BATCH]
            pixels = [_read(entry.path) for entry in some]
            there = [i for i, p in enumerate(pixels) if p is not None]
            names = [(some[i].slide, some[i].field) for i in there]
            scales = [slides[some[i].slide].of(self._pipeline.detector, pixels[i]) for i in there]
            cells = dict(zip(there, self._pipeline.run([pixels[i] for i in there], names, scales), strict=True))
            for i in range(len(some)):
                yield _found(cells[i].records, self._classes, self._thresholds) if i in cells else None


def _read(path: Path) -> Any:
    try:
        return decode.read(path)
    except ImageError:
        return None

"""The records that cross from room to room. They check themselves when they are made.

Conventions, everywhere: images are uint8 RGB (H, W, 3), C-contiguous, EXIF applied. Boxes are float32
(n, 4), xyxy, absolute pixels of the full field, x right, y down, half-open. Masks are COCO compressed RLE in
field coordinates. Scores are float32 in [0, 1]. A label is an index into one `ClassMap`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from dataclasses import field as made
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from detect.errors import RecordError

Image = NDArray[np.uint8]
Rle = Mapping[str, Any]


@dataclass(frozen=True)
class ClassMap:
    """Class names in the order of a model's outputs. Made once and handed on; never borrowed from a library."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise RecordError("a class map needs at least one name")
        if len(set(self.names)) != len(self.names):
            raise RecordError(f"class names repeat: {list(self.names)}")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def index(self, name: str) -> int:
        """Index of `name`; RecordError lists the names there are."""
        try:
            return self.names.index(name)
        except ValueError:
            raise RecordError(f"no class '{name}'; the classes are {list(self.names)}") from None


@dataclass(frozen=True)
class Field:
    """One field of view: an image file, or a region of one.

    Attributes:
        id: path relative to the input root, with '/'.
        slide: the slide that it belongs to.
        path: where its pixels lie.
        width, height: pixels, after EXIF rotation; 0 while not yet known.
        patient: None unless the publisher tells.
        group: fields of one group never stand on both sides of a split.
        region: x0, y0, x1, y1 of a whole slide in its full resolution; None for an image file of its own.
    """

    id: str
    slide: str
    path: Path
    width: int = 0
    height: int = 0
    patient: str | None = None
    group: str | None = None
    region: tuple[int, int, int, int] | None = None


def _column(name: str, values: Any, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    array: NDArray[Any] = np.asarray(values, dtype=dtype)
    if array.size == 0 and shape[-1] == 4:
        array = array.reshape(-1, 4)
    if array.shape != shape:
        raise RecordError(f"{name}: expected shape {shape}, got {array.shape}")
    return array


class _Columns:
    """Shared by records made of columns of equal length: checked selection that keeps them together."""

    def __len__(self) -> int:
        return len(self.boxes)  # type: ignore[attr-defined]

    def select(self, index: NDArray[Any] | Sequence[int]) -> Self:
        """The rows of `index` (booleans or positions), in that order, in every column."""
        rows = np.asarray(index)
        if rows.dtype == bool and rows.shape != (len(self),):
            raise RecordError(f"selection: expected shape ({len(self)},), got {rows.shape}")
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        changed: dict[str, Any] = {}
        for column in fields(self):  # type: ignore[arg-type]
            value = getattr(self, column.name)
            if isinstance(value, np.ndarray):
                changed[column.name] = value[rows]
            elif isinstance(value, tuple):
                changed[column.name] = tuple(value[i] for i in rows)
        return replace(self, **changed)  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class Detections(_Columns):
    """What a detector found in one field. Columns of equal length, refused at construction if they are not.

    Attributes:
        boxes: float32 (n, 4), xyxy, absolute pixels of the full field.
        scores: float32 (n,) in [0, 1].
        labels: int64 (n,), indices into `classes`.
        classes: the detector's own classes.
        masks: COCO compressed RLE per box, or None where the detector draws no masks.
        capped: more cells were found than the cap per field allows, so some are missing.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: ClassMap
    masks: tuple[Rle, ...] | None = None
    capped: bool = False

    def __post_init__(self) -> None:
        n = len(self.boxes)
        object.__setattr__(self, "boxes", _column("boxes", self.boxes, np.float32, (n, 4)))
        object.__setattr__(self, "scores", _column("scores", self.scores, np.float32, (n,)))
        object.__setattr__(self, "labels", _column("labels", self.labels, np.int64, (n,)))
        if self.masks is not None and len(self.masks) != n:
            raise RecordError(f"masks: expected {n}, got {len(self.masks)}")
        if n and not np.isfinite(self.boxes).all():
            raise RecordError("boxes hold values that are not finite")
        if n and not ((self.scores >= 0) & (self.scores <= 1)).all():
            raise RecordError(f"scores: expected [0, 1], got {self.scores.min()} to {self.scores.max()}")
        if n and not ((self.labels >= 0) & (self.labels < len(self.classes))).all():
            raise RecordError(f"labels: expected 0 to {len(self.classes) - 1}, got {np.unique(self.labels)}")

    @classmethod
    def empty(cls, classes: ClassMap) -> Detections:
        """No cells."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), classes)

    def ordered(self) -> Detections:
        """In the order of our results: descending score, then x, then y, then label."""
        keys = (self.labels, self.boxes[:, 1], self.boxes[:, 0], -self.scores)
        return self.select(np.lexsort(keys))


@dataclass(frozen=True, eq=False)
class Annotations(_Columns):
    """What a person drew on one field.

    Attributes:
        boxes: float32 (n, 4), xyxy, absolute pixels of the full field.
        labels: int64 (n,), indices into the dataset's classes.
        ids: the annotation's id in its source (a COCO id, a line number), kept whatever its gaps.
        crowd: bool (n,), regions that hold many cells; a detection inside one is neither right nor wrong.
        extra: whatever else the source says of each, kept for the way back.
        masks: COCO compressed RLE per box, None where only a box was drawn.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ids: tuple[int, ...]
    crowd: NDArray[np.bool_]
    extra: tuple[Mapping[str, Any], ...]
    masks: tuple[Rle | None, ...]

    def __post_init__(self) -> None:
        n = len(self.boxes)
        object.__setattr__(self, "boxes", _column("boxes", self.boxes, np.float32, (n, 4)))
        object.__setattr__(self, "labels", _column("labels", self.labels, np.int64, (n,)))
        object.__setattr__(self, "crowd", _column("crowd", self.crowd, np.bool_, (n,)))
        for name in ("ids", "extra", "masks"):
            if len(getattr(self, name)) != n:
                raise RecordError(f"{name}: expected {n}, got {len(getattr(self, name))}")

    @classmethod
    def of(
        cls,
        boxes: Any,
        labels: Any,
        *,
        ids: Iterable[int] | None = None,
        crowd: Any = None,
        extra: Iterable[Mapping[str, Any]] | None = None,
        masks: Iterable[Rle | None] | None = None,
    ) -> Annotations:
        """Columns with the usual values for those not given: ids 1..n, no crowds, nothing extra, no masks."""
        n = len(labels)
        return cls(
            np.asarray(boxes, np.float32).reshape(n, 4),
            np.asarray(labels, np.int64),
            tuple(ids) if ids is not None else tuple(range(1, n + 1)),
            np.zeros(n, bool) if crowd is None else np.asarray(crowd, bool),
            tuple(extra) if extra is not None else ({},) * n,
            tuple(masks) if masks is not None else (None,) * n,
        )


@dataclass(frozen=True)
class LabelledField:
    """A field with what was drawn on it. `extra` keeps what else its source says of the image."""

    field: Field
    annotations: Annotations
    extra: Mapping[str, Any] = made(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """Labelled fields under one class map.

    Attributes:
        exhaustive_for: the classes of which every cell is drawn. A detection of any other class is ignored in
            evaluation: its absence from the labels says nothing.
        extra: whatever else the source says of the set, kept for the way back.
    """

    name: str
    root: Path
    classes: ClassMap
    fields: tuple[LabelledField, ...]
    exhaustive_for: frozenset[str]
    extra: Mapping[str, Any] = made(default_factory=dict)

    def __len__(self) -> int:
        return len(self.fields)


@dataclass(frozen=True)
class CellCrop:
    """The pixels of one cell with a margin.

    Attributes:
        pixels: uint8 RGB (h, w, 3), original pixels of the field; padded where the margin leaves the field.
        box: (x0, y0, x1, y1) of the cell in the field, without the margin.
        at_border: the cell touches the border of the field, so part of it may be missing.
        left, top: where the first pixel lies in the field; it may lie outside.
    """

    pixels: Image
    box: tuple[float, float, float, float]
    at_border: bool
    left: int = 0
    top: int = 0


@dataclass(frozen=True)
class CellRecord:
    """One row of the results.

    Attributes:
        label: the detector's class, by name. type: the classifier's answer, "unidentified", or None where the
            cell was not routed to a classifier.
        probabilities: of every name that was asked for, down the route; empty where not routed.
        candidates: the types that it may be, likeliest first, where it could not be told which.
        flags: what a reader should know of this cell: "border", "unfamiliar", "synthetic" (who answered knows drawn
            cells only).
    """

    slide: str
    field: str
    cell: int
    box: tuple[float, float, float, float]
    label: str
    score: float
    type: str | None = None
    type_score: float | None = None
    probabilities: Mapping[str, float] = made(default_factory=dict)
    candidates: tuple[str, ...] = ()
    attributes: Mapping[str, float] = made(default_factory=dict)
    flags: tuple[str, ...] = ()
    mask: Rle | None = None

"""Random labelled fields and imperfect predictions of them, from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detect.types import Annotations, ClassMap, Dataset, Detections, Field, LabelledField

CLASSES = ClassMap(("WBC", "RBC", "Platelet"))
SIDE = 400


def labelled(annotations: Annotations, number: int = 0, group: str | None = None) -> LabelledField:
    """A field with these annotations."""
    name = f"f{number:03d}.png"
    return LabelledField(Field(name, "slide", Path(name), SIDE, SIDE, group=group), annotations)


def dataset(
    fields: Sequence[LabelledField], classes: ClassMap = CLASSES, exhaustive: Sequence[str] | None = None
) -> Dataset:
    """Fields as a set, every class exhaustive unless told."""
    whole = frozenset(classes.names if exhaustive is None else exhaustive)
    return Dataset("random", Path(), classes, tuple(fields), whole)


def random_boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    """Boxes of cell size inside the field, float32 (n, 4)."""
    corner = rng.uniform(0, SIDE - 60, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(12, 60, (n, 2))], axis=1).astype(np.float32)


def random_annotations(rng: np.random.Generator, most: int, crowds: float = 0.0) -> Annotations:
    """Up to `most` cells, a share of them crowds."""
    n = int(rng.integers(0, most + 1))
    return Annotations.of(random_boxes(rng, n), rng.integers(0, len(CLASSES), n), crowd=rng.uniform(size=n) < crowds)


def random_detections(rng: np.random.Generator, truth: Annotations, extra: int, wrong: float = 0.15) -> Detections:
    """Most cells found a little beside where they are, some twice, some under a wrong class, and ghosts.

    Scores are distinct, so that no order of equal scores can matter.
    """
    found = np.flatnonzero(rng.uniform(size=len(truth)) < 0.85)
    found = np.concatenate([found, found[rng.uniform(size=len(found)) < 0.2]])
    boxes = truth.boxes[found] + rng.normal(0, 3, (len(found), 4)).astype(np.float32)
    labels = truth.labels[found].copy()
    swapped = rng.uniform(size=len(found)) < wrong
    labels[swapped] = rng.integers(0, len(CLASSES), int(swapped.sum()))
    ghosts = int(rng.integers(0, extra + 1))
    boxes = np.concatenate([boxes, random_boxes(rng, ghosts)])
    labels = np.concatenate([labels, rng.integers(0, len(CLASSES), ghosts)])
    boxes = np.concatenate([boxes[:, :2], np.maximum(boxes[:, 2:], boxes[:, :2] + 2)], axis=1)
    scores = rng.permutation(np.linspace(0.02, 0.98, len(boxes) + 1)[1:]) + rng.uniform(0, 1e-3, len(boxes))
    return Detections(boxes, scores.astype(np.float32), labels, CLASSES)


def random_set(
    seed: int,
    fields: int = 8,
    *,
    crowds: float = 0.0,
    groups: int | None = None,
    exhaustive: Sequence[str] | None = None,
) -> tuple[Dataset, list[Detections]]:
    """A labelled set and predictions for it; `groups` says how many sources its fields come from."""
    rng = np.random.default_rng(seed)
    rows, found = [], []
    for i in range(fields):
        truth = random_annotations(rng, 14, crowds)
        group = None if groups is None else f"g{int(rng.integers(0, groups))}"
        rows.append(labelled(truth, i, group))
        found.append(random_detections(rng, truth, 6))
    return dataset(rows, exhaustive=exhaustive), found

"""Whether a detection's score is the chance that it is right: the detection expected calibration error, D-ECE.

Kueppers et al., Multivariate Confidence Calibration for Object Detection, CVPR Workshops 2020. Detections of a bin
(of score; or of score, place and size) should be right as often as their mean score says. There is no D-ECE of
missed cells: it tells of what was found only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detect.evaluate.intervals import Interval, intervals, ratio
from detect.evaluate.matching import match
from detect.types import Dataset, Detections

FLOOR = 0.05  # below it lie thousands of detections that nobody is ever shown
BINS = 20  # of the score
PLACE_BINS = 5  # each of score, centre x, centre y, width, height
LEAST = 8  # detections in a bin of place and size, or its precision says nothing


@dataclass(frozen=True, eq=False)
class Shown:
    """Detections of one class from the floor on, matched at IoU 0.5; those in a crowd region are left out.

    Attributes:
        fields: int64 (n,). scores: float64 (n,). hit: bool (n,), whether it met a cell of its class.
        place: float64 (n, 4), centre x, centre y, width, height as shares of the field.
    """

    fields: NDArray[np.int64]
    scores: NDArray[np.float64]
    hit: NDArray[np.bool_]
    place: NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Detections of a range of scores: how many, their mean score, and the share that is right."""

    low: float
    high: float
    n: int
    score: float
    precision: float


@dataclass(frozen=True)
class Calibration:
    """One class, detections from `floor` on.

    Attributes:
        d_ece: over bins of the score. d_ece_placed: over bins of score, place and size that hold enough
            detections; None where none does. placed_share: the share of the detections that lies in those.
        gap: mean score minus the share that is right: above 0 is overconfident.
    """

    d_ece: Interval
    d_ece_placed: Interval | None
    placed_share: float
    gap: Interval
    n: int
    floor: float
    bins: tuple[Bin, ...]


def shown(dataset: Dataset, found: Sequence[Detections], floor: float = FLOOR) -> dict[str, Shown]:
    """Per exhaustive class what a calibration is measured on; an unmatched detection of another class says nothing."""
    fields, scores, labels, hit, place = [], [], [], [], []
    for i, (labelled, d) in enumerate(zip(dataset.fields, found, strict=True)):
        d = d.select(d.scores >= np.float32(floor))
        matches = match(d, labelled.annotations, 0.5)
        d, met = d.select(~matches.ignored), matches.truth_of[~matches.ignored] >= 0
        sides = np.array([labelled.field.width, labelled.field.height], np.float64).clip(min=1)
        b = d.boxes.astype(np.float64).reshape(-1, 2, 2)
        fields.append(np.full(len(d), i))
        scores.append(d.scores.astype(np.float64))
        labels.append(d.labels)
        hit.append(met)
        place.append(np.concatenate([b.mean(axis=1) / sides, (b[:, 1] - b[:, 0]) / sides], axis=1))
    columns = [np.concatenate(c) for c in (fields, scores, hit, place)]
    label = np.concatenate(labels)
    names = enumerate(dataset.classes.names)
    return {name: Shown(*(c[label == k] for c in columns)) for k, name in names if name in dataset.exhaustive_for}


def calibration(
    s: Shown, groups: Sequence[str], floor: float = FLOOR, *, rounds: int = 1000, seed: int = 1
) -> Calibration | None:
    """Calibration of one class; None where nothing was found. Limits of D-ECE are normal ones (see `intervals`)."""
    if not len(s.scores):
        return None
    bins = _bins(s.scores, BINS)
    sums = _sums(s, bins, len(groups))
    placed = sum(_bins(v, PLACE_BINS) * PLACE_BINS**i for i, v in enumerate([s.scores, *s.place.T]))
    _, number, size = np.unique(placed, return_inverse=True, return_counts=True)
    enough = (size >= LEAST)[number]
    (gap,) = intervals(lambda w: _gap(sums, w), groups, rounds=rounds, seed=seed)
    (d_ece,) = intervals(lambda w: expected_error(sums, w), groups, rounds=rounds, seed=seed, normal=True)
    with_place = None
    if enough.any():
        kept = Shown(s.fields[enough], s.scores[enough], s.hit[enough], s.place[enough])
        fine = _sums(kept, np.unique(number[enough], return_inverse=True)[1], len(groups))
        (with_place,) = intervals(lambda w: expected_error(fine, w), groups, rounds=rounds, seed=seed, normal=True)
    told = _told(sums.sum(axis=0))
    return Calibration(d_ece, with_place, float(enough.mean()), gap, len(s.scores), floor, told)


def _bins(values: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """Which of `n` equal parts of [0, 1] each value lies in."""
    return np.clip((values * n).astype(np.int64), 0, n - 1)


def _sums(s: Shown, bins: NDArray[np.int64], n_fields: int) -> NDArray[np.float64]:
    """Per field and bin the number of detections, of their scores and of the right ones, (fields, bins, 3)."""
    out = np.zeros((n_fields, int(bins.max()) + 1, 3))
    np.add.at(out, (s.fields, bins), np.stack([np.ones(len(s.scores)), s.scores, s.hit], axis=1))
    return out


def expected_error(sums: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the detections of |mean score - precision| of their bin, (rounds, fields) to (rounds, 1)."""
    n, score, hits = np.moveaxis(_weighted(sums, weights), 2, 0)
    return ratio(np.abs(score - hits).sum(axis=1, keepdims=True), n.sum(axis=1, keepdims=True))


def _gap(sums: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    n, score, hits = np.moveaxis(_weighted(sums, weights).sum(axis=1), 1, 0)
    return ratio(score - hits, n)[:, None]


def _weighted(sums: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return (weights @ sums.reshape(len(sums), -1)).reshape(len(weights), -1, 3)


def _told(totals: NDArray[np.float64]) -> tuple[Bin, ...]:
    return tuple(
        Bin(i / BINS, (i + 1) / BINS, int(n), float(score / n), float(hits / n))
        for i, (n, score, hits) in enumerate(totals)
        if n
    )

"""Predictions into an annotator's dataset, matched to its labels, cell by cell, as `evaluate` matches them.

One pass over the documents, a few fields at a time. Labels are read as they stand in the dataset, edits and all, so a
dataset can be judged again after it was edited.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from detect.evaluate.breakdown import FALSE, Kind, judge
from detect.evaluate.matching import match
from detect.pipeline.route import UNFAMILIAR
from detect.review import documents
from detect.review.database import ReviewError, reached
from detect.review.documents import FOUND, KEY, TRUTH
from detect.review.doubt import DoubtSettings, doubts
from detect.review.open import INFO, Progress
from detect.review.predictions import Found, Predictions
from detect.review.snapshot import Entry, Row, Snapshot
from detect.taxonomy import UNIDENTIFIED
from detect.types import Annotations, ClassMap, Detections

MISSING = "(none)"  # what FiftyOne's panels call the other side of a cell that met nothing
QUALITY, ATTRIBUTE = "quality_", "attribute_"  # what a run measured of a field, and of a cell
_FEW = 64
_POINTS = 100  # of a curve
T = TypeVar("T")
_SPREAD = 0.5  # a score this far from both ends is as uncertain as can be


@dataclass
class Outcome:
    """What a judgement comes to.

    Attributes:
        matches: (drawn, found, IoU, score, id drawn, id found) of every cell, None where there is no other side.
        kinds: how many of each kind of error. confusions: (drawn, found) of every wrong class.
        fields_met: of which there are predictions.
        drawn: cells per class. scores: per class, score and whether right of every detection, down to low scores.
        described: per field, how uncertain it is and what it holds. qualities, attributes: fields of the dataset that
            hold some of a field, or of a cell.
    """

    matches: list[tuple[Any, ...]] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    confusions: Counter[tuple[str, str]] = field(default_factory=Counter)
    drawn: Counter[str] = field(default_factory=Counter)
    fields_met: int = 0
    described: list[tuple[Any, float, tuple[float, ...]]] = field(default_factory=list)
    scores: dict[str, list[tuple[float, bool]]] = field(default_factory=dict)
    qualities: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)

    def add(self, other: Outcome) -> None:
        """Take in what one field came to."""
        self.matches += other.matches
        for mine, theirs in ((self.kinds, other.kinds), (self.drawn, other.drawn)):
            mine.update(theirs)
        self.confusions.update(other.confusions)
        self.fields_met += other.fields_met
        self.described += other.described
        for name, pairs in other.scores.items():
            self.scores.setdefault(name, []).extend(pairs)
        self.qualities |= other.qualities
        self.attributes |= other.attributes

    def curves(self) -> dict[str, list[list[float]]]:
        """Per class [recall, precision, score], at most `_POINTS` of each, from the surest detection on."""
        out = {}
        for name, pairs in sorted(self.scores.items()):
            if not self.drawn[name]:
                continue
            pairs.sort(reverse=True)
            right = np.cumsum([hit for _, hit in pairs])
            places = np.unique(np.linspace(0, len(pairs) - 1, _POINTS).astype(int))
            out[name] = [
                [float(right[i] / self.drawn[name]), float(right[i] / (i + 1)), pairs[i][0]] for i in places.tolist()
            ]
        return out


def judge_all(
    dataset: Any,
    snapshot: Snapshot,
    predictions: Predictions,
    *,
    settings: DoubtSettings | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Write predictions, matches, error kinds and doubts into the dataset.

    Raises:
        ReviewError: not one field of the set has a prediction.
    """
    outcome = Outcome()

    def make(row: Row, found: Found | None) -> tuple[Row, Outcome]:
        return _field(row, found, snapshot, settings)

    with reached():
        for part in rewritten(dataset, predictions, make, progress):
            outcome.add(part)
        if not outcome.fields_met:
            raise ReviewError(
                f"'{predictions.name}' holds no prediction for any of {len(dataset)} fields",
                remedy="score, or evaluate on, the very folder that was opened, or name a bundle",
            )
        import fiftyone as fo

        for name in sorted(outcome.qualities):
            dataset.add_sample_field(name, fo.FloatField)
        for name in sorted(outcome.attributes):
            dataset.add_sample_field(f"{FOUND}.detections.{name}", fo.FloatField)
        told = {"predictions": predictions.name, "curves": outcome.curves()}
        dataset.info[INFO] = {**dataset.info[INFO], **told}
        dataset.save()
    return outcome


def _field(row: Row, found: Found | None, snapshot: Snapshot, settings: DoubtSettings | None) -> tuple[Row, Outcome]:
    """What to write into a field, and what it adds to the whole."""
    outcome = Outcome()
    if found is None:
        return _unjudged(row), outcome
    outcome.fields_met = 1
    labels = [c["label"] for c in drawn_in(row, snapshot.attributes)]  # an annotator may have used a class of their own
    classes = ClassMap(tuple(dict.fromkeys([*snapshot.classes, *labels, *found.names])))
    changes = _judged(row, found, classes, snapshot, outcome, settings)
    outcome.described.append((row["_id"], changes["uncertainty"], _features(found, snapshot.classes)))
    outcome.qualities = {name for name in changes if name.startswith(QUALITY)}
    outcome.attributes = {name for c in changes[f"{FOUND}.detections"] for name in c if name.startswith(ATTRIBUTE)}
    return changes, outcome


def rewritten(
    dataset: Any,
    predictions: Predictions,
    make: Callable[[Row, Found | None], tuple[Row, T]],
    progress: Progress | None = None,
) -> Iterator[T]:
    """Set keys of every document to what `make` says of it and of what was found there; see `documents.rewrite`."""
    heads = documents.heads(dataset)
    for start in range(0, len(heads), _FEW):
        few = heads[start : start + _FEW]
        found = dict(zip((h["_id"] for h in few), predictions.of([entry_of_row(h) for h in few]), strict=True))
        yield from documents.rewrite(dataset, list(found), lambda row, found=found: make(row, found[row["_id"]]))  # type: ignore[misc]
        if progress is not None:
            progress(len(few), len(heads))


def entry_of_row(row: Row) -> Entry:
    """What predictions need to know of a document."""
    return Entry(row["field"], row["part"], Path(row["filepath"]), row["slide"], row.get("group"), {}, ())


def size_of(row: Row) -> tuple[int, int]:
    """Width and height in pixels."""
    return int(row["metadata"]["width"]), int(row["metadata"]["height"])


def drawn_in(row: Row, attributes: Mapping[str, type]) -> list[Row]:
    """The drawn cells of a document: machine-made ones that nobody confirmed are none, nor is what has no label."""
    return [c for c in documents.cells_of(row) if c.get("label") and not documents.unconfirmed(c, attributes)]


def xyxy_of(cells: Sequence[Row], width: int, height: int) -> NDArray[np.float64]:
    """Boxes of documents, xyxy in pixels."""
    xywh = np.array([documents.pixels(c, width, height) for c in cells], np.float64).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def _judged(
    row: Row,
    found: Found,
    classes: ClassMap,
    snapshot: Snapshot,
    outcome: Outcome,
    settings: DoubtSettings | None,
) -> Row:
    width, height = size_of(row)
    drawn, exhaustive = drawn_in(row, snapshot.attributes), snapshot.exhaustive_for
    places = [next(i for i, c in enumerate(documents.cells_of(row)) if c is one) for one in drawn]
    labels = [classes.index(c["label"]) for c in drawn]
    truth = Annotations.of(xyxy_of(drawn, width, height), labels, crowd=[bool(c.get("crowd")) for c in drawn])
    every = found.detections(classes)
    shown = np.flatnonzero(found.shown)
    detections = every.select(shown)
    judged = judge(detections, truth, exhaustive)
    everything = match(every, truth)
    for name, score, met, crowd in zip(found.names, found.scores, everything.truth_of, everything.ignored, strict=True):
        if not crowd and name in exhaustive:
            outcome.scores.setdefault(name, []).append((round(float(score), 4), bool(met >= 0)))
    doubted = doubts(every, truth, sorted(exhaustive), settings)
    cells = [_predicted(found, int(i), width, height) for i in shown]
    for row_of, kind, partner, iou in zip(cells, judged.detections, judged.partner, judged.iou, strict=True):
        met = drawn[partner] if partner >= 0 else None
        right = kind is Kind.RIGHT
        row_of |= {"error": str(kind), KEY: "" if kind is Kind.IGNORED else "tp" if right else "fp"}
        row_of |= {f"{KEY}_id": str(met["_id"]) if met and right else "", "meets": met["label"] if met else ""}
        row_of[f"{KEY}_iou"] = float(iou) if met else None
        outcome.kinds[str(kind)] += 1
        if kind is Kind.WRONG_CLASS and met:
            outcome.confusions[met["label"], row_of["label"]] += 1
    for i, place in enumerate(shown):
        cells[i]["doubt"] = round(float(doubted.missing[place]), 4)
    changes = _truth_changes(places, drawn, judged, cells, doubted, truth)
    _count(outcome, judged, drawn, cells, detections, truth)
    false = sum(kind in FALSE for kind in judged.detections)
    missed = sum(kind is Kind.MISSED for kind in judged.annotations)
    right_ones = sum(kind is Kind.RIGHT for kind in judged.detections)
    worst = max([*doubted.cells, *doubted.missing], default=0)
    return changes | {
        f"{FOUND}.detections": cells,
        "doubt": round(float(worst), 4),
        "uncertainty": round(_uncertainty(found), 4),
        "missed": missed,
        "false": false,
        f"{KEY}_tp": right_ones,
        f"{KEY}_fp": false,
        f"{KEY}_fn": missed,
        "scale_px": found.scale,
        **{QUALITY + name: float(value) for name, value in found.quality.items()},
    }


def _unjudged(row: Row) -> Row:
    """What a field says of which nothing is known: no word of an earlier judgement."""
    changes: Row = {f"{FOUND}.detections": []}
    told = ("doubt", "uncertainty", "label_next", "missed", "false", "scale_px", f"{KEY}_tp", f"{KEY}_fp", f"{KEY}_fn")
    changes |= dict.fromkeys((*told, *(name for name in row if name.startswith(QUALITY))))
    for place, cell in enumerate(documents.cells_of(row)):
        ours = [k for k in ("error", KEY, f"{KEY}_id", f"{KEY}_iou", "doubt", "doubt_of", "seen_as") if k in cell]
        changes |= {f"{TRUTH}.detections.{place}.{key}": None for key in ours}
    return changes


def _predicted(found: Found, i: int, width: int, height: int) -> Row:
    x0, y0, x1, y1 = (float(v) for v in found.boxes[i])
    mask = found.masks[i] if found.masks else None
    row = documents.cell(found.names[i], (x0, y0, x1 - x0, y1 - y0), width, height, mask)
    row["confidence"] = float(found.scores[i])
    if found.types and (kind := found.types[i]) is not None:
        row["type"], row["type_score"] = kind, found.type_scores[i]
        told = found.probabilities[i]
        candidates = found.candidates[i] if found.candidates else ()
        likely = candidates[:3] or sorted(told, key=lambda name: -told[name])[:3]
        row["candidates"] = ", ".join(f"{name} {told.get(name, 0):.2f}" for name in likely)
        row["flags"] = ", ".join(found.flags[i]) if found.flags else ""
        row["unsure"] = kind == UNIDENTIFIED or bool(candidates)
    if found.attributes:
        # A field of the App has no spaces or colons in its name.
        row |= {ATTRIBUTE + re.sub(r"\W+", "_", name): float(v) for name, v in found.attributes[i].items()}
    return row


def _truth_changes(
    places: Sequence[int], drawn: Sequence[Row], judged: Any, cells: Sequence[Row], doubted: Any, truth: Annotations
) -> Row:
    met = {int(p): cells[i] for i, p in enumerate(judged.partner) if judged.detections[i] is Kind.RIGHT}
    changes: Row = {}
    for j, place in enumerate(places):
        partner = met.get(j)
        kind = judged.annotations[j]
        told = {
            "error": str(kind),
            KEY: {Kind.FOUND: "tp", Kind.MISSED: "fn"}.get(kind, ""),
            f"{KEY}_id": str(partner["_id"]) if partner else "",
            f"{KEY}_iou": partner[f"{KEY}_iou"] if partner else None,
            "doubt": round(float(doubted.cells[j]), 4),
            "doubt_of": str(doubted.kinds[j]),
            "seen_as": doubted.says[j],
        }
        changes |= {f"{TRUTH}.detections.{place}.{key}": value for key, value in told.items()}
    return changes


def _count(
    outcome: Outcome, judged: Any, drawn: Sequence[Row], cells: Sequence[Row], found: Detections, truth: Annotations
) -> None:
    """Pairs for FiftyOne's panels: right ones, wrong classes at one place, then what is left on either side."""
    taken = set()
    for i, kind in enumerate(judged.detections):
        if kind is Kind.IGNORED:
            continue
        partner = int(judged.partner[i])
        pair = partner >= 0 and partner not in taken and kind in (Kind.RIGHT, Kind.WRONG_CLASS)
        if pair and kind is Kind.WRONG_CLASS and judged.annotations[partner] is not Kind.MISSED:
            pair = False
        met = drawn[partner] if pair else None
        if pair:
            taken.add(partner)
        label, iou = (met["label"], float(judged.iou[i])) if met else (None, None)
        ids = (str(met["_id"]) if met else None, str(cells[i]["_id"]))
        outcome.matches.append((label, cells[i]["label"], iou, cells[i]["confidence"], *ids))
    for j, cell in enumerate(drawn):
        if truth.crowd[j]:
            continue
        outcome.drawn[cell["label"]] += 1
        if judged.annotations[j] is Kind.MISSED:
            outcome.kinds[str(Kind.MISSED)] += 1
        if j not in taken:
            outcome.matches.append((cell["label"], None, None, None, str(cell["_id"]), None))


def _uncertainty(found: Found) -> float:
    """How unsure the model is of a field, 0 to 1: its three most uncertain cells on average.

    A score is least certain at the middle; a typed cell is as uncertain as its type, and wholly so where it could not
    be named, or is unlike all that was learnt.
    """
    if not len(found):
        return 0.0
    unsure = 1 - np.abs(found.scores - _SPREAD) / _SPREAD
    types = found.type_scores or (None,) * len(found)
    odd = [bool(c) or UNFAMILIAR in f for c, f in zip(found.candidates, found.flags, strict=True)] or [False] * len(
        found
    )
    each = [
        1.0 if strange else max(float(u), 1 - t if t is not None else 0.0)
        for u, t, strange in zip(unsure, types, odd, strict=True)
    ]
    return float(np.mean(sorted(each)[-3:]))


def _features(found: Found, classes: Sequence[str]) -> tuple[float, ...]:
    """What a field holds, for telling fields apart: cells per class, and their sizes."""
    shown = found.shown
    counts = Counter(n for n, s in zip(found.names, shown, strict=True) if s)
    sides = np.sqrt(np.prod(found.boxes[shown][:, 2:] - found.boxes[shown][:, :2], axis=1)) if shown.any() else [0.0]
    numbers = [np.log1p(counts[name]) for name in classes]
    return (*(float(v) for v in numbers), float(np.log1p(np.median(sides))), float(np.log1p(np.ptp(sides))))

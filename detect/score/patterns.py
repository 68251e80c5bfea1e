"""What a whole slide resembles, from its white cells: a disease, by a bundle that learnt it, and a FAB type, by rule.

The wording is "pattern resembling": nothing here is a diagnosis. No slide is called with few cells counted.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detect.bundles.card import TrainedOn
from detect.bundles.folder import Bundle
from detect.classify.bundled import softmax
from detect.evaluate import conformal
from detect.evaluate.intervals import Interval, wilson
from detect.pipeline.run import Opened, graph_engine
from detect.runtime.base import Engine, EngineSettings, open_graph
from detect.score import manifest
from detect.score.bags import Bag, bags
from detect.score.differential import Slide
from detect.score.manifest import Manifest
from detect.score.schema import PATTERNS
from detect.score.store import Store, write_bytes, write_table

LEAST = 100  # white cells, and lymphoblasts named L1, L2 or L3 (GUIDE.md, section 4)
FAB = ("FAB L1", "FAB L2", "FAB L3")
_L3, _L2 = 0.5, 0.25  # more than half are L3; else a quarter of the others L2 (GUIDE.md, section 4)
_SHOWN = 12  # cells that decided, at most
GUIDE = "annotations/GUIDE.md, section 4"
ALL = "ALL"  # FAB L1, L2 and L3 are types of this pattern only, or of one whose name begins so
_NOTHING: Mapping[str, Any] = {"pattern": None, "share": None, "cells": ()}


@dataclass(frozen=True)
class Called:
    """One answer about one slide.

    Attributes:
        question: "disease" or "FAB". pattern: what it resembles; None where nothing is said.
        said: the answer in words, or why there is none.
        share: probability of the pattern, without limits; of FAB the deciding fraction, with its limits: of L3 among
            all that are named, else of L1 or L2 among these two.
        candidates: what it may resemble, where that cannot be told apart.
        counted: cells that the answer is from.
        cells: (field, cell) of those that decided, the weightiest first.
        by: bundle or rule. trained_on: what those that answered learnt from.
    """

    slide: str
    question: str
    pattern: str | None
    said: str
    counted: int
    by: str
    share: Interval | None = None
    candidates: tuple[str, ...] = ()
    cells: tuple[tuple[str, int], ...] = ()
    trained_on: TrainedOn = "real"


class Patterns:
    """What a pipeline asks of whole slides.

    Args:
        fab: whether slides are called L1, L2 or L3.
    """

    def __init__(self, opened: Opened, engine: EngineSettings, *, fab: bool) -> None:
        self._bundle, self._fab, self._error = opened.slide, fab, opened.slide_error
        self._trained_on = opened.trained_on
        self._named = any(set(FAB) & set(node.bundle.names) for node in opened.reached)
        # Opened before anything is scored, so that a graph that cannot run is known at once.
        self._graph = open_graph(opened.slide.graph, graph_engine(engine)) if opened.slide is not None else None

    def call(self, store: Store, slides: Sequence[Slide]) -> list[Called]:
        """What every slide resembles, as far as the pipeline asks; slides in their order."""
        if self._bundle is None and not self._fab:
            return []
        section = self._bundle.card.slide if self._bundle is not None else None
        found = bags(store, section.inputs if section is not None else ())
        out: list[Called] = []
        for slide in slides:
            bag, whole = found.get(slide.name), None
            if self._bundle is not None and self._graph is not None:
                whole = disease(slide, bag, self._bundle, self._graph, self._error, self._trained_on)
                out.append(whole)
            if self._fab:
                out.append(self._fab_type(slide, bag, whole))
        return out

    def _fab_type(self, slide: Slide, bag: Bag | None, whole: Called | None) -> Called:
        """L1, L2 or L3, where lymphoblasts are named and the slide may be one of ALL."""
        told = fab_type(slide, bag, self._trained_on)
        if not self._named:
            return replace(told, **_NOTHING, said="not asked: no bundle of this pipeline names L1, L2 or L3")
        names = {whole.pattern, *whole.candidates} - {None} if whole is not None else set()
        if told.share is not None and names and not any(str(n).startswith(ALL) for n in names):
            other = " or ".join(sorted(map(str, names)))
            return replace(
                told, **_NOTHING, said=f"not called: L1, L2 and L3 are of {ALL}, the slide resembles {other}"
            )
        return told


def disease(
    slide: Slide, bag: Bag | None, bundle: Bundle, graph: Engine, error: float, trained_on: TrainedOn
) -> Called:
    """What a bundle says of all white cells of a slide."""
    section = bundle.card.slide
    assert section is not None
    name = bundle.card.name
    if slide.white < section.min_cells or bag is None:
        said = _few(slide.white, section.min_cells, "white cells")
        return Called(slide.name, "disease", None, said, slide.white, name, trained_on=trained_on)
    scores, weights = graph.run(bag.told)
    told = softmax(np.asarray(scores).reshape(1, -1), section.temperature)
    most = conformal.limits([section.calibration.strange[c] for c in bundle.card.classes], error)
    likely = conformal.sets(told, most)[0]
    names = [c for c, yes in zip(bundle.card.classes, likely, strict=True) if yes]
    names.sort(key=lambda c: -told[0, bundle.card.classes.index(c)])
    cells = _weightiest(bag, np.asarray(weights).reshape(-1))
    best = int(told[0].argmax())
    if len(names) != 1:
        said = f"undecided between {' and '.join(names)}" if names else f"like no pattern, nearest {_of(bundle, best)}"
        share = _unlimited(told[0, best])
        return Called(slide.name, "disease", None, said, slide.white, name, share, tuple(names), cells, trained_on)
    share = _unlimited(told[0, bundle.card.classes.index(names[0])])
    return Called(slide.name, "disease", names[0], _words(names[0]), slide.white, name, share, (), cells, trained_on)


def _of(bundle: Bundle, i: int) -> str:
    return bundle.card.classes[i]


def _unlimited(value: float) -> Interval:
    """A probability, of which no limits are known."""
    return Interval(float(value), float("nan"), float("nan"))


def _words(pattern: str) -> str:
    if pattern == "none":
        return "pattern resembling none of the leukemias it knows, which rules none of them out"
    return f"pattern resembling {pattern}"


def _few(counted: int, least: int, what: str) -> str:
    return f"not called: {counted} {what} counted, {least} needed"


def _weightiest(bag: Bag, weights: NDArray[np.floating]) -> tuple[tuple[str, int], ...]:
    return tuple(bag.cells[i] for i in np.argsort(-weights, kind="stable")[:_SHOWN])


def fab_type(slide: Slide, bag: Bag | None, trained_on: TrainedOn = "real") -> Called:
    """L1, L2 or L3 by the fractions of lymphoblasts, by the rule of GUIDE.md for slides where only names exist."""

    def told(pattern: str | None, said: str, counted: int, share: Interval | None = None) -> Called:
        cells = _surest(bag, pattern) if bag is not None and pattern is not None else ()
        return Called(slide.name, "FAB", pattern, said, counted, GUIDE, share, (), cells, trained_on)

    counts = fab_counts(bag)
    named = sum(counts.values())
    if slide.white < LEAST:
        return told(None, _few(slide.white, LEAST, "white cells"), named)
    if named < LEAST:
        return told(None, _few(named, LEAST, "lymphoblasts named L1, L2 or L3"), named)
    share = wilson(counts["FAB L3"], named)
    if share.low <= _L3 <= share.high:
        return told(None, f"undecided: {100 * share.value:.0f} % of lymphoblasts are L3", named, share)
    if share.value > _L3:
        return told("FAB L3", _words("FAB L3"), named, share)
    rest = counts["FAB L1"] + counts["FAB L2"]
    share = wilson(counts["FAB L2"], rest)
    if share.low <= _L2 <= share.high:
        return told(None, f"undecided: {100 * share.value:.0f} % of L1 and L2 are L2", rest, share)
    pattern = "FAB L2" if share.value > _L2 else "FAB L1"
    if pattern == "FAB L1":
        share = Interval(1 - share.value, 1 - share.high, 1 - share.low)
    return told(pattern, _words(pattern), rest, share)


def fab_counts(bag: Bag | None) -> dict[str, int]:
    """Lymphoblasts of each FAB type."""
    return {name: 0 if bag is None else sum(t == name for t in bag.types) for name in FAB}


def _surest(bag: Bag, kind: str) -> tuple[tuple[str, int], ...]:
    rows = [i for i, t in enumerate(bag.types) if t == kind]
    rows.sort(key=lambda i: -bag.sure[i])
    return tuple(bag.cells[i] for i in rows[:_SHOWN])


def write(called: Iterable[Called], out: Path, known: Manifest = manifest.NONE) -> None:
    """`patterns.parquet` and `patterns.csv`: one row a slide and question; cells as field#cell, in a CSV with '; '."""
    rows = [{**_row(c), **{name: getattr(known.of(c.slide), name) for name in manifest.COLUMNS}} for c in called]
    write_table(pa.Table.from_pylist(rows, schema=PATTERNS), out / "patterns.parquet")
    text = io.StringIO()
    table = csv.DictWriter(text, PATTERNS.names, lineterminator="\n")
    table.writeheader()
    for row in rows:
        plain = {k: "; ".join(v) if isinstance(v, list) else v for k, v in row.items()}
        table.writerow({k: "" if v is None else v for k, v in plain.items()})
    write_bytes(text.getvalue().encode(), out / "patterns.csv")


def _row(called: Called) -> Mapping[str, object]:
    share = called.share
    return {
        "slide": called.slide,
        "question": called.question,
        "pattern": called.pattern,
        "said": called.said,
        "share": None if share is None else round(share.value, 4),
        "low": None if share is None or not isfinite(share.low) else round(share.low, 4),
        "high": None if share is None or not isfinite(share.high) else round(share.high, 4),
        "candidates": " or ".join(called.candidates),
        "counted": called.counted,
        "by": called.by,
        "trained_on": called.trained_on,
        "cells": [f"{field}#{cell}" for field, cell in called.cells],
    }

"""Cells counted up to slides: the differential, out of nucleated white cells, with 95 % limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as made
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from detect.bundles.folder import Bundle
from detect.evaluate.intervals import Interval, wilson
from detect.images.quality import BLURRED
from detect.images.quality import FLAGS as PICTURE
from detect.pipeline.route import UNFAMILIAR
from detect.score import manifest, overlaps
from detect.score.manifest import Manifest
from detect.score.schema import SLIDES
from detect.score.store import UNSURE_SCALE, Store, write_bytes, write_table
from detect.taxonomy import UNIDENTIFIED, taxonomy

FEW = 100  # white cells: below, the limits are too wide for a differential (CLSI H20 counts 200 to 400)


@dataclass(frozen=True)
class Line:
    """One row of a differential. `share` is of the nucleated white cells, None for cells counted beside it."""

    name: str
    count: int
    share: Interval | None


@dataclass(frozen=True)
class Slide:
    """One slide.

    Attributes:
        flagged: fields of each flag of their pictures, see `images.quality`.
        fields_skipped: left out on purpose: the same picture twice, or enough cells counted before.
        white: nucleated white cells counted, smudge cells left out.
        differential: its types, "unidentified" last. beside: red cells, platelets and whatever else was found.
        repeated: cells that stand in two fields which overlap, and are counted in the other one.
        unidentified: of those, the ones that could not be named. unfamiliar: those unlike what the models learnt from.
        scale: median diameter of the red cells over fields, pixels; None where there are too few.
        scale_spread: half the distance between the quartiles of the fields, as a part of it.
        scale_unsure: the size of the cells was not clear before they were looked for.
    """

    name: str
    fields_ok: int
    fields_failed: int
    white: int
    differential: tuple[Line, ...]
    beside: tuple[Line, ...]
    scale: float | None
    scale_spread: float | None = None
    scale_unsure: bool = False
    unidentified: int = 0
    unfamiliar: int = 0
    fields_skipped: int = 0
    flagged: Mapping[str, int] = made(default_factory=dict)
    repeated: int = 0

    @property
    def few(self) -> bool:
        """Too few white cells for narrow limits."""
        return self.white < FEW


def seen(bundles: Iterable[Bundle]) -> list[str]:
    """Names that detectors and classifiers learnt from real cells: drawn ones teach nobody to see."""
    asked = [b for b in bundles if b.card.task in ("detector", "classifier") and b.card.trained_on != "synthetic"]
    return [name for bundle in asked for name in bundle.names]


def not_seen(known: Iterable[str]) -> list[str]:
    """Kinds of nucleated white cell that none of these names is, blasts first."""
    known = set(known)
    tree = taxonomy()
    wanted = ["Blast", "Immature granulocyte", "Neutrophil", "Lymphocyte", "Atypical lymphocyte", "Monocyte"]
    wanted += ["Eosinophil", "Basophil", "Smudge cell", "Nucleated RBC"]
    return [w for w in wanted if not any(tree.is_a(k, w) for k in known if k in tree)]


def white_type(label: str, kind: str | None) -> str:
    """What a white cell counts as: the classifier's answer, else the detector's where that says more than WBC."""
    return kind or (UNIDENTIFIED if label == "WBC" else label)


def count(store: Store, types: Sequence[str]) -> list[Slide]:
    """Every slide of a run, in the order of their names.

    Args:
        types: types that the run's classifiers know; each gets a row, found or not.
    """
    labels: dict[str, Counter[str]] = {}
    kinds: dict[str, Counter[str]] = {}
    strange: Counter[str] = Counter()
    elsewhere = overlaps.read(store.out)
    repeated: Counter[str] = Counter()
    for table in store.cells(("slide", "field", "cell", "label", "type", "flags")):
        once = overlaps.counted(table, elsewhere)
        repeated.update(table.filter(pc.invert(once)).column("slide").to_pylist())
        table = table.filter(once)
        columns = [table.column(c).to_pylist() for c in ("slide", "label", "type")]
        odd = [UNFAMILIAR in flags for flags in table.column("flags").to_pylist()]
        for (slide, label, kind, unfamiliar), n in Counter(zip(*columns, odd, strict=True)).items():
            labels.setdefault(slide, Counter())[label] += n
            if taxonomy().is_a(label, "WBC"):
                named = white_type(label, kind)
                kinds.setdefault(slide, Counter())[named] += n
                strange[slide] += n * (unfamiliar and taxonomy().in_differential(named))
    fields = store.fields()
    status: dict[str, Counter[str]] = {}
    scales: dict[str, list[float]] = {}
    unsure: set[str] = set()
    seen: dict[str, Counter[str]] = {}
    told = (fields.column(c).to_pylist() for c in ("slide", "status", "scale", "flags"))
    for slide, state, scale, flags in zip(*told, strict=True):
        status.setdefault(slide, Counter())[state] += 1
        if UNSURE_SCALE in flags:
            unsure.add(slide)
        seen.setdefault(slide, Counter()).update(f for f in flags if f in PICTURE)
        if scale is not None:
            scales.setdefault(slide, []).append(scale)
    out = []
    for name in sorted(status):
        found = kinds.get(name, Counter())
        lines = shares(found, types)
        counted = {line.name: line.count for line in lines}
        white = sum(counted.values())
        aside = [
            Line(k, n, None) for k, n in sorted(labels.get(name, Counter()).items()) if not taxonomy().is_a(k, "WBC")
        ]
        aside += [Line(k, n, None) for k, n in sorted(found.items()) if k not in counted]
        out.append(
            Slide(
                name,
                status[name]["ok"],
                status[name]["failed"],
                white,
                lines,
                tuple(aside),
                median(scales[name]) if name in scales else None,
                _spread(scales[name]) if name in scales else None,
                name in unsure,
                counted[UNIDENTIFIED],
                strange[name],
                status[name]["skipped"],
                dict(sorted(seen[name].items())),
                repeated[name],
            )
        )
    return out


def shares(kinds: Mapping[str, int], types: Sequence[str]) -> tuple[Line, ...]:
    """Rows of a differential from how many white cells there are of each kind, "unidentified" last.

    Args:
        types: get a row, found or not.
    """
    counted = Counter({k: n for k, n in kinds.items() if taxonomy().in_differential(k)})
    shown = [t for t in types if taxonomy().in_differential(t)]
    shown += sorted(set(counted) - set(shown) - {UNIDENTIFIED})
    return tuple(Line(t, counted[t], wilson(counted[t], counted.total())) for t in [*shown, UNIDENTIFIED])


def _spread(values: Sequence[float]) -> float:
    low, high = np.percentile(values, [25, 75])
    return float((high - low) / 2 / median(values))


def write(slides: Iterable[Slide], out: Path, trained_on: str = "real", known: Manifest = manifest.NONE) -> None:
    """`slides.parquet` and `slides.csv`: one row per slide and kind of cell, each with what its models learnt from and
    with what the lab told of the slide."""
    rows = [_row(s, line) | {"trained_on": trained_on} for s in slides for line in (*s.differential, *s.beside)]
    told = known.columns(str(row["slide"]) for row in rows)
    rows = [row | {name: values[i] for name, values in told.items()} for i, row in enumerate(rows)]
    write_table(pa.Table.from_pylist(rows, schema=SLIDES), out / "slides.parquet")
    lines = [",".join(SLIDES.names)]
    lines += [",".join(_text(row[name]) for name in SLIDES.names) for row in rows]
    write_bytes(("\n".join(lines) + "\n").encode(), out / "slides.csv")


def _row(slide: Slide, line: Line) -> dict[str, object]:
    share = line.share if line.share is not None and slide.white else None
    return {
        "slide": slide.name,
        "cell": line.name,
        "count": line.count,
        "share": None if share is None else round(share.value, 4),
        "low": None if share is None else round(share.low, 4),
        "high": None if share is None else round(share.high, 4),
        "white_cells_counted": slide.white,
        "fields_ok": slide.fields_ok,
        "fields_failed": slide.fields_failed,
        "fields_skipped": slide.fields_skipped,
        "fields_blurred": slide.flagged.get(BLURRED, 0),
        "cells_repeated": slide.repeated,
        "red_cell_px": None if slide.scale is None else round(slide.scale, 1),
        "scale_spread": None if slide.scale_spread is None else round(slide.scale_spread, 3),
        "scale_unsure": slide.scale_unsure,
    }


def _text(value: object) -> str:
    if value is None:
        return ""
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n') else text

"""The white cells of each slide of a run, as what was answered of them: what a slide's pattern is told from."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from detect.bundles.card import TrainedOn
from detect.classify.bags import Asked, Slides, SlideSettings
from detect.errors import DataError
from detect.score import overlaps
from detect.score.differential import white_type
from detect.score.store import Store, finished
from detect.taxonomy import taxonomy

_COLUMNS = ("slide", "field", "cell", "label", "type", "type_score", "probabilities")


@dataclass(frozen=True, eq=False)
class Bag:
    """The white cells of one slide, in the order of the results.

    Attributes:
        cells: (field, cell) of each. types: of each, None where none was asked for. sure: probability of that type,
            float64 (n,), NaN without one. told: probability of each name that was asked for here, float32 (n, names).
        counted: how many a differential counts: all but smudge cells, artefacts and their like.
    """

    cells: tuple[tuple[str, int], ...]
    types: tuple[str | None, ...]
    sure: NDArray[np.float64]
    told: NDArray[np.float32]
    counted: int = 0


def bags(store: Store, names: Sequence[str]) -> dict[str, Bag]:
    """The bags of a run by slide; a slide without white cells has none.

    Args:
        names: of the probabilities that are wanted; 0 where one was not asked for.
    """
    parts: dict[str, list[Bag]] = {}
    elsewhere = overlaps.read(store.out)
    for found in store.cells(_COLUMNS):
        table = found.filter(overlaps.counted(found, elsewhere))
        labels = pc.unique(table.column("label")).to_pylist()
        white = pa.array([label for label in labels if taxonomy().is_a(label, "WBC")], pa.string())
        kept = table.filter(pc.is_in(table.column("label"), value_set=white))
        if not len(kept):
            continue
        told = _dense(kept.column("probabilities").combine_chunks(), names)
        slides = np.array(kept.column("slide").to_pylist())
        cells = list(zip(kept.column("field").to_pylist(), kept.column("cell").to_pylist(), strict=True))
        types = kept.column("type").to_pylist()
        sure = np.array([np.nan if v is None else v for v in kept.column("type_score").to_pylist()])
        called = zip(kept.column("label").to_pylist(), types, strict=True)
        counted = np.array([taxonomy().in_differential(white_type(label, kind)) for label, kind in called])
        for slide in dict.fromkeys(slides.tolist()):
            rows = np.flatnonzero(slides == slide)
            n = int(counted[rows].sum())
            mine = Bag(tuple(cells[i] for i in rows), tuple(types[i] for i in rows), sure[rows], told[rows], n)
            parts.setdefault(slide, []).append(mine)
    return {slide: _joined(each) for slide, each in parts.items()}


def to_learn(runs: Sequence[Path], truth: Path, settings: SlideSettings) -> Slides:
    """The slides of finished runs, with what they are called in a table.

    Args:
        truth: CSV with the columns `slide` and `disease`; with several runs also `run`, the run folder's name; where
            runs were scored without a manifest that says it also `patient`.

    Raises:
        DataError: a slide has no truth, a run is not finished, or runs asked different bundles.
    """
    named = _truth(truth)
    if len({run.resolve().name for run in runs}) < len(runs):
        raise DataError("two runs share a folder name", remedy="rename one: the truth tells them apart by it")
    names: list[str] = []
    found: list[NDArray[np.float32]] = []
    told: list[str] = []
    counted: list[int] = []
    patients: list[str | None] = []
    asked: set[Asked] = set()
    kinds: set[TrainedOn] = set()
    for run in (given.resolve() for given in runs):
        record = _record(run)
        asked.add(_asked(record))
        kinds |= {record["trained_on"], "synthetic" if record["drawn_slides"] else "real"}
        of_slide = _patients(Store(run))
        for slide, bag in bags(Store(run), settings.inputs).items():
            row = named.get((run.name, slide), named.get(("", slide)))
            if row is None:
                what = f"no row for slide '{slide}' of run '{run.name}'"
                raise DataError(what, where=str(truth), remedy="add it, or score without it")
            names.append(f"{run.name}/{slide}")
            found.append(bag.told)
            told.append(row.disease)
            counted.append(bag.counted)
            patients.append(row.patient or of_slide.get(slide))
    if len(asked) > 1:
        first, other = sorted(asked, key=repr)[:2]
        differ = next(f.name for f in dataclasses.fields(Asked) if getattr(first, f.name) != getattr(other, f.name))
        told_of = " and ".join(str(getattr(a, differ)) for a in (first, other)) if differ != "models" else "their files"
        what = f"the runs asked different bundles: their {differ} differ ({told_of})"
        raise DataError(what, remedy="score them with one pipeline")
    empty = [k for k, name in enumerate(settings.inputs) if not any(bag[:, k].any() for bag in found)]
    if empty and found:
        what = f"inputs: no cell of these runs has a probability of '{settings.inputs[empty[0]]}'"
        raise DataError(what, remedy="name what the bundles that were asked can answer")
    # Drawn cells anywhere on the way: what is learnt here says nothing of patients.
    trained: TrainedOn = "synthetic" if "synthetic" in kinds else "real" if kinds <= {"real"} else "real and synthetic"
    data = tuple(run.resolve().name for run in runs)
    every = next(iter(asked))
    return Slides(tuple(names), tuple(found), tuple(told), tuple(counted), tuple(patients), every, trained, data)


def _patients(store: Store) -> dict[str, str]:
    """The patient of each slide, as the manifest of a run said."""
    fields = store.fields()
    both = zip(fields.column("slide").to_pylist(), fields.column("patient").to_pylist(), strict=True)
    return {slide: patient for slide, patient in both if patient}


def _asked(record: Mapping[str, Any]) -> Asked:
    """What found and answered, as a run says."""
    settings, asks = record["settings"], tuple(record["asked"])
    detector = next(iter(record["models"]))  # it comes first
    models = tuple((name, record["models"][name]) for name in (detector, *asks))
    thresholds = tuple(sorted((settings.get("thresholds") or {}).items()))
    return Asked(
        asks, detector, float(settings["pipeline"]["error_rate"]), models, settings.get("min_score"), thresholds
    )


@dataclass(frozen=True)
class _Truth:
    """What is known of a slide."""

    disease: str
    patient: str | None


def _truth(path: Path) -> dict[tuple[str, str], _Truth]:
    try:
        rows = list(csv.DictReader(path.read_text("utf-8-sig").splitlines(), strict=True))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise DataError(f"cannot be read: {why}", where=str(path), remedy="give a CSV in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"no CSV: {error}", where=str(path), remedy="export it again as CSV") from error
    if not rows or not {"slide", "disease"} <= set(rows[0]):
        here = ", ".join(str(n) for n in rows[0]) if rows else "no row"
        what = f"expected columns 'slide' and 'disease', found {here}"
        raise DataError(what, where=f"{path}:1", remedy="add them, with commas between columns")
    out: dict[tuple[str, str], _Truth] = {}
    for line, full in enumerate(rows, 2):
        row = {name: (full.get(name) or "").strip() for name in ("run", "slide", "disease", "patient")}
        key, said = (row["run"], row["slide"]), _Truth(row["disease"], row["patient"] or None)
        if not said.disease:
            raise DataError(f"no disease for slide '{row['slide']}'", where=f"{path}:{line}", remedy="fill it in")
        held = out.setdefault(key, said)
        for one, other in ((held.disease, said.disease), (held.patient, said.patient)):
            if one != other:
                what = f"slide '{row['slide']}' is both '{one}' and '{other}'"
                raise DataError(what, where=f"{path}:{line}", remedy="keep one row, or add a column 'run'")
    return out


def _record(run: Path) -> dict[str, Any]:
    record = finished(run)
    if "models" not in record:
        what = "its record does not say which models answered: it was made by an older smear-detect"
        raise DataError(what, where=str(run), remedy="score it again")
    if not record.get("asked"):
        raise DataError("its pipeline asked nothing of the cells", where=str(run), remedy="score with classifiers")
    return record


def _dense(column: pa.MapArray, names: Sequence[str]) -> NDArray[np.float32]:
    """A column of name to number as a table, (rows, names)."""
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    out = np.zeros((len(column), len(names)), np.float32)
    offsets = column.offsets.to_numpy()
    row = np.repeat(np.arange(len(column)), np.diff(offsets))
    keys = np.array(column.keys.to_pylist()[offsets[0] : offsets[-1]], dtype=object)
    values = column.items.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]
    for k, name in enumerate(names):
        mine = keys == name
        out[row[mine], k] = values[mine]
    return out


def _joined(each: Sequence[Bag]) -> Bag:
    if len(each) == 1:
        return each[0]
    return Bag(
        tuple(c for bag in each for c in bag.cells),
        tuple(t for bag in each for t in bag.types),
        np.concatenate([bag.sure for bag in each]),
        np.concatenate([bag.told for bag in each]),
        sum(bag.counted for bag in each),
    )

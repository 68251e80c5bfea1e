"""The store of a scoring run: Parquet parts, each written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from detect.bundles.card import TrainedOn
from detect.classify.morphology import criteria
from detect.config import load_yaml
from detect.errors import StoreError
from detect.images.folder import SYSTEM
from detect.score import manifest
from detect.score.manifest import Manifest
from detect.score.schema import CELLS, FIELDS
from detect.types import CellRecord

RUN, PLAN, JOURNAL = "run.yaml", "plan.parquet", "journal.jsonl"  # what a run leads itself by
REPEATS = "repeats.parquet"  # cells that are counted in another field
FINISHED = "finished"  # state of a run, in its record
EXPORTS = {"csv": "cells.csv", "coco": "coco.json", "geojson": "geojson"}  # by their form, written on request
CAPPED, UNSURE_SCALE = "capped", "unsure scale"  # flags of a field


@dataclass(frozen=True)
class FieldRecord:
    """One row of `fields/`.

    Attributes:
        reason: why it failed or was skipped; empty where it was read.
        x, y: where its picture begins in a whole slide, full pixels; boxes of cells are in pixels of the slide, masks
            in those of the picture. 0 for an image of its own.
        scale: median diameter of its whole red cells, pixels; None where it has too few.
        counts: cells per label.
        flags: `CAPPED` where the detector's cap was reached, `UNSURE_SCALE` where the size of the cells was not clear
            beforehand, and those of `images.quality`.
        scale_used: that diameter as it was measured before, for the whole slide, or given: the size at which the
            detector looked at the field; None where the field was fitted to its input.
    """

    slide: str
    field: str
    status: Literal["ok", "failed", "skipped"]
    reason: str = ""
    x: int = 0
    y: int = 0
    width: int | None = None
    height: int | None = None
    quality: Mapping[str, float] | None = None
    scale: float | None = None
    counts: Mapping[str, int] | None = None
    flags: tuple[str, ...] = ()
    scale_used: float | None = None


class Store:
    """The run folder `out/`. Opening one refuses a folder with anything in it, unless told to overwrite."""

    def __init__(self, out: Path) -> None:
        self.out = out

    @classmethod
    def create(cls, out: Path, *, overwrite: bool = False) -> Store:
        """A fresh run folder."""
        if out.exists() and not out.is_dir():
            raise StoreError("is a file", where=str(out), remedy="name a folder")
        if out.is_dir() and any(out.iterdir()):
            if not overwrite:
                raise StoreError(
                    "the output folder is not empty", where=str(out), remedy="name another, or --overwrite"
                )
            cls.check_ours({p.name for p in out.iterdir()}, str(out))
        try:
            for path in out.iterdir() if out.is_dir() else ():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for name in ("cells", "fields", "report"):
                (out / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot be written to: {error.strerror}", where=str(out)) from error
        return cls(out)

    @staticmethod
    def check_ours(names: Collection[str], where: str) -> None:
        """StoreError where a folder that is to be emptied holds what no scoring run wrote."""
        ours = {RUN, PLAN, JOURNAL, REPEATS, "cells", "fields", "report", *EXPORTS.values()}
        ours |= {f"{name}.{kind}" for name in ("slides", "patterns") for kind in ("parquet", "csv")}
        foreign = sorted(name for name in names if not (name in ours or _litter(name)))
        if foreign:
            what = f"holds '{foreign[0]}', which no scoring run wrote"
            raise StoreError(what, where=where, remedy="name another folder; nothing was deleted")

    def hardly_begun(self) -> bool:
        """Whether nothing is there but what a run leaves that was killed before it had a record."""
        if not self.out.is_dir():
            return False
        files = [p for p in self.out.rglob("*") if not p.is_dir()]
        return all(p.name in (PLAN, JOURNAL) or _litter(p.name) for p in files)

    @classmethod
    def again(cls, out: Path) -> Store:
        """The run folder of a run that was stopped, without the files that it left half written."""
        for path in out.rglob(".*.partial"):
            path.unlink(missing_ok=True)
        for name in ("cells", "fields", "report"):  # of a run that went on elsewhere
            (out / name).mkdir(exist_ok=True)
        return cls(out)

    def write_part(
        self,
        number: int,
        fields: Sequence[FieldRecord],
        cells: Sequence[CellRecord],
        known: Manifest = manifest.NONE,
        trained_on: TrainedOn = "real",
    ) -> dict[str, str]:
        """One part, its cells first; returns the SHA-256 of its files by their folder.

        Args:
            known: what a lab told of the slides. trained_on: what those that looked at them learnt from.
        """
        tables = {"cells": cells_table(cells, known), "fields": fields_table(fields, known, trained_on)}
        return {folder: write_table(table, self.file(folder, number)) for folder, table in tables.items()}

    def holds(self, number: int, files: Mapping[str, str]) -> bool:
        """Whether a part is there, in those very bytes."""
        try:
            return all(_hash(self.file(folder, number).read_bytes()) == own for folder, own in files.items())
        except OSError:
            return False

    def drop_parts(self, first: int) -> None:
        """Take away the parts from a number on."""
        for folder in ("cells", "fields"):
            for path in (self.out / folder).glob("part-*.parquet"):
                if path.name >= self.file(folder, first).name:
                    path.unlink()

    def file(self, folder: str, number: int) -> Path:
        """The file of a part, in `cells` or `fields`."""
        return self.out / folder / f"part-{number:05d}.parquet"

    def fields(self) -> pa.Table:
        """All field rows, in the order of the parts."""
        return _read(self.out / "fields", FIELDS)

    def cells(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Cell rows, part by part, so that memory does not grow with the run."""
        for path in sorted((self.out / "cells").glob("part-*.parquet")):
            yield pq.read_table(path, columns=list(columns) if columns else None)

    def part(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The cell rows of one part, by its number."""
        return pq.read_table(self.file("cells", number), columns=list(columns) if columns else None)

    def field_parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Field rows, part by part."""
        for path in sorted((self.out / "fields").glob("part-*.parquet")):
            yield pq.read_table(path, columns=list(columns))

    def parts_of_slides(self) -> dict[str, list[int]]:
        """The numbers of the parts that hold cells of each slide."""
        out: dict[str, list[int]] = {}
        for path in sorted((self.out / "cells").glob("part-*.parquet")):
            for slide in pc.unique(pq.read_table(path, columns=["slide"]).column("slide")).to_pylist():
                out.setdefault(slide, []).append(int(path.stem.removeprefix("part-")))
        return out

    def write_run(self, record: Mapping[str, Any]) -> None:
        """`run.yaml`: first with what was asked, in the end with what it came to. See `finished`."""
        write_bytes(yaml.safe_dump(dict(record), sort_keys=False, allow_unicode=True).encode(), self.out / RUN)

    def run(self) -> dict[str, Any]:
        """What `run.yaml` says."""
        return load_yaml(self.out / RUN)


def finished(out: Path) -> dict[str, Any]:
    """The record of a finished run; StoreError where there is none."""
    if not (out / RUN).is_file():
        raise StoreError("not a finished scoring run: no run.yaml", where=str(out), remedy="score it first")
    record = load_yaml(out / RUN)
    if record.get("state") != FINISHED:
        raise StoreError("not a finished scoring run", where=str(out), remedy="finish it with smear score --resume")
    return record


def _litter(name: str) -> bool:
    """What a file manager, or a killed run of ours, leaves behind."""
    return name.lower() in SYSTEM or (name.startswith(".") and name.endswith(".partial"))


def _read(folder: Path, schema: pa.Schema) -> pa.Table:
    tables = [pq.read_table(p) for p in sorted(folder.glob("part-*.parquet"))]
    # Parts of an earlier version lack columns of this one.
    return pa.concat_tables([schema.empty_table(), *tables], promote_options="default").select(schema.names)


def cells_table(cells: Sequence[CellRecord], known: Manifest = manifest.NONE) -> pa.Table:
    """Cell records as a table of `CELLS`, with what is known of their slides."""
    columns = {
        "slide": [c.slide for c in cells],
        "field": [c.field for c in cells],
        "cell": [c.cell for c in cells],
        "x0": [c.box[0] for c in cells],
        "y0": [c.box[1] for c in cells],
        "x1": [c.box[2] for c in cells],
        "y1": [c.box[3] for c in cells],
        "label": [c.label for c in cells],
        "score": [c.score for c in cells],
        "type": [c.type for c in cells],
        "type_score": [c.type_score for c in cells],
        "probabilities": [list(c.probabilities.items()) for c in cells],
        "candidates": [list(c.candidates) for c in cells],
        "attributes": [list(c.attributes.items()) for c in cells],
        "fab": [criteria(c.type, c.attributes) for c in cells],
        "flags": [list(c.flags) for c in cells],
        "mask": [None if c.mask is None else _rle_text(c.mask) for c in cells],
        **known.columns(c.slide for c in cells),
    }
    return pa.table(columns, schema=CELLS)


def _rle_text(mask: Mapping[str, Any]) -> str:
    counts = mask["counts"]
    height, width = mask["size"]
    return f"{height} {width} {counts.decode('ascii') if isinstance(counts, bytes) else counts}"


def rle_of(text: str) -> dict[str, Any]:
    """A mask as the column `mask` holds it, as run lengths in COCO's form."""
    height, width, counts = text.split(" ", 2)
    return {"size": [int(height), int(width)], "counts": counts.encode("ascii")}


def fields_table(
    fields: Sequence[FieldRecord], known: Manifest = manifest.NONE, trained_on: TrainedOn = "real"
) -> pa.Table:
    """Field records as a table of `FIELDS`, with what is known of their slides and of those that looked at them."""
    columns = {
        "slide": [f.slide for f in fields],
        "field": [f.field for f in fields],
        "status": [f.status for f in fields],
        "reason": [f.reason for f in fields],
        "x": [f.x for f in fields],
        "y": [f.y for f in fields],
        "width": [f.width for f in fields],
        "height": [f.height for f in fields],
        "quality": [list((f.quality or {}).items()) for f in fields],
        "scale": [f.scale for f in fields],
        "scale_used": [f.scale_used for f in fields],
        "counts": [list((f.counts or {}).items()) for f in fields],
        "flags": [list(f.flags) for f in fields],
        "trained_on": [trained_on] * len(fields),
        **known.columns(f.slide for f in fields),
    }
    return pa.table(columns, schema=FIELDS)


def without_pandas() -> None:
    """Spare a process that is ours the import of pandas, which takes longer than many a run.

    pyarrow imports it, where it is installed, before it converts its first list, to see whether that is one of pandas'.
    It looks once; what comes later may import pandas as ever, but not convert tables to it. Where pandas is imported
    already, nothing is changed.
    """
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _NoPandas())
    try:
        pa.array([0])
    finally:
        sys.meta_path.pop(0)


class _NoPandas(MetaPathFinder):
    """Finds no pandas, and leaves every other module to the finders after it."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """See `importlib.abc.MetaPathFinder`."""
        if name == "pandas":
            raise ImportError(name)


def write_table(table: pa.Table, path: Path) -> str:
    """A Parquet file, whole or not at all; returns its SHA-256."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return write_bytes(sink.getvalue(), path)


def write_bytes(data: bytes, path: Path) -> str:
    """A file, whole or not at all, and on disk when this returns; returns its SHA-256.

    Raises:
        StoreError: it cannot be written, such as on a full disk; nothing of it is left.
    """
    # A name of its own: a worker that outlived its run may still be writing the same part.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _keep_name(path.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        remedy = "make room, or give back the permission, then go on with --resume: nothing is lost"
        raise StoreError(f"cannot be written to: {error.strerror}", where=str(path), remedy=remedy) from error
    return _hash(data)


def _keep_name(folder: Path) -> None:
    """Have a folder's new name on disk too; some file systems cannot be asked."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

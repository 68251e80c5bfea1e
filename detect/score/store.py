"""The store of a scoring run: Parquet parts, each written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from detect.errors import StoreError
from detect.images.folder import SYSTEM
from detect.types import CellRecord

CAPPED, UNSURE_SCALE = "capped", "unsure scale"  # flags of a field

_NUMBERS = pa.map_(pa.string(), pa.float32())

CELLS = pa.schema(
    [
        ("slide", pa.string()),
        ("field", pa.string()),
        ("cell", pa.int32()),
        ("x0", pa.float32()),
        ("y0", pa.float32()),
        ("x1", pa.float32()),
        ("y1", pa.float32()),
        ("label", pa.string()),
        ("score", pa.float32()),
        ("type", pa.string()),
        ("type_score", pa.float32()),
        ("probabilities", _NUMBERS),
        ("candidates", pa.list_(pa.string())),
        ("attributes", _NUMBERS),
        ("flags", pa.list_(pa.string())),
        ("mask", pa.string()),
    ]
)
FIELDS = pa.schema(
    [
        ("slide", pa.string()),
        ("field", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("quality", _NUMBERS),
        ("scale", pa.float32()),
        ("scale_used", pa.float32()),
        ("counts", pa.map_(pa.string(), pa.int32())),
        ("flags", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class FieldRecord:
    """One row of `fields/`.

    Attributes:
        reason: why it failed or was skipped; empty where it was read.
        scale: median diameter of its whole red cells, pixels; None where it has too few.
        counts: cells per label.
        flags: `CAPPED` where the detector's cap was reached, `UNSURE_SCALE` where the size of the cells was not clear
            beforehand.
        scale_used: that diameter as it was measured before, for the whole slide, or given: the size at which the
            detector looked at the field; None where the field was fitted to its input.
    """

    slide: str
    field: str
    status: Literal["ok", "failed", "skipped"]
    reason: str = ""
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
            ours = {"run.yaml", "cells", "fields", "report", "geojson"}
            ours |= {f"{name}.{kind}" for name in ("slides", "patterns") for kind in ("parquet", "csv")}
            foreign = sorted(p.name for p in out.iterdir() if not (p.name in ours or _litter(p.name)))
            if foreign:
                what = f"holds '{foreign[0]}', which no scoring run wrote"
                raise StoreError(what, where=str(out), remedy="name another folder; nothing was deleted")
            for path in out.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        try:
            for name in ("cells", "fields", "report"):
                (out / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot be written to: {error.strerror}", where=str(out)) from error
        return cls(out)

    def write_part(self, number: int, fields: Sequence[FieldRecord], cells: Sequence[CellRecord]) -> None:
        """One part: its cells first, then its fields, whose file says that the part is complete."""
        name = f"part-{number:05d}.parquet"
        write_table(cells_table(cells), self.out / "cells" / name)
        write_table(fields_table(fields), self.out / "fields" / name)

    def fields(self) -> pa.Table:
        """All field rows, in the order of the parts."""
        return _read(self.out / "fields", FIELDS)

    def cells(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Cell rows, part by part, so that memory does not grow with the run."""
        for path in sorted((self.out / "cells").glob("part-*.parquet")):
            yield pq.read_table(path, columns=list(columns) if columns else None)

    def part(self, number: int) -> pa.Table:
        """The cell rows of one part, by its place among them."""
        return pq.read_table(sorted((self.out / "cells").glob("part-*.parquet"))[number])

    def write_run(self, record: Mapping[str, Any]) -> None:
        """`run.yaml`, last of all: a run folder with one is finished."""
        write_bytes(yaml.safe_dump(dict(record), sort_keys=False, allow_unicode=True).encode(), self.out / "run.yaml")


def _litter(name: str) -> bool:
    """What a file manager, or a killed run of ours, leaves behind."""
    return name.lower() in SYSTEM or (name.startswith(".") and name.endswith(".partial"))


def _read(folder: Path, schema: pa.Schema) -> pa.Table:
    tables = [pq.read_table(p) for p in sorted(folder.glob("part-*.parquet"))]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def cells_table(cells: Sequence[CellRecord]) -> pa.Table:
    """Cell records as a table of `CELLS`."""
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
        "flags": [list(c.flags) for c in cells],
        "mask": [None if c.mask is None else _rle_text(c.mask) for c in cells],
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


def fields_table(fields: Sequence[FieldRecord]) -> pa.Table:
    """Field records as a table of `FIELDS`."""
    columns = {
        "slide": [f.slide for f in fields],
        "field": [f.field for f in fields],
        "status": [f.status for f in fields],
        "reason": [f.reason for f in fields],
        "width": [f.width for f in fields],
        "height": [f.height for f in fields],
        "quality": [list((f.quality or {}).items()) for f in fields],
        "scale": [f.scale for f in fields],
        "scale_used": [f.scale_used for f in fields],
        "counts": [list((f.counts or {}).items()) for f in fields],
        "flags": [list(f.flags) for f in fields],
    }
    return pa.table(columns, schema=FIELDS)


def write_table(table: pa.Table, path: Path) -> None:
    """A Parquet file, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(table, partial, compression="zstd")
    _settle(partial, path)


def write_bytes(data: bytes, path: Path) -> None:
    """A file, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    _settle(partial, path)


def _settle(partial: Path, path: Path) -> None:
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)

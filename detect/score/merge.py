"""Several runs, each of some slides or fields of one folder, made one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from detect.config import parse
from detect.errors import StoreError
from detect.images.folder import Folder
from detect.pipeline.run import open_pipeline
from detect.runtime.base import EngineSettings
from detect.score import plan
from detect.score.conclude import Conclusion, conclude
from detect.score.journal import Journal
from detect.score.manifest import Manifest, Specimen
from detect.score.patterns import Patterns
from detect.score.plan import Plan, Planned
from detect.score.remote import is_url
from detect.score.settings import ScoreSettings
from detect.score.store import FINISHED, RUN, Store, finished, write_table

# What must be alike, for the cells to be counted together.
_ALIKE = ("smear_detect", "settings", "engine", "bundles", "asked")
# Settings that change no result; what arithmetic was used stands in `engine`.
_FREE = ("engine", "address", "workers", "part", "precision")
_SUMMED = ("fields", "cells")


def merge(runs: Sequence[Path], out: Path, *, overwrite: bool = False) -> Conclusion:
    """Write a run folder that holds the parts of several finished ones, its slides counted over all of them.

    Raises:
        StoreError: a run is not finished, they were made with different settings, engines or bundles, or two of them
            scored the same field.
    """
    records = [finished(run) for run in runs]
    _check_alike(runs, records)
    if far := [run for run, record in zip(runs, records, strict=True) if is_url(str(record["root"]))]:
        what = "a run of slides at a URL"
        raise StoreError(what, where=str(far[0]), remedy="score folders to merge their runs, or merge their tables")
    places = [run.resolve() for run in runs]
    if out.resolve() in places:
        raise StoreError("is one of the runs", where=str(out), remedy="name another folder")
    plans = [plan.read(run, Path(record["root"])) for run, record in zip(runs, records, strict=True)]
    rows = _rows(runs, plans)
    store = Store.create(out, overwrite=overwrite)
    number = 0
    planned = {row.field.id for row in rows}
    for run, one in zip(runs, plans, strict=True):
        own = {row.field.id for row in one.rows}  # what came too late for one run may be in the plan of another
        for part in sorted((run / "fields").glob("part-*.parquet")):
            shutil.copyfile(run / "cells" / part.name, store.file("cells", number))
            told = pq.read_table(part)
            late = [f not in own and f in planned for f in told.column("field").to_pylist()]
            write_table(told.filter(pa.array([not skip for skip in late])), store.file("fields", number))
            number += 1
    root = Path(os.path.commonpath([p.root for p in plans]))
    whole = Plan(root, rows)
    whole.write(out)
    first = records[0]
    settings = parse(ScoreSettings, first["settings"], str(runs[0] / RUN))
    told = {
        name: parse(Specimen, one, str(run / RUN))
        for run, r in zip(runs, records, strict=True)
        for name, one in r["manifest"].items()
    }
    opened = open_pipeline(settings.pipeline)
    engine = EngineSettings(first["engine"]["name"], first["engine"]["precision"], threads=first["engine"]["threads"])
    patterns = Patterns(opened, engine, fab=settings.pipeline.fab)
    others = tuple(sorted({name for record in records for name in record["other_files"]}))
    found = Folder(root, tuple(row.field for row in rows), others)
    about: dict[str, Any] = {key: value for key, value in first.items() if key not in (*_SUMMED, "seconds")}
    about |= {
        "input": str(root),
        "root": str(root),
        "merged": [str(run) for run in runs],
        "slides": len(found.slides),
        "other_files": list(others),
        "manifest": {name: one.model_dump(exclude_none=True) for name, one in told.items()},
        "drawn_slides": any(record["drawn_slides"] for record in records),
        "scales": {name: scale for record in records for name, scale in record["scales"].items()},
    }
    came = conclude(
        store,
        found,
        opened,
        patterns,
        settings,
        Manifest(told),
        about,
        asked=first["asked"],
        not_asked=first["not_asked"],
    )
    store.write_run({"state": FINISHED, **came.about, "fields": dict(came.fields), "cells": came.cells})
    Journal(out).add("finished", fields=dict(came.fields))
    return came


def _check_alike(runs: Sequence[Path], records: Sequence[dict[str, Any]]) -> None:
    def compared(record: dict[str, Any]) -> dict[str, Any]:
        told = {key: record.get(key) for key in _ALIKE}
        told["settings"] = {k: v for k, v in record["settings"].items() if k not in _FREE}
        return told

    first = compared(records[0])
    for run, record in zip(runs[1:], records[1:], strict=True):
        other = compared(record)
        key = next((key for key in _ALIKE if first[key] != other[key]), None)
        if key is not None:
            what = f"its {key} differ from those of {runs[0]}"
            remedy = "merge runs that were made alike; --precision fp32 is there on every machine"
            raise StoreError(what, where=str(run / RUN), remedy=remedy)


def _rows(runs: Sequence[Path], plans: Sequence[Plan]) -> tuple[Planned, ...]:
    """The fields of all runs, in the order of their parts."""
    seen: dict[str, Path] = {}
    rows: list[Planned] = []
    start = 0
    for run, one in zip(runs, plans, strict=True):
        for row in one.rows:
            if row.field.id in seen:
                what = f"field {row.field.id} is in {seen[row.field.id]} too"
                raise StoreError(
                    what,
                    where=str(run),
                    remedy="merge runs of different slides of one folder: score that folder with --slide",
                )
            seen[row.field.id] = run
            rows.append(replace(row, part=start + row.part))
        start += len(list((run / "fields").glob("part-*.parquet")))
    return tuple(rows)

"""Time and peak memory of a review of many fields: open with predictions, judge again, filter, pull.

    .venv/bin/python tools/bench_review.py [--fields 5000 20000] [--cells 25]

Each field has `--cells` drawn cells, and as many found ones in a scoring run, most of them on drawn ones. All fields
are one picture, linked: opening reads no pixels. Memory is that of the command, without MongoDB.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import cv2
import numpy as np

from detect.score.store import FieldRecord, Store
from detect.types import CellRecord

SMEAR = str(Path(sys.executable).parent / "smear")
WIDTH, HEIGHT, NAMES = 1280, 960, ("WBC", "RBC", "Platelet")
_PART = 500


def make(folder: Path, fields: int, cells: int) -> tuple[Path, Path]:
    """A labelled set in COCO, and a scoring run of it."""
    rng = np.random.default_rng(1)
    home, store = folder / "set", Store.create(folder / "run")
    (home / "images").mkdir(parents=True)
    (home / "annotations").mkdir()
    first = home / "images" / "f000000.jpg"
    cv2.imwrite(str(first), np.full((HEIGHT, WIDTH, 3), 220, np.uint8))
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for start in range(0, fields, _PART):
        told, found = [], []
        for i in range(start, min(start + _PART, fields)):
            name = f"f{i:06d}.jpg"
            if i:
                os.link(first, home / "images" / name)
            images.append({"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT})
            places = rng.uniform(0, (WIDTH - 80, HEIGHT - 80), (cells, 2))
            kinds = rng.choice(3, cells, p=[0.05, 0.85, 0.1])
            for j, ((x, y), k) in enumerate(zip(places.round(2).tolist(), kinds.tolist(), strict=True)):
                row = {"id": len(rows), "image_id": i, "category_id": k, "bbox": [x, y, 60.0, 60.0], "iscrowd": 0}
                rows.append(row)
                if rng.random() < 0.9:
                    dx, dy = rng.normal(0, 4, 2).tolist()
                    box = (x + dx, y + dy, x + dx + 60, y + dy + 60)
                    found.append(CellRecord("s", name, j, box, NAMES[k], float(rng.uniform(0.3, 1))))
            told.append(FieldRecord("s", name, "ok", width=WIDTH, height=HEIGHT))
        store.write_part(start // _PART, told, found)
    store.write_run({"fields": fields})
    categories = [{"id": k, "name": name} for k, name in enumerate(NAMES)]
    content = {"images": images, "annotations": rows, "categories": categories}
    (home / "annotations" / "instances_all.json").write_text(json.dumps(content))
    return home, folder / "run"


def timed(*command: object) -> tuple[float, float]:
    """Seconds and MiB of a command; ends with its message where it failed."""
    started = time.perf_counter()
    process = Popen([SMEAR, *map(str, command)], stdout=DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"failed: smear {' '.join(map(str, command))}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def row(fields: int, cells: int) -> Sequence[str]:
    """One size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["SMEAR_REVIEWS"] = str(folder / "reviews")
        home, run = make(folder, fields, cells)
        open_it = ("review", "open", home, "--annotator", "bench", "--name", f"bench-{fields}", "--no-app")
        told = [timed(*open_it), timed(*open_it, "--predictions", run)]
        from detect.review.database import fiftyone

        fo = fiftyone()
        started = time.perf_counter()
        dataset = fo.load_dataset(f"bench-{fields}-bench")
        count = len(dataset.load_saved_view("missed white cells"))
        filtered = time.perf_counter() - started
        told.append(timed("review", "pull", f"bench-{fields}-bench", "--out", folder / "out"))
        fo.delete_dataset(dataset.name)
    (a, am), (b, bm), (c, cm) = told
    return (
        str(fields), str(fields * cells), f"{a:.0f}", f"{am:.0f}", f"{b:.0f}", f"{bm:.0f}",
        f"{filtered:.1f} ({count} cells)", f"{c:.0f}", f"{cm:.0f}",
    )  # fmt: skip


def main() -> None:
    """One row a size."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--fields", type=int, nargs="+", default=[5000, 20000])
    options.add_argument("--cells", type=int, default=25)
    asked = options.parse_args()
    heads = ("fields", "cells", "open, s", "MiB", "open again and judge, s", "MiB", "a view, s", "pull, s", "MiB")
    print("| " + " | ".join(heads) + " |\n|" + " ---: |" * len(heads), flush=True)
    for fields in asked.fields:
        print("| " + " | ".join(row(fields, asked.cells)) + " |", flush=True)


if __name__ == "__main__":
    main()

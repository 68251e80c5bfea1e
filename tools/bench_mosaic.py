"""A mosaic of real fields, found in tiles, against the same fields found one by one.

    .venv/bin/python tools/bench_mosaic.py [--bundle cells-yolov8n] [--side 6000] [--part val] [--tile 1024]

Fields of TXL-PBC, resized until their red cells are 70 pixels wide, lie side by side on grey in one picture. Both ways
look at it at the same scale and at the bundle's thresholds. A cell of the one is met by a cell of the other of its
class at IoU 0.5; of those that are not, it is told how many lie in the middle of their field, further than a red cell
from its edge: at the edge the two ways show the detector other surroundings. Peak memory is that of a second process,
which only reads and finds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.bundles.folder import open_bundle
from detect.data.cards import load_card
from detect.data.load import load_dataset
from detect.data.sources import merge
from detect.data.splits import read_split
from detect.detectors.bundled import BundleDetector
from detect.detectors.scale import RED_CELL
from detect.evaluate.matching import match
from detect.formats.tally import Tally
from detect.images import decode
from detect.images.magnification import Scale
from detect.runtime.base import EngineSettings, cores
from detect.types import Annotations, Detections, Image, LabelledField

RED = 70.0  # pixels
GAP = 24  # grey between fields: as around a field in the input
GREY = 114


def resized(field: LabelledField, label: int) -> Image | None:
    """A field in the mosaic's scale; None where no red cell tells its own."""
    boxes = field.annotations.boxes[field.annotations.labels == label]
    if len(boxes) < 5:
        return None
    factor = RED / float(np.median(np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))))
    pixels = decode.read(field.field.path)
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.ascontiguousarray(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=how))


def mosaic(pictures: list[Image], side: int) -> tuple[Image, list[tuple[int, int, int]]]:
    """Pictures in rows, and (which, x, y) of each that found a place."""
    out = np.full((side, side, 3), GREY, np.uint8)
    places, x, y, tallest = [], 0, 0, 0
    for k, picture in enumerate(pictures * 50):
        height, width = picture.shape[:2]
        if x + width > side:
            x, y, tallest = 0, y + tallest + GAP, 0
        if y + height > side:
            break
        out[y : y + height, x : x + width] = picture
        places.append((k % len(pictures), x, y))
        x, tallest = x + width + GAP, max(tallest, height)
    return out, places


def inner(boxes: NDArray[np.float32], fields: NDArray[np.float32]) -> int:
    """How many cells, xyxy (n, 4), lie further than a red cell from every edge of their field, xyxy (m, 4)."""
    far = (boxes[:, None, :2] > fields[:, :2] + RED) & (boxes[:, None, 2:] < fields[:, 2:] - RED)
    return int(far.all(axis=2).any(axis=1).sum())


def find(bundle: str, tile: int, path: Path) -> None:
    """What the second process does."""
    model = BundleDetector(open_bundle(bundle, "detector"), EngineSettings(workers=1), tile=tile, max_detections=1000)
    started = time.monotonic()
    found = model.predict([decode.read(path)], [Scale(RED, RED, how="given")])[0]
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps({"cells": len(found), "seconds": round(seconds, 1), "peak_mib": round(peak)}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", default="cells-yolov8n")
    parser.add_argument("--side", type=int, default=6000)
    parser.add_argument("--part", default="val")
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--find", type=Path)
    asked = parser.parse_args()
    if asked.find:
        find(asked.bundle, asked.tile, asked.find)
        return
    dataset = read_split("txl-pbc-apart").part(merge(load_dataset(load_card("txl-pbc"), Tally())), asked.part)
    label = dataset.classes.index(RED_CELL)
    pictures = [p for p in (resized(f, label) for f in dataset.fields) if p is not None]
    whole, places = mosaic(pictures, asked.side)
    model = BundleDetector(
        open_bundle(asked.bundle, "detector"), EngineSettings(workers=cores()), tile=asked.tile, max_detections=1000
    )
    scale = Scale(RED, RED, how="given")
    apart: dict[int, Detections] = {}
    for k in {which for which, *_ in places}:
        apart[k] = model.predict([pictures[k]], [scale])[0]
    corner = [np.array([x, y, x, y], np.float32) for _, x, y in places]
    boxes = np.concatenate([apart[k].boxes + c for (k, *_), c in zip(places, corner, strict=True)])
    labels = np.concatenate([apart[k].labels for k, *_ in places])
    truth = Annotations.of(boxes, labels)
    together = model.predict([whole], [scale])[0]
    matches = match(together, truth)
    met = int((matches.truth_of >= 0).sum())
    print(
        f"{asked.bundle}: {len(places)} fields of {len(apart)} in {asked.side} x {asked.side} px, tiles of {asked.tile}"
    )
    print(f"one by one {len(truth)} cells, together {len(together)} ({len(together) / len(truth) - 1:+.2%})")
    fields = np.array([[x, y, x + pictures[k].shape[1], y + pictures[k].shape[0]] for k, x, y in places], np.float32)
    alone, new = boxes[matches.missed], together.boxes[matches.truth_of < 0]
    print(f"met {met}; only one by one {len(alone)}, only together {len(new)}", end="; ")
    print(f"in the middle of a field {inner(alone, fields)} and {inner(new, fields)}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mosaic.png"
        cv2.imwrite(str(path), cv2.cvtColor(whole, cv2.COLOR_RGB2BGR))
        words = [sys.executable, __file__, "--bundle", asked.bundle, "--tile", str(asked.tile), "--find", str(path)]
        print(subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip())


if __name__ == "__main__":
    main()

"""White cells found at any magnification, and how well the red cells tell it.

    .venv/bin/python tools/bench_magnification.py [--bundle cells-yolov8n] [--part val] [--split txl-pbc-apart]
        [--fields 0] [--seed 1]

The fields of a part of TXL-PBC as they are; shrunk or enlarged until the median white cell of each is 30, 50, 80 or 300
pixels wide; and squeezed to 0.6 of their width. Each is looked at by `--scale auto` (measured in that one field: the
set tells of no slides), by `--scale fit`, and pixel by pixel as it is, at the bundle's own thresholds. Recall counts a
white cell met at IoU 0.5; the estimate is held against the median diameter of the red cells drawn in the field, where
at least three are whole. 95 % intervals by bootstrap over groups.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.bundles.folder import open_bundle
from detect.data.cards import load_card
from detect.data.load import load_dataset
from detect.data.sources import merge
from detect.data.splits import read_split
from detect.detectors.opened import open_detector
from detect.detectors.scale import estimate
from detect.evaluate.intervals import intervals, ratio
from detect.evaluate.matching import match
from detect.formats.tally import Tally
from detect.images import decode
from detect.images.magnification import given
from detect.runtime.base import EngineSettings, cores
from detect.types import Annotations, Image, LabelledField

WHITE, RED = "WBC", "RBC"
WITHIN = 0.15

Change = Callable[[float], tuple[float, float]]  # median width of the white cells to factors across and down


def factors() -> dict[str, Change]:
    """What is done to each field."""

    def to(pixels: float) -> Change:
        return lambda white: (pixels / white, pixels / white)

    rows: dict[str, Change] = {"native": lambda _: (1.0, 1.0)}
    rows |= {f"white cells of {n} px": to(n) for n in (30, 50, 80, 300)}
    return rows | {"squeezed to 0.6": lambda _: (0.6, 1.0)}


def changed(pixels: Image, truth: Annotations, across: float, down: float) -> tuple[Image, Annotations]:
    """The field resized, and its boxes with it."""
    height, width = pixels.shape[:2]
    size = (max(8, round(width * across)), max(8, round(height * down)))
    how = cv2.INTER_AREA if across * down < 1 else cv2.INTER_CUBIC
    real = np.array([size[0] / width, size[1] / height] * 2, np.float32)
    resized = pixels if size == (width, height) else cv2.resize(pixels, size, interpolation=how)
    return np.ascontiguousarray(resized), replace(truth, boxes=truth.boxes * real)


def sides(field: LabelledField, label: int) -> NDArray[np.float64]:
    """Diameters of the whole cells of a class, pixels."""
    boxes = field.annotations.boxes[field.annotations.labels == label]
    inner = (boxes[:, :2] > 1).all(1) & (boxes[:, 2:] < [field.field.width - 1, field.field.height - 1]).all(1)
    own = boxes[inner]
    return np.sqrt((own[:, 2] - own[:, 0]).astype(np.float64) * (own[:, 3] - own[:, 1]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", default="cells-yolov8n")
    parser.add_argument("--part", default="val")
    parser.add_argument("--split", default="txl-pbc-apart")
    parser.add_argument("--fields", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    dataset = read_split(asked.split).part(merge(load_dataset(load_card("txl-pbc"), Tally())), asked.part)
    fields = dataset.fields[: asked.fields or None]
    white, red = (dataset.classes.index(n) for n in (WHITE, RED))
    groups = [f.field.group or f.field.id for f in fields]
    usual = float(np.median(np.concatenate([sides(f, white) for f in fields])))
    model = open_detector(open_bundle(asked.bundle, "detector"), EngineSettings(workers=1))
    print(
        f"{asked.bundle}, {asked.split} {asked.part}: {len(fields)} fields, {len(set(groups))} groups, {cores()} cores"
    )
    print(
        "\n| fields | recall, auto | fit | as it is | false a field: auto | fit | as it is | scale within 15 % | sure |"
    )
    print("| --- | --- | --- | --- | ---: | ---: | ---: | --- | ---: |")
    for name, change in factors().items():
        counts = np.zeros((len(fields), 9))  # white cells; met and false by each way; scale right; scale asked
        sure = []
        for i, field in enumerate(fields):
            own = sides(field, white)
            across, down = change(float(np.median(own)) if len(own) else usual)
            pixels, truth = changed(decode.read(field.field.path), field.annotations, across, down)
            scale = estimate(model, [pixels])
            counts[i, 0] = (truth.labels == white).sum()
            ways = (scale, None, given(diameter_px=model.red_cell_px))
            for k, found in enumerate(model.predict([pixels] * 3, ways)):
                met = match(found, truth).truth_of[found.labels == white]
                counts[i, 1 + 2 * k : 3 + 2 * k] = (met >= 0).sum(), (met < 0).sum()
            drawn = sides(field, red)
            if len(drawn) >= 3:
                real = float(np.median(drawn)) * np.sqrt(across * down)
                counts[i, 7:] = scale is not None and abs(scale.diameter_px / real - 1) <= WITHIN, 1
                sure.append(scale is not None and scale.sure)

        def figures(weights: NDArray[np.float64], counts: NDArray[np.float64] = counts) -> NDArray[np.float64]:
            sums = (weights @ counts).T
            met, false = ratio(sums[1:7:2], sums[:1]), sums[2:7:2] / weights.sum(axis=1)
            return np.concatenate([met, false, ratio(sums[7:8], sums[8:])]).T

        *recall, auto, fit, plain, right = intervals(figures, groups, seed=asked.seed)
        found_by = " | ".join(map(str, recall))
        false_by = " | ".join(f"{v.value:.3f}" for v in (auto, fit, plain))
        cells = int(counts[:, 0].sum())
        print(f"| {name} ({cells} cells) | {found_by} | {false_by} | {right} | {np.mean(sure):.2f} |", flush=True)


if __name__ == "__main__":
    main()

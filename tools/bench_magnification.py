"""White cells found at any magnification, and how well the red cells tell it.

    .venv/bin/python tools/bench_magnification.py [--bundle cells-yolov8n] [--part val] [--split txl-pbc-apart]
        [--fields 0] [--seed 1]

The fields of a part of TXL-PBC as they are; shrunk or enlarged until the median white cell of each is 30, 50, 80 or 300
pixels wide; and squeezed to 0.6 of their width. Each is looked at by `--scale auto` (measured in that one field: the
set tells of no slides) and by `--scale fit`, at the bundle's own thresholds. Recall counts a white cell met at IoU 0.5;
the estimate is held against the median diameter of the red cells drawn in the field, where at least three are whole.
95 % intervals by bootstrap over groups.
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
from detect.detectors.bundled import open_detector
from detect.detectors.scale import estimate
from detect.evaluate.intervals import intervals, ratio
from detect.evaluate.matching import match
from detect.formats.tally import Tally
from detect.images import decode
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
    print("\n| fields | recall, auto | recall, fit | false a field, auto | fit | scale within 15 % | sure |")
    print("| --- | --- | --- | ---: | ---: | --- | ---: |")
    for name, change in factors().items():
        counts = np.zeros((len(fields), 7))  # white cells; met and false by auto; by fit; scale right; scale asked
        sure = []
        for i, field in enumerate(fields):
            own = sides(field, white)
            across, down = change(float(np.median(own)) if len(own) else usual)
            pixels, truth = changed(decode.read(field.field.path), field.annotations, across, down)
            scale = estimate(model, [pixels])
            counts[i, 0] = (truth.labels == white).sum()
            for k, found in enumerate(
                (*model.predict([pixels], [scale]), *model.predict([pixels])),
            ):
                met = match(found, truth).truth_of[found.labels == white]
                counts[i, 1 + 2 * k : 3 + 2 * k] = (met >= 0).sum(), (met < 0).sum()
            drawn = sides(field, red)
            if len(drawn) >= 3:
                real = float(np.median(drawn)) * np.sqrt(across * down)
                counts[i, 5:] = scale is not None and abs(scale.diameter_px / real - 1) <= WITHIN, 1
                sure.append(scale is not None and scale.sure)

        def figures(weights: NDArray[np.float64], counts: NDArray[np.float64] = counts) -> NDArray[np.float64]:
            n, auto, false_auto, fit, false_fit, right, told = (weights @ counts).T
            rows = weights.sum(axis=1)
            shares = (ratio(auto, n), ratio(fit, n), false_auto / rows, false_fit / rows, ratio(right, told))
            return np.stack(shares, axis=1)

        auto, fit, false_auto, false_fit, right = intervals(figures, groups, seed=asked.seed)
        told = f"{false_auto.value:.3f} | {false_fit.value:.3f} | {right} ({int(counts[:, 6].sum())} fields)"
        print(
            f"| {name} | {auto} ({int(counts[:, 0].sum())} cells) | {fit} | {told} | {np.mean(sure):.2f} |", flush=True
        )


if __name__ == "__main__":
    main()

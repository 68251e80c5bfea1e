"""False white cells on recoloured fields: what another lab's stain, lamp or camera does to a detector.

    .venv/bin/python tools/bench_stains.py [--bundle cells-yolov8n ...] [--part val] [--split txl-pbc-apart]
        [--fields 0] [--seed 1] [--sheet sheet.png]

The fields of a part of TXL-PBC, recoloured by what `COLOURS` says: gains of the three channels (white balance), factors
of haematoxylin and eosin in optical density (Ruifrok and Johnston), and all but haematoxylin turned towards a blue-grey
dye, which makes red cells as grey as those of the smears that detectors trained on pink ones fail on. At the bundle's
own thresholds, fields fitted to the input: recall of white cells at IoU 0.5, and detections of class WBC that meet
none, a field. 95 % intervals by bootstrap over groups. `--sheet` draws the first fields in every colour.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.bundles.folder import open_bundle
from detect.data.cards import load_card
from detect.data.load import load_dataset
from detect.data.sources import merge
from detect.data.splits import read_split
from detect.detectors.opened import open_detector
from detect.evaluate.intervals import intervals, ratio
from detect.evaluate.matching import match
from detect.formats.tally import Tally
from detect.images import decode, stain
from detect.runtime.base import EngineSettings, cores
from detect.types import Image

WHITE = "WBC"
BLUE_GREY = np.array([0.68, 0.58, 0.45])  # optical density of red, green, blue, of unit length: a greyish blue
BATCH = 16


@dataclass(frozen=True)
class Colour:
    """How a field is recoloured.

    Attributes:
        gains: of red, green and blue. dyes: factors of haematoxylin and eosin.
        grey: part of the colour of all but haematoxylin that is blue-grey instead.
    """

    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    dyes: tuple[float, float] = (1.0, 1.0)
    grey: float = 0.0

    def __call__(self, pixels: Image) -> Image:
        if self == Colour():
            return pixels
        density = stain.to_density(pixels).astype(np.float64)
        amounts = density @ np.linalg.inv(stain.HED)
        vectors = stain.HED / np.linalg.norm(stain.HED, axis=1, keepdims=True)
        amounts *= np.linalg.norm(stain.HED, axis=1)
        dyes = vectors.copy()
        dyes[1:] = (1 - self.grey) * vectors[1:] + self.grey * BLUE_GREY
        amounts[..., :2] *= self.dyes
        out = np.exp(-(amounts @ dyes)) * 255 * np.array(self.gains)
        return np.clip(np.rint(out), 0, 255).astype(np.uint8)


COLOURS = {
    "as it is": Colour(),
    "warm lamp": Colour(gains=(1.1, 1.0, 0.8)),
    "cold lamp": Colour(gains=(0.8, 0.95, 1.1)),
    "green cast": Colour(gains=(0.88, 1.05, 0.88)),
    "dim": Colour(gains=(0.75, 0.75, 0.75)),
    "pale": Colour(dyes=(0.6, 0.6)),
    "strong": Colour(dyes=(1.5, 1.5)),
    "blue stain": Colour(dyes=(1.3, 0.6)),
    "red stain": Colour(dyes=(0.7, 1.5)),
    "half blue-grey red cells": Colour(grey=0.5),
    "blue-grey red cells": Colour(grey=1.0),
    "blue-grey red cells, strong": Colour(dyes=(1.2, 1.5), grey=1.0),
    "blue-grey red cells, cold lamp": Colour(gains=(0.85, 0.95, 1.05), grey=1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", nargs="+", default=["cells-yolov8n"])
    parser.add_argument("--part", default="val")
    parser.add_argument("--split", default="txl-pbc-apart")
    parser.add_argument("--fields", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sheet", type=Path)
    asked = parser.parse_args()
    dataset = read_split(asked.split).part(merge(load_dataset(load_card("txl-pbc"), Tally())), asked.part)
    fields = dataset.fields[: asked.fields or None]
    if asked.sheet:
        draw([decode.read(f.field.path) for f in fields[:: max(1, len(fields) // 6)][:6]], asked.sheet)
    white = dataset.classes.index(WHITE)
    groups = [f.field.group or f.field.id for f in fields]
    print(f"{asked.split} {asked.part}: {len(fields)} fields, {len(set(groups))} groups, {cores()} cores")
    for name in asked.bundle:
        model = open_detector(open_bundle(name, "detector"), EngineSettings(workers=1))
        print(f"\n| {name} | recall of white cells | false white cells a field |\n| --- | --- | --- |")
        for colour, change in COLOURS.items():
            counts = np.zeros((len(fields), 3))  # white cells, met, false
            for start in range(0, len(fields), BATCH):
                some = fields[start : start + BATCH]
                found = model.predict([change(decode.read(f.field.path)) for f in some])
                for i, (field, cells) in enumerate(zip(some, found, strict=True), start):
                    met = match(cells, field.annotations).truth_of[cells.labels == white]
                    counts[i] = (field.annotations.labels == white).sum(), (met >= 0).sum(), (met < 0).sum()

            def figures(weights: NDArray[np.float64], counts: NDArray[np.float64] = counts) -> NDArray[np.float64]:
                n, met, false = (weights @ counts).T
                return np.stack([ratio(met, n), false / weights.sum(axis=1)], axis=1)

            recall, false = intervals(figures, groups, seed=asked.seed)
            print(f"| {colour} ({int(counts[:, 0].sum())} cells) | {recall} | {false} |", flush=True)


def draw(pictures: list[Image], path: Path) -> None:
    """Every picture in every colour, a row a colour."""
    small = [cv2.resize(p, (220, 220), interpolation=cv2.INTER_AREA) for p in pictures]
    rows = [np.hstack([change(p) for p in small]) for change in COLOURS.values()]
    cv2.imwrite(str(path), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()

"""Speed of the second stage: crops a second of a released bundle against timm's own evaluation loop, in one run.

    .venv/bin/python tools/bench_classify.py [--bundle wbc-types] [--crops 4000] [--batch 32] [--repeats 3]

The same network with the same weights, the same crops of real fields (BCCD), in memory as pixels: ours from the crop
to the probability (resize, batch, engine, softmax), by every engine that is here; timm's loader (`create_loader`, its
transforms for evaluation, workers for all cores) and the loop of its `validate.py`, torch in inference mode. Medians of
the repeats, and ratios within this run.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import timm.data
import torch
from numpy.typing import NDArray
from PIL import Image as PilImage

from detect.bundles.folder import open_bundle
from detect.classify.answerers import rebuild
from detect.classify.bundled import BundleClassifier
from detect.data.cards import load_card
from detect.data.load import load_dataset
from detect.data.sources import merge
from detect.formats.tally import Tally
from detect.images import decode
from detect.runtime.base import EngineSettings, cores, installed
from detect.types import CellCrop


class Crops(torch.utils.data.Dataset):
    """Crops as timm's loader takes them."""

    def __init__(self, crops: list[CellCrop]) -> None:
        self.pictures = [PilImage.fromarray(c.pixels) for c in crops]
        self.transform = None

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> tuple[NDArray[np.uint8], int]:
        return self.transform(self.pictures[i]), 0  # type: ignore[misc]


def cut(bundle: BundleClassifier, wanted: int) -> list[CellCrop]:
    """Crops of white and red cells of real fields, each many times if need be."""
    fields = merge(load_dataset(load_card("bccd"), Tally())).fields[:60]
    found: list[CellCrop] = []
    for labelled in fields:
        pixels = decode.read(labelled.field.path)
        found += [bundle.cut(pixels, (x0, y0, x1, y1)) for x0, y0, x1, y1 in labelled.annotations.boxes.tolist()]
    return [found[i % len(found)] for i in range(wanted)]


def main() -> None:
    """Two kinds of loops."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bundle", default="wbc-types")
    options.add_argument("--crops", type=int, default=4000)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--repeats", type=int, default=3)
    asked = options.parse_args()
    bundle = open_bundle(asked.bundle, "classifier")
    size = bundle.card.classifier.image_size  # type: ignore[union-attr]
    crops = cut(BundleClassifier(bundle), asked.crops)
    model = rebuild(bundle.card.architecture, bundle.weights)
    torch.set_num_threads(cores())

    def theirs() -> None:
        data = Crops(crops)
        loader = timm.data.create_loader(
            data, (3, size, size), asked.batch, is_training=False, use_prefetcher=False, num_workers=cores(),
            mean=(0, 0, 0), std=(1, 1, 1), crop_pct=1.0, pin_memory=False, device=torch.device("cpu"),
        )  # fmt: skip
        with torch.inference_mode():
            for batch, _ in loader:
                # timm hands over floats from 0 to 1; the network scales bytes itself.
                torch.softmax(model((batch * 255).permute(0, 2, 3, 1))[0], dim=1)  # scores; distances beside

    loops = {"timm: create_loader and eval loop": theirs}
    for engine in installed():
        runner = BundleClassifier(bundle, EngineSettings(engine))
        loops[f"ours: {engine} fp32"] = lambda runner=runner: runner.predict(crops)  # type: ignore[misc]
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(asked.repeats):
        for name, loop in loops.items():
            started = time.perf_counter()
            loop()
            rates[name].append(len(crops) / (time.perf_counter() - started))
    first = statistics.median(rates["timm: create_loader and eval loop"])
    print(f"{asked.bundle}, {len(crops)} crops, {size} px, {cores()} cores\n")
    print("| loop | crops a second | against timm |\n| --- | ---: | ---: |")
    for name, each in rates.items():
        middle = statistics.median(each)
        print(f"| {name} | {middle:,.0f} ({min(each):,.0f} to {max(each):,.0f}) | {middle / first:.2f} |")


if __name__ == "__main__":
    main()

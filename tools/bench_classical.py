"""What the classical detector reaches, once, on pictures on which nothing of it was chosen.

Boxes: the part `val` of the split txl-pbc-release. Parts of the white cell: the odd-numbered pictures of wbc-masks,
its two sets apart. 95 % intervals by bootstrap, over groups of near copies for boxes and over pictures for parts.

    .venv/bin/python tools/bench_classical.py [--method otsu] [--part val] [--even]
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from detect.data.cards import load_card
from detect.data.load import load_dataset
from detect.data.splits import read_split
from detect.detectors.classical import CYTOPLASM, NUCLEUS, ClassicalDetector, nucleus_and_cytoplasm
from detect.detectors.classical_cells import ClassicalSettings
from detect.detectors.measure import predict_all
from detect.evaluate.detection import measure
from detect.evaluate.intervals import Interval, bootstrap
from detect.formats.tally import Tally
from detect.images import decode
from detect.types import Dataset

THRESHOLD = 0.5  # of the figures at a threshold, which are not printed


def boxes(settings: ClassicalSettings, part: str) -> None:
    """AP per class on a part of TXL-PBC, and speed."""
    parts = load_dataset(load_card("txl-pbc"), Tally())
    whole = replace(next(iter(parts.values())), fields=tuple(f for d in parts.values() for f in d.fields))
    dataset = read_split("txl-pbc-release").part(whole, part)
    detector = ClassicalDetector(settings)
    started = time.process_time()
    found = predict_all(detector, dataset)
    seconds = time.process_time() - started
    report, _ = measure(dataset, found, dict.fromkeys(dataset.classes.names, THRESHOLD))
    print(
        f"txl-pbc-release {part}: {report.n_fields} fields, {report.n_groups} groups, {report.n_cells} cells, ", end=""
    )
    print(f"{len(dataset) / seconds:.1f} fields per CPU second with decoding\n")
    print("| class | cells | AP50 | AP50-95 |\n| --- | ---: | --- | --- |")
    for name, (ap50, ap) in report.ap.per_class.items():
        print(f"| {name} | {report.classes[name].truths} | {ap50} | {ap} |")
    print(f"| mean | {report.n_cells} | {report.ap.map50} | {report.ap.map50_95} |\n")


def overlap(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """IoU and Dice of two masks, of which the second is not empty."""
    shared, both = float((found & truth).sum()), float((found | truth).sum())
    return shared / both, 2 * shared / (shared + both)


def parts_of_cells(settings: ClassicalSettings, name: str, dataset: Dataset, remainder: int) -> None:
    """IoU and Dice of nucleus and whole cell on the pictures whose number leaves this remainder by 2."""
    paths = [Path(f.field.path) for f in dataset.fields if int(f.field.path.stem) % 2 == remainder]
    rows = []
    for path in paths:
        levels = decode.levels(path.with_suffix(".png")).astype(int)
        found = nucleus_and_cytoplasm(decode.read(path), settings=settings)
        nucleus = overlap(found == NUCLEUS, levels > (NUCLEUS + CYTOPLASM) / 2)
        rows.append([*nucleus, *overlap(found > 0, levels > CYTOPLASM / 2)])
    table = np.array(rows)
    value = table.mean(axis=0)
    low, high = bootstrap(lambda w: w @ table / w.sum(), [str(p) for p in paths])
    for i, what in enumerate(("nucleus IoU", "nucleus Dice", "cell IoU", "cell Dice")):
        print(f"| {name} | {len(paths)} | {what} | {Interval(value[i], low[i], high[i])} |")


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=("otsu", "kmeans"), default="otsu")
    parser.add_argument("--part", default="val", help="part of the split; val is for the end")
    parser.add_argument("--even", action="store_true", help="the even-numbered cells, on which settings were chosen")
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    settings = ClassicalSettings(method=asked.method)
    boxes(settings, asked.part)
    print("| wbc-masks | pictures | figure | mean |\n| --- | ---: | --- | --- |")
    for name, dataset in load_dataset(load_card("wbc-masks"), Tally()).items():
        parts_of_cells(settings, name, dataset, 0 if asked.even else 1)


if __name__ == "__main__":
    main()

"""How fast synthetic fields are drawn, and real and synthetic ones side by side.

    .venv/bin/python tools/bench_smear.py [--fields 48] [--workers 1 2] [--sheet sheet.png]

Fields of 1024 x 1024, written with all their labels, by `smear data synthesize` as a whole command. With `--sheet`, a
picture: rows of real fields (TXL-PBC and BCCD) and of synthetic ones by turns, to be looked at.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from detect.data.cards import load_card
from detect.data.load import load_dataset
from detect.data.smear.field import one_of_each
from detect.data.smear.settings import load_smear
from detect.data.sources import merge
from detect.data.splits import read_split
from detect.formats.tally import Tally
from detect.images import decode
from detect.types import Image

SMEAR = str(Path(sys.executable).parent / "smear")
SLIDES, SIDE, TILE, WIDE, ROWS = 4, 1024, 300, 5, 3


def rate(fields: int, workers: int) -> float:
    """Fields a second of the whole command."""
    with tempfile.TemporaryDirectory() as home:
        words = [
            "data",
            "synthesize",
            "--out",
            f"{home}/out",
            "--slides",
            str(SLIDES),
            "--fields",
            str(fields // SLIDES),
        ]
        started = time.monotonic()
        subprocess.run([SMEAR, *words, "--workers", str(workers)], check=True, capture_output=True)
        return fields / (time.monotonic() - started)


def tile(pixels: Image) -> Image:
    """The middle of a field, square and small."""
    side = min(pixels.shape[:2])
    y, x = ((n - side) // 2 for n in pixels.shape[:2])
    return np.asarray(cv2.resize(pixels[y : y + side, x : x + side], (TILE, TILE), interpolation=cv2.INTER_AREA))


def sheet(seed: int) -> Image:
    """Rows by turns: real, synthetic, of like magnification."""
    rng = np.random.default_rng(seed)
    card = load_card("txl-pbc")
    known = read_split(str(card.split)).part(merge(load_dataset(card, Tally())), "train").fields
    real = [tile(decode.read(known[i].field.path)) for i in rng.permutation(len(known))[: WIDE * ROWS]]
    settings = load_smear("train")
    scales = rng.uniform(9, 15, WIDE * ROWS).tolist()
    drawn = [tile(next(one_of_each(settings.at(s), 1, int(rng.integers(9999)), 416)).pixels) for s in scales]
    rows = []
    for i in range(0, WIDE * ROWS, WIDE):
        rows += [np.hstack(real[i : i + WIDE]), np.hstack(drawn[i : i + WIDE])]
    return np.vstack(rows)


def main() -> None:
    """A line for each number of processes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--fields", type=int, default=48)
    options.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    options.add_argument("--sheet", type=Path)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    for workers in asked.workers:
        print(f"{workers} workers: {rate(asked.fields, workers):.2f} fields/s of {SIDE} x {SIDE}", flush=True)
    if asked.sheet is not None:
        cv2.imwrite(str(asked.sheet), cv2.cvtColor(sheet(asked.seed), cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()

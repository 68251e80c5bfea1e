"""How well an audit knows augmented copies: its groups on wbc-types/TRAIN against each copy's original in BCCD.

    .venv/bin/smear data audit ../shared/data/wbc-types/TRAIN --out AUDIT
    .venv/bin/python tools/check_copies.py AUDIT/groups.csv

The names of the copies do not tell their originals (the first number counts positions in a shuffled epoch). So every
copy is compared here with every BCCD field, without the audit's search: more key points, larger pictures, an affine
map, and the pixels that both show. The best field is the original where these agree to `SURE`; other copies are left
out and counted. Originals that show the same cells (neighbouring shots) are one scene: putting their copies together
is no fault, and finding the pairs of one original is what counts.
"""

import argparse
import csv
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.data import overlap
from detect.images import decode

DATA = Path("../shared/data")
SURE = 0.8  # correlation with the best original; copies of none reach no fit at all
SIDE = 320  # a copy's width
TRIED = 6  # originals whose points lie nearest


def seen(path: Path) -> overlap.Points:
    """Key points and pixels at the size of a copy."""
    overlap.SIDE, overlap.GLANCE = SIDE, SIDE // 2
    overlap.POINTS = 300
    pixels = decode.read(path)
    if pixels.shape[1] > SIDE:
        pixels = np.ascontiguousarray(cv2.resize(pixels, (SIDE, SIDE * 3 // 4), interpolation=cv2.INTER_AREA))
    return overlap.points(pixels)


@cache
def originals() -> tuple[list[str], list[overlap.Points], NDArray[np.float32], NDArray[np.int64]]:
    """Names of the BCCD fields, what is seen of each, and their strongest points in one table with their owners."""
    files = sorted((DATA / "bccd" / "JPEGImages").glob("*.jpg"))
    found = [seen(f) for f in files]
    few = [p.descriptors[:120] for p in found]
    return [f.stem for f in files], found, overlap._rooted(np.concatenate(few)), np.cumsum([0, *map(len, few)])[:-1]


def original(path: Path) -> tuple[str, float]:
    """The BCCD field that a copy shows, and the correlation; empty where none fits."""
    cv2.setNumThreads(1)
    names, fields, table, starts = originals()
    copy = seen(path)
    best = ("", 0.0)
    for mirrored in (False, True):
        mine = copy.descriptors[:, overlap._MIRRORED] if mirrored else copy.descriptors
        nearest = np.maximum.reduceat(overlap._rooted(mine) @ table.T, starts, axis=1)
        order = np.argsort(-np.sort(nearest, axis=0)[-40:].sum(axis=0), kind="stable")[:TRIED]
        for i in {*order.tolist(), *np.bincount(nearest.argmax(axis=1)).argsort()[-TRIED:].tolist()}:
            fit = overlap.compare([copy, fields[i]], 0, 1, mirrored)
            if fit is not None and fit.correlation > best[1]:
                best = (names[i], fit.correlation)
    return best


def main() -> None:
    """Print the share of true pairs found and of found pairs that are false."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", type=Path)
    parser.add_argument("--truth", type=Path, help="CSV of copies and originals; made if it is not there.")
    parser.add_argument("--every", type=int, default=1, help="take each n-th copy only; all take an hour on 2 cores")
    asked = parser.parse_args()
    with asked.groups.open(encoding="utf-8") as file:
        group = {row["field"]: row["group"] for row in list(csv.DictReader(file))[:: asked.every]}
    if asked.truth is not None and asked.truth.exists():
        with asked.truth.open(encoding="utf-8") as file:
            rows = [(r[0], r[1], float(r[2])) for r in csv.reader(file) if r[0] in group]
    else:
        with ProcessPoolExecutor(2) as pool:
            paths = [DATA / "wbc-types" / "TRAIN" / name for name in group]
            rows = [(n, *found) for n, found in zip(group, pool.map(original, paths, chunksize=100), strict=True)]
        if asked.truth is not None:
            with asked.truth.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(rows)
    report(group, rows)


def report(group: dict[str, str], rows: list[tuple[str, str, float]]) -> None:
    """Counts of pairs; n choose 2 of every group."""
    known = {name: field for name, field, correlation in rows if correlation >= SURE}
    kind = {name: name.split("/")[0] for name in group}
    per = Counter((kind[name], field) for name, field in known.items())
    print(f"{len(group)} copies, {len(known)} with a known original among {len({f for _, f in per})} fields of BCCD")
    for label in sorted(set(kind.values())):
        sizes = sorted(n for (k, _), n in per.items() if k == label)
        total = sum(k == label for k in kind.values())
        print(f"  {label}: {total} copies, {len(sizes)} originals known, copies of one: {sizes[0]} to {sizes[-1]}, "
              f"median {int(np.median(sizes))}")  # fmt: skip
    true = sum(n * (n - 1) // 2 for n in per.values())
    both = Counter((group[name], kind[name], field) for name, field in known.items())
    found_true = sum(n * (n - 1) // 2 for n in both.values())
    one = same_scene(sorted({f for _, f in per}))
    scenes = Counter((group[name], one[field]) for name, field in known.items())
    found = sum(n * (n - 1) // 2 for n in Counter(group[name] for name in known).values())
    right = sum(n * (n - 1) // 2 for n in scenes.values())
    print(f"true pairs {true}, found {found_true}: {found_true / true:.4%}")
    print(f"pairs put together {found}, of different scenes {found - right}: {(found - right) / found:.4%}")
    print(f"groups {len(set(group.values()))}; originals that show one scene with another: "
          f"{sum(n for n in Counter(one.values()).values() if n > 1)}")  # fmt: skip


def same_scene(fields: list[str]) -> dict[str, str]:
    """One name for BCCD fields that show the same cells, all pairs compared."""
    overlap.SIDE, overlap.GLANCE, overlap.POINTS = 256, 128, 150
    points = [overlap.points(decode.read(DATA / "bccd" / "JPEGImages" / f"{name}.jpg")) for name in fields]
    everything = [(a, b, m) for a in range(len(fields)) for b in range(a + 1, len(fields)) for m in (False, True)]
    from detect.data.joined import Groups

    joined = Groups(len(fields))
    for a, b, mirrored in everything:
        if overlap.compare(points, a, b, mirrored) is not None:
            joined.join(a, b)
    return {name: fields[n] for name, n in zip(fields, joined.numbers(), strict=True)}


if __name__ == "__main__":
    sys.exit(main())

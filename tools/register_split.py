"""Held-out fields that show the same cells as a training field, found by registration; writes a split without them.

    .venv/bin/python tools/register_split.py --out configs/splits/txl-pbc-apart.csv

The perceptual hash of `smear data split` sees whole pictures in eight orientations. It misses pictures that overlap in
part: neighbouring shots, shifted or turned crops. Here key points (SIFT, Lowe 2004) of each held-out field, also
mirrored, are matched to all training fields, and an affine map is fitted (RANSAC). Only fields of 416 x 416 and
640 x 480 are compared: these come from BCCD, which is known to stand in TXL-PBC more than once.
"""

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.data.cards import load_card
from detect.data.load import find_root
from detect.data.splits import EXCLUDED, Split, read_split

LEAST = 12  # matches that fit one map; of 88 fields 16 have 12 to 51, one has 10 or 11, all others fewer than 8
SIZES = {(416, 416), (480, 640)}
Points = tuple[NDArray[np.float32], NDArray[np.float32]]


def key_points(path: Path, sift: cv2.SIFT, *, mirrored: bool = False) -> Points | None:
    """Places, (n, 2), and descriptors, (n, 128), of a field; None where its size is another or it shows too little."""
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None or grey.shape not in SIZES:
        return None
    grey = cv2.resize(grey, (416, 312) if grey.shape[1] == 640 else (416, 416), interpolation=cv2.INTER_AREA)
    found, raw = sift.detectAndCompute(np.ascontiguousarray(grey[:, ::-1]) if mirrored else grey, None)
    if raw is None or len(found) < 8:
        return None
    return np.array([k.pt for k in found], np.float32), np.sqrt(raw / (raw.sum(axis=1, keepdims=True) + 1e-6))


def fitting(query: Points, owners: NDArray[np.int64], places: NDArray[np.float32], all_: NDArray[np.float32]) -> int:
    """Most matches of `query` with one training field that fit one affine map."""
    places_q, descriptors = query
    alike = descriptors @ all_.T
    best = 0
    for owner, _ in Counter(owners[alike.argmax(axis=1)].tolist()).most_common(4):
        columns = np.flatnonzero(owners == owner)
        own = alike[:, columns]
        order = np.argsort(-own, axis=1)[:, :2]
        rows = np.arange(len(own))
        angle = np.arccos(np.minimum(1, own[rows[:, None], order]))
        clear = np.flatnonzero(angle[:, 0] < 0.8 * angle[:, 1])
        if len(clear) >= 6:
            target = places[columns[order[clear, 0]]]
            _, inside = cv2.estimateAffine2D(places_q[clear], target, ransacReprojThreshold=3)
            best = max(best, 0 if inside is None else int(inside.sum()))
    return best


def main() -> None:
    """Write the split and say what was left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="txl-pbc-release")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    split, root = read_split(asked.split), find_root(load_card("txl-pbc"))
    sift = cv2.SIFT_create(400)
    train = [p for r in split.rows if r.part == "train" and (p := key_points(root / r.field, sift)) is not None]
    owners = np.concatenate([np.full(len(d), i) for i, (_, d) in enumerate(train)])
    places, descriptors = np.concatenate([p for p, _ in train]), np.concatenate([d for _, d in train])
    scores: dict[str, int] = {}
    for row in [r for r in split.rows if r.part == "val"]:
        views = [key_points(root / row.field, sift, mirrored=m) for m in (False, True)]
        if views[0] is not None:
            scores[row.field] = max(fitting(v, owners, places, descriptors) for v in views if v is not None)
    shared = {field for field, n in scores.items() if n >= LEAST}
    rows = tuple(replace(r, part=EXCLUDED) if r.field in shared else r for r in split.rows)
    Split(asked.out.stem, rows).write(asked.out)
    print(
        f"{len(scores)} fields of val compared with {len(train)} of train; {len(shared)} share cells with one, left out"
    )
    print("matches that fit:", sorted(scores.values(), reverse=True)[: len(shared) + 6], "...")


if __name__ == "__main__":
    main()

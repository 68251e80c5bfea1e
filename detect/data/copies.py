"""Near copies of one picture, found by a perceptual hash, so that they never stand on both sides of a split.

The hash is the sign of the low frequencies of a cosine transform (Zauner, "Implementation and benchmarking of
perceptual image hash functions", 2010) on a square grey thumbnail, so copies at another size, aspect, brightness
or JPEG quality hash alike; the eight rotations and flips are compared too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.types import Image

SIDE = 16  # low frequencies a side: 256 signs
THUMBNAIL = 64
# Most of 256 signs that may differ. Chosen by looking at pairs of TXL-PBC: up to 72 all are copies (mirrored, turned,
# recoloured), at 74 and 76 about half, from 78 on few. Grouping a stranger costs little, missing a copy is a leak.
MAX_DIFFERENCE = 76
# For pictures of one centred cell, which all look alike to low frequencies: copies of wbc-masks differ in up to 38,
# the nearest strangers in 62.
MAX_DIFFERENCE_ONE_CELL = 50

Signs = NDArray[np.float32]


def signs(pixels: Image) -> Signs:
    """Hash of a picture in its eight orientations, float32 (8, 256) of -1 and 1."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32)
    out = np.empty((8, SIDE * SIDE), np.float32)
    for i in range(8):
        turned = np.rot90(small if i < 4 else small[:, ::-1], i % 4)
        low = cv2.dct(np.ascontiguousarray(turned))[:SIDE, :SIDE].ravel()
        low[0] = 0  # mean brightness says nothing
        out[i] = np.where(low > np.median(low), 1, -1)
    return out


def differences(hashes: Sequence[Signs]) -> NDArray[np.int64]:
    """Signs that differ in the best orientation, (n, n)."""
    stack = np.stack(hashes)
    upright = stack[:, 0]
    best = np.full((len(stack), len(stack)), -np.inf, np.float32)
    for i in range(8):
        np.maximum(best, upright @ stack[:, i].T, out=best)
    best = np.maximum(best, best.T)
    return np.rint((SIDE * SIDE - best) / 2).astype(np.int64)


def groups(hashes: Sequence[Signs], max_difference: int = MAX_DIFFERENCE) -> list[int]:
    """A group number per picture; copies, and copies of copies, share one. Numbers are first positions."""
    if not hashes:
        return []
    near = np.argwhere(np.triu(differences(hashes) <= max_difference, 1))
    return joined(len(hashes), ((int(a), int(b)) for a, b in near))


def joined(n: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """A group number per member of 0..n-1: the first position among all that pairs connect it with."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in pairs:
        first, second = sorted((root(a), root(b)))
        parent[second] = first
    return [root(i) for i in range(n)]

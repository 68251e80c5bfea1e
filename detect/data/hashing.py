"""Copies of a whole picture, by a perceptual hash.

The hash is the sign of the low frequencies of a cosine transform (Zauner, "Implementation and benchmarking of
perceptual image hash functions", 2010) on a square grey thumbnail, so copies at another size, aspect, brightness
or JPEG quality hash alike; the eight rotations and flips are compared too.

Of many pictures, time grows as n log n and memory as n: random hyperplanes put those with like descriptors into the
same small buckets (Charikar, "Similarity estimation techniques from rounding algorithms", 2002), and only the pairs of
a bucket are compared. The descriptor is the same for all eight rotations and flips of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.types import Image

SIDE = 16  # low frequencies a side: 256 signs
THUMBNAIL = 64
# Most of 256 signs that may differ. Up to 60 every pair of TXL-PBC that was looked at is a copy, from 74 on half are
# none; of wbc-masks, one centred cell a picture, copies differ in up to 38, the nearest strangers in 62. Pictures that
# augmentation turned, with black corners, come nearer: where there are key points, they must agree (see `copies`).
MAX_DIFFERENCE = 60
EVERY_PAIR = 2000  # up to so many pictures, all pairs are compared: it takes seconds
_TABLES = 40  # draws of hyperplanes: a pair missed by one is met in another
_BUCKET = 8  # pictures that a bucket is meant to hold
_FULL = 64  # above, a bucket's pictures are compared with their neighbours in it only
_BLOCK = 200_000  # pairs compared at once


def packed(pixels: Image) -> NDArray[np.uint8]:
    """Hash of a picture in its eight orientations, uint8 (8, 32): 256 signs a row, eight a byte."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32)
    out = np.empty((8, SIDE * SIDE), bool)
    for i in range(8):
        turned = np.rot90(small if i < 4 else small[:, ::-1], i % 4)
        low = cv2.dct(np.ascontiguousarray(turned))[:SIDE, :SIDE].ravel()
        low[0] = 0  # mean brightness says nothing
        out[i] = low > np.median(low)
    return np.packbits(out, axis=1)


def descriptor(pixels: Image) -> NDArray[np.float32]:
    """The same numbers for a picture in any of its eight orientations, float32 (d,), of unit length.

    A flip changes the signs of cosine coefficients, a quarter turn swaps their axes: absolute values, taken as sum and
    difference of each coefficient and its mirror, know neither. Brightness is left out, contrast scaled away.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = np.abs(cv2.dct(small)[:12, :12])
    low[0, 0] = 0
    upper = np.triu_indices(12)
    both = np.concatenate([(low + low.T)[upper], np.abs(low - low.T)[upper]])
    root = np.sqrt(both)  # so that a few strong coefficients do not decide alone
    return np.asarray(root / max(float(np.linalg.norm(root)), 1e-9), dtype=np.float32)


def candidates(
    descriptors: NDArray[np.float32], seed: int = 1, *, every_pair_to: int = EVERY_PAIR
) -> NDArray[np.int64]:
    """Pairs of like pictures, int64 (m, 2), each once, first index below second; of few pictures every pair."""
    n = len(descriptors)
    if n <= max(every_pair_to, 1):
        return np.stack(np.triu_indices(n, 1), axis=1).astype(np.int64)
    centred = descriptors - descriptors.mean(axis=0)
    rng = np.random.default_rng(seed)
    bits = max(1, int(np.ceil(np.log2(max(2.0, n / _BUCKET)))))
    weights = 1 << np.arange(bits, dtype=np.int64)
    found: NDArray[np.int64] = np.zeros(0, np.int64)
    for _ in range(_TABLES):
        planes = rng.normal(size=(descriptors.shape[1], bits)).astype(np.float32)
        projected = centred @ planes
        # Planes through the median of each direction: every bucket is used, however the pictures cluster.
        codes = (projected > np.median(projected, axis=0)).astype(np.int64) @ weights
        order = np.lexsort((projected[:, 0], codes))
        found = np.union1d(found, _within(codes[order], order, n))
    return np.stack([found // n, found % n], axis=1)


def _within(codes: NDArray[np.int64], order: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Pairs of equal codes as numbers a * n + b; in a full bucket only those at most `_FULL` places apart."""
    out = []
    for gap in range(1, min(_FULL, n - 1) + 1):
        same = np.flatnonzero(codes[gap:] == codes[:-gap])
        if not len(same):
            break
        a, b = order[same], order[same + gap]
        out.append(np.minimum(a, b) * n + np.maximum(a, b))
    return np.unique(np.concatenate(out)) if out else np.zeros(0, np.int64)


def pairs(
    hashes: NDArray[np.uint8], descriptors: NDArray[np.float32], max_difference: int, seed: int = 1
) -> Iterator[tuple[int, int, int]]:
    """Pairs of copies and the signs in which they differ."""
    likely = candidates(descriptors, seed)
    for start in range(0, len(likely), _BLOCK):
        block = likely[start : start + _BLOCK]
        apart = differences(hashes, block)
        for row in np.flatnonzero(apart <= max_difference):
            yield int(block[row, 0]), int(block[row, 1]), int(apart[row])


def differences(hashes: NDArray[np.uint8], block: NDArray[np.int64]) -> NDArray[np.int64]:
    """Signs that differ in the best orientation of either, (m,)."""
    best = np.full(len(block), SIDE**2, np.int64)
    for turn in range(8):
        for one, other in ((0, 1), (1, 0)):
            differing = hashes[block[:, one], 0] ^ hashes[block[:, other], turn]
            np.minimum(best, np.bitwise_count(differing).sum(axis=1, dtype=np.int64), out=best)
    return best

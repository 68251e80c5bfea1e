"""Pictures that show the same cells, turned by any angle, sheared, zoomed, shifted, mirrored or cut.

The hash of `copies` compares whole pictures in eight orientations. It cannot see an augmented copy, nor two shots of
one place. Here key points decide (SIFT, Lowe, IJCV 2004; square-rooted, Arandjelovic and Zisserman, CVPR 2012):

1. the strongest points of every picture, upright and mirrored, look for their like among those of all others, in
   randomised k-d trees (Muja and Lowe, VISAPP 2009); pictures that meet often are candidates, so time grows as n log n;
2. an affine map is fitted to the matches of each candidate (RANSAC), and
3. the pixels that both pictures show under that map are compared. Only this step says yes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.data.joined import Groups
from detect.types import Image

SIDE = 256  # longest side on which points are sought
GLANCE = 128  # longest side on which pixels are compared
POINTS = 150
STRONGEST = 60  # of them, those that look for their like
# Chosen by looking at pairs of TXL-PBC, BCCD and wbc-masks. Copies and shots of one place agree to 0.89 and more,
# copies of other colours to 0.6, with 40 points and more that fit. Strangers fit in up to 10 points; drawn cells, all
# of one outline, in up to 16, and agree to 0.83.
LEAST_MATCHES = 12
LEAST_CORRELATION = 0.85
MANY_MATCHES = 30
LEAST_CORRELATION_OF_MANY = 0.6
LEAST_SHARE = 0.1  # of the smaller picture that the other must show
ENOUGH = 40  # points of a picture of which a copy must keep some
_NEIGHBOURS = 10
_CHECKS = 32  # leaves visited a search: finds about half of the ten nearest, and copies share dozens of points
_DIRECTIONS = 48
_MEETINGS = 4  # points that must meet before two pictures are compared
_CANDIDATES = 8  # most pictures that one is compared with, a view
_CLEAR = 0.85  # largest angle to the nearest point, as a share of that to the second nearest (Lowe's test)
_BLACK = 12  # at most this grey: the corners that turning a picture leaves
_AWAY = np.ones((13, 13), np.uint8)
_RIM = np.ones((5, 5), np.uint8)  # such corners bleed into their neighbours
_BLOCK = 256  # comparisons in hand

# A descriptor is 4 x 4 cells of 8 directions about the point's own direction; the mirrored point has them swapped.
_MIRRORED = np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].ravel()


@dataclass(frozen=True, eq=False)
class Points:
    """What is kept of a picture.

    Attributes:
        places: float32 (n, 2), x and y in pixels of `grey`, strongest first. descriptors: uint8 (n, 128).
        grey: uint8 (h, w), its longest side `GLANCE`.
    """

    places: NDArray[np.float32]
    descriptors: NDArray[np.uint8]
    grey: NDArray[np.uint8]


@dataclass(frozen=True)
class Overlap:
    """Two pictures that show the same cells.

    Attributes:
        matches: points that fit one map. correlation: of the pixels that both show. share: of the smaller picture.
    """

    a: int
    b: int
    matches: int
    correlation: float
    share: float


def points(pixels: Image) -> Points:
    """Key points of a picture."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    working, glance = _within(grey, SIDE), _within(grey, GLANCE)
    found, raw = cv2.SIFT.create(POINTS, contrastThreshold=0.015).detectAndCompute(working, _lit(working))
    if raw is None:
        return Points(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8), glance)
    order = np.argsort([-k.response for k in found], kind="stable")[:POINTS]
    places = np.array([found[i].pt for i in order], np.float32)
    scale = np.array([glance.shape[1] / working.shape[1], glance.shape[0] / working.shape[0]], np.float32)
    return Points((places + 0.5) * scale - 0.5, raw[order].astype(np.uint8), glance)


def _lit(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Where points may lie: away from black corners, whose jagged rim has the strongest points and means nothing."""
    return np.asarray(cv2.erode((grey > _BLACK).astype(np.uint8) * 255, _AWAY), np.uint8)


def _within(grey: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    scale = side / max(grey.shape)
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR), np.uint8)


def overlaps(pictures: Sequence[Points], group: Groups, *, seed: int = 1, workers: int = 2) -> list[Overlap]:
    """Pairs that join pictures of different groups, and join them: a group of n has n - 1 pairs at most.

    In the order of the search, surest candidates first.
    """
    found: list[Overlap] = []
    waiting = candidates(pictures, seed)
    with ThreadPoolExecutor(workers) as pool:
        # Fixed blocks, so that what is compared does not depend on how the threads run.
        while block := list(islice((c for c in waiting if group.of(c[0]) != group.of(c[1])), _BLOCK)):
            for overlap in pool.map(lambda c: compare(pictures, *c), block):
                if overlap is not None and group.of(overlap.a) != group.of(overlap.b):
                    group.join(overlap.a, overlap.b)
                    found.append(overlap)
    return found


def agreeing(pictures: Sequence[Points], pairs: Sequence[tuple[int, int]], group: Groups) -> list[int]:
    """Positions of the pairs that key points agree with, or have too few to say; these are joined.

    Each picture is asked about with the `_CANDIDATES` first of its pairs.
    """
    asked: Counter[int] = Counter()
    out = []
    for i, (a, b) in enumerate(pairs):
        if group.of(a) == group.of(b) or max(asked[a], asked[b]) >= _CANDIDATES:
            continue
        asked.update((a, b))
        few = min(len(pictures[a].places), len(pictures[b].places)) < ENOUGH
        if few or any(compare(pictures, a, b, mirrored) for mirrored in (False, True)):
            group.join(a, b)
            out.append(i)
    return out


def candidates(pictures: Sequence[Points], seed: int = 1) -> Iterator[tuple[int, int, bool]]:
    """Pairs worth a comparison, and whether the first is to be mirrored; those that meet most often first."""
    n = len(pictures)
    owners = np.repeat(np.arange(n), [min(len(p.places), STRONGEST) for p in pictures])
    if len(owners) < 2 * _NEIGHBOURS:
        return
    upright = np.concatenate([p.descriptors[:STRONGEST] for p in pictures])
    mean, directions = _principal(upright, seed)
    projected = _project(upright, mean, directions)
    cv2.setRNGSeed(seed)
    trees = cv2.flann.Index(projected, {"algorithm": 1, "trees": 4})  # 1: k-d trees
    pairs, votes = [], []
    for mirrored in (False, True):
        asked = _project(upright[:, _MIRRORED], mean, directions) if mirrored else projected
        for first, last in _runs(owners):
            nearest, _ = trees.knnSearch(asked[first:last], _NEIGHBOURS, params={"checks": _CHECKS})
            a, b = np.repeat(owners[first:last], _NEIGHBOURS), owners[nearest.ravel()]
            keys, counts = np.unique((a * n + b)[a != b], return_counts=True)
            keys, counts = _most(keys[counts >= _MEETINGS], counts[counts >= _MEETINGS], n)
            a, b = keys // n, keys % n
            pairs.append((np.minimum(a, b) * n + np.maximum(a, b)) * 2 + mirrored)
            votes.append(counts)
    keys, place = np.unique(np.concatenate(pairs), return_inverse=True)
    total = np.bincount(place, np.concatenate(votes)).astype(np.int64)
    for key in keys[np.lexsort((keys, -total))].tolist():
        yield key // 2 // n, key // 2 % n, bool(key % 2)


def _principal(descriptors: NDArray[np.uint8], seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean, and the directions in which descriptors differ most: what the trees need of them."""
    some = np.random.default_rng(seed).permutation(len(descriptors))[:50_000]
    sample = _rooted(descriptors[np.sort(some)])
    mean = sample.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov(sample - mean, rowvar=False))
    return mean, np.asarray(vectors[:, ::-1][:, :_DIRECTIONS], np.float32)


def _project(
    descriptors: NDArray[np.uint8], mean: NDArray[np.float32], directions: NDArray[np.float32]
) -> NDArray[np.float32]:
    step = 100_000
    parts = [(_rooted(descriptors[i : i + step]) - mean) @ directions for i in range(0, len(descriptors), step)]
    return np.ascontiguousarray(np.concatenate(parts), np.float32)


def _rooted(descriptors: NDArray[np.uint8]) -> NDArray[np.float32]:
    floats = descriptors.astype(np.float32)
    return np.asarray(np.sqrt(floats / np.maximum(floats.sum(axis=1, keepdims=True), 1)), np.float32)


def _runs(owners: NDArray[np.int64], step: int = 50_000) -> Iterator[tuple[int, int]]:
    """Ranges of about `step` points that hold whole pictures."""
    first = 0
    while first < len(owners):
        last = min(first + step, len(owners))
        last = int(np.searchsorted(owners, owners[last - 1], side="right"))
        yield first, last
        first = last


def _most(keys: NDArray[np.int64], counts: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The `_CANDIDATES` pairs of each first picture with the highest counts."""
    order = np.lexsort((keys, -counts, keys // n))
    keys, counts = keys[order], counts[order]
    _, start, each = np.unique(keys // n, return_index=True, return_counts=True)
    rank = np.arange(len(keys)) - np.repeat(start, each)
    return keys[rank < _CANDIDATES], counts[rank < _CANDIDATES]


def compare(pictures: Sequence[Points], a: int, b: int, mirrored: bool) -> Overlap | None:
    """Whether two pictures show the same cells, the first mirrored or not."""
    one, two = pictures[a], pictures[b]
    if min(len(one.places), len(two.places)) < LEAST_MATCHES:
        return None
    mine = one.descriptors[:, _MIRRORED] if mirrored else one.descriptors
    alike = _rooted(mine) @ _rooted(two.descriptors).T
    order = np.argpartition(-alike, 1, axis=1)[:, :2]
    angles = np.arccos(np.minimum(1, np.take_along_axis(alike, order, axis=1)))
    nearest = order[np.arange(len(order)), angles.argmin(axis=1)]
    clear = np.flatnonzero(angles.min(axis=1) < _CLEAR * angles.max(axis=1))
    if len(clear) < LEAST_MATCHES:
        return None
    fitted, inside = cv2.estimateAffine2D(
        one.places[clear], two.places[nearest[clear]], ransacReprojThreshold=2, maxIters=500
    )
    matches = 0 if inside is None else int(inside.sum())
    if matches < LEAST_MATCHES or (np.linalg.det(fitted[:, :2]) < 0) != mirrored:
        return None
    correlation, share = _pixels(one.grey, two.grey, fitted)
    least = LEAST_CORRELATION if matches < MANY_MATCHES else LEAST_CORRELATION_OF_MANY
    if correlation < least or share < LEAST_SHARE:
        return None
    return Overlap(a, b, matches, round(correlation, 3), round(share, 3))


def _pixels(one: NDArray[np.uint8], two: NDArray[np.uint8], fitted: NDArray[np.float64]) -> tuple[float, float]:
    """Correlation of the pixels that both show, and which share of the smaller picture these are."""
    size = (two.shape[1], two.shape[0])
    moved = cv2.warpAffine(one, fitted, size, flags=cv2.INTER_LINEAR)
    both = cv2.erode(((moved > _BLACK) & (two > _BLACK)).astype(np.uint8), _RIM) > 0
    smaller = min(two.size, one.size * abs(float(np.linalg.det(fitted[:, :2]))))
    if both.sum() < max(LEAST_SHARE * smaller, 100):
        return 0.0, 0.0
    x, y = moved[both].astype(np.float32), two[both].astype(np.float32)
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / max(float(np.sqrt((x @ x) * (y @ y))), 1e-6)), float(both.sum() / smaller)

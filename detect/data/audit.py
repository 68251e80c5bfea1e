"""Audit of one or several sets: copies within and across splits and sets, balance, sizes, quality, colour.

Pairs are found in two steps, so that time grows as n log n and memory as n. First, random hyperplanes put pictures with
like descriptors into the same small buckets (Charikar, "Similarity estimation techniques from rounding algorithms",
2002); the descriptor is the same for all eight rotations and flips of a picture. Then the pairs of each bucket are
compared by the perceptual hash of `copies`, in all eight orientations.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.data import copies
from detect.errors import ImageError
from detect.images import decode
from detect.images.quality import quality
from detect.types import Image

# Most signs of 256 that differ between copies. Up to 60 every pair of TXL-PBC that was looked at is a copy, and so few
# strangers come so near that 20,000 pictures hold a handful; `splits` groups more eagerly (see copies.MAX_DIFFERENCE).
MAX_DIFFERENCE = 60
_TABLES = 40  # draws of hyperplanes: a pair missed by one is met in another
_BUCKET = 8  # pictures that a bucket is meant to hold
_FULL = 64  # above, a bucket's pictures are compared with their neighbours in it only
_BLOCK = 200_000  # pairs compared at once


@dataclass(frozen=True)
class Item:
    """One picture to be audited.

    Attributes:
        set, part: where it belongs. label: its class, where it has just one.
    """

    id: str
    path: Path
    set: str
    part: str
    label: str | None = None


@dataclass(frozen=True, eq=False)
class Look:
    """What is kept of each picture, in the order of the items that could be read.

    Attributes:
        hashes: uint8 (n, 8, 32), packed signs in eight orientations. descriptors: float32 (n, d).
        colours: float32 (n, 6), mean and deviation of Lab. files: SHA-256 of each file.
    """

    items: tuple[Item, ...]
    files: tuple[str, ...]
    hashes: NDArray[np.uint8]
    descriptors: NDArray[np.float32]
    colours: NDArray[np.float32]
    qualities: tuple[dict[str, float], ...]
    sizes: NDArray[np.int32]
    unreadable: tuple[tuple[Item, str], ...]


class _Seen(NamedTuple):
    """A row of `Look`."""

    file: str
    hashes: NDArray[np.uint8]
    descriptor: NDArray[np.float32]
    colour: NDArray[np.float32]
    quality: dict[str, float]
    size: tuple[int, int]


@dataclass(frozen=True)
class Pair:
    """Two pictures that are copies; `difference` in signs of 256, -1 for the same file."""

    a: int
    b: int
    difference: int


def look(items: Sequence[Item], *, workers: int = 2, progress: Callable[[int], None] | None = None) -> Look:
    """Read every picture once, in threads; a few hundred bytes are kept of each."""
    kept: list[Item] = []
    unreadable: list[tuple[Item, str]] = []
    rows: list[_Seen] = []
    with ThreadPoolExecutor(workers) as pool:
        for item, found in zip(items, _ahead(pool, items), strict=True):
            if isinstance(found, str):
                unreadable.append((item, found))
            else:
                kept.append(item)
                rows.append(found)
            if progress is not None:
                progress(1)
    n = len(rows)
    return Look(
        tuple(kept),
        tuple(r.file for r in rows),
        np.array([r.hashes for r in rows], np.uint8).reshape(n, 8, copies.SIDE**2 // 8),
        np.array([r.descriptor for r in rows], np.float32).reshape(n, -1 if n else 0),
        np.array([r.colour for r in rows], np.float32).reshape(n, 6),
        tuple(r.quality for r in rows),
        np.array([r.size for r in rows], np.int32).reshape(n, 2),
        tuple(unreadable),
    )


def _ahead(pool: ThreadPoolExecutor, items: Sequence[Item], window: int = 64) -> Iterator[_Seen | str]:
    """Results in order, with no more than `window` pictures in hand."""
    source = iter(items)
    waiting = [pool.submit(_one, item.path) for item in islice(source, window)]
    while waiting:
        yield waiting.pop(0).result()
        waiting += [pool.submit(_one, item.path) for item in islice(source, 1)]


def _one(path: Path) -> _Seen | str:
    """What is kept of one picture, or why it could not be read."""
    try:
        data = path.read_bytes()
        pixels = decode.decode(data)
    except OSError as error:
        return str(error.strerror)
    except ImageError as error:
        return error.problem
    packed = np.packbits(copies.signs(pixels) > 0, axis=1)
    lab = cv2.cvtColor(cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2LAB)
    mean, deviation = cv2.meanStdDev(lab)
    colour = np.concatenate([mean.ravel(), deviation.ravel()]).astype(np.float32)
    height, width = pixels.shape[:2]
    return _Seen(hashlib.sha256(data).hexdigest(), packed, descriptor(pixels), colour, quality(pixels), (width, height))


def descriptor(pixels: Image) -> NDArray[np.float32]:
    """The same numbers for a picture in any of its eight orientations, float32 (d,), of unit length.

    A flip changes the signs of cosine coefficients, a quarter turn swaps their axes: absolute values, taken as sum and
    difference of each coefficient and its mirror, know neither. Brightness is left out, contrast scaled away.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (copies.THUMBNAIL, copies.THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = np.abs(cv2.dct(small)[:12, :12])
    low[0, 0] = 0
    upper = np.triu_indices(12)
    both = np.concatenate([(low + low.T)[upper], np.abs(low - low.T)[upper]])
    root = np.sqrt(both)  # so that a few strong coefficients do not decide alone
    return np.asarray(root / max(float(np.linalg.norm(root)), 1e-9), dtype=np.float32)


def candidates(descriptors: NDArray[np.float32], seed: int = 1) -> NDArray[np.int64]:
    """Pairs of like pictures, int64 (m, 2), each once, first index below second."""
    n = len(descriptors)
    if n < 2:
        return np.zeros((0, 2), np.int64)
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


def pairs(seen: Look, max_difference: int = MAX_DIFFERENCE, seed: int = 1) -> list[Pair]:
    """Copies, exact ones first, then by difference."""
    out = [Pair(a, b, -1) for a, b in _same_files(seen.files)]
    exact = {(p.a, p.b) for p in out}
    likely = candidates(seen.descriptors, seed)
    for start in range(0, len(likely), _BLOCK):
        block = likely[start : start + _BLOCK]
        difference = _differences(seen.hashes, block)
        for row in np.flatnonzero(difference <= max_difference):
            a, b = int(block[row, 0]), int(block[row, 1])
            if (a, b) not in exact:
                out.append(Pair(a, b, int(difference[row])))
    return sorted(out, key=lambda p: (p.difference, p.a, p.b))


def _same_files(files: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Each file with the first that has its bytes."""
    first: dict[str, int] = {}
    for i, name in enumerate(files):
        if first.setdefault(name, i) != i:
            yield first[name], i


def _differences(hashes: NDArray[np.uint8], block: NDArray[np.int64]) -> NDArray[np.int64]:
    """Signs that differ in the best orientation of either, (m,)."""
    best = np.full(len(block), copies.SIDE**2, np.int64)
    for turn in range(8):
        for one, other in ((0, 1), (1, 0)):
            differing = hashes[block[:, one], 0] ^ hashes[block[:, other], turn]
            np.minimum(best, np.bitwise_count(differing).sum(axis=1, dtype=np.int64), out=best)
    return best


def groups(n: int, found: Sequence[Pair]) -> list[int]:
    """A group number per picture; copies, and copies of copies, share one. Numbers are first positions."""
    return copies.joined(n, ((p.a, p.b) for p in found))


def crossings(seen: Look, found: Sequence[Pair]) -> Counter[tuple[str, str]]:
    """Pairs counted by the places, "set/part", of their two pictures."""
    places = [f"{item.set}/{item.part}" for item in seen.items]
    counts: Counter[tuple[str, str]] = Counter()
    for p in found:
        first, second = sorted((places[p.a], places[p.b]))
        counts[first, second] += 1
    return counts


def independent(seen: Look, numbers: Sequence[int]) -> dict[str, dict[str, int]]:
    """Per place and over all: nominal pictures and independent ones, counted as groups of copies."""
    out: dict[str, dict[str, int]] = {}
    places = [f"{item.set}/{item.part}" for item in seen.items]
    for place in [*dict.fromkeys(places), "all"]:
        mine = [n for n, p in zip(numbers, places, strict=True) if place in (p, "all")]
        out[place] = {"pictures": len(mine), "independent": len(set(mine))}
    return out


def colour_differences(seen: Look) -> dict[str, dict[str, float]]:
    """Per place: mean Lab colour (L 0 to 100, a and b -128 to 127), and the median distance of its pictures from it
    against the distance of its mean from the mean of all (both in CIE76 units of Lab)."""
    lab = seen.colours[:, :3] * np.array([100 / 255, 1, 1], np.float32) - np.array([0, 128, 128], np.float32)
    overall = lab.mean(axis=0)
    out = {}
    places = np.array([f"{item.set}/{item.part}" for item in seen.items])
    for place in dict.fromkeys(places.tolist()):
        mine = lab[places == place]
        mean = mine.mean(axis=0)
        out[place] = {
            "L": round(float(mean[0]), 1),
            "a": round(float(mean[1]), 1),
            "b": round(float(mean[2]), 1),
            "spread_within": round(float(np.median(np.linalg.norm(mine - mean, axis=1))), 1),
            "distance_from_all": round(float(np.linalg.norm(mean - overall)), 1),
        }
    return out

"""Audit of one or several sets: copies within and across splits and sets, balance, sizes, quality, colour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations_with_replacement, islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.data.copies import Trace, trace
from detect.errors import ImageError
from detect.images import decode
from detect.images.quality import quality


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
        traces: what copies are known by. colours: float32 (n, 6), mean and deviation of Lab.
        sizes: int32 (n, 2), width and height. unreadable: items that could not be read, and why.
    """

    items: tuple[Item, ...]
    traces: tuple[Trace, ...]
    colours: NDArray[np.float32]
    qualities: tuple[dict[str, float], ...]
    sizes: NDArray[np.int32]
    unreadable: tuple[tuple[Item, str], ...]


class _Seen(NamedTuple):
    """A row of `Look`."""

    trace: Trace
    colour: NDArray[np.float32]
    quality: dict[str, float]
    size: tuple[int, int]


def look(
    items: Sequence[Item], *, parts: bool = True, workers: int = 2, progress: Callable[[int], None] | None = None
) -> Look:
    """Read every picture once, in threads; some 30 KB are kept of each.

    Args:
        parts: look also for pictures that agree in part or are turned by any angle.
    """
    kept: list[Item] = []
    unreadable: list[tuple[Item, str]] = []
    rows: list[_Seen] = []
    with ThreadPoolExecutor(workers) as pool:
        for item, found in zip(items, _ahead(pool, items, parts), strict=True):
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
        tuple(r.trace for r in rows),
        np.array([r.colour for r in rows], np.float32).reshape(n, 6),
        tuple(r.quality for r in rows),
        np.array([r.size for r in rows], np.int32).reshape(n, 2),
        tuple(unreadable),
    )


def _ahead(pool: ThreadPoolExecutor, items: Sequence[Item], parts: bool, window: int = 64) -> Iterator[_Seen | str]:
    """Results in order, with no more than `window` pictures in hand."""
    source = iter(items)
    waiting = [pool.submit(_one, item.path, parts) for item in islice(source, window)]
    while waiting:
        yield waiting.pop(0).result()
        waiting += [pool.submit(_one, item.path, parts) for item in islice(source, 1)]


def _one(path: Path, parts: bool) -> _Seen | str:
    """What is kept of one picture, or why it could not be read."""
    try:
        pixels = decode.read(path)
    except ImageError as error:
        return error.problem
    lab = cv2.cvtColor(cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2LAB)
    mean, deviation = cv2.meanStdDev(lab)
    colour = np.concatenate([mean.ravel(), deviation.ravel()]).astype(np.float32)
    height, width = pixels.shape[:2]
    return _Seen(trace(path, pixels, parts=parts), colour, quality(pixels), (width, height))


def crossings(seen: Look, numbers: Sequence[int]) -> Counter[tuple[str, str]]:
    """Pairs of pictures of one group, counted by the places, "set/part", of the two."""
    held: dict[int, Counter[str]] = {}
    for item, number in zip(seen.items, numbers, strict=True):
        held.setdefault(number, Counter())[f"{item.set}/{item.part}"] += 1
    counts: Counter[tuple[str, str]] = Counter()
    for places in held.values():
        for first, second in combinations_with_replacement(sorted(places), 2):
            n = places[first]
            pairs = n * (n - 1) // 2 if first == second else n * places[second]
            if pairs:
                counts[first, second] += pairs
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

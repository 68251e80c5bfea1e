"""Pictures that are copies of one another, or show the same cells, so that they never stand on both sides of a split.

Three looks: equal files, equal pictures by their hash (`hashing`), and equal cells by their key points (`overlap`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detect.data import hashing, overlap
from detect.data.fingerprint import file_hash
from detect.data.joined import Groups
from detect.images import decode
from detect.types import Image


@dataclass(frozen=True, eq=False)
class Trace:
    """What is kept of a picture to know its copies, about 30 KB.

    Attributes:
        file: SHA-256 of the file. hashes: uint8 (8, 32), packed signs in eight orientations.
        descriptor: float32 (d,). points: None where only whole pictures are compared.
    """

    file: str
    hashes: NDArray[np.uint8]
    descriptor: NDArray[np.float32]
    points: overlap.Points | None


@dataclass(frozen=True)
class Pair:
    """Two pictures that show the same cells.

    Attributes:
        difference: signs of 256, -1 for the same file; None where key points found them.
        matches, correlation, share: what key points found, see `overlap.Overlap`; 0 where they were not asked.
    """

    a: int
    b: int
    difference: int | None
    matches: int = 0
    correlation: float = 0.0
    share: float = 0.0

    def __str__(self) -> str:
        if self.difference is None:
            shown = f"{min(1.0, self.share):.0%} of the smaller shown in both"
            return f"{self.matches} key points fit, {shown}, correlation {self.correlation:.2f}"
        return "the same file" if self.difference < 0 else f"{self.difference} of 256 signs differ"


def trace(path: Path, pixels: Image, *, parts: bool = True) -> Trace:
    """What is kept of a picture. `parts`: also what finds pictures that agree in part or are turned by any angle."""
    points = overlap.points(pixels) if parts else None
    return Trace(file_hash(path), hashing.packed(pixels), hashing.descriptor(pixels), points)


def find(traces: Sequence[Trace], max_difference: int = hashing.MAX_DIFFERENCE, seed: int = 1) -> list[Pair]:
    """Copies: exact ones first, then those that hash alike, then those that only key points find.

    Where pictures have key points, these must agree with the hash, and only as many pairs are compared and listed as
    join the groups: two pictures that are joined through others are not compared again.
    """
    if not traces:
        return []
    exact = [Pair(a, b, -1) for a, b in _same_files([t.file for t in traces])]
    known = {(p.a, p.b) for p in exact}
    hashes, descriptors = np.stack([t.hashes for t in traces]), np.stack([t.descriptor for t in traces])
    found = hashing.pairs(hashes, descriptors, max_difference, seed)
    alike = sorted((Pair(a, b, d) for a, b, d in found if (a, b) not in known), key=lambda p: (p.difference, p.a, p.b))
    points = [t.points for t in traces if t.points is not None]
    if len(points) < len(traces):
        return exact + alike
    group = Groups(len(traces), known)
    agreed = [alike[i] for i in overlap.agreeing(points, [(p.a, p.b) for p in alike], group)]
    joining = overlap.overlaps(points, group, seed=seed)
    return exact + agreed + [Pair(o.a, o.b, None, o.matches, o.correlation, o.share) for o in joining]


def _same_files(files: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Each file with the first that has its bytes."""
    first: dict[str, int] = {}
    for i, name in enumerate(files):
        if first.setdefault(name, i) != i:
            yield first[name], i


def numbers(n: int, found: Sequence[Pair]) -> list[int]:
    """A group number per picture; copies, and copies of copies, share one. Numbers are first positions."""
    return Groups(n, ((p.a, p.b) for p in found)).numbers()


def groups(paths: Sequence[Path], *, workers: int = 2) -> list[int]:
    """A group number per file, as `numbers`. ImageError names a file that cannot be read."""

    with ThreadPoolExecutor(workers) as pool:
        traces = list(pool.map(lambda path: trace(path, decode.read(path)), paths))
    return numbers(len(traces), find(traces))

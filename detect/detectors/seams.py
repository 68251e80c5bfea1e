"""Cells found tile by tile become the cells of the field: none split at a seam, none there twice.

What a seam cuts is known: a box that ends at a side of its tile which lies within the field. Neighbouring tiles share
more than the width of a cell, so a cell cut in one tile is whole in another, and the whole one counts. A cell too large
for that is put together again from its pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from detect import geometry
from detect.images.tiles import Tile
from detect.types import Detections

_SAME = 0.5  # two whole boxes of one class from two tiles that overlap more than this (IoU) are one cell
_COVERED = 0.5  # a cut box of which more than this lies within another one of its class is a piece of that cell
_COVERED_OTHER = 0.8  # and of another class: half a white cell may look like a red one
_FACING = 0.5  # pieces of a large cell lie beside each other: their shared stretch along the seam, of the shorter


def join(tiles: Sequence[Tile], pieces: Sequence[Detections], edge: tuple[float, float]) -> Detections:
    """One field's cells from those of its tiles.

    Args:
        pieces: what was found in each tile, boxes in pixels of the field.
        edge: a box this near to a side of its tile ends there: pixels across and down.

    Returns:
        In the order of the results. `capped` where it is so in any tile.
    """
    everything = _concatenated(pieces)
    if len(tiles) == 1 or len(everything) == 0:
        return everything.ordered()
    owner = np.repeat(np.arange(len(tiles)), [len(p) for p in pieces])
    cut = _cut(everything.boxes, owner, tiles, edge)
    # Whole before cut, of the whole the better, of the cut the larger, then by place: the same whatever the order.
    worth = np.where(cut, geometry.area(everything.boxes), everything.scores)
    rank = np.lexsort((everything.boxes[:, 1], everything.boxes[:, 0], -worth, cut))
    place = np.empty(len(rank), np.int64)
    place[rank] = np.arange(len(rank))
    beaten: dict[int, list[int]] = {}
    partners: list[tuple[int, int]] = []
    for i, j, same, part in _pairs(tiles, everything, owner, cut):
        better, worse = (i, j) if place[i] < place[j] else (j, i)
        if same:
            beaten.setdefault(better, []).append(worse)
        elif part:
            partners.append((better, worse))
    alive = np.ones(len(everything), bool)
    for i in sorted(beaten, key=lambda k: place[k]):
        if alive[i]:
            alive[beaten[i]] = False
    return _mended(everything, alive, partners, place).ordered()


def _concatenated(pieces: Sequence[Detections]) -> Detections:
    masks = None
    if pieces[0].masks is not None:
        masks = tuple(m for p in pieces for m in p.masks or ())
    return Detections(
        np.concatenate([p.boxes for p in pieces]),
        np.concatenate([p.scores for p in pieces]),
        np.concatenate([p.labels for p in pieces]),
        pieces[0].classes,
        masks,
        any(p.capped for p in pieces),
    )


def _cut(
    boxes: NDArray[np.float32], owner: NDArray[np.int64], tiles: Sequence[Tile], edge: tuple[float, float]
) -> NDArray[np.bool_]:
    """Which boxes end at a side of their tile that lies within the field."""
    bounds = np.array([[t.x0, t.y0, t.x1, t.y1] for t in tiles])[owner]
    sides = np.array([t.cut for t in tiles])[owner]
    near = np.abs(boxes - bounds) <= np.array([*edge, *edge])
    return np.asarray((near & sides).any(axis=1))


def _pairs(
    tiles: Sequence[Tile], found: Detections, owner: NDArray[np.int64], cut: NDArray[np.bool_]
) -> Iterator[tuple[int, int, bool, bool]]:
    """Boxes of two tiles that meet: (one, other, they are one cell, they are pieces of one large cell)."""
    rows = [np.flatnonzero(owner == k) for k in range(len(tiles))]
    extents = np.array([[t.x0, t.y0, t.x1, t.y1] for t in tiles], np.float32)
    neighbours = np.triu(geometry.intersection(extents, extents) > 0, 1)
    for a, b in np.argwhere(neighbours).tolist():
        if not len(rows[a]) or not len(rows[b]):
            continue
        shared = np.concatenate(
            [np.maximum(extents[a, :2], extents[b, :2]), np.minimum(extents[a, 2:], extents[b, 2:])]
        )[None]
        first, second = (r[geometry.intersection(found.boxes[r], shared)[:, 0] > 0] for r in (rows[a], rows[b]))
        if not len(first) or not len(second):
            continue
        p, q = found.boxes[first], found.boxes[second]
        both = geometry.intersection(p, q)
        iou = geometry.iou(p, q)
        least = np.where(found.labels[first][:, None] == found.labels[second][None, :], _COVERED, _COVERED_OTHER)
        alike = least == _COVERED
        cut_p, cut_q = cut[first][:, None], cut[second][None, :]
        covered_p = both / np.maximum(geometry.area(p), 1e-6)[:, None] > least
        covered_q = both / np.maximum(geometry.area(q), 1e-6)[None, :] > least
        near = covered_p | covered_q
        same = np.where(cut_p & cut_q, near & ~alike, np.where(cut_p, covered_p, covered_q))
        same = np.where(cut_p | cut_q, same, alike & (iou > _SAME))
        part = cut_p & cut_q & alike & (near | ((both > 0) & _facing(p, q)))
        for i, j in np.argwhere(same | part):
            yield int(first[i]), int(second[j]), bool(same[i, j]), bool(part[i, j])


def _facing(p: NDArray[np.float32], q: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether two boxes share most of their extent in one direction."""
    out = np.zeros((len(p), len(q)), bool)
    for axis in (0, 1):
        low = np.maximum(p[:, None, axis], q[None, :, axis])
        high = np.minimum(p[:, None, axis + 2], q[None, :, axis + 2])
        shorter = np.minimum((p[:, axis + 2] - p[:, axis])[:, None], (q[:, axis + 2] - q[:, axis])[None, :])
        out |= (high - low) / np.maximum(shorter, 1e-6) > _FACING
    return out


def _mended(
    found: Detections, alive: NDArray[np.bool_], partners: Sequence[tuple[int, int]], place: NDArray[np.int64]
) -> Detections:
    """The boxes that are left, pieces of one large cell made one."""
    group = np.arange(len(found))
    for i, j in sorted(partners, key=lambda pair: (place[pair[0]], place[pair[1]])):
        if alive[i] and alive[j]:
            group[group == group[j]] = group[i]
    boxes = found.boxes.copy()
    masks = None if found.masks is None else list(found.masks)
    for k in np.unique(group[group != np.arange(len(found))]):
        members = np.flatnonzero(alive & (group == k))
        boxes[k, :2] = found.boxes[members, :2].min(axis=0)
        boxes[k, 2:] = found.boxes[members, 2:].max(axis=0)
        if masks is not None:
            masks[k] = rle.merge([dict(masks[m]) for m in members])
    whole = replace(found, boxes=boxes, masks=None if masks is None else tuple(masks))
    return whole.select(alive & (group == np.arange(len(found))))

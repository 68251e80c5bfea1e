"""Cells that stand in two fields of one slide, because the fields overlap or one place was taken twice.

Fields of a slide come without a place on it, but cells lie in no regular order: a cell and two of its nearest
neighbours look alike in two fields only where both show the same place. Such triples propose how two fields lie to each
other, and all cells of the two decide: those of the stretch that they share must meet, nearly all of them, and at no
other shift. Fields are taken to be shifted, not turned, and to be of one scale, as a microscope's stage and one camera
give them. Regions of whole slides lie where they lie: of them only cells on their borders may stand in two.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from detect import geometry
from detect.images import wholeslide
from detect.score import schema
from detect.score.store import REPEATS, Store, write_table

_NEAR = 0.08  # red cell diameters that two sights of a triple may differ by
_TIGHT = 0.05  # and those of a cell, once it is known how the fields lie
_TWO = np.array([(0, 1), (0, 2), (1, 2)])  # of the three nearest neighbours
_VOTES = 2  # triples that have to agree on a shift
_APART, _TRIED = 0.5, 6  # diameters between shifts that are told apart; most of them that are tried
_MANY = 64  # triples that look alike: more are of cells in rank and file, or of too many fields
_MOST, _BLOCK = 4000, 256  # cells of a field that is compared; those whose neighbours are looked for at once
_FEWEST, _SHARE = 6, 0.7  # cells that have to meet, at least, and as a part of those in the shared stretch
_SAME = 0.5  # least IoU, within the shared stretch, of two sights of one cell

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sighting:
    """A cell that is counted elsewhere: in `same_field`, as `same_cell`."""

    slide: str
    field: str
    cell: int
    same_field: str
    same_cell: int


@dataclass(frozen=True, eq=False)
class View:
    """The cells of one field.

    Attributes:
        boxes: xyxy in its pixels, float32 (n, 4). labels: of each. cells: their numbers. cut: whether the border cut
            it. width, height: of the field, pixels.
    """

    field: str
    width: int
    height: int
    boxes: Floats
    labels: NDArray[np.str_]
    cells: NDArray[np.int64]
    cut: NDArray[np.bool_]

    @property
    def middles(self) -> Floats:
        """(n, 2), pixels."""
        return np.asarray((self.boxes[:, :2] + self.boxes[:, 2:]) / 2, np.float32)


def find(store: Store) -> list[Sighting]:
    """The repeated cells of a run, slide by slide, in the order of its results."""
    regions: dict[str, list[dict[str, object]]] = {}
    fields: dict[str, list[dict[str, object]]] = {}
    columns = ["slide", "field", "status", "width", "height", "scale", "scale_used"]
    for row in store.fields().select(columns).to_pylist():
        if row["status"] == "ok":
            whole = wholeslide.is_region(row["field"], row["slide"])
            (regions if whole else fields).setdefault(row["slide"], []).append(row)
    parts = store.parts_of_slides()
    out: list[Sighting] = []
    for slide in sorted(fields):
        if len(fields[slide]) > 1 and slide in parts:
            views = _views(store, parts[slide], slide, fields[slide])
            out += among(slide, views, _diameter(fields[slide], views))
    for slide in sorted(regions):
        if len(regions[slide]) > 1 and slide in parts:
            out += on_borders(slide, _views(store, parts[slide], slide, regions[slide]))
    return out


def on_borders(slide: str, views: Sequence[View]) -> list[Sighting]:
    """Cells of a whole slide that two of its regions have; the earlier region keeps them. Boxes are of the slide."""
    near = [wholeslide.at_borders(*view.middles.T) for view in views]
    owner = np.concatenate([np.full(int(n.sum()), i) for i, n in enumerate(near)])
    rows = np.concatenate([np.flatnonzero(n) for n in near])
    boxes = np.concatenate([view.boxes[n] for view, n in zip(views, near, strict=True)])
    labels = np.concatenate([view.labels[n] for view, n in zip(views, near, strict=True)])
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    order = np.argsort(middles[:, 0], kind="stable")
    met: list[tuple[float, int, int]] = []
    for step in range(1, len(order)):
        one, other = order[:-step], order[step:]
        apart = np.abs(middles[other] - middles[one]) <= 2 * wholeslide.BORDER
        if not apart[:, 0].any():
            break
        alike = apart.all(axis=1) & (owner[one] != owner[other]) & (labels[one] == labels[other])
        for p, q in zip(one[alike].tolist(), other[alike].tolist(), strict=True):
            overlap = float(geometry.iou(boxes[[p]], boxes[[q]])[0, 0])
            if overlap >= _SAME:
                met.append((-overlap, *sorted((p, q))))  # rows are in the order of the regions
    counted_as: dict[int, int] = {}
    for _, first, second in sorted(met):
        counted_as.setdefault(second, first)
    out = []
    for k in sorted(counted_as):
        as_row = counted_as[k]
        while as_row in counted_as:  # at a corner four regions meet
            as_row = counted_as[as_row]
        own, kept = views[owner[k]], views[owner[as_row]]
        told = kept.field, int(kept.cells[rows[as_row]])
        out.append(Sighting(slide, own.field, int(own.cells[rows[k]]), *told))
    return out


def _diameter(fields: Sequence[Mapping[str, object]], views: Sequence[View]) -> float:
    """Of a red cell, pixels: as it was measured, else as it was told, else what the cells are wide."""
    for name in ("scale", "scale_used"):
        known = [float(str(row[name])) for row in fields if row[name] is not None]
        if known:
            return median(known)
    sides = [np.sqrt(geometry.area(view.boxes)) for view in views]
    return float(np.median(np.concatenate(sides))) or 1.0


def _views(store: Store, parts: Sequence[int], slide: str, fields: Sequence[Mapping[str, object]]) -> list[View]:
    columns = ("slide", "field", "cell", "x0", "y0", "x1", "y1", "label", "flags")
    tables = [store.part(number, columns) for number in parts]
    table = pa.concat_tables([t.filter(pc.equal(t.column("slide"), slide)) for t in tables]).combine_chunks()
    boxes = np.stack([table.column(c).to_numpy() for c in ("x0", "y0", "x1", "y1")], axis=1).astype(np.float32)
    labels, cells = np.array(table.column("label").to_pylist(), np.str_), table.column("cell").to_numpy()
    flags, cut = table.column("flags").combine_chunks(), np.zeros(len(table), bool)
    cut[pc.list_parent_indices(flags).filter(pc.equal(pc.list_flatten(flags), "border")).to_numpy()] = True
    names = [str(row["field"]) for row in fields]
    owner = pc.index_in(table.column("field"), pa.array(names, pa.string())).to_numpy()
    order = np.argsort(owner, kind="stable")
    begins, ends = (np.searchsorted(owner[order], np.arange(len(names)), side) for side in ("left", "right"))
    out = []
    for row, begin, end in zip(fields, begins, ends, strict=True):
        mine, size = order[begin:end], (int(str(row["width"])), int(str(row["height"])))
        out.append(View(str(row["field"]), *size, boxes[mine], labels[mine], cells[mine].astype(np.int64), cut[mine]))
    return out


def among(slide: str, views: Sequence[View], diameter: float) -> list[Sighting]:
    """The repeated cells of some fields. One that the border cut gives way to a whole one, else later to earlier.

    Args:
        diameter: of a red cell, pixels.
    """
    groups: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {}  # sights (field, row) of one cell, by each of them
    found = []
    for (i, j), shifts in _shifts(views, diameter).items():
        met = [pairs for shift in shifts if (pairs := _meeting(views[i], views[j], shift, diameter))]
        if len(met) == 1:  # cells in rank and file meet at many shifts, and tell nothing
            found.append((i, j, met[0]))
    for i, j, pairs in sorted(found, key=lambda f: (-len(f[2]), f[0], f[1])):  # those that share most come first
        for a, b in pairs:
            one, other = groups.get((i, a), ((i, a),)), groups.get((j, b), ((j, b),))
            if not {field for field, _ in one} & {field for field, _ in other}:  # a field has each cell once
                both = (*one, *other)
                groups.update((sight, both) for sight in both)
    out = []
    for key in sorted(groups):
        kept = min(groups[key], key=lambda k: (bool(views[k[0]].cut[k[1]]), *k))
        if key != kept:
            (own, row), (field, as_row) = key, kept
            told = views[field].field, int(views[field].cells[as_row])
            out.append(Sighting(slide, views[own].field, int(views[own].cells[row]), *told))
    return out


def _shifts(views: Sequence[View], diameter: float) -> dict[tuple[int, int], list[Floats]]:
    """How far the second of two fields may lie from the first, pixels, the likeliest first, by pairs of fields."""
    told, owner, middles = _triples(views, diameter)
    one, other = _alike(told, owner)
    one, other = np.minimum(one, other), np.maximum(one, other)  # rows are in the order of the fields
    shift = (middles[one] - middles[other]) / diameter
    pair = owner[one] * len(views) + owner[other]
    best: dict[tuple[int, int], dict[bytes, tuple[int, Floats]]] = {}
    # Votes that agree fall into one bin of at least one of four grids, each half a bin beside the others.
    for offset in np.stack(np.meshgrid([0, 0.5], [0, 0.5]), axis=-1).reshape(-1, 2):
        bins = np.floor(shift / (4 * _NEAR) + offset).astype(np.int64)
        keys, where, counts = np.unique(np.column_stack([pair, bins]), axis=0, return_inverse=True, return_counts=True)
        order, ends = np.argsort(where.ravel(), kind="stable"), np.cumsum(counts)
        for k in np.flatnonzero(counts >= _VOTES).tolist():
            middle = np.median(shift[order[ends[k] - counts[k] : ends[k]]], axis=0).astype(np.float32)
            found = best.setdefault((int(keys[k, 0]) // len(views), int(keys[k, 0]) % len(views)), {})
            found[np.round(middle, 1).tobytes()] = (int(counts[k]), middle)
    out = {}
    for fields in sorted(best):
        ranked = sorted(best[fields].values(), key=lambda f: (-f[0], f[1].tolist()))
        apart: list[Floats] = []
        for _, middle in ranked:
            if all(np.hypot(*(middle - known)) > _APART for known in apart):
                apart.append(middle)
        out[fields] = [np.asarray(middle * diameter, np.float32) for middle in apart[:_TRIED]]
    return out


def _alike(told: Floats, owner: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of triples of different fields that look alike. What looks like very many others tells nothing."""
    found: list[NDArray[np.int64]] = []
    for number in range(2 ** told.shape[1]):
        offset = [(number >> d & 1) / 2 for d in range(told.shape[1])]
        bins = np.floor(told / (2 * _NEAR) + offset).astype(np.int64)
        key = np.zeros(len(told), np.int64)
        for column in bins.T:
            key = key * 1009 + column % 1009
        order = np.argsort(key, kind="stable")
        key = key[order]
        size = np.searchsorted(key, key, side="right") - np.searchsorted(key, key, side="left")
        order, key = order[size <= _MANY], key[size <= _MANY]
        for step in range(1, min(_MANY, len(key))):
            same = np.flatnonzero(key[step:] == key[:-step])
            if not len(same):
                break
            a, b = order[same], order[same + step]
            near = (owner[a] != owner[b]) & (np.abs(told[a] - told[b]) <= _NEAR).all(axis=1)
            found.append(np.column_stack([np.minimum(a, b), np.maximum(a, b)])[near])
    pairs = np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, 2), np.int64)
    return pairs[:, 0], pairs[:, 1]


def _triples(views: Sequence[View], diameter: float) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Where two of the nearest neighbours of each whole cell lie, in diameters (n, 4); its field; its middle, pixels.

    Each two of the three nearest: where one of them is missed or cut in one of the fields, a triple is left.
    """
    told, owner, places = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.int64)], [np.zeros((0, 2), np.float32)]
    for i, view in enumerate(views):
        middles = view.middles[~view.cut]
        if not 4 <= len(middles) <= _MOST:
            continue
        for start in range(0, len(middles), _BLOCK):
            block = middles[start : start + _BLOCK]
            apart = ((block[:, None] - middles[None]) ** 2).sum(axis=2)
            apart[np.arange(len(block)), start + np.arange(len(block))] = np.inf
            near = np.argsort(apart, axis=1, kind="stable")[:, _TWO]  # (cells, 3, 2)
            told.append((middles[near] - block[:, None, None]).reshape(-1, 4) / diameter)
            owner.append(np.full(len(_TWO) * len(block), i))
            places.append(np.repeat(block, len(_TWO), axis=0))
    return np.concatenate(told, dtype=np.float32), np.concatenate(owner), np.concatenate(places)


def _meeting(one: View, other: View, shift: Floats, diameter: float) -> list[tuple[int, int]]:
    """Rows of two fields that show the same cells; empty where the fields do not show the same place after all."""
    moved = other.boxes + np.tile(shift, 2)
    left, top = np.maximum(0, shift)
    right, low = min(one.width, other.width + shift[0]), min(one.height, other.height + shift[1])
    if right <= left or low <= top:
        return []
    shared = np.array([left, top, right, low], np.float32)
    a, b = _inside(one.boxes, shared), _inside(moved, shared)
    # Those whose middle lies well within the stretch are not cut by its ends: they decide.
    deep_a, deep_b = _deep(one.boxes[a], shared, diameter), _deep(moved[b], shared, diameter)
    if min(deep_a.sum(), deep_b.sum()) < _FEWEST:
        return []
    clipped = [np.clip(boxes, np.tile(shared[:2], 2), np.tile(shared[2:], 2)) for boxes in (one.boxes[a], moved[b])]
    near = geometry.iou(*clipped)
    near[one.labels[a][:, None] != other.labels[b][None]] = 0
    rows, columns = np.nonzero(near >= _SAME)
    free_a, free_b, pairs = np.ones(len(a), bool), np.ones(len(b), bool), []
    for k in np.argsort(-near[rows, columns], kind="stable"):
        p, q = int(rows[k]), int(columns[k])
        if free_a[p] and free_b[q]:
            free_a[p] = free_b[q] = False
            pairs.append((p, q))
    own, others = one.middles[a], (moved[b, :2] + moved[b, 2:]) / 2
    apart = np.array([own[p] - others[q] for p, q in pairs if deep_a[p]]).reshape(-1, 2)
    apart -= np.median(apart, axis=0) if len(apart) else 0
    met = int((np.abs(apart) <= _TIGHT * diameter).all(axis=1).sum())
    if met < max(_FEWEST, _SHARE * max(int(deep_a.sum()), int(deep_b.sum()))):
        return []
    return [(int(a[p]), int(b[q])) for p, q in pairs]


def _inside(boxes: Floats, shared: Floats) -> NDArray[np.int64]:
    """Rows of boxes that reach into a stretch."""
    return np.flatnonzero((boxes[:, :2] < shared[2:]).all(axis=1) & (boxes[:, 2:] > shared[:2]).all(axis=1))


def _deep(boxes: Floats, shared: Floats, diameter: float) -> NDArray[np.bool_]:
    """Whether the middle of each lies a radius within a stretch."""
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    inner = (middles >= shared[:2] + diameter / 2) & (middles <= shared[2:] - diameter / 2)
    return np.asarray(inner.all(axis=1))


def write(found: Sequence[Sighting], out: Path) -> None:
    """`repeats.parquet`: a row for each cell that is counted elsewhere."""
    columns = {name: [getattr(one, name) for one in found] for name in schema.REPEATS.names}
    write_table(pa.table(columns, schema=schema.REPEATS), out / REPEATS)


def counted(cells: pa.Table, elsewhere: Mapping[str, Collection[int]]) -> pa.Array:
    """Of the rows of a table of cells, with columns `field` and `cell`, those that are not counted in another field."""
    if not elsewhere:
        return pa.array([True] * len(cells), pa.bool_())
    each = zip(cells.column("field").to_pylist(), cells.column("cell").to_pylist(), strict=True)
    return pa.array([cell not in elsewhere.get(name, ()) for name, cell in each], pa.bool_())


def read(out: Path) -> Mapping[str, Collection[int]]:
    """Cells of a run that are counted elsewhere: their numbers by their field."""
    told: dict[str, set[int]] = {}
    if (out / REPEATS).is_file():
        table = pq.read_table(out / REPEATS, columns=["field", "cell"])
        for name, cell in zip(*(table.column(c).to_pylist() for c in ("field", "cell")), strict=True):
            told.setdefault(name, set()).add(cell)
    return told

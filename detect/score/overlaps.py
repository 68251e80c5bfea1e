"""Cells that stand in two fields of one slide, because the fields overlap or one place was taken twice.

Fields of a slide come without a place on it, but cells lie in no regular order: a cell and its two nearest neighbours
look alike in two fields only where both show the same place. Such triples propose how two fields lie to each other, and
all cells of the two decide: those of the stretch that they share must meet, nearly all of them. Fields are taken to be
shifted, not turned, and to be of one scale, as a microscope's stage and one camera give them.
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
from detect.score.store import REPEATS, Store, write_table

_NEAR = 0.12  # red cell diameters that two sights of one cell may lie apart
_VOTES = 2  # triples that have to agree on a shift
_FEWEST, _SHARE = 6, 0.7  # cells that have to meet, at least, and as a part of those in the shared stretch
_SAME = 0.5  # least IoU, within the shared stretch, of two sights of one cell

Floats = NDArray[np.float32]

SCHEMA = pa.schema(
    [
        ("slide", pa.string()),
        ("field", pa.string()),
        ("cell", pa.int32()),
        ("same_field", pa.string()),
        ("same_cell", pa.int32()),
    ]
)


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
    """The repeated cells of a run, slide by slide, in the order of its results. Whole slides have none: their regions
    do not overlap."""
    fields: dict[str, list[dict[str, object]]] = {}
    columns = ["slide", "field", "status", "width", "height", "scale"]
    for row in store.fields().select(columns).to_pylist():
        if row["status"] == "ok" and not wholeslide.is_region(row["field"], row["slide"]):
            fields.setdefault(row["slide"], []).append(row)
    parts = store.parts_of_slides()
    out: list[Sighting] = []
    for slide in sorted(fields):
        scales = [float(str(row["scale"])) for row in fields[slide] if row["scale"] is not None]
        if len(fields[slide]) > 1 and scales and slide in parts:
            out += among(slide, _views(store, parts[slide], slide, fields[slide]), median(scales))
    return out


def _views(store: Store, parts: Sequence[int], slide: str, fields: Sequence[Mapping[str, object]]) -> list[View]:
    columns = ("slide", "field", "cell", "x0", "y0", "x1", "y1", "label", "flags")
    tables = [store.part(number, columns) for number in parts]
    table = pa.concat_tables([t.filter(pc.equal(t.column("slide"), slide)) for t in tables])
    names = np.array(table.column("field").to_pylist(), dtype=object)
    boxes = np.stack([table.column(c).to_numpy() for c in ("x0", "y0", "x1", "y1")], axis=1).astype(np.float32)
    labels, cells = np.array(table.column("label").to_pylist(), np.str_), table.column("cell").to_numpy()
    cut = np.array(["border" in flags for flags in table.column("flags").to_pylist()], bool)
    out = []
    for row in fields:
        mine = np.flatnonzero(names == row["field"])
        size = int(str(row["width"])), int(str(row["height"]))
        out.append(View(str(row["field"]), *size, boxes[mine], labels[mine], cells[mine].astype(np.int64), cut[mine]))
    return out


def among(slide: str, views: Sequence[View], diameter: float) -> list[Sighting]:
    """The repeated cells of some fields. One that the border cut gives way to a whole one, else later to earlier.

    Args:
        diameter: of a red cell, pixels.
    """
    same: dict[tuple[int, int], tuple[int, int]] = {}  # (field, row) to one that shows the same cell

    def first(key: tuple[int, int]) -> tuple[int, int]:
        while key in same:
            key = same[key]
        return key

    for (i, j), shift in _shifts(views, diameter).items():
        pairs = _meeting(views[i], views[j], shift, diameter)
        for a, b in pairs:
            one, other = sorted((first((i, a)), first((j, b))), key=lambda k: (views[k[0]].cut[k[1]], *k))
            if one != other:
                same[other] = one
    out = []
    for key in sorted(same):
        (own, row), (kept, as_row) = key, first(key)
        name, number = views[kept].field, int(views[kept].cells[as_row])
        out.append(Sighting(slide, views[own].field, int(views[own].cells[row]), name, number))
    return out


def _shifts(views: Sequence[View], diameter: float) -> dict[tuple[int, int], Floats]:
    """How far the second of two fields lies from the first, pixels, for pairs that may overlap."""
    told, owner, row = _triples(views, diameter)
    order = np.argsort(told[:, 0], kind="stable")
    told, owner, row = told[order], owner[order], row[order]
    last = np.searchsorted(told[:, 0], told[:, 0] + _NEAR, side="right")
    votes: dict[tuple[int, int], list[Floats]] = {}
    for k in range(len(told)):
        rest = slice(k + 1, last[k])
        alike = np.flatnonzero((np.abs(told[rest] - told[k]) <= _NEAR).all(axis=1) & (owner[rest] != owner[k]))
        for m in (alike + k + 1).tolist():
            (i, a), (j, b) = sorted(((int(owner[k]), int(row[k])), (int(owner[m]), int(row[m]))))
            votes.setdefault((i, j), []).append(views[i].middles[a] - views[j].middles[b])
    out = {}
    for pair in sorted(votes):
        each = np.array(votes[pair], np.float32)
        agree = (np.abs(each[:, None] - each[None]) <= 2 * _NEAR * diameter).all(axis=2)
        most = int(agree.sum(axis=1).argmax())
        if agree[most].sum() >= _VOTES:
            out[pair] = np.median(each[agree[most]], axis=0).astype(np.float32)
    return out


def _triples(views: Sequence[View], diameter: float) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Where the two nearest neighbours of each whole cell lie, in diameters (n, 4); its field; its row there."""
    told, owner, row = [], [], []
    for i, view in enumerate(views):
        whole = np.flatnonzero(~view.cut)
        if len(whole) < 3:
            continue
        middles = view.middles[whole]
        apart = ((middles[:, None] - middles[None]) ** 2).sum(axis=2)
        np.fill_diagonal(apart, np.inf)
        near = np.argsort(apart, axis=1, kind="stable")[:, :2]
        told.append((middles[near] - middles[:, None]).reshape(-1, 4) / diameter)
        owner.append(np.full(len(whole), i))
        row.append(whole)
    if not told:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(told, dtype=np.float32), np.concatenate(owner), np.concatenate(row)


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
    clipped = [np.clip(boxes, np.tile(shared[:2], 2), np.tile(shared[2:], 2)) for boxes in (one.boxes[a], moved[b])]
    near = geometry.iou(*clipped) if len(a) and len(b) else np.zeros((len(a), len(b)), np.float32)
    near = np.where(one.labels[a][:, None] == other.labels[b][None], near, 0)
    pairs = []
    while near.size and near.max() >= _SAME:
        p, q = np.unravel_index(int(near.argmax()), near.shape)
        pairs.append((int(p), int(q)))
        near[p], near[:, q] = 0, 0
    apart = {
        (p, q): float(np.abs(_middle(one.boxes[a[p]]) - _middle(moved[b[q]])).max()) for p, q in pairs if deep_a[p]
    }
    met = sum(distance <= 2 * _NEAR * diameter for distance in apart.values())
    if met < max(_FEWEST, _SHARE * max(int(deep_a.sum()), int(deep_b.sum()))):
        return []
    return [(int(a[p]), int(b[q])) for p, q in pairs]


def _middle(box: Floats) -> Floats:
    return np.asarray((box[:2] + box[2:]) / 2, np.float32)


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
    columns = {name: [getattr(one, name) for one in found] for name in SCHEMA.names}
    write_table(pa.table(columns, schema=SCHEMA), out / REPEATS)


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

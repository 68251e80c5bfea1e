"""Two versions of a set side by side: what differs, where two annotators contradict each other, how far they agree.

A version is a folder of `smear review pull`, or a snapshot by name. Nothing here needs FiftyOne.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detect import geometry
from detect.config import load_yaml
from detect.evaluate.intervals import Interval, intervals, plain_json
from detect.formats.labels import load_json, stem_of
from detect.review.database import ReviewError
from detect.review.pull import ABOUT, CHANGES
from detect.review.snapshot import Row, Snapshot, open_snapshot

SAME_CELL = 0.5  # IoU from which two drawn boxes are of one cell
SAME_BOX = 0.9  # IoU from which two annotators drew one box
_ASPECTS = ("label", "box", "mask", "tags", "attributes")


@dataclass(frozen=True)
class Version:
    """A set as it was at some time.

    Attributes:
        snapshot: the hash of what it was made from; a snapshot's own. cells: by (field, cell id), label by name.
        changes: against the snapshot, by (field, cell id).
    """

    name: str
    snapshot: str
    fields: frozenset[str]
    cells: Mapping[tuple[str, int], Row]
    changes: Mapping[tuple[str, int | None], Row]


@dataclass(frozen=True)
class Difference:
    """One cell that is not the same in two versions."""

    field: str
    cell: int
    what: tuple[str, ...]
    a: Row | None
    b: Row | None


@dataclass(frozen=True)
class Conflict:
    """One cell that two annotators changed in different ways. Nothing decides between them but a person."""

    field: str
    cell: int | None
    what: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Agreement:
    """How far two annotators agree on some cells.

    Attributes:
        cells: that both have. only_a, only_b: that one has. kappa: of the labels (Cohen 1960), NaN where both used one
            label. same: share under one label. iou: mean of the boxes. Intervals by bootstrap over fields.
    """

    of: str
    cells: int
    only_a: int
    only_b: int
    kappa: Interval
    same: Interval
    iou: Interval


def open_version(given: str) -> Version:
    """A pulled folder, or a snapshot by name."""
    folder = Path(given)
    if (folder / ABOUT).is_file():
        about = load_yaml(folder / ABOUT)
        cells: dict[tuple[str, int], Row] = {}
        fields: set[str] = set()
        labels: dict[str, dict[Any, str]] = {}
        part_of = {stem_of(f"{part}.x"): part for part in about["parts"]}
        for path in sorted((folder / "annotations").glob("*.json")):
            told = load_json(path, "pull again")
            names = {c["id"]: str(c["name"]) for c in told["categories"]}
            labels[part_of[path.stem]] = names
            images = {image["id"]: str(image["file_name"]) for image in told["images"]}
            fields.update(images.values())
            for row in told["annotations"]:
                cells[images[row["image_id"]], row["id"]] = {**row, "label": names[row["category_id"]]}
        changes = {}
        for line in (folder / CHANGES).read_text("utf-8").splitlines():
            change = json.loads(line)
            for row in (change["before"], change["after"]):  # new classes have ids of each version's own
                if row is not None and "category_id" in row:
                    row["label"] = labels[change["part"]][row["category_id"]]
            changes[change["field"], change["cell"]] = change
        return Version(str(about["review"]), str(about["snapshot_hash"]), frozenset(fields), cells, changes)
    if folder.is_dir():
        what = f"no {ABOUT} in it"
        raise ReviewError(what, where=given, remedy="give a folder of 'smear review pull', or a snapshot by name")
    return _of_snapshot(open_snapshot(given))


def _of_snapshot(snapshot: Snapshot) -> Version:
    cells: dict[tuple[str, int], Row] = {}
    fields = []
    for entry in snapshot.entries():
        names = snapshot.names(entry.part)
        fields.append(entry.field)
        for row in entry.cells:
            cells[entry.field, row["id"]] = {**row, "label": names[row["category_id"]]}
    return Version(snapshot.name, snapshot.hash, frozenset(fields), cells, {})


def differences(a: Version, b: Version) -> list[Difference]:
    """Cells that are not the same in both, by field and id. Ids of added cells are each version's own."""
    out = []
    for field, x, y in _pairs(a, b):
        one = a.cells[field, x] if x is not None else None
        two = b.cells[field, y] if y is not None else None
        what = ("only in b",) if one is None else ("only in a",) if two is None else _aspects(one, two)
        if what:
            out.append(Difference(field, x if x is not None else y or 0, what, one, two))
    out += [Difference(f, i, ("field removed",), a.cells[f, i], None) for f, i in a.cells if f not in b.fields]
    out += [Difference(f, i, ("field removed",), None, b.cells[f, i]) for f, i in b.cells if f not in a.fields]
    return sorted(out, key=lambda d: (d.field, d.cell))


def _aspects(one: Row, two: Row) -> tuple[str, ...]:
    keys = {"label": "label", "box": "bbox", "mask": "segmentation", "tags": "tags", "attributes": "attributes"}
    return tuple(aspect for aspect in _ASPECTS if one.get(keys[aspect]) != two.get(keys[aspect]))


def conflicts(a: Version, b: Version) -> list[Conflict]:
    """Where both changed one thing and not to the same end, found against the snapshot of both.

    Raises:
        ReviewError: the two were not made from one snapshot.
    """
    if a.snapshot != b.snapshot:
        raise ReviewError(
            f"'{a.name}' and '{b.name}' were made from different snapshots",
            remedy="conflicts are known only against what both began with",
        )
    out = list(_on_fields(a, b))
    for key in sorted((k for k in {*a.changes} & {*b.changes} if k[1] is not None), key=str):
        one, two = a.changes[key], b.changes[key]
        if _is_new(one) or _is_new(two):
            continue  # each has ids of its own; these are compared by place
        out += _on_cell(key, one, two)
    out += _on_new(a, b)
    return out


def _is_new(change: Row) -> bool:
    return change["before"] is None


def _on_fields(a: Version, b: Version) -> Iterator[Conflict]:
    for gone, other, swapped in ((a, b, False), (b, a, True)):
        for field in sorted(other.fields - gone.fields):
            edited = [c for (f, _), c in other.changes.items() if f == field]
            if edited:
                sides = ("field removed", [c["what"] for c in edited])
                yield Conflict(field, None, "field", *(sides[::-1] if swapped else sides))


def _on_cell(key: tuple[str, int | None], one: Row, two: Row) -> Iterator[Conflict]:
    if (one["after"] is None) != (two["after"] is None):
        yield Conflict(*key, "deleted", one["after"], two["after"])
        return
    if one["after"] is None:
        return
    for aspect in _ASPECTS:
        if aspect not in one["what"] or aspect not in two["what"]:
            continue
        x, y = (_value(aspect, change["after"]) for change in (one, two))
        if x != y and not (aspect == "box" and _iou(x, y) >= SAME_BOX):
            yield Conflict(*key, aspect, x, y)


def _value(aspect: str, row: Row) -> Any:
    return row.get({"box": "bbox", "mask": "segmentation"}.get(aspect, aspect))


def _on_new(a: Version, b: Version) -> Iterator[Conflict]:
    """Cells that both added at one place, under different labels or with different boxes."""
    theirs: dict[str, list[tuple[int, Row]]] = {}
    for (field, cell), change in b.changes.items():
        if cell is not None and _is_new(change):
            theirs.setdefault(field, []).append((cell, b.cells[field, cell]))
    for (field, cell), change in sorted(a.changes.items(), key=str):
        if cell is None or not _is_new(change):
            continue
        mine = a.cells[field, cell]
        for _, other in theirs.get(field, ()):
            overlap = _iou(mine["bbox"], other["bbox"])
            if overlap < SAME_CELL:
                continue
            if mine["label"] != other["label"]:
                yield Conflict(field, cell, "added, label", mine["label"], other["label"])
            elif overlap < SAME_BOX:
                yield Conflict(field, cell, "added, box", mine["bbox"], other["bbox"])


def _iou(one: Sequence[float], two: Sequence[float]) -> float:
    boxes = geometry.from_xywh(np.array([one, two], np.float64))
    return float(geometry.iou(boxes[:1], boxes[1:])[0, 0])


def agreement(a: Version, b: Version, *, rounds: int = 1000, seed: int = 1) -> list[Agreement]:
    """Over all cells, and over those that either annotator touched: untouched ones agree because nobody looked."""
    pairs = list(_pairs(a, b))
    touched = {*a.changes, *b.changes}
    some = [p for p in pairs if any((p[0], cell) in touched for cell in p[1:])]
    return [_agreement("all cells", a, b, pairs, rounds, seed), _agreement("edited cells", a, b, some, rounds, seed)]


def _pairs(a: Version, b: Version) -> Iterator[tuple[str, int | None, int | None]]:
    """(field, cell of a, cell of b): by id where both began with it, else by place."""
    old = [k for k in a.cells if k in b.cells and not _added(a, k) and not _added(b, k)]
    yield from ((field, cell, cell) for field, cell in old)
    known = set(old)
    rest_a = [k for k in a.cells if k not in known and k[0] in b.fields]
    rest_b: dict[str, list[int]] = {}
    for field, cell in b.cells:
        if (field, cell) not in known and field in a.fields:
            rest_b.setdefault(field, []).append(cell)
    for field, cell in rest_a:
        here = rest_b.get(field, [])
        overlaps = [_iou(a.cells[field, cell]["bbox"], b.cells[field, other]["bbox"]) for other in here]
        best = int(np.argmax(overlaps)) if overlaps else -1
        if best >= 0 and overlaps[best] >= SAME_CELL:
            yield field, cell, here.pop(best)
        else:
            yield field, cell, None
    yield from ((field, None, cell) for field, cells in rest_b.items() for cell in cells)


def _added(version: Version, key: tuple[str, int]) -> bool:
    change = version.changes.get(key)
    return change is not None and _is_new(change)


def _agreement(
    of: str,
    a: Version,
    b: Version,
    pairs: Sequence[tuple[str, int | None, int | None]],
    rounds: int,
    seed: int,
) -> Agreement:
    both = [(a.cells[f, x], b.cells[f, y], f) for f, x, y in pairs if x is not None and y is not None]
    only_a, only_b = (sum(1 for _, x, y in pairs if (x if side else y) is None) for side in (0, 1))
    undefined = Interval(*(float("nan"),) * 3)
    if not both:
        return Agreement(of, 0, only_a, only_b, undefined, undefined, undefined)
    names = sorted({row["label"] for pair in both for row in pair[:2]})
    groups = sorted({f for *_, f in both})
    table = np.zeros((len(groups), len(names), len(names)))
    overlap = np.zeros(len(groups))
    place = {f: i for i, f in enumerate(groups)}
    for x, y, f in both:
        at = place[f]
        table[at, names.index(x["label"]), names.index(y["label"])] += 1
        overlap[at] += _iou(x["bbox"], y["bbox"])

    def figures(weights: Any) -> Any:
        counts = np.tensordot(weights, table, axes=(1, 0))
        n = counts.sum(axis=(1, 2))
        same = np.trace(counts, axis1=1, axis2=2) / n
        chance = (counts.sum(axis=1) * counts.sum(axis=2)).sum(axis=1) / n**2
        with np.errstate(invalid="ignore", divide="ignore"):
            kappa = np.where(chance < 1, (same - chance) / (1 - chance), np.nan)
        return np.stack([kappa, same, weights @ overlap / n], axis=1)

    kappa, same, iou = intervals(figures, groups, rounds=rounds, seed=seed)
    return Agreement(of, len(both), only_a, only_b, kappa, same, iou)


def write(out: Path, found: Sequence[Difference], clashes: Sequence[Conflict], agreed: Sequence[Agreement]) -> None:
    """`differences.jsonl`, `conflicts.jsonl`, `agreement.json`."""
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("differences.jsonl", found), ("conflicts.jsonl", clashes)):
        (out / name).write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), "utf-8")
    (out / "agreement.json").write_text(plain_json({"agreement": list(agreed)}), "utf-8")

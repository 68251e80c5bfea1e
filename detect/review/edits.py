"""What an annotator did to one field: its document against the snapshot, cell by cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Any

from detect.formats.labels import box_fault
from detect.formats.yolo import SAID
from detect.review import documents
from detect.review.documents import CONFIRMED, EMPTY
from detect.review.snapshot import Entry, Row

_SAME = 0.002  # pixels


@dataclass(frozen=True)
class Change:
    """One cell, or one field, that is not as the snapshot has it.

    Attributes:
        cell: its id in COCO; None where the field itself was changed.
        what: label, box, mask, tags, attributes; or added, deleted, confirmed.
        before, after: the COCO annotation; None where there was, or is, none.
        when: of the last edit of the field, ISO 8601; FiftyOne keeps no time for a single cell.
    """

    who: str
    when: str
    field: str
    part: str
    cell: int | None
    what: tuple[str, ...]
    before: Row | None
    after: Row | None


@dataclass(frozen=True)
class Problem:
    """An edit that cannot be kept as it is. Nothing of it is written; the dataset still holds it."""

    field: str
    cell: str
    what: str

    def __str__(self) -> str:
        return f"{self.field}: cell {self.cell}: {self.what}"


@dataclass
class Categories:
    """The categories of one part while it is written.

    Attributes:
        rows: as COCO has them. highest: annotation id. new: labels that the set did not have, and their ids, which are
            the same in all parts. top: the highest category id of all parts.
    """

    rows: list[Row]
    highest: int
    new: dict[str, int]
    top: int = 0

    def id_of(self, label: str) -> Any:
        """The id of a class, as its source has it; that of a new one if need be."""
        known = next((c["id"] for c in self.rows if str(c["name"]) == label), None)
        if known is not None:
            return known
        return self.new.setdefault(label, 1 + max([self.top, *self.new.values()]))

    def next_id(self) -> int:
        """An annotation id beyond all others."""
        self.highest += 1
        return self.highest

    def name_of(self, identity: Any) -> str:
        """The class of a category id."""
        return self.names()[identity]

    def names(self) -> dict[Any, str]:
        """Category id to class."""
        return {c["id"]: str(c["name"]) for c in self.rows} | {k: name for name, k in self.new.items()}

    def written(self) -> list[Row]:
        """The categories to write, new ones last."""
        return [*self.rows, *({"id": k, "name": name} for name, k in self.new.items())]


def edits(
    entry: Entry, row: Row | None, categories: Categories, attributes: Mapping[str, type], who: str, now: str
) -> tuple[Entry | None, list[Change], list[Problem]]:
    """The field as it is now, what was changed, and what cannot be kept.

    Args:
        row: the document; None where the annotator removed the field, which then is None in the result too.
        categories: of the field's part; grows by labels that are new, and by ids of cells that were added.
        now: in place of the time of an edit where FiftyOne kept none.
    """
    if row is None:
        gone = Change(who, now, entry.field, entry.part, None, ("field removed",), entry.image, None)
        return None, [gone], []
    width, height = int(entry.image["width"]), int(entry.image["height"])
    edited = row["last_modified_at"]
    when = (edited if edited.tzinfo else edited.replace(tzinfo=UTC)).isoformat(timespec="milliseconds")
    there, added = _sorted_out(entry, row, attributes)
    problems: list[Problem] = []
    kept: list[Row] = []
    changes: list[Change] = []

    def note(cell: int, what: tuple[str, ...], before: Row | None, after: Row | None) -> None:
        changes.append(Change(who, when, entry.field, entry.part, cell, what, before, after))

    for told in entry.cells:
        now_there = there.get(str(told["id"]))
        if now_there is None:
            note(told["id"], ("deleted",), told, None)
            continue
        was = documents.truth_cell(told, categories.name_of(told["category_id"]), width, height, attributes)
        after, what, problem = _edited(told, was, now_there, width, height, categories, attributes)
        if problem:
            problems.append(Problem(entry.field, str(told["id"]), problem))
        kept.append(after)
        if what:
            note(told["id"], what, told, after)
    for cell in added:
        fault = _fault(cell, width, height)
        if fault:
            problems.append(Problem(entry.field, f"new {cell['_id']}", fault))
            continue
        after = _new(entry, cell, width, height, categories, attributes)
        kept.append(after)
        note(after["id"], ("confirmed" if cell.get("machine") else "added",), None, after)
    image = _tagged(entry, row)
    if image != entry.image:
        changes.append(Change(who, when, entry.field, entry.part, None, ("field tags",), entry.image, image))
    return replace(entry, image=image, cells=tuple(kept)), changes, problems


def _tagged(entry: Entry, row: Row) -> Row:
    """The image with the tags of its sample; that of its part is ours."""
    tags = [t for t in row.get("tags") or () if t != entry.part]
    said = entry.image.get("tags")
    if sorted(tags) == sorted(said if isinstance(said, list) else []):
        return entry.image
    return {**{k: v for k, v in entry.image.items() if k != "tags"}, **({"tags": tags} if tags else {})}


def _sorted_out(entry: Entry, row: Row, attributes: Mapping[str, type]) -> tuple[dict[str, Row], list[Row]]:
    """Cells of the snapshot by id, then those that a person added or took over from a machine."""
    known = {str(c["id"]) for c in entry.cells}
    there: dict[str, Row] = {}
    added = []
    for cell in documents.cells_of(row):
        identity = cell.get("cell")
        if cell.get("machine"):
            if not documents.unconfirmed(cell, attributes):
                added.append(cell)
        elif identity in known and identity not in there:
            there[identity] = cell
        else:  # drawn by the annotator, or a copy of another cell
            added.append(cell)
    return there, added


def _edited(
    told: Row,
    was: Row,
    cell: Row,
    width: int,
    height: int,
    categories: Categories,
    attributes: Mapping[str, type],
) -> tuple[Row, tuple[str, ...], str]:
    """The annotation as it is now, what changed, and why a box cannot be kept."""
    what, after = [], dict(told)
    problem = "" if cell.get("label") else "no label"
    if not problem and cell["label"] != was["label"]:
        what.append("label")
        after["category_id"] = categories.id_of(cell["label"])
    moved, redrawn = _moved(cell, was, width, height), cell.get("mask") != was.get("mask")
    if moved or redrawn:
        fault = _fault(cell, width, height)
        problem = problem or fault
        if not fault:
            outlined = "segmentation" in told or cell.get("mask") is not None
            what += ["box"] * moved + ["mask"] * (redrawn or outlined)  # an outline moves with its box
            after |= _shape(cell, width, height, box=moved)
            after.pop(SAID, None)
            if cell.get("mask") is None:
                after.pop("segmentation", None)
    tags = [t for t in cell.get("tags") or () if t != CONFIRMED or t in was["tags"]]
    if sorted(tags) != sorted(was["tags"]):
        what.append("tags")
        after["tags"] = tags
        if not tags and "tags" not in told:
            del after["tags"]
    said = {k: cell.get(k) for k in attributes}
    if any(_differ(said[k], was.get(k)) for k in attributes):
        what.append("attributes")
        after["attributes"] = _attributes(told.get("attributes"), was, said)
    return after, tuple(what), problem


def _moved(cell: Row, was: Row, width: int, height: int) -> bool:
    """Whether a box is elsewhere, by more than tools differ in rounding."""
    box = cell.get("bounding_box")
    if not isinstance(box, list) or len(box) != 4:
        return True
    sizes = (width, height, width, height)
    return not all(abs(v - w) * size <= _SAME for v, w, size in zip(box, was["bounding_box"], sizes, strict=True))


def _differ(value: Any, was: Any) -> bool:
    """Whether an attribute says something else; one that says nothing is as good as none."""
    return value != was and not (value in EMPTY and was in EMPTY)


def _attributes(told: Any, was: Row, said: Mapping[str, Any]) -> Row:
    """Those of the source with what was edited in them; one that was emptied is left out."""
    out = dict(told) if isinstance(told, dict) else {}
    for name, value in said.items():
        if not _differ(value, was.get(name)):
            continue
        if value is None:
            out.pop(name, None)
        else:
            out[name] = value
    return out


def _new(
    entry: Entry, cell: Row, width: int, height: int, categories: Categories, attributes: Mapping[str, type]
) -> Row:
    row: Row = {
        "id": categories.next_id(),
        "image_id": entry.image["id"],
        "category_id": categories.id_of(cell["label"]),
        **_shape(cell, width, height, box=True),
        "iscrowd": int(bool(cell.get("crowd"))),
    }
    tags = [t for t in cell.get("tags") or () if t != CONFIRMED]
    said = {k: cell[k] for k in attributes if cell.get(k) not in EMPTY}
    return row | ({"tags": tags} if tags else {}) | ({"attributes": said} if said else {})


def _shape(cell: Row, width: int, height: int, *, box: bool) -> Row:
    """Box, area and outline of a document in COCO; the box is cut at the border of the field."""
    x, y, w, h = documents.pixels(cell, width, height)
    x1, y1 = min(x + w, float(width)), min(y + h, float(height))
    x, y = max(x, 0.0), max(y, 0.0)
    out: Row = {"bbox": [round(v, 3) for v in (x, y, x1 - x, y1 - y)]} if box else {}
    mask = documents.mask_of(cell, width, height)
    if mask is not None:
        from pycocotools import mask as rle

        runs = documents.runs(mask, width, height)
        return out | {"segmentation": mask, "area": float(rle.area(runs))}
    return out | ({"area": round((x1 - x) * (y1 - y), 3)} if box else {})


def _fault(cell: Row, width: int, height: int) -> str:
    box = cell.get("bounding_box") or [0, 0, 0, 0]
    if len(box) != 4 or not all(isinstance(v, int | float) and v == v for v in box):
        return f"not a box: {box}"
    x, y, w, h = documents.pixels(cell, width, height)
    fault = box_fault(x, y, x + w, y + h, width, height)
    if fault:
        return f"{fault}: {[round(v, 2) for v in (x, y, w, h)]} in a field of {width} x {height} pixels"
    return "" if cell.get("label") else "no label"

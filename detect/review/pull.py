"""An annotator's dataset back to COCO and YOLO, with the trail of what was changed.

OUT/
  annotations/<part>.json   COCO; a cell that nobody edited is as the snapshot has it
  images/                   links to the pictures, under the ids of their fields
  yolo/                     the same for ultralytics: labels/<part>, images/<part>, data.yaml
  changes.jsonl             one line a change: who, when, field, cell, what, before, after
  problems.jsonl            edits that cannot be kept, and why; empty where there are none
  review.yaml               of which snapshot, by whom, when, how many of what
  <name>.yaml, split.csv    a dataset card, so that the set trains; the split of the set that was opened, if it had one
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml

from detect import __version__
from detect.data.cards import load_card
from detect.data.splits import Split, read_split
from detect.data.whole import whole
from detect.errors import SmearError
from detect.formats import coco, yolo
from detect.formats.labels import stem_of
from detect.review import documents
from detect.review.database import reached
from detect.review.documents import TRUTH
from detect.review.edits import Categories, Problem, edits
from detect.review.open import Progress, open_dataset, shown_attributes
from detect.review.snapshot import Entry, Row, Snapshot
from detect.taxonomy import taxonomy
from detect.types import Annotations, Field, LabelledField

_FEW = 64
CHANGES, PROBLEMS, ABOUT = "changes.jsonl", "problems.jsonl", "review.yaml"


@dataclass(frozen=True)
class Pulled:
    """What was written.

    Attributes:
        changes: how often each kind. problems: edits that cannot be kept. unconfirmed: machine-made cells left out.
        unknown: classes that are none of the taxonomy's. With any, there is no card: a person must say what they are.
    """

    out: Path
    fields: int
    cells: int
    changes: Mapping[str, int]
    problems: tuple[Problem, ...]
    unconfirmed: int
    unknown: tuple[str, ...]


def pull(name: str, out: Path, progress: Progress | None = None) -> Pulled:
    """Write what an annotator's dataset holds now. The folder appears whole at the end, or not at all.

    Raises:
        StoreError: the folder is not empty. ReviewError: no such review, or the database went away.
    """
    out = out.absolute()
    with whole(out) as folder, reached():
        dataset, snapshot, annotator = open_dataset(name)
        writer = _Writer(folder, out, name, snapshot, annotator, shown_attributes(dataset))
        total = int(snapshot.about["counts"]["fields"])
        for entry, row in _side_by_side(dataset, snapshot):
            writer.add(entry, row)
            if progress is not None:
                progress(1, total)
        writer.problems += _strangers(dataset, writer)
        return writer.finish()


def _side_by_side(dataset: Any, snapshot: Snapshot) -> Iterator[tuple[Entry, Row | None]]:
    entries = snapshot.entries()
    while few := list(islice(entries, _FEW)):
        query = {"field": {"$in": [e.field for e in few]}}
        wanted = {TRUTH: 1, "field": 1, "tags": 1, "last_modified_at": 1}
        rows = {row["field"]: row for row in dataset._sample_collection.find(query, wanted)}
        yield from ((entry, rows.get(entry.field)) for entry in few)


def _strangers(dataset: Any, writer: _Writer) -> list[Problem]:
    """Samples that the annotator added or doubled: no field of the snapshot, so there is nowhere to write them."""
    if dataset.count() == writer.seen:
        return []
    out, seen = [], set()
    for row in documents.heads(dataset):
        if row.get("field") not in writer.fields or row["field"] in seen:
            what = "a sample that is no field of the snapshot, or a second one of a field: label it in the first"
            out.append(Problem(str(row.get("field")), str(row["_id"]), what))
        seen.add(row.get("field"))
    return out


class _Part:
    """One part while it is written: images and annotations of a COCO file go into two files, joined at the end."""

    def __init__(self, folder: Path, part: str, about: Mapping[str, Any], new: dict[str, int], top: int) -> None:
        self.categories = Categories([dict(c) for c in about["categories"]], int(about["highest_id"]), new, top)
        self._rest, self._path = about["rest"], folder / "annotations" / f"{stem_of(part + '.x')}.json"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._images = self._path.with_suffix(".images").open("w+", encoding="utf-8")
        self._cells = self._path.with_suffix(".cells").open("w+", encoding="utf-8")

    def add(self, entry: Entry) -> None:
        """One field."""
        self._line(self._images, entry.image)
        for cell in entry.cells:
            self._line(self._cells, cell)

    @staticmethod
    def _line(file: IO[str], row: Row) -> None:
        file.write((",\n" if file.tell() else "") + json.dumps(row, default=coco.as_text))

    def finish(self) -> Path:
        """The COCO file."""
        with self._path.open("w", encoding="utf-8") as out:
            rest = json.dumps(self._rest)
            out.write(rest[:-1] + (", " if self._rest else "") + '"images": [\n')
            self._append(self._images, out)
            out.write('\n], "annotations": [\n')
            self._append(self._cells, out)
            out.write('\n], "categories": ' + json.dumps(self.categories.written()) + "}\n")
        return self._path

    def _append(self, file: IO[str], out: IO[str]) -> None:
        file.seek(0)
        shutil.copyfileobj(file, out)
        file.close()
        Path(file.name).unlink()


class _Writer:
    def __init__(
        self, folder: Path, out: Path, name: str, snapshot: Snapshot, annotator: str, attributes: Mapping[str, type]
    ) -> None:
        self._folder, self._out, self._name = folder, out, name
        self._snapshot, self._who = snapshot, annotator
        self._now = datetime.now(UTC).isoformat(timespec="seconds")
        parts, new = snapshot.about["parts"], dict[str, int]()
        ids = [c["id"] for about in parts.values() for c in about["categories"] if isinstance(c["id"], int)]
        self._parts = {part: _Part(folder, part, about, new, max(ids, default=0)) for part, about in parts.items()}
        self._attributes = {**snapshot.attributes, **attributes}
        self._classes = list(snapshot.classes)
        self._log = (folder / CHANGES).open("w", encoding="utf-8")
        self._changes: Counter[str] = Counter()
        self.problems: list[Problem] = []
        self.fields: set[str] = set()
        self.seen = 0
        self._cells = self._unconfirmed = 0

    def add(self, entry: Entry, row: Row | None) -> None:
        part = self._parts[entry.part]
        made, changes, problems = edits(entry, row, part.categories, self._attributes, self._who, self._now)
        for change in changes:
            self._log.write(json.dumps(asdict(change), default=coco.as_text) + "\n")
            self._changes.update(change.what)
        self.problems += problems
        if row is not None:
            self.seen += 1
        if made is None:
            return
        machine = [c for c in documents.cells_of(row or {}) if c.get("machine")]
        self._unconfirmed += len(machine) - sum("confirmed" in change.what for change in changes)
        part.add(made)
        self.fields.add(entry.field)
        self._cells += len(made.cells)
        self._yolo(made, part.categories)
        target = self._folder / "images" / entry.field
        target.parent.mkdir(parents=True, exist_ok=True)
        yolo.link(entry.path, target)

    def _yolo(self, entry: Entry, categories: Categories) -> None:
        home, stem = self._folder / "yolo", stem_of(entry.field)
        for kind in ("images", "labels"):
            (home / kind / entry.part).mkdir(parents=True, exist_ok=True)
        field = Field(entry.field, entry.slide, entry.path, int(entry.image["width"]), int(entry.image["height"]))
        numbers = []
        for cell in entry.cells:
            label = categories.name_of(cell["category_id"])
            if label not in self._classes:
                self._classes.append(label)
            numbers.append(self._classes.index(label))
        xywh = np.array([c["bbox"] for c in entry.cells], np.float64).reshape(-1, 4)
        boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        whole = [not c.get("iscrowd") for c in entry.cells]  # YOLO has no word for a crowd
        cells = Annotations.of(boxes, numbers, extra=entry.cells).select(np.array(whole, bool))
        lines = yolo.lines_for(LabelledField(field, cells))
        (home / "labels" / entry.part / f"{stem}.txt").write_text("".join(f"{x}\n" for x in lines), "utf-8")
        yolo.link(entry.path, home / "images" / entry.part / f"{stem}{entry.path.suffix.lower()}")

    def finish(self) -> Pulled:
        for part in self._parts.values():
            part.finish()
        self._log.close()
        lines = [json.dumps(asdict(p)) + "\n" for p in self.problems]
        (self._folder / PROBLEMS).write_text("".join(lines), "utf-8")
        home = self._out.resolve() / "yolo"  # where it will lie in a moment
        yolo.write_data_yaml(self._folder / "yolo", list(self._parts), self._classes, home=home)
        unknown = tuple(name for name in self._classes if taxonomy().resolve(name) is None)
        if not unknown:
            self._card(self._split())
        about = {
            "smear_detect": __version__,
            "review": self._name,
            "snapshot": self._snapshot.name,
            "snapshot_hash": self._snapshot.hash,
            "annotator": self._who,
            "pulled": self._now,
            "parts": list(self._parts),
            "fields": len(self.fields),
            "cells": self._cells,
            "changes": dict(self._changes),
            "problems": len(self.problems),
            "machine_made_not_confirmed": self._unconfirmed,
            "classes_outside_the_taxonomy": list(unknown),
        }
        (self._folder / ABOUT).write_text(yaml.safe_dump(about, sort_keys=False), "utf-8")
        return Pulled(
            self._out,
            len(self.fields),
            self._cells,
            dict(self._changes),
            tuple(self.problems),
            self._unconfirmed,
            unknown,
        )

    def _split(self) -> str | None:
        """The split of the set that was opened, for the fields that are still there."""
        try:
            given = load_card(self._snapshot.about["source"]).split
            split = read_split(given, allow_leak=True) if given else None
        except SmearError:
            return None
        rows = tuple(r for r in split.rows if r.field in self.fields) if split else ()
        if not rows:
            return None
        Split("split", rows, allow_leak=True).write(self._folder / "split.csv")
        return "split.csv"

    def _card(self, split: str | None) -> None:
        """So that the set trains."""
        ours = {name: taxonomy().resolve(name) for name in self._classes}
        told = f"snapshot {self._snapshot.name}, as edited by {self._who} until {self._now}"
        card: dict[str, Any] = dict.fromkeys(("title", "citation", "source", "how_to_get", "licence"), told)
        source = self._source_card()
        if source is not None:
            card |= {"licence": source.licence, "citation": source.citation, "synthetic": source.synthetic}
        known = list(dict.fromkeys(ours.values()))
        parts = {p: {"images": "images", "labels": f"annotations/{stem_of(p + '.x')}.json"} for p in self._parts}
        card |= {
            "name": self._name,
            "folder": ".",
            "classes": known,
            "class_map": ours,
            # A class that an annotator was the first to use is known in part only.
            "exhaustive_for": list(dict.fromkeys(ours[n] for n in self._classes if n in self._snapshot.exhaustive_for)),
            "grouping": source.grouping.model_dump() if source is not None else {"key": "field"},
            "layout": {"format": "coco", "parts": parts},
            "split": split,
        }
        text = yaml.safe_dump(card, sort_keys=False, allow_unicode=True)
        (self._folder / f"{self._name}.yaml").write_text(text, "utf-8")

    def _source_card(self) -> Any:
        try:
            return load_card(self._snapshot.about["source"])
        except SmearError:
            return None

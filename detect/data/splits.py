"""Splits by group, as files: `configs/splits/<set>-<name>.csv` with columns field, group, part, hash.

Every training and every table names the file that it used. `hash` is the SHA-256 of the image file, so a split
notices when it is used on other pictures. A group that stands in two parts is refused, when made and when read;
fields of part `excluded` are used nowhere.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detect import assets
from detect.data import copies
from detect.data.fingerprint import file_hash
from detect.data.load import with_groups
from detect.data.typed import TypedCell
from detect.errors import DataError, SplitLeakError
from detect.types import Dataset, LabelledField

EXCLUDED = "excluded"
_COLUMNS = ("field", "group", "part", "hash")


@dataclass(frozen=True)
class Row:
    """One field of a split."""

    field: str
    group: str
    part: str
    hash: str


@dataclass(frozen=True)
class Split:
    """Which field belongs to which part. Construction refuses a group on two sides.

    Attributes:
        name: the stem of its file.
        allow_leak: take it all the same; `leaks` tells what a model card must then say.
    """

    name: str
    rows: tuple[Row, ...]
    allow_leak: bool = False

    @property
    def leaks(self) -> list[str]:
        """Groups that stand in more than one part."""
        parts: dict[str, set[str]] = {}
        for row in self.rows:
            if row.part != EXCLUDED:
                parts.setdefault(row.group, set()).add(row.part)
        return sorted(group for group, found in parts.items() if len(found) > 1)

    def __post_init__(self) -> None:
        side: dict[str, Row] = {}
        fields: set[str] = set()
        for row in self.rows:
            if row.field in fields:
                raise DataError(f"field '{row.field}' stands twice", where=self.name, remedy="keep one row a field")
            fields.add(row.field)
            if row.part == EXCLUDED:
                continue
            other = side.setdefault(row.group, row)
            if other.part != row.part and not self.allow_leak:
                raise SplitLeakError(
                    f"group '{row.group}' is in '{other.part}' ({other.field}) and in '{row.part}' ({row.field})",
                    where=self.name,
                    remedy="put the whole group into one part, exclude one side, or train with --allow-leak",
                )

    def counts(self) -> dict[str, tuple[int, int]]:
        """Part to (fields, groups)."""
        parts = sorted({row.part for row in self.rows})
        return {p: (len(r := [x for x in self.rows if x.part == p]), len({x.group for x in r})) for p in parts}

    def part(self, dataset: Dataset, part: str, *, check_files: bool = True) -> Dataset:
        """The fields of one part, with their groups.

        Raises:
            DataError: a field is missing, or its file is not the one that the split was made for.
        """
        here = {f.field.id: f for f in dataset.fields}
        rows = {self._field(row, dataset.name, here): row for row in self.rows if row.part == part}
        if not rows:
            known = ", ".join(self.counts())
            raise DataError(f"no part '{part}'", where=self.name, remedy=f"the parts are: {known}")
        missing = sorted(set(rows) - set(here))
        if missing:
            what = f"{len(missing)} fields of the split are not in {dataset.name}, the first is '{missing[0]}'"
            raise DataError(what, where=self.name, remedy="use the split of this set")
        kept: list[LabelledField] = [here[name] for name in sorted(rows)]
        if check_files:
            for labelled in kept:
                if file_hash(labelled.field.path) != rows[labelled.field.id].hash:
                    raise DataError(
                        "not the picture that the split was made for (its SHA-256 differs)",
                        where=str(labelled.field.path),
                        remedy="get the published file again, or make a split for your copy",
                    )
        return with_groups(replace(dataset, fields=tuple(kept)), {n: row.group for n, row in rows.items()})

    @staticmethod
    def _field(row: Row, name: str, here: Mapping[str, object]) -> str:
        """The field of a set that a row tells of; splits of cells name the set before it."""
        within = row.field.removeprefix(f"{name}/")
        return within if row.field not in here and within in here else row.field

    def write(self, path: Path) -> None:
        """As CSV, rows in the order of their fields."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            out = csv.writer(file, lineterminator="\n")
            out.writerow(_COLUMNS)
            out.writerows((r.field, r.group, r.part, r.hash) for r in sorted(self.rows, key=lambda r: r.field))


def read_split(given: str | Path, *, allow_leak: bool = False) -> Split:
    """A split by path, or a packaged one by name; SplitLeakError where a group stands on two sides."""
    path = assets.find(given, "configs/splits", ".csv")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            what = f"expected the columns {', '.join(_COLUMNS)}, got {reader.fieldnames}"
            raise DataError(what, where=f"{path}:1", remedy="make it with 'smear data split'")
        rows = []
        for number, row in enumerate(reader, 2):
            if None in row.values() or None in row:
                raise DataError("wrong number of columns", where=f"{path}:{number}", remedy="mend that row")
            rows.append(Row(row["field"], row["group"], row["part"], row["hash"]))
    return Split(path.stem, tuple(rows), allow_leak)


def release_split(name: str, parts: Mapping[str, Dataset], dev: float, seed: int) -> Split:
    """The published parts of a set, made honest: near copies grouped, a dev part cut from `train` by group.

    A field of `train` with a near copy in a held-out part is excluded. Groups go to dev whole, drawn at random,
    until it holds `dev` of the fields that remain.

    Args:
        parts: published part to fields; `train` and at least one held-out part.
        dev: fraction of `train` to choose settings on.
    """
    if "train" not in parts:
        raise DataError("the set has no published part 'train'", where=name, remedy="see the card's layout")
    everything = [(part, f.field) for part, dataset in parts.items() for f in dataset.fields]
    numbers = copies.groups([field.path for _, field in everything])
    held_out = {n for n, (part, _) in zip(numbers, everything, strict=True) if part != "train"}
    free = [n for n, (part, _) in zip(numbers, everything, strict=True) if part == "train" and n not in held_out]
    on_dev = _draw_groups(free, round(dev * len(free)), seed)
    _one_side(everything, numbers, name)
    rows = []
    for number, (part, field) in zip(numbers, everything, strict=True):
        if part == "train":
            part = EXCLUDED if number in held_out else "dev" if number in on_dev else "train"
        rows.append(Row(field.id, f"g{number:05d}", part, file_hash(field.path)))
    return Split(name, tuple(rows))


def typed_split(
    name: str, cells: Sequence[TypedCell], dev: float, test: float, min_groups: int, seed: int
) -> tuple[Split, dict[str, int]]:
    """Typed cells by group, stratified by type and source; types with too few groups are excluded.

    Returns:
        The split, and the types left out with the number of their groups.
    """
    groups_of: dict[str, set[str]] = {}
    strata: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        groups_of.setdefault(cell.type, set()).add(cell.group)
    rare = {kind: len(found) for kind, found in groups_of.items() if len(found) < min_groups}
    for cell in cells:
        if cell.type not in rare:
            members = strata.setdefault((cell.type, cell.source), [])
            if cell.group not in members:
                members.append(cell.group)
    part_of: dict[str, str] = {}
    for key in sorted(strata):
        members = sorted(strata[key])
        random.Random(f"{seed} {key}").shuffle(members)
        n_test, n_dev = round(test * len(members)), round(dev * len(members))
        for i, group in enumerate(members):
            part = "test" if i < n_test else "dev" if i < n_test + n_dev else "train"
            part_of.setdefault(group, part)
    rows = tuple(Row(c.id, c.group, EXCLUDED if c.type in rare else part_of[c.group], file_hash(c.path)) for c in cells)
    return Split(name, rows), rare


def cells_of(split: Split, cells: Sequence[TypedCell], part: str) -> list[TypedCell]:
    """The typed cells of one part, with the groups of the split; DataError as in `Split.part`.

    A row of the split is a cell, or a field with all its cells, which may be none.
    """
    here: dict[str, list[TypedCell]] = {}
    for c in cells:
        here.setdefault(c.id if c.number is None else c.field, []).append(c)
    homes = {Path(str(c.path).removesuffix(c.field)) for c in cells if c.number is not None}
    if len(homes) > 1:
        what = "its rows are fields, and more than one set has fields of these names"
        raise DataError(what, where=split.name, remedy="give each set its own split")
    chosen = []
    for row in split.rows:
        if row.part != part:
            continue
        found = here.get(row.field, [])
        # A field without a cell of these types is in the set all the same.
        path = found[0].path if found else next(iter(homes), Path()) / row.field
        if not found and not (homes and path.is_file()):
            raise DataError(f"'{row.field}' is not in the sets", where=split.name, remedy="use the split of these sets")
        if file_hash(path) != row.hash:
            what = "not the picture that the split was made for (its SHA-256 differs)"
            raise DataError(what, where=str(path), remedy="get the published file again")
        chosen += [replace(cell, group=row.group) for cell in found]
    if not chosen:
        known = ", ".join(split.counts())
        raise DataError(f"no part '{part}'", where=split.name, remedy=f"the parts are: {known}")
    return chosen


def _draw_groups(numbers: Sequence[int], wanted: int, seed: int) -> set[int]:
    sizes = {n: numbers.count(n) for n in dict.fromkeys(numbers)}
    order = sorted(sizes)
    random.Random(seed).shuffle(order)
    drawn: set[int] = set()
    total = 0
    for n in order:
        if total + sizes[n] <= wanted:
            drawn.add(n)
            total += sizes[n]
    return drawn


def _one_side(everything: Sequence[tuple[str, object]], numbers: Sequence[int], name: str) -> None:
    """Held-out parts must not share a group among themselves; training data can be thrown away, these cannot."""
    side: dict[int, str] = {}
    for number, (part, _) in zip(numbers, everything, strict=True):
        if part != "train" and side.setdefault(number, part) != part:
            what = f"near copies stand in both '{side[number]}' and '{part}'"
            raise SplitLeakError(what, where=name, remedy="evaluate on one of the two")

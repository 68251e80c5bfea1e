"""Splits drawn from scratch: holdout, grouped k-fold, leave one source out. Groups stay whole, classes stay balanced.

The draw is scikit-learn's StratifiedGroupKFold, so its balance is as good as whole groups allow.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detect.data import copies
from detect.data.fingerprint import file_hash
from detect.data.joined import Groups
from detect.data.splits import EXCLUDED, Row, Split
from detect.errors import DataError, MissingExtraError
from detect.types import Dataset, LabelledField


@dataclass(frozen=True)
class Unit:
    """One field, or one typed cell's picture, to be put into a part.

    Attributes:
        stratum: the class that is kept in balance: a cell's type, or a field's rarest class.
        source: the set, lab or published part that it came from.
    """

    id: str
    path: Path
    group: str
    stratum: str
    source: str


def _copies(fields: Sequence[LabelledField]) -> list[str]:
    ids = [f.field.id for f in fields]
    numbers = copies.groups([f.field.path for f in fields])
    return [ids[n] for n in numbers]


def _patients(fields: Sequence[LabelledField]) -> list[str]:
    unknown = next((f.field.id for f in fields if f.field.patient is None), None)
    if unknown is not None:
        raise DataError("no patient is known", where=unknown, remedy="split by near-copies or slide")
    return [str(f.field.patient) for f in fields]


# What makes fields one group, by name.
KEYS: Mapping[str, Callable[[Sequence[LabelledField]], list[str]]] = {
    "near-copies": _copies,
    "patient": _patients,
    "slide": lambda fields: [f.field.slide for f in fields],
    "field": lambda fields: [f.field.id for f in fields],
}


def read_groups(path: Path, dataset: Dataset) -> dict[str, str]:
    """Field to group, from the `groups.csv` of an audit. Every field of the set must stand in it."""
    try:
        rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), remedy="check --groups") from error
    if rows and not {"field", "group"} <= set(rows[0]):
        what = f"expected columns 'field' and 'group', got {list(rows[0])}"
        raise DataError(what, where=f"{path}:1", remedy="take the groups.csv of 'smear data audit'")
    found = {row["field"]: row["group"] for row in rows if row.get("set") in (None, dataset.name)}
    missing = next((f.field.id for f in dataset.fields if f.field.id not in found), None)
    if missing is not None:
        raise DataError(f"no group for '{missing}' of {dataset.name}", where=str(path), remedy="audit this set again")
    return found


def units(dataset: Dataset, by: str | Mapping[str, str]) -> list[Unit]:
    """The fields of a set, each in the stratum of its rarest class.

    Args:
        by: a key of `KEYS`, or the group of each field.
    """
    fields = sorted(dataset.fields, key=lambda f: f.field.id)
    if isinstance(by, str):
        if by not in KEYS:
            raise DataError(f"no grouping '{by}'", remedy=f"group by one of: {', '.join(KEYS)}")
        groups = KEYS[by](fields)
    else:
        groups = [by[f.field.id] for f in fields]
    frequency = Counter(int(label) for f in fields for label in set(f.annotations.labels.tolist()))
    out = []
    for labelled, group in zip(fields, groups, strict=True):
        present = sorted(set(labelled.annotations.labels.tolist()), key=lambda k: (frequency[k], k))
        stratum = dataset.classes.names[present[0]] if present else "none"
        out.append(Unit(labelled.field.id, labelled.field.path, group, stratum, dataset.name))
    return out


def kfold(name: str, members: Sequence[Unit], folds: int, seed: int) -> Split:
    """Parts fold0 to fold<k-1>; train on all but one, measure on that one."""
    return _split(name, members, [f"fold{i}" for i in _assign(members, folds, seed)])


def holdout(name: str, members: Sequence[Unit], dev: float, test: float, seed: int) -> Split:
    """Parts train, dev and test; a fraction of 0 leaves that part out. Groups stay whole, so fractions are near."""
    if dev < 0 or test < 0 or not 0 < dev + test < 1:
        raise DataError(f"fractions dev {dev} and test {test} leave nothing", remedy="give two that sum to less than 1")
    parts = ["train"] * len(members)
    for part, fraction, draw in (("test", test, seed), ("dev", dev / (1 - test), seed + 1)):
        left = [i for i, p in enumerate(parts) if p == "train"]
        if fraction > 0:
            commonest = max(Counter(members[i].stratum for i in left).values())  # no more parts than it has members
            pieces = max(2, min(round(1 / fraction), commonest))
            numbers = _assign([members[i] for i in left], pieces, draw)
            for i, number in zip(left, numbers, strict=True):
                if number == 0:
                    parts[i] = part
    return _split(name, members, parts)


def leave_one_out(name: str, members: Sequence[Unit]) -> Split:
    """One part a source, named for it: train on the others, measure on that one.

    Raises:
        SplitLeakError: near copies stand in two sources.
    """
    return _split(name, members, [m.source for m in members])


def across_sets(name: str, sets: Sequence[Dataset]) -> Split:
    """One part a set, for training on the others and measuring on it; field ids begin with the set's name.

    Copies between two sets would make that measure too good: of such a group, all but the fields of the set that holds
    most of it are excluded.
    """
    names = [dataset.name for dataset in sets]
    if len(set(names)) != len(names):
        raise DataError(f"two sets share a name: {names}", remedy="name each set once")
    fields = [(dataset.name, f) for dataset in sets for f in sorted(dataset.fields, key=lambda f: f.field.id)]
    numbers = copies.groups([f.field.path for _, f in fields])
    joined = Groups(len(fields))
    first: dict[tuple[str, str], int] = {}
    for i, (n, (owner, labelled)) in enumerate(zip(numbers, fields, strict=True)):
        joined.join(i, n)
        if labelled.field.group is not None:  # what the set itself says is one patient or source stays one
            joined.join(i, first.setdefault((owner, labelled.field.group), i))
    names = ["/".join((owner, labelled.field.id)) for owner, labelled in fields]  # ids alone may stand in two sets
    groups = [names[joined.of(i)] for i in range(len(fields))]
    held: dict[str, Counter[str]] = {}
    for (owner, _), group in zip(fields, groups, strict=True):
        held.setdefault(group, Counter())[owner] += 1
    home = {group: max(counts, key=lambda owner: (counts[owner], owner)) for group, counts in held.items()}
    rows = []
    for (owner, labelled), group in zip(fields, groups, strict=True):
        part = owner if home[group] == owner else EXCLUDED
        rows.append(Row(f"{owner}/{labelled.field.id}", group, part, file_hash(labelled.field.path)))
    return Split(name, tuple(rows))


def _assign(members: Sequence[Unit], folds: int, seed: int) -> list[int]:
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError:
        raise MissingExtraError("drawing a split", "train") from None
    groups = [m.group for m in members]
    if len(set(groups)) < folds:
        raise DataError(f"{len(set(groups))} groups cannot make {folds} parts", remedy="ask for fewer parts")
    out = [0] * len(members)
    drawn = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for number, (_, held) in enumerate(drawn.split(groups, [m.stratum for m in members], groups)):
        for i in held:
            out[int(i)] = number
    return out


def _split(name: str, members: Sequence[Unit], parts: Sequence[str]) -> Split:
    rows = (Row(m.id, m.group, part, file_hash(m.path)) for m, part in zip(members, parts, strict=True))
    return Split(name, tuple(rows))

"""The splits of a table of classifiers: folds, one part held out, one source after another, a learning curve."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import numpy as np

from detect.classify.settings import ZooSettings
from detect.data.cards import load_card
from detect.data.files import write_text
from detect.data.folds import Unit, holdout, kfold
from detect.data.typed import TypedCell, load_typed
from detect.errors import DataError, StoreError
from detect.formats.tally import Tally


@dataclass(frozen=True)
class Leg:
    """One split of the protocol.

    Attributes:
        kind: legs of one kind are pooled, such as all folds at one share of the groups.
        share: of the cells that could be learnt from, those that are. A network gets as many more epochs: what a curve
            shows is then what cells are worth, and not how long was learnt from them.
    """

    name: str
    kind: str
    train: tuple[TypedCell, ...]
    dev: tuple[TypedCell, ...]
    test: tuple[TypedCell, ...]
    share: float = 1.0


def cells_of_table(
    settings: ZooSettings, tally: Tally, kept: Path | None = None
) -> tuple[list[TypedCell], dict[str, int]]:
    """The cells of the table, and how many groups there are of types that are left out. kept: see `load_typed`."""
    given = None
    if settings.groups is not None:
        given = _read_groups(Path(settings.groups))
    found = load_typed([load_card(d) for d in settings.data], tally, groups=given, kept=kept)
    if settings.most_a_group:
        seen: Counter[tuple[str, str]] = Counter()
        some = []
        for cell in found:
            seen[cell.group, cell.type] += 1
            if seen[cell.group, cell.type] <= settings.most_a_group:
                some.append(cell)
        found = some
    groups: dict[str, set[str]] = {}
    for cell in found:
        groups.setdefault(cell.type, set()).add(cell.group)
    rare = {kind: len(of) for kind, of in sorted(groups.items()) if len(of) < settings.min_groups}
    if len(groups) - len(rare) < 2:
        what = f"{len(groups) - len(rare)} types with {settings.min_groups} groups or more"
        raise DataError(what, where=", ".join(settings.data), remedy="name more sets, or lower min_groups")
    return [c for c in found if c.type not in rare], rare


def _read_groups(path: Path) -> dict[str, str]:
    try:
        rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise DataError(what, where=str(path), remedy="run 'smear data audit'") from error
    if not rows or not {"set", "field", "group"} <= set(rows[0]):
        raise DataError(
            "expected columns 'set', 'field' and 'group'", where=f"{path}:1", remedy="take an audit's groups.csv"
        )
    return {f"{row['set']}/{row['field']}": row["group"] for row in rows}


def legs_of(settings: ZooSettings, cells: Sequence[TypedCell]) -> list[Leg]:
    """The splits of a protocol. Groups stay whole, types in balance; dev is drawn from what is learnt from.

    Raises:
        DataError: a leg would have no cell of some type to learn from.
    """
    here = {c.id: c for c in cells}
    if settings.protocol == "sources":
        sources = sorted({c.source for c in cells})
        if len(sources) < 2:
            raise DataError(f"one source only: {sources[0]}", remedy="name sets of several labs")
        parts = {name: [c for c in cells if c.source == name] for name in sources}
        legs = [_leg(settings, name, name, here, held) for name, held in parts.items()]
        if len({leg.name for leg in legs}) < len(legs):
            raise DataError(
                f"sources whose names differ in '/' and '-' only: {', '.join(sources)}", remedy="rename one"
            )
        return legs
    members = [_unit(c, settings) for c in cells]
    if settings.protocol == "holdout":
        split = holdout("zoo", members, 0.0, settings.test, settings.seed)
        return [_leg(settings, "holdout", "", here, [here[r.field] for r in split.rows if r.part == "test"])]
    split = kfold("zoo", members, settings.folds, settings.seed)
    out = []
    for number in range(settings.folds):
        held = [here[r.field] for r in split.rows if r.part == f"fold{number}"]
        if settings.protocol == "folds":
            out.append(_leg(settings, f"fold{number}", "", here, held))
            continue
        whole = _leg(settings, "", "", here, held)
        for share in settings.shares:
            kept = _share(whole.train, share, settings.seed + number)
            kind = f"{share:.1%} of groups"
            part = len(kept) / len(whole.train)
            out.append(replace(whole, name=f"fold{number}, {kind}", kind=kind, train=kept, share=part))
    return out


def _unit(cell: TypedCell, settings: ZooSettings) -> Unit:
    return Unit(cell.id, cell.path, cell.id if settings.leak else cell.group, cell.type, cell.source)


def _leg(settings: ZooSettings, name: str, kind: str, here: Mapping[str, TypedCell], held: Sequence[TypedCell]) -> Leg:
    out = {c.id for c in held}
    # A source that is held out may share copies with another: these are nowhere.
    copies = set() if settings.leak else {c.group for c in held}
    rest = [c for c in here.values() if c.id not in out and c.group not in copies]
    if not rest:
        what = f"without {name or 'a part'}, and copies of it in others, no cell is left to learn from"
        raise DataError(what, where=", ".join(settings.data), remedy="name more sets, or take another protocol")
    split = holdout("zoo", [_unit(c, settings) for c in rest], settings.dev, 0.0, settings.seed)
    parts = {p: tuple(here[r.field] for r in split.rows if r.part == p) for p in ("train", "dev")}
    unseen = sorted({c.type for c in here.values()} - {c.type for c in parts["train"]})
    if unseen:
        what = f"without {name or 'a part'} nothing is left to learn {', '.join(unseen)} from"
        raise DataError(what, remedy="raise min_groups, so that rare types are left out, or name more sets")
    return Leg(name.replace("/", "-"), kind, parts["train"], parts["dev"], tuple(held))


def _share(cells: Sequence[TypedCell], share: float, seed: int) -> tuple[TypedCell, ...]:
    """The cells of a share of the groups of each type, at least one of each."""
    rng = np.random.default_rng(seed)
    kept: set[str] = set()
    of: dict[str, list[str]] = {}
    for cell in cells:
        if cell.group not in of.setdefault(cell.type, []):
            of[cell.type].append(cell.group)
    for kind in sorted(of):
        names = sorted(of[kind])
        kept |= set(rng.permutation(names)[: max(1, round(share * len(names)))].tolist())
    return tuple(c for c in cells if c.group in kept)


def rare_of(settings: ZooSettings, cells: Sequence[TypedCell], types: Sequence[str]) -> dict[str, dict[str, int]]:
    """By kind of leg, the types with too few groups among the cells held out to be scored, and how many.

    A split that leaks is scored on the types of its twin that does not, so that the two can be compared.
    """
    groups: dict[str, dict[str, set[str]]] = {}
    for leg in legs_of(settings.model_copy(update={"leak": False}), cells):
        there = groups.setdefault(leg.kind, {t: set() for t in types})
        for cell in leg.test:
            there[cell.type].add(cell.group)
    return {
        kind: {t: len(of) for t, of in there.items() if len(of) < settings.min_groups} for kind, there in groups.items()
    }


def write_cells(cells: Sequence[TypedCell], legs: Sequence[Leg], path: Path) -> None:
    parts = {leg.name: {c.id: p for p in ("train", "dev", "test") for c in getattr(leg, p)} for leg in legs}
    file = StringIO()
    out = csv.writer(file, lineterminator="\n")
    out.writerow(["cell", "type", "source", "group", *parts])
    out.writerows([c.id, c.type, c.source, c.group, *(p.get(c.id, "") for p in parts.values())] for c in cells)
    if path.is_file() and path.read_text("utf-8") != file.getvalue():
        what = "these are not the cells, groups or parts that the table was begun with"
        raise StoreError(what, where=str(path), remedy="begin the table in another folder")
    write_text(path, file.getvalue())

"""`smear evaluate table transfer`: how much is lost on a lab that was never seen, and what helps.

For each lab of a set a detector learns from the others and is measured on that lab's fields; beside it stands one that
learnt from all labs. Groups of copies that stand in two labs are left out of everything.

OUT/ as in `trained`, and
  splits/all.csv, without-<lab>.csv, only-<lab>.csv
  models/<row>/all/, models/<row>/<lab>/        learnt from all labs; from all but one
  starts/<row of drawn types>/                  key.json, recipe.yaml, run/
  classifiers/                                  as `smear evaluate zoo` writes it
  transfer.png                                  F1 with and without the lab
  transfer-classifiers.png                      macro F1 of each row beside that of the first
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import yaml

from detect import assets
from detect.bundles.card import WEIGHTS
from detect.classify.recipes import check
from detect.classify.settings import ClassifierSettings, ZooSettings, recipe_of
from detect.classify.train import train
from detect.classify.zoo import Begun, zoo
from detect.classify.zoo_table import Row as ZooRow
from detect.config import load
from detect.data import locks
from detect.data.cards import load_card
from detect.data.load import load_dataset
from detect.data.sources import merge
from detect.data.splits import EXCLUDED, Split, read_split
from detect.errors import ConfigError, DataError
from detect.evaluate.compare import compare_detectors
from detect.evaluate.intervals import Interval
from detect.evaluate.plots import before_and_after
from detect.evaluate.saved import METRICS, load_json, read_saved
from detect.formats.tally import Tally
from detect.tables import keys
from detect.tables.measured import Progress
from detect.tables.settings import DrawnTypes, LabTable
from detect.tables.trained import NAME_OF_A_ROW, Made, Maker, chosen, interval, made_meanwhile, open_out, table_settings
from detect.tables.written import Column, Table, Value, write

NAME, TYPES, ALL = "transfer", "transfer-classifiers", "all"


def lab_table(
    config: str,
    out: Path,
    *,
    only: Sequence[str] = (),
    device: str = "auto",
    keep_stale: bool = False,
    say: Progress = print,
) -> list[Table]:
    """Make the rows that are not there yet, one lab after another held out, and write the tables.

    Args, Raises: as `detectors.detector_table`.

    Returns:
        That of detectors, and that of classifiers where the configuration names one.
    """
    table, where = table_settings(LabTable, config)
    out = out.resolve()
    maker = Maker(table, where, out, device, keep_stale, say)
    _check(table, maker, where)
    types, place, begun = _classifiers(table, maker)
    both = chosen(only, {**table.rows, **(types.rows if types is not None else {})}, where)
    names = [name for name in both if name in table.rows]
    open_out(out)
    splits = splits_of(table, out / "splits")
    made: dict[str, dict[str, Made]] = {}
    for name in table.rows:
        if legs := _legs(table, maker, name, splits, make=name in names):
            made[name] = legs
            write(_told(table, made, maker), out)
    made = made_meanwhile(made, table.rows, lambda name: _legs(table, maker, name, splits, make=False))
    told = [_told(table, made, maker)]
    mine = [name for name in both if name not in table.rows]
    if types is not None and mine:
        rows, _ = zoo(
            types, out / "classifiers", where=place, only=mine, device=device, keep_stale=keep_stale, begun=begun,
            progress=lambda n, leg: say(f"{n}, {leg}"),
        )  # fmt: skip
        told.append(_types(str(table.classifiers), rows))
        first = next(iter(types.rows))
        if pairs := _beside(rows, first):
            what = "macro F1 on the source left out, 95 % over groups"
            before_and_after(pairs, out / f"{TYPES}.png", what, (first, "the row"))
    for one in told:
        write(one, out)
    _draw(told[0], table.of, out / f"{NAME}.png")
    return told


def _legs(table: LabTable, maker: Maker, name: str, splits: Mapping[str, Path], *, make: bool) -> dict[str, Made]:
    """A row with each lab left out, and with all; nothing where one of these is missing."""
    # As seen from here: what is kept of a table names no place on this machine.
    parts = {f"on-{lab}": os.path.relpath(splits[f"only-{lab}"]) for lab in table.labs}
    legs = {}
    for lab in table.labs:
        here = {f"on-{lab}": parts[f"on-{lab}"]}
        legs[lab] = maker.row(name, str(splits[f"without-{lab}"]), lab, here, make=make)
    legs[ALL] = maker.row(name, str(splits[ALL]), ALL, parts, make=make)
    return {k: runs[0] for k, runs in legs.items()} if all(legs.values()) else {}


def _draw(told: Table, of: str, path: Path) -> None:
    """F1 on each lab, left out and learnt from."""
    heads = [c.head for c in told.columns]
    columns = [heads.index(f"F1 {of}, lab {side}") for side in ("left out", "learnt from")]
    pairs: dict[str, tuple[Interval, Interval]] = {}
    for title, line in told.lines.items():
        left, seen = (line[k] for k in columns)
        if isinstance(left, Interval) and isinstance(seen, Interval):
            pairs[title] = left, seen
    if pairs:
        before_and_after(pairs, path, f"F1 of {of} on the lab, 95 % over groups", ("left out", "learnt from"))


def _beside(rows: Sequence[ZooRow], first: str) -> dict[str, tuple[Interval, Interval]]:
    """Macro F1 on each source that was left out: of the first row, and of each other one."""
    figures = {(row.kind, row.name): row.report.macro_f1 for row in rows}
    return {
        f"{kind}: {name}": (figures[kind, first], value)
        for (kind, name), value in figures.items()
        if name != first and (kind, first) in figures
    }


def _classifiers(table: LabTable, maker: Maker) -> tuple[ZooSettings | None, str, dict[str, Begun]]:
    """Settings of the table of classifiers, where they were read, and what rows of it begin with."""
    if table.classifiers is None:
        return None, "", {}
    path = assets.find(table.classifiers, "configs/zoo", ".yaml")
    settings = load(ZooSettings, path)
    if (drawn := table.drawn_types) is None:
        return settings, str(path), {}
    recipe = recipe_of(drawn.recipe, str(path))
    assert isinstance(recipe, ClassifierSettings)
    key = keys.hashed(keys.types_key(drawn, table.starts[drawn.slides]))
    begun = {drawn.row: Begun(key, partial(_drawn_types, drawn, table, maker))}
    row = {drawn.row: {"network": recipe.network}}
    return settings.model_copy(update={"rows": {**settings.rows, **row}}), str(path), begun


def _drawn_types(drawn: DrawnTypes, table: LabTable, maker: Maker) -> Path:
    """Weights of a network that learnt the types of drawn cells, trained once."""
    folder, key = maker.out / "starts" / drawn.row, keys.types_key(drawn, table.starts[drawn.slides])
    slides, run = maker.drawn(drawn.slides), folder / "run"
    with locks.alone(folder):
        kept = maker.keep_stale and (run / "run.yaml").is_file()
        if keys.read(folder / keys.KEY) != key and not kept:
            keys.remove(run)
            keys.write(folder / keys.KEY, key)
        if not (run / "run.yaml").is_file():
            maker.say(f"{drawn.row}: training on drawn cells")
            config = folder / "recipe.yaml"
            config.write_text(yaml.safe_dump(drawn.recipe), "utf-8")
            data, split = [str(slides / "synthetic-types.yaml")], str(slides / "split.csv")
            train(str(config), data, split, run, device=maker.device, resume=run.is_dir())
    return run / WEIGHTS


def _check(table: LabTable, maker: Maker, where: str) -> None:
    """ConfigError for what would be found only after hours of training."""
    card = load_card(table.data)
    if table.of not in card.classes or table.of not in card.exhaustive_for:
        fitting = [c for c in card.classes if c in card.exhaustive_for]
        raise ConfigError(
            f"of: '{table.of}'", where=where, remedy=f"one that is drawn everywhere: {', '.join(fitting)}"
        )
    if table.drawn_types is not None:
        _check_drawn(table.drawn_types, table, where)
    for name, settings in maker.settings.items():
        if settings.pretrained is not False and table.rows[name].start is None:
            what = f"rows.{name}: begins with {settings.pretrained}, which may have seen the lab that is left out"
            raise ConfigError(what, where=where, remedy="name a 'start', or 'pretrained: false' in 'changes'")


def _check_drawn(drawn: DrawnTypes, table: LabTable, where: str) -> None:
    place = f"{where}: drawn_types"
    rows = load(ZooSettings, assets.find(str(table.classifiers), "configs/zoo", ".yaml")).rows
    taken = {**table.starts, **rows}
    if not NAME_OF_A_ROW.fullmatch(drawn.row) or ".." in drawn.row or drawn.row in taken:
        what = f"row: '{drawn.row}' is no name of a row, or one that is taken"
        raise ConfigError(what, where=place, remedy=f"take another than {', '.join(taken)}")
    recipe = recipe_of(drawn.recipe, f"{place}: recipe")
    if not isinstance(recipe, ClassifierSettings):
        raise ConfigError(
            "recipe: no single network, whose weights could be begun with", where=place, remedy="name one"
        )
    check(recipe, f"{place}: recipe")


def splits_of(table: LabTable, folder: Path) -> dict[str, Path]:
    """The split of all labs, of all but each, and of each one's fields of the part that is measured on.

    Raises:
        DataError: a picture has a size that no lab of the table has, or a lab has none in a part.
    """
    sizes = {size: lab for lab, own in table.labs.items() for size in own}
    fields = merge(load_dataset(load_card(table.data), Tally())).fields
    lab_of: dict[str, str] = {}
    for labelled in fields:
        field = labelled.field
        if (size := f"{field.width}x{field.height}") not in sizes:
            what = f"a picture of {size}, which no lab of the table has"
            raise DataError(what, where=field.id, remedy=f"add it to a lab; there are: {', '.join(table.labs)}")
        lab_of[field.id] = sizes[size]
    whole = read_split(table.split)
    seen: dict[str, set[str]] = {}
    for row in whole.rows:
        if row.part != EXCLUDED:
            seen.setdefault(row.group, set()).add(lab_of[row.field])
    rows = [replace(r, part=EXCLUDED) if len(seen.get(r.group, ())) > 1 else r for r in whole.rows]
    made = {ALL: rows}
    for lab in table.labs:
        made[f"without-{lab}"] = [replace(r, part=EXCLUDED) if lab_of[r.field] == lab else r for r in rows]
        own = [lab_of[r.field] == lab and r.part == table.part for r in rows]
        if not any(own):
            raise DataError(
                f"no field of {lab} in part {table.part}", where=table.split, remedy="join it to another lab"
            )
        made[f"only-{lab}"] = [r if k else replace(r, part=EXCLUDED) for r, k in zip(rows, own, strict=True)]
    paths = {}
    for name, chosen_rows in made.items():
        paths[name] = folder / f"{name}.csv"
        aside = folder / f".{name}.{os.getpid()}.partial"  # another process may be reading the one that is there
        Split(name, tuple(chosen_rows)).write(aside)
        aside.replace(paths[name])
    return paths


def _told(table: LabTable, made: Mapping[str, Mapping[str, Made]], maker: Maker) -> Table:
    of = table.of
    columns = (
        Column(f"{of} cells"), Column("groups"), Column(f"F1 {of}, lab left out"), Column(f"F1 {of}, lab learnt from"),
        Column("difference"), Column("p of that", ".3f"), Column(f"AP50 {of}, lab left out"),
        Column(f"AP50 {of}, lab learnt from"), Column("images seen"), Column("hours", ".2f"), Column("converged"),
    )  # fmt: skip
    lines: dict[str, list[Value]] = {}
    for name, legs in made.items():
        for lab in table.labs:
            if lab not in legs:
                continue
            folders = [legs[side].folder / f"on-{lab}" for side in (lab, ALL)]
            left, seen = (load_json(folder / METRICS) for folder in folders)
            both = compare_detectors(*(read_saved(f) for f in reversed(folders)), rounds=table.rounds, seed=table.seed)
            change = both.figures[f"F1 {of}"]
            abouts = [legs[side].about for side in (lab, ALL)]
            lines[f"{lab}: {name}"] = [
                left["classes"][of]["truths"], left["n_groups"], interval(left["classes"][of]["f1"]),
                interval(seen["classes"][of]["f1"]), change.difference, change.p_swap,
                interval(left["per_class_ap"][of]["ap50"]), interval(seen["per_class_ap"][of]["ap50"]),
                abouts[0]["images"], abouts[0]["minutes"] / 60, _converged([legs[side] for side in (lab, ALL)]),
            ]  # fmt: skip
    lines = {title: lines[title] for lab in table.labs for title in lines if title.startswith(f"{lab}: ")}
    labs = "; ".join(f"{lab}: pictures of {', '.join(sizes)} px" for lab, sizes in table.labs.items())
    notes = (
        f"{table.data}, split {table.split}, labs told by the size of their pictures ({labs}). Each row learnt from "
        "part train of the other labs, its epoch and thresholds chosen on their dev, and is measured on part "
        f"{table.part} of the lab; beside it the same training on all labs. Groups of copies that stand in two labs "
        "are left out. F1 at the stored threshold, IoU 0.5; 95 % limits by bootstrap over groups, differences paired; "
        "the chance of another seed is in neither. Hours of the training without the lab alone.",
        "Rows that begin with drawn slides: the generator's colours follow part train of TXL-PBC, so that much of "
        "every lab's colours went into them.",
    )
    runs = {n: {k: {**m.about, "key": m.key} for k, m in legs.items()} for n, legs in made.items()}
    starts = maker.start_minutes()
    minutes = sum(m.about["minutes"] for legs in made.values() for m in legs.values()) + sum(starts.values())
    about = {"settings": table.model_dump(mode="json"), "hours": minutes / 60, "runs": runs}
    return Table(NAME, table.title, notes, columns, lines, about)


def _converged(runs: Sequence[Made]) -> str:
    told = "no" if any(m.rising for m in runs) else "yes"
    changed = sorted({k for m in runs for k in m.stale})
    return told + (f"; kept though its {', '.join(changed)} changed" if changed else "")


def _types(config: str, rows: Sequence[ZooRow]) -> Table:
    """Classifiers, each source held out in turn."""
    columns = (
        Column("cells"), Column("groups"), Column("macro F1"), Column("balanced accuracy"), Column("accuracy"),
        Column("ECE"), Column("minutes", ".1f"), Column("converged"),
    )  # fmt: skip
    lines: dict[str, list[Value]] = {}
    for row in sorted(rows, key=lambda r: (r.kind, not r.ranked, -r.report.macro_f1.value)):
        r = row.report
        figures: list[Interval] = [r.macro_f1, r.balanced_accuracy, r.accuracy, r.ece]
        lines[f"{row.kind}: {row.name}"] = [
            r.n_cells, r.n_groups, *figures, row.minutes, row.state,
        ]  # fmt: skip
    notes = (
        f"As {config}: one source after another held out, learnt from the others. 95 % limits by bootstrap over "
        "groups.",
    )
    return Table(TYPES, "White cell types of a source that was never seen", notes, columns, lines, {"config": config})

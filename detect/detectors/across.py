"""Leave one dataset out: how well a detector does on a lab that it has never seen.

OUT/
  leave-one-out.csv          every field of every set; copies across sets are `excluded`
  leave-one-out.json, .md    one row for each set that was held out
  <set>/                     the set held out
    split-<other>.csv        what is learnt from each other set; dev, drawn by group, is of the first
    split-<set>.csv          what is measured: part test
    run/  bundle/            the training and what it gave; thresholds are chosen on its dev
    evaluation/              as 'smear evaluate detector' writes it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detect.bundles.card import CARD, GRAPH
from detect.bundles.draft import Description
from detect.bundles.folder import open_bundle
from detect.config import load_yaml
from detect.data.cards import Card, load_card
from detect.data.folds import across_sets, holdout, units
from detect.data.load import load_dataset
from detect.data.sources import merge
from detect.data.splits import EXCLUDED, Row, Split
from detect.detectors.evaluate import Asked, evaluate
from detect.detectors.export import export
from detect.detectors.train import train
from detect.errors import ConfigError, StoreError
from detect.evaluate.intervals import Interval, plain_json
from detect.evaluate.saved import METRICS, load_json
from detect.evaluate.tables import table
from detect.formats.tally import Tally
from detect.runtime.base import FRAMEWORK, EngineSettings
from detect.types import Dataset

NAME = "leave-one-out"
DEV = 0.15  # of the first set learnt from: the epoch and the thresholds are chosen there


@dataclass(frozen=True)
class Leg:
    """One set held out. `epoch`: the best on dev."""

    held: str
    learnt: tuple[str, ...]
    epoch: int
    n_fields: int
    n_groups: int
    n_cells: int
    map50: Interval
    map50_95: Interval
    per_class: Mapping[str, tuple[Interval, Interval]]


def leave_one_out(
    config: str,
    data: Sequence[str],
    out: Path,
    *,
    seed: int = 1,
    device: str = "auto",
    resume: bool = False,
    rounds: int = 1000,
    tally: Tally,
) -> list[Leg]:
    """Train on all sets but one, measure on that one, for each.

    Args:
        data: dataset cards. Every field of a set is used, whatever part it was published in.
        seed: of the draw of dev, and of the bootstrap; the training's is its configuration's.
        resume: keep the legs that are finished and go on with the one that is not.
    """
    cards = [load_card(name) for name in data]
    if len(cards) < 2 or len({c.name for c in cards}) < len(cards):
        raise ConfigError(f"leave one of {', '.join(data)} out", remedy="name two sets or more, each once")
    if out.exists() and any(out.iterdir()) and not resume:
        raise StoreError("the folder is not empty", where=str(out), remedy="name another, or go on with --resume")
    sets = {card.name: replace(merge(load_dataset(card, tally)), name=card.name) for card in cards}
    everything = across_sets(NAME, list(sets.values()))
    everything.write(out / f"{NAME}.csv")
    legs = []
    for card in cards:
        here = out / card.name
        _same_settings(here / "run" / "run.yaml", config)
        if not (here / "evaluation" / METRICS).is_file():
            others = {other.name: name for other, name in zip(cards, data, strict=True) if other is not card}
            splits = _splits(here, everything, sets, card.name, [*others], seed)
            _leg(config, here, card, others, splits, device, rounds, seed)
        legs.append(_read(here, card.name))
    (out / f"{NAME}.json").write_text(plain_json({"config": config, "seed": seed, "legs": legs}), "utf-8")
    (out / f"{NAME}.md").write_text(_markdown(config, legs), "utf-8")
    return legs


def _same_settings(record: Path, config: str) -> None:
    """A leg that was trained by another configuration must not stand in one table with the rest."""
    if record.is_file() and (told := load_yaml(record)["config"]) != Path(config).with_suffix(".yaml").name:
        what = f"this leg was trained as {told}, not as {config}"
        raise ConfigError(what, where=str(record), remedy="go on with that configuration, or name another folder")


def _splits(
    here: Path, everything: Split, sets: Mapping[str, Dataset], held: str, others: Sequence[str], seed: int
) -> dict[str, Path]:
    """One split a set, as training and evaluation read them."""
    paths = {}
    for name in (held, *others):
        own = {row.field.split("/", 1)[1]: row for row in everything.rows if row.field.startswith(f"{name}/")}
        kept = {field: row for field, row in own.items() if row.part != EXCLUDED}
        parts = dict.fromkeys(kept, "test" if name == held else "train")
        if name == others[0]:
            fields = tuple(f for f in sets[name].fields if f.field.id in kept)
            groups = {field: row.group for field, row in kept.items()}
            members = units(replace(sets[name], fields=fields), groups)
            parts = {row.field: row.part for row in holdout(NAME, members, DEV, 0, seed).rows}
        rows = (Row(field, row.group, parts.get(field, EXCLUDED), row.hash) for field, row in own.items())
        paths[name] = here / f"split-{name}.csv"
        Split(paths[name].stem, tuple(rows)).write(paths[name])
    return paths


def _leg(
    config: str,
    here: Path,
    held: Card,
    others: Mapping[str, str],
    splits: Mapping[str, Path],
    device: str,
    rounds: int,
    seed: int,
) -> None:
    """Train, export, measure. others: name of each set to learn from, and how its card was given."""
    run, bundle = here / "run", here / "bundle"
    if not (run / "run.yaml").is_file():
        train(
            config,
            [*others.values()],
            run,
            splits=[str(splits[name]) for name in others],
            device=device,
            resume=(run / "settings.yaml").is_file(),
        )
    name = f"without-{held.name}"
    export(run, bundle, Description(name, name, "AGPL-3.0-or-later"), overwrite=(bundle / CARD).is_file())
    opened = open_bundle(bundle, "detector")
    engine = (EngineSettings() if (bundle / GRAPH).is_file() else EngineSettings(FRAMEWORK)).resolved()
    asked = Asked("test", str(splits[held.name]), engine=engine, rounds=rounds, seed=seed)
    evaluate(opened, held, here / "evaluation", asked, tally=Tally())


def _read(here: Path, held: str) -> Leg:
    told, record = load_json(here / "evaluation" / METRICS), load_yaml(here / "run" / "run.yaml")
    each = {n: (_interval(v["ap50"]), _interval(v["ap50_95"])) for n, v in told["per_class_ap"].items()}
    return Leg(
        held,
        tuple(record["data"]),
        int(record["best_epoch"]),
        told["n_fields"],
        told["n_groups"],
        told["n_cells"],
        _interval(told["map50"]),
        _interval(told["map50_95"]),
        each,
    )


def _interval(told: Mapping[str, float | None]) -> Interval:
    return Interval(*(float("nan") if told[k] is None else float(told[k] or 0) for k in ("value", "low", "high")))


def _markdown(config: str, legs: Sequence[Leg]) -> str:
    names = list(dict.fromkeys(n for leg in legs for n in leg.per_class))
    heads = ("held out", "learnt from", "fields", "groups", "cells", "mAP50", "mAP50-95", *(f"AP50 {n}" for n in names))
    rows = (
        (
            *(leg.held, ", ".join(leg.learnt), leg.n_fields, leg.n_groups, leg.n_cells, leg.map50, leg.map50_95),
            *(leg.per_class[n][0] if n in leg.per_class else "-" for n in names),
        )
        for leg in legs
    )
    told = f"{Path(config).stem}, trained on all sets but one, measured on that one. 95 % intervals over its groups."
    return "\n".join([f"# {NAME.replace('-', ' ')}", "", told, "", *table(heads, rows), ""])

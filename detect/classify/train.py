"""Training of a classifier on typed cells: a configuration, cards and a split in; a run folder out."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from detect.errors import MissingExtraError

try:
    import torch
except ImportError:
    raise MissingExtraError("training a classifier", "train") from None

from detect import __version__, assets
from detect.bundles.card import WEIGHTS
from detect.bundles.draft import trained_on
from detect.classify.fit import Fitted, Task, fit, parameters
from detect.classify.learn import Progress
from detect.classify.recipes import check
from detect.classify.settings import ClassifierSettings, Recipe, Stage, load_recipe
from detect.config import load_yaml
from detect.data.cards import load_card
from detect.data.fingerprint import file_hash
from detect.data.splits import EXCLUDED, Split, cells_of, read_split
from detect.data.typed import TypedCell, load_typed
from detect.detectors.train import keep_data, keep_settings
from detect.errors import ConfigError, SplitLeakError, StoreError
from detect.formats.tally import Tally
from detect.images import preprocess


@dataclass(frozen=True)
class _How:
    """What all stages share."""

    config: str
    device: str
    resume: bool
    allow_leak: bool
    progress: Progress | None
    tally: Tally


def train(
    config: str,
    data: Sequence[str],
    split: str | None,
    out: Path,
    *,
    device: str = "auto",
    seed: int | None = None,
    resume: bool = False,
    allow_leak: bool = False,
    progress: Progress | None = None,
    tally: Tally | None = None,
) -> dict[str, Any]:
    """Train on part `train` of the split. dev chooses the epoch where the configuration has patience, and is left for
    thresholds.

    Args:
        data, split: cards, and one split for all of them; none where the configuration has stages, which name theirs.
        seed: in place of the configuration's.
        progress: called with epoch, epochs and mean loss after each epoch.

    Returns:
        The run record, as written to `run.yaml`.
    """
    path = assets.find(config, "configs/classifiers", ".yaml")
    recipe = load_recipe(path)
    if seed is not None:
        recipe = recipe.model_copy(update={"seed": seed})
    check(recipe, str(path))
    how = _How(str(path), device, resume, allow_leak, progress, tally or Tally())
    stages = recipe.stages if isinstance(recipe, ClassifierSettings) else ()
    if not stages:
        if split is None or not data:
            raise ConfigError("no data", where=str(path), remedy="name cards with --data, and their --split")
        return _train(recipe, data, split, out, how, resume)
    if data or split is not None:
        raise ConfigError("the stages of this configuration name their data", where=str(path), remedy="drop --data")
    assert isinstance(recipe, ClassifierSettings)
    return _in_stages(recipe, stages, out, how)


def _in_stages(settings: ClassifierSettings, stages: Sequence[Stage], out: Path, how: _How) -> dict[str, Any]:
    record: dict[str, Any] = {}
    told: list[Mapping[str, Any]] = []
    start = settings.pretrained
    leaking = _copies_across(stages)
    if leaking and not how.allow_leak:
        what = f"{leaking[0]} ({len(leaking)} such groups)"
        remedy = "leave those cells out of the earlier stage, or train with --allow-leak"
        raise SplitLeakError(what, where=how.config, remedy=remedy)
    for number, stage in enumerate(stages, 1):
        last = number == len(stages)
        here = out if last else out / f"stage-{number}"
        changed = settings.model_copy(update={"epochs": stage.epochs, "pretrained": start, "stages": ()})
        if (here / "run.yaml").exists() and how.resume and not last:
            record = load_yaml(here / "run.yaml")
        else:
            begun = how.resume and (here / "settings.yaml").exists()
            record = _train(changed, stage.data, stage.split, here, how, begun, tuple(told), len(leaking) * last)
        told.append(
            {
                "data": list(stage.data),
                "epochs": stage.epochs,
                "fingerprint": record["fingerprint"]["train"],
                "trained_on": record["trained_on"],
            }
        )
        start = str(here / WEIGHTS)
    return record


def _copies_across(stages: Sequence[Stage]) -> list[str]:
    """Cells that an earlier stage learns from and the last one holds out, a sentence for each group of copies."""
    sets = dict.fromkeys(name for stage in stages for name in stage.data)
    group = {c.id: c.group for c in load_typed([load_card(name) for name in sets], Tally())}
    *earlier, last = stages
    held: dict[str, str] = {}
    for part, cells in _parts(last).items():
        if part != "train":
            held |= {group[c.id]: f"{c.id} ({part} of stage {len(stages)})" for c in cells}
    out: dict[str, str] = {}
    for number, stage in enumerate(earlier, 1):
        for part in ("train", "dev"):  # of dev too: it chose the epoch
            for cell in _parts(stage).get(part, ()):
                if group[cell.id] in held:
                    told = f"{cell.id} ({part} of stage {number}) is a copy of {held[group[cell.id]]}"
                    out.setdefault(group[cell.id], told)
    return list(out.values())


def _parts(stage: Stage) -> dict[str, list[TypedCell]]:
    """Cells of each part of a stage's split."""
    cells, split = load_typed([load_card(d) for d in stage.data], Tally(), groups=_Any()), read_split(stage.split)
    return {part: cells_of(split, cells, part) for part in split.counts() if part != EXCLUDED}


class _Any(dict[str, str]):
    """No group for any cell, where none is asked for."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> str:
        return ""


def _train(
    recipe: Recipe,
    data: Sequence[str],
    split: str,
    out: Path,
    how: _How,
    resume: bool,
    before: Sequence[Mapping[str, Any]] = (),
    leaking: int = 0,
) -> dict[str, Any]:
    begun = [p for p in out.iterdir() if not p.name.startswith("stage-")] if out.exists() else []
    if begun and not resume:
        raise StoreError("the run folder is not empty", where=str(out), remedy="name another, or go on with --resume")
    if (out / "run.yaml").exists():
        raise StoreError(
            "the training is finished: nothing to resume", where=str(out), remedy="export it, or name another"
        )
    recipe = recipe.model_copy(update={"preprocess": preprocess.fit(recipe.preprocess, how.config)})
    out.mkdir(parents=True, exist_ok=True)
    keep_settings(recipe, out, how.config)
    cards = [load_card(d) for d in data]
    keep_data(cards, [split], out)
    everything = load_typed(cards, how.tally)
    chosen = read_split(split, allow_leak=how.allow_leak)
    parts = {part: cells_of(chosen, everything, part) for part in ("train", "dev")}
    types = types_of(parts["train"])
    task = Task(parts["train"], parts["dev"], types, how.config, out / "features", how.device, resume, how.progress)
    made = fit(recipe, task, out)
    record = {
        "task": "classifier",
        "smear_detect": __version__,
        "config": Path(how.config).name,
        "data": [card.name for card in cards],
        "stages_before": [dict(stage) for stage in before],
        "trained_on": trained_on(cards, [stage["trained_on"] for stage in before]),
        "seed": recipe.seed,
        **_learnt_from(parts, types, everything, chosen),
        "leaking_groups": len(chosen.leaks) + leaking,
        "label_problems": how.tally.counts(),
        **_outcome(made),
        "minutes": round(float(made.about["seconds"]) / 60, 1),  # of all that were trained, before a stop too
        "hardware": platform.machine(),
        "versions": {"torch": str(torch.__version__)},
    }
    (out / "run.yaml").write_text(yaml.safe_dump(record, sort_keys=False), "utf-8")
    return record


def types_of(cells: Sequence[TypedCell]) -> list[str]:
    """The types of cells, the commonest first: the order of a model's labels."""
    counts = Counter(c.type for c in cells)
    return sorted(counts, key=lambda t: (-counts[t], t))


def _learnt_from(
    parts: Mapping[str, Sequence[TypedCell]], types: Sequence[str], everything: Sequence[TypedCell], split: Split
) -> dict[str, Any]:
    return {
        "split": split.name,
        "types": list(types),
        "not_known": _not_known(everything, types),
        "fields": {part: len({c.path for c in cells}) for part, cells in parts.items()},
        "groups": {part: len({c.group for c in cells}) for part, cells in parts.items()},
        "cells": {part: dict(Counter(c.type for c in cells)) for part, cells in parts.items()},
        "fingerprint": {part: fingerprint(cells) for part, cells in parts.items()},
    }


def _outcome(made: Fitted) -> dict[str, Any]:
    return {**made.about, "parameters": parameters(made.model)}


def _not_known(everything: Sequence[TypedCell], types: Sequence[str]) -> dict[str, int]:
    rare = sorted({c.type for c in everything} - set(types))
    return {t: len({c.group for c in everything if c.type == t}) for t in rare}


def fingerprint(cells: Sequence[TypedCell]) -> str:
    """SHA-256 over what is learnt from: pictures, boxes and types."""
    import hashlib

    total = hashlib.sha256()
    for c in cells:
        total.update(f"{c.id}\0{file_hash(c.path)}\0{c.box}\0{c.type}\n".encode())
    return total.hexdigest()
